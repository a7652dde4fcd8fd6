# SPDX-License-Identifier: Apache-2.0
"""Clients that register themselves, for the codes of people who consent.  CONTROL 5.10, RFC 7591."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from arx_caps.mint.context import MINT, MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth_clients import SELF
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.oauth.redirects import MAX_CHARS, check_redirect
from arx_caps.mint.tasks.token_factory import as_json, new_name
from arx_verifier.errors import ArxError, GrantError, RequestError
from arx_verifier.request import read_json_object

GRANTS: Final = ("authorization_code", "refresh_token")
RESPONSES: Final = ("code",)
METHOD: Final = "none"  # of authentication
MAX_REDIRECTS: Final = 8
MAX_NAME_CHARS: Final = 100


class ClientMetadata(msgspec.Struct, frozen=True):
    """What a client writes of itself (RFC 7591 2); the mint ignores all other members, ``scope`` among them."""

    redirect_uris: Annotated[
        tuple[Annotated[str, Meta(max_length=MAX_CHARS)], ...], Meta(min_length=1, max_length=MAX_REDIRECTS)
    ]
    client_name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None = None
    grant_types: tuple[str, ...] | None = None
    response_types: tuple[str, ...] | None = None
    token_endpoint_auth_method: str | None = None


def read_client_metadata(raw: bytes) -> tuple[ClientMetadata, dict[str, Any]]:
    """Return what a client writes of itself, and the whole object.

    Args:
        raw: The JSON text.

    Raises:
        OAuthError: ``invalid_client_metadata`` or ``invalid_redirect_uri``.
    """
    try:
        whole = read_json_object(raw)
        metadata = msgspec.convert(whole, ClientMetadata)
    except (ArxError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _invalid(str(error)) from None
    if "authorization_code" not in (metadata.grant_types or GRANTS):
        raise _invalid("grant_types: expected authorization_code among them: a person must consent")
    if "code" not in (metadata.response_types or RESPONSES):
        raise _invalid("response_types: expected code among them")
    try:
        for uri in metadata.redirect_uris:
            check_redirect(uri)
    except RequestError as error:
        raise OAuthError("invalid_redirect_uri", str(error)) from None
    return metadata, whole


def register_client(mint: MintContext, peer: str | None, raw: bytes) -> dict[str, Any]:
    """Register a client as what it says it is, a public one, and return its row.

    Args:
        mint: The mint.
        peer: The address that asks.
        raw: The JSON text.

    Raises:
        OAuthError: ``invalid_client_metadata`` or ``invalid_redirect_uri``; ``invalid_request``: the realm has no such
            clients; ``temporarily_unavailable``: it has as many as it may have, or their agent is not active.
        TooOftenError: Too many of that address have registered.
    """
    terms = mint.realm.clients
    if terms is None or not terms.register:
        raise OAuthError("invalid_request", "an operator registers the clients of this mint")
    metadata, _ = read_client_metadata(raw)
    # A secret of a program on many machines is none, so the mint gives a public client instead (RFC 7591 3.2.1).
    if metadata.token_endpoint_auth_method not in (None, METHOD, "client_secret_basic", "client_secret_post"):
        raise _invalid("token_endpoint_auth_method: expected none")
    mint.limits.count_registration(peer)
    row: dict[str, Any] = {"id": new_name("c-"), "agent": terms.agent, "secret": None, "jwks": None}
    row |= {"scopes": "[]", "introspects": "[]", "redirects": as_json(metadata.redirect_uris)}
    row |= {"name": metadata.client_name, "created_at": now_ms(), "by": SELF, "used_at": None, "ended_at": None}
    facts = {"agent": terms.agent, "redirects": metadata.redirect_uris, "name": metadata.client_name}
    what = Event.of("client.registered", MINT, client=row["id"], **facts)
    try:
        added = mint.db.oauth_clients.register(row, what, most=terms.most, unused_ms=terms.unused_ms)
    except GrantError as error:
        raise _unavailable(f"the agent of clients that register themselves: {error}") from None
    if not added:
        raise _unavailable("as many clients have registered themselves as this mint allows: ask an operator")
    return row


def _invalid(text: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", text)


def _unavailable(text: str) -> OAuthError:
    return OAuthError("temporarily_unavailable", text)
