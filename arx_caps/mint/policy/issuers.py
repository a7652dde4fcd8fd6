# SPDX-License-Identifier: Apache-2.0
"""The issuers that a policy trusts, the workloads among their tokens, and the subjects.  CONTROL 1.

The entries and their matching are in here.  ``identity.issuer_token`` verifies that a token is its issuer's, and
``keys.jwks`` has the issuer's keys.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from msgspec import field

from arx_caps.mint.policy.claims import Claims, check_claims, keeps
from arx_caps.mint.policy.parse import PolicyEntry, PolicyTable, checked_text, duration, several, text_that
from arx_verifier import names
from arx_verifier.errors import shorten

# Signatures alone: with an HMAC, whoever can check could also sign.
Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
DEFAULT_MAX_TTL_MS: Final = 2 * 60 * 60 * 1000  # the usual tokens live an hour, some an hour and a half
SPIFFE: Final = "spiffe://"
MAX_URL_CHARS: Final = 256

_TRUST_DOMAIN: Final = re.compile(r"spiffe://[a-z0-9._-]{1,200}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

SubjectMode = Literal["none", "allowed", "required"]


def _wrong_url(url: str) -> str | None:
    """Say why no issuer can have this URL, or None when one may."""
    if not 0 < len(url) <= MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        return f"expected what its tokens say in `iss`: 1 to {MAX_URL_CHARS} characters, no space"
    if url.startswith(SPIFFE) and _TRUST_DOMAIN.fullmatch(url) is None:
        return "a trust domain is spiffe:// and its name, such as spiffe://acme.example"
    return None


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


Name: TypeAlias = Annotated[str, text_that(_NAME.fullmatch, "a name: [a-z0-9][a-z0-9._-]*, at most 64 characters")]
# A token for anybody could be taken from another service and used here.
_Audience: TypeAlias = Annotated[str, text_that(bool, "text that is not empty")]


class Issuer(PolicyTable, frozen=True, kw_only=True):
    """Somebody whose tokens are believed, within limits.

    Attributes:
        name: What the policy calls it.
        url: What its tokens say in ``iss``; of a SPIFFE trust domain ``spiffe://`` and its name.
        jwks: Where its public keys are: a file, or an ``https:`` address.
        audience: A token must be for one of these.
        algorithms: What it signs with.
        max_ttl_ms: A token that lives longer is refused.
    """

    name: Name
    url: Annotated[str, checked_text(_wrong_url)]
    jwks: Annotated[str, checked_text(_wrong_place)]
    audience: Annotated[tuple[_Audience, ...], several("audience", 'for example ["https://mint.acme.example"]')]
    algorithms: Annotated[tuple[Algorithm, ...], several("algorithm", 'for example ["ES256"]')]
    max_ttl_ms: Annotated[int, duration()] = field(name="max_ttl", default=DEFAULT_MAX_TTL_MS)


class WorkloadRule(PolicyTable, frozen=True, kw_only=True):
    """Which tokens of an issuer are an agent.

    Attributes:
        issuer: The issuer's name.
        claims: What its tokens' claims must be; ``sub`` among them.
        agent: Whom such a token stands for.
    """

    issuer: str
    claims: Claims
    agent: Annotated[str, text_that(names.is_agent_path, "an agent path such as acme/ci/deploy")]


class SubjectRule(PolicyTable, frozen=True, kw_only=True):
    """Which subjects count.

    Attributes:
        issuer: The issuer's name.
        claims: What the claims about them must be; empty for everybody whom the issuer knows.
    """

    issuer: str
    claims: Claims = field(default_factory=dict)


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


def read_issuers(entry: PolicyEntry, tables: Mapping[str, Any]) -> dict[str, Issuer]:
    """Read every ``[issuer.NAME]``.

    Raises:
        SettingsError: A mistake in one of them, or one URL for two.
    """
    issuers: dict[str, Issuer] = entry.read_named(Issuer, tables)
    owners: dict[str, str] = {}
    for name, issuer in issuers.items():
        if owners.setdefault(issuer.url, name) != name:
            raise entry.at(name, "url").error(
                f"is already that of {owners[issuer.url]}: a token would have two issuers"
            )
    return issuers


def check_workloads(entry: PolicyEntry, workloads: Sequence[WorkloadRule], issuers: Mapping[str, Issuer]) -> None:
    """Check every ``[[workload]]``.

    Raises:
        SettingsError: A mistake in one of them.
    """
    check_subjects(entry, workloads, issuers)
    for index, workload in enumerate(workloads):
        sub = workload.claims.get("sub")
        if not isinstance(sub, str | list) or "*" in ([sub] if isinstance(sub, str) else sub):
            # Without it, or with a bare star, whoever can get a token of the issuer at all would be the agent.
            raise entry.at(index, "claims").error('needs `sub`, and more of it than "*": whose tokens are this agent?')


def check_subjects(
    entry: PolicyEntry, rules: Sequence[SubjectRule | WorkloadRule], issuers: Mapping[str, Issuer]
) -> None:
    """Check the issuers and the claims of ``subjects``, or of workloads.

    Raises:
        SettingsError: A mistake in one of them.
    """
    for index, rule in enumerate(rules):
        if rule.issuer not in issuers:
            known = ", ".join(issuers) or "none: add [issuer.NAME]"
            raise entry.at(index, "issuer").error(f"{shorten(rule.issuer)} is not among the issuers: {known}")
        if rule.claims:
            check_claims(entry.at(index, "claims"), rule.claims)


def fits_subject(subject: Subject, rules: Sequence[SubjectRule], issuers: Mapping[str, Issuer]) -> bool:
    """Tell whether one of the rules is for this subject."""
    about = {**subject.claims, "sub": subject.name}
    return any(issuers[rule.issuer].url == subject.issuer and keeps(rule.claims, about) for rule in rules)


def agents_of(issuer: str, claims: Mapping[str, Any], workloads: Sequence[WorkloadRule]) -> list[str]:
    """Return the agents that a token of an issuer stands for, each once."""
    found = (workload.agent for workload in workloads if workload.issuer == issuer and keeps(workload.claims, claims))
    return list(dict.fromkeys(found))
