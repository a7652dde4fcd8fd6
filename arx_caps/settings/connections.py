# SPDX-License-Identifier: Apache-2.0
"""The tables ``connection.NAME`` of a realm: upstreams at which people have accounts of their own."""

import re
from typing import Annotated, Final, TypeAlias

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
        scopes: The most that is ever asked for.
        audiences: The audiences whose gateways may have an access token.
        shared: Whether several people may connect one account.
    """

    issuer: Annotated[str, SECRET, text_that(_is_issuer, "an https: URL, or http: at this machine, without a query")]
    client_id: Annotated[str, SECRET, Meta(min_length=1, max_length=200)]
    client_secret: _Source | None = field(default=None)
    scopes: Annotated[tuple[ConnectionScope, ...], several("scope", 'for example ["repo.read"]')]
    audiences: Annotated[tuple[_Audience, ...], several("audience", 'for example ["tracker"]')]
    shared: bool = False
