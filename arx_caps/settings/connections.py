# SPDX-License-Identifier: Apache-2.0
"""The tables ``connection.NAME`` of a realm: upstreams at which people have accounts of their own."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, field

from arx_caps.settings.toml_file import SECRET, TomlTable, several, text_that
from arx_verifier import names
from arx_verifier.addresses import is_loopback, split_url

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,128}")  # RFC 6749 3.3
_SOURCE: Final = re.compile(r"(env|file):.+")


def _is_issuer(url: str) -> bool:
    place = split_url(url) if url.isascii() and url.isprintable() else None
    if place is None or not place.hostname or place.username or place.query or place.fragment:
        return False
    # Over plain HTTP an attacker on the network could answer in the place of the issuer.
    return place.scheme == "https" or (place.scheme == "http" and is_loopback(place.hostname))


ConnectionName: TypeAlias = Annotated[
    str, text_that(_NAME.fullmatch, "a name such as tracker: [a-z0-9_-], at most 32 characters")
]
ConnectionScope: TypeAlias = Annotated[
    str, text_that(_SCOPE.fullmatch, "one scope of OAuth, without a space, such as repo.read")
]
_Audience: TypeAlias = Annotated[str, text_that(names.is_audience, "an audience of the policy")]
_Source: TypeAlias = Annotated[
    str, SECRET, text_that(_SOURCE.fullmatch, "env:NAME or file:PATH: no secret is in this file")
]


class ConnectionTerms(TomlTable, frozen=True, kw_only=True):
    """An upstream's issuer of access tokens, and this mint as its client.

    Attributes:
        issuer: The issuer's URL, as its metadata has it (RFC 8414).
        client_id: The mint's id there.
        client_secret: Where its secret is, ``env:NAME`` or ``file:PATH``; None for a public client.
        client_secret_next: Where the one is that is tried if the issuer refuses that one.
        scopes: The most that is ever asked for.
        audiences: The audiences whose gateways may have an access token; none if others go ``through`` this one alone.
        shared: Whether several people may connect one account.
        account: What database and log have of an account: its name, or a digest of it.
        mode: ``code`` if people connect an account here; ``exchange`` or ``id-jag`` for tokens without another consent.
        through: The connection whose tokens are exchanged for those of this one.
        upstream: The upstream's name at the issuer: ``audience`` of an exchange, ``resource`` of an ID-JAG.
        names_agent: Whether an exchange has an ``actor_token`` of the mint, which names the agent.
    """

    issuer: Annotated[str, SECRET, text_that(_is_issuer, "an https: URL, or http: at this machine, without a query")]
    client_id: Annotated[str, SECRET, Meta(min_length=1, max_length=200)]
    client_secret: _Source | None = field(default=None)
    client_secret_next: _Source | None = field(default=None)
    scopes: Annotated[tuple[ConnectionScope, ...], several("scope", 'for example ["repo.read"]')]
    audiences: tuple[_Audience, ...] = ()
    shared: bool = False
    account: Literal["name", "digest"] = "name"
    mode: Literal["code", "exchange", "id-jag"] = "code"
    through: ConnectionName | None = None
    upstream: Annotated[str, SECRET, Meta(min_length=1, max_length=200)] | None = None
    names_agent: bool = False


def connection_mistakes(tables: Mapping[str, ConnectionTerms]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong between connections: the name of a table, and what was expected there.

    Args:
        tables: All connections of a realm, by name.
    """
    homes = {terms.through for terms in tables.values()}
    for name, terms in tables.items():
        home = tables.get(terms.through or name)
        if (terms.mode == "code") != (terms.through is None):
            yield name, 'expected both or none: `through`, and `mode` "exchange" or "id-jag"'
        elif home is None or home.mode != "code":
            yield name, f"through: expected a connection that people connect, got {terms.through}"
        elif terms.mode == "exchange" and terms.upstream is None:
            yield name, "expected `upstream`, the upstream's name at the issuer"
        elif terms.mode == "id-jag" and "openid" not in home.scopes:
            yield name, f'through: expected "openid" in `scopes` of [connection.{terms.through}]'
        elif not terms.audiences and name not in homes:
            yield name, 'expected `audiences`, for example ["tracker"]'
