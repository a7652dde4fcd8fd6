# SPDX-License-Identifier: Apache-2.0
"""Clients that register themselves, for the codes of people who consent.  CONTROL 5.10, RFC 7591."""

from typing import Any

from arx_caps.mint.context import MINT, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.oauth_clients import SELF
from arx_caps.mint.oauth.client.client_metadata import METHOD, invalid_metadata, read_client_metadata
from arx_caps.mint.oauth.errors import OAuthError
from arx_caps.mint.tasks.token_factory import as_json, new_name
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError


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
        raise invalid_metadata("token_endpoint_auth_method: expected none")
    mint.limits.count_registration(peer)
    row: dict[str, Any] = {"id": new_name("c-"), "agent": terms.agent, "secret": None, "jwks": None}
    row |= {"scopes": "[]", "introspects": "[]", "redirects": as_json(metadata.redirect_uris)}
    row |= {
        "url": None,
        "name": metadata.client_name,
        "created_at": now_ms(),
        "by": SELF,
        "used_at": None,
        "ended_at": None,
    }
    facts = {"agent": terms.agent, "redirects": metadata.redirect_uris, "name": metadata.client_name}
    what = Event.of("client.registered", MINT, client=row["id"], **facts)
    try:
        added = mint.db.oauth_clients.register(row, what, most=terms.most, unused_ms=terms.unused_ms)
    except GrantError as error:
        raise _unavailable(f"the agent of clients that register themselves: {error}") from None
    if not added:
        raise _unavailable("as many clients have registered themselves as this mint allows: ask an operator")
    return row


def _unavailable(text: str) -> OAuthError:
    return OAuthError("temporarily_unavailable", text)
