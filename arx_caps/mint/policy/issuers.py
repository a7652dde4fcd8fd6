# SPDX-License-Identifier: Apache-2.0
"""The issuers that a policy trusts, and its rules for workloads and subjects.  CONTROL 1.

``identity.issuer_token`` verifies tokens, and ``keys.jwks`` fetches the issuers' keys.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import field

from arx_caps.mint.policy.claims import Claims, check_claims, keeps
from arx_caps.mint.policy.roles import ROLES
from arx_caps.settings.toml_file import UNWRITTEN, TomlEntry, TomlTable, checked_text, duration, several, text_that
from arx_verifier import names
from arx_verifier.addresses import is_loopback, split_url
from arx_verifier.errors import shorten

# Signatures only: a verifier of an HMAC can also forge it.
Algorithm = Literal["RS256", "PS256", "ES256", "EdDSA"]
DEFAULT_MAX_TTL_MS: Final = 2 * 60 * 60 * 1000  # most issuers' tokens live 60 minutes, some 90
SPIFFE: Final = "spiffe://"
MAX_URL_CHARS: Final = 256

_TRUST_DOMAIN: Final = re.compile(r"spiffe://[a-z0-9._-]{1,200}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

SubjectMode = Literal["none", "allowed", "required"]


def _wrong_url(url: str) -> str | None:
    """Return why no issuer can have this URL, or None."""
    if not 0 < len(url) <= MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        return f"expected the `iss` of its tokens: 1 to {MAX_URL_CHARS} ASCII characters without spaces"
    # With a path it would be an identity: ``_is_below`` of ``issuer_token`` needs the domain alone.
    if url.startswith(SPIFFE) and _TRUST_DOMAIN.fullmatch(url) is None:
        return "expected spiffe:// and the trust domain's name, such as spiffe://acme.example"
    return None


def _wrong_place(jwks: str) -> str | None:
    """Return why keys must not be fetched from there, or None."""
    scheme, colon, _ = jwks.partition("://")
    if not colon:
        return None if jwks and jwks.isprintable() else "expected the name of a file, or an https: URL"
    # A login would be in the log, and a fragment is never sent.
    parts = split_url(jwks)
    if parts is None or not parts.hostname or parts.username is not None or parts.fragment:
        return "expected a URL such as https://idp.example/keys, without a login or a fragment"
    if scheme == "https" or (scheme == "http" and is_loopback(parts.hostname)):
        return None
    # An attacker on the network could answer a plain request with its own keys, and sign any token.
    return "expected an https: URL, or http: for a loopback address"


Name: TypeAlias = Annotated[str, text_that(_NAME.fullmatch, "a name: [a-z0-9][a-z0-9._-]*, at most 64 characters")]
# Without an audience, a token issued to another service could be used here.
_Audience: TypeAlias = Annotated[str, text_that(bool, "text that is not empty")]


class Issuer(TomlTable, frozen=True, kw_only=True):
    """A trusted issuer of tokens, and the limits of that trust.

    Attributes:
        name: The name of its table.
        url: ``iss`` of its tokens; for a SPIFFE trust domain, ``spiffe://`` and its name.
        jwks: The source of its public keys: a file in the realm's folder, or an ``https:`` URL.
        audience: The accepted audiences; a token must have one of them.
        algorithms: The accepted signature algorithms.
        max_ttl_ms: The longest accepted life of a token, ms.
    """

    name: Annotated[Name, UNWRITTEN]
    url: Annotated[str, checked_text(_wrong_url)]
    jwks: Annotated[str, checked_text(_wrong_place)]
    audience: Annotated[tuple[_Audience, ...], several("audience", 'for example ["https://mint.acme.example"]')]
    algorithms: Annotated[tuple[Algorithm, ...], several("algorithm", 'for example ["ES256"]')]
    max_ttl_ms: Annotated[int, duration()] = field(name="max_ttl", default=DEFAULT_MAX_TTL_MS)


class WorkloadRule(TomlTable, frozen=True, kw_only=True):
    """Which tokens of an issuer identify an agent.

    Attributes:
        issuer: The issuer's name.
        claims: Rules for the token's claims; ``sub`` is required.
        agent: The path of the agent.
    """

    issuer: str
    claims: Claims
    agent: Annotated[str, text_that(names.is_agent_path, "an agent path such as acme/ci/deploy")]


class SubjectRule(TomlTable, frozen=True, kw_only=True):
    """Which subjects of an issuer a session may run on behalf of.

    Attributes:
        issuer: The issuer's name.
        claims: Rules for the subject's claims; empty for every subject of the issuer.
    """

    issuer: str
    claims: Claims = field(default_factory=dict)


class OperatorRule(TomlTable, frozen=True, kw_only=True):
    """Which people of an issuer are operators, by login.

    Attributes:
        issuer: The issuer's name.
        claims: Rules for the claims of the person's ID token; needed, for else each person of the issuer fits.
        role: The name of a role.  A person whom several entries fit has the roles of all.
    """

    issuer: str
    claims: Claims
    role: Annotated[str, text_that(ROLES.__contains__, f"a role: one of {', '.join(ROLES)}")]


class Subject(NamedTuple):
    """A subject on whose behalf a session runs, authenticated when the session was opened.

    Attributes:
        issuer: The issuer's URL.
        name: The issuer's name of the subject: ``sub``.
        claims: The authenticated claims that the policy used at that time.
    """

    issuer: str
    name: str
    claims: Mapping[str, Any]


def check_issuers(entry: TomlEntry, issuers: Mapping[str, Issuer]) -> None:
    """Check every ``[issuer.NAME]``.

    Args:
        entry: The tables, for errors.
        issuers: The issuers, by name.

    Raises:
        SettingsError: Two have the same URL.
    """
    owners: dict[str, str] = {}
    for name, issuer in issuers.items():
        if owners.setdefault(issuer.url, name) != name:
            # A token names its issuer by URL alone: the order of the tables would decide which limits apply.
            raise entry.at(name, "url").error(f"expected a URL of its own, got that of {owners[issuer.url]}")


def check_workloads(entry: TomlEntry, workloads: Sequence[WorkloadRule], issuers: Mapping[str, Issuer]) -> None:
    """Check every ``[[workload]]``.

    Args:
        entry: The list of workloads, for errors.
        workloads: The entries.
        issuers: The trusted issuers, by name.

    Raises:
        SettingsError: An entry names an unknown issuer, has a wrong rule, or does not restrict ``sub``.
    """
    check_subjects(entry, workloads, issuers)
    for index, workload in enumerate(workloads):
        sub = workload.claims.get("sub")
        if not isinstance(sub, str | list) or "*" in ([sub] if isinstance(sub, str) else sub):
            # Without ``sub``, or with a bare star, every holder of any token of the issuer would be the agent.
            raise entry.at(index, "claims").error('needs `sub`, more specific than "*": which tokens are the agent\'s?')


def check_subjects(
    entry: TomlEntry, rules: Sequence[SubjectRule | WorkloadRule | OperatorRule], issuers: Mapping[str, Issuer]
) -> None:
    """Check the issuers and the claims of ``subjects``, of workloads, or of operators.

    Args:
        entry: The list, for errors.
        rules: The entries.
        issuers: The trusted issuers, by name.

    Raises:
        SettingsError: An entry names an unknown issuer, or has a wrong rule.
    """
    for index, rule in enumerate(rules):
        if rule.issuer not in issuers:
            known = ", ".join(issuers) or "none: add [issuer.NAME]"
            raise entry.at(index, "issuer").error(f"expected one of the issuers ({known}), got {shorten(rule.issuer)}")
        if rule.claims:
            check_claims(entry.at(index, "claims"), rule.claims)


def fits_subject(subject: Subject, rules: Sequence[SubjectRule], issuers: Mapping[str, Issuer]) -> bool:
    """Return whether one of the rules matches this subject."""
    claims = {**subject.claims, "sub": subject.name}
    # Compared by URL: another policy may have given the issuer's name to another issuer.
    return any(issuers[rule.issuer].url == subject.issuer and keeps(rule.claims, claims) for rule in rules)


def roles_for(subject: Subject, rules: Sequence[OperatorRule], issuers: Mapping[str, Issuer]) -> list[str]:
    """Return the names of the roles that a person has by login, each once."""
    found = (
        rule.role
        for rule in rules
        if fits_subject(subject, (SubjectRule(issuer=rule.issuer, claims=rule.claims),), issuers)
    )
    return list(dict.fromkeys(found))


def agents_of(issuer: str, claims: Mapping[str, Any], workloads: Sequence[WorkloadRule]) -> list[str]:
    """Return the agents that a token with these claims identifies, each once.

    Args:
        issuer: The name of the token's issuer.
        claims: The token's verified claims.
        workloads: The policy's ``[[workload]]`` entries.
    """
    agents = (workload.agent for workload in workloads if workload.issuer == issuer and keeps(workload.claims, claims))
    return list(dict.fromkeys(agents))
