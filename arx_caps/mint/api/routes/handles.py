# SPDX-License-Identifier: Apache-2.0
"""The routes by which a gateway gets what an access token stands for, and which scopes there are.  CONTROL 5.4."""

from typing import Annotated, Any, Final

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from msgspec import Meta

from arx_caps.access_token import MAX_CHARS
from arx_caps.jose import token_hash
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall
from arx_caps.mint.oauth.handles import open_handle, scopes_at, scopes_for
from arx_verifier.errors import REASONS, ArxError, GrantError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

OPEN: Final = "arx.handles.open"
SCOPES: Final = "arx.handles.scopes"
SEAL_TYPE: Final = "arx-seal+jwt"
Text = Annotated[str, Meta(min_length=1, max_length=MAX_CHARS)]


class HandleBody(Body, frozen=True):
    """An access token, and the key that its bundle is sealed to: X25519, in a JWS by the service's own key."""

    handle: Text
    seal: Text

    def __repr__(self) -> str:
        return "<HandleBody>"


class HandleOpened(RouteAnswer, frozen=True):
    """The bundle of an access token as a JWE, and when the access token expires, ms since the Unix epoch."""

    sealed: str
    expires_at: int

    def __repr__(self) -> str:
        return "<HandleOpened>"


def open_handle_route(call: RouteCall) -> HandleOpened:
    """Return the bundle that an access token stands for, sealed to the service that asks."""
    mint, audience = call.mint, call.authenticated.name
    key = _sealing_key(call)
    handle, bundle = open_handle(mint, call.body.handle, audience)
    content = {"bundle": bundle, "scopes": scopes_at(mint, handle, audience)}
    # Sealed although the way is private: what terminates TLS before the mint, or logs its answers, gets no token.
    sealed = jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, msgspec.json.encode(content), key)
    return HandleOpened(sealed=str(sealed), expires_at=handle.row["expires_at"])


class ScopesShown(RouteAnswer, frozen=True):
    """By scope that access tokens for the service may have, the tools of the service that it allows."""

    scopes: dict[str, list[str]]


def list_scopes(call: RouteCall) -> ScopesShown:
    """Return the scopes of the service that asks."""
    return ScopesShown(scopes=scopes_for(call.mint, call.authenticated.name))


def _sealing_key(call: RouteCall) -> OKPKey:
    caller = call.authenticated
    own = call.mint.db.holder_keys.find(f"service:{caller.name}", caller.key)
    try:
        if own is None:
            raise ValueError(caller.key)
        header = read_json_object(wire.bytes_of(call.body.seal.partition(".")[0]))
        said: Any = read_json_object(own.open(call.body.seal))
        if header.get("typ") != SEAL_TYPE or said["ath"] != token_hash(call.body.handle):
            raise ValueError(SEAL_TYPE)
        return OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": str(said["jwk"]["x"])})
    except (ArxError, JoseError, ValueError, KeyError, TypeError) as error:
        raise GrantError(
            "invalid seal: expected an X25519 key and the access token's hash, signed by the service's own key",
            code="bad_proof",
        ) from error


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/v1/handles",
        OPEN,
        open_handle_route,
        HandleBody,
        callers=("service",),
        problems=(*REASONS, "conflict"),
    ),
    Endpoint("GET", "/v1/scopes", SCOPES, list_scopes, callers=("service",), problems=("replayed",)),
)
