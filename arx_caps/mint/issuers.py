# SPDX-License-Identifier: Apache-2.0
"""Whom the policy trusts to say who somebody is: issuers, the workloads among their tokens, the subjects.  SPEC 16.

Here stands what is written and what fits it.  That a token is its issuer's at all is ``foreign``'s work, and where the
issuer's keys come from ``jwks``'s.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from arx_caps.mint.claims import Demand, keeps, read_demands
from arx_caps.mint.policy_text import Section
from arx_verifier import names
from arx_verifier.errors import shorten

# Signatures alone: with an HMAC, whoever can check could also sign.
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
DEFAULT_MAX_TTL_MS: Final = 2 * 60 * 60 * 1000  # the usual tokens live an hour, some an hour and a half
SPIFFE: Final = "spiffe://"
MAX_URL_CHARS: Final = 256

_TRUST_DOMAIN: Final = re.compile(r"spiffe://[a-z0-9._-]{1,200}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

SubjectMode = Literal["none", "allowed", "required"]


class Issuer(Struct, frozen=True, kw_only=True):
    """Somebody whose tokens are believed, within limits.

    Attributes:
        name: What the policy calls it.
        url: What its tokens say in ``iss``; of a SPIFFE trust domain ``spiffe://`` and its name.
        jwks: Where its public keys are: a file, or an ``https:`` address.
        audience: A token must be for one of these.
        algorithms: What it signs with.
        max_ttl_ms: A token that lives longer is refused.
    """

    name: str
    url: str
    jwks: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...]
    max_ttl_ms: int


class Workload(Struct, frozen=True, kw_only=True):
    """Which tokens of an issuer are an agent.

    Attributes:
        issuer: The issuer's name.
        claims: What its tokens' claims must be; ``sub`` among them.
        agent: Whom such a token stands for.
    """

    issuer: str
    claims: dict[str, Demand]
    agent: str


class SubjectRule(Struct, frozen=True, kw_only=True):
    """Which subjects count.

    Attributes:
        issuer: The issuer's name.
        claims: What the claims about them must be; empty for everybody whom the issuer knows.
    """

    issuer: str
    claims: dict[str, Demand]


class Subject(NamedTuple):
    """Somebody on whose behalf a session runs, proven when it was opened.

    Attributes:
        issuer: The issuer's URL.
        name: What the issuer calls them: ``sub``.
        claims: What else was proven of them, as far as the policy of that time asked for it.
    """

    issuer: str
    name: str
    claims: Mapping[str, Any]


def read_issuers(root: Section) -> dict[str, Issuer]:
    """Read every ``[issuer.NAME]``.

    Raises:
        SettingsError: A mistake in one of them, or one URL for two.
    """
    issuers: dict[str, Issuer] = {}
    for name, section in root.take_sections("issuer"):
        if _NAME.fullmatch(name) is None:
            raise section.error(None, "a name here is [a-z0-9][a-z0-9._-]*, at most 64 characters")
        issuer = _read_issuer(name, section)
        for other in issuers.values():
            if other.url == issuer.url:
                raise section.error("url", f"is already that of {other.name}: a token would have two issuers")
        issuers[name] = issuer
    return issuers


def _read_issuer(name: str, section: Section) -> Issuer:
    url, jwks = section.take_text("url"), section.take_text("jwks")
    audience = section.take_texts("audience")
    algorithms = section.take_texts("algorithms")
    max_ttl_ms = section.take_duration("max_ttl", DEFAULT_MAX_TTL_MS)
    section.finish()
    if not 0 < len(url) <= MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        raise section.error("url", f"expected what its tokens say in `iss`: 1 to {MAX_URL_CHARS} characters, no space")
    if url.startswith(SPIFFE) and _TRUST_DOMAIN.fullmatch(url) is None:
        raise section.error("url", "a trust domain is spiffe:// and its name, such as spiffe://acme.example")
    if (wrong := _wrong_place(jwks)) is not None:
        raise section.error("jwks", wrong)
    if not audience or "" in audience:
        # A token for anybody could be taken from another service and used here.
        raise section.error("audience", 'needs at least one, such as ["https://mint.acme.example"]')
    for algorithm in algorithms or [""]:
        if algorithm not in ALGORITHMS:
            raise section.error("algorithms", f"{shorten(algorithm)} is not among {', '.join(ALGORITHMS)}")
    return Issuer(name=name, url=url, jwks=jwks, audience=audience, algorithms=algorithms, max_ttl_ms=max_ttl_ms)


def _wrong_place(jwks: str) -> str | None:
    """Say why keys must not be read from there, or None when they may be."""
    scheme, colon, _ = jwks.partition("://")
    if not colon:
        return None if jwks and jwks.isprintable() else "expected a file's name, or an https: address"
    try:
        parts = urlsplit(jwks)
        host, login = parts.hostname or "", parts.username is not None
    except ValueError:
        host, login = "", False
    if not host or login or parts.fragment:
        return "expected an address such as https://idp.example/keys, without a login or a fragment"
    if scheme == "https" or (scheme == "http" and _is_loopback(host)):
        return None
    # Whoever stands on a plain line could answer with keys of his own.
    return "keys come over https:, or over http: from this machine alone"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_workloads(root: Section, issuers: Mapping[str, Issuer]) -> tuple[Workload, ...]:
    """Read every ``[[workload]]``.

    Raises:
        SettingsError: A mistake in one of them.
    """
    workloads = []
    for section in root.take_list("workload", "[[workload]]"):
        issuer, agent = _take_issuer(section, issuers), section.take_text("agent")
        claims = read_demands(section, "claims", section.take("claims"))
        section.finish()
        if not names.is_agent_path(agent):
            raise section.error("agent", f"{shorten(agent)} is no agent path such as acme/ci/deploy")
        sub = claims.get("sub")
        if not isinstance(sub, str | tuple) or "*" in ((sub,) if isinstance(sub, str) else sub):
            # Without it, or with a bare star, whoever can get a token of the issuer at all would be the agent.
            raise section.error("claims", 'needs `sub`, and more of it than "*": whose tokens are this agent?')
        workloads.append(Workload(issuer=issuer, claims=claims, agent=agent))
    return tuple(workloads)


def read_subject_rules(section: Section, issuers: Mapping[str, Issuer]) -> tuple[SubjectRule, ...]:
    """Read ``subjects``; an empty tuple when it is not written.

    Raises:
        SettingsError: A mistake in it.
    """
    rules = []
    for rule in section.take_list("subjects", 'subjects = [ { issuer = "…" } ]'):
        issuer, written = _take_issuer(rule, issuers), rule.take("claims", None)
        claims = read_demands(rule, "claims", written) if written is not None else {}
        rule.finish()
        rules.append(SubjectRule(issuer=issuer, claims=claims))
    return tuple(rules)


def _take_issuer(section: Section, issuers: Mapping[str, Issuer]) -> str:
    name = str(section.take_text("issuer"))
    if name not in issuers:
        known = ", ".join(issuers) or "none: add [issuer.NAME]"
        raise section.error("issuer", f"{shorten(name)} is not among the issuers: {known}")
    return name


def fits_subject(subject: Subject, rules: Sequence[SubjectRule], issuers: Mapping[str, Issuer]) -> bool:
    """Tell whether one of the rules is for this subject."""
    about = {**subject.claims, "sub": subject.name}
    return any(issuers[rule.issuer].url == subject.issuer and keeps(rule.claims, about) for rule in rules)


def agents_of(issuer: str, claims: Mapping[str, Any], workloads: Sequence[Workload]) -> list[str]:
    """Return the agents that a token of an issuer stands for, each once."""
    found = (workload.agent for workload in workloads if workload.issuer == issuer and keeps(workload.claims, claims))
    return list(dict.fromkeys(found))
