# SPDX-License-Identifier: Apache-2.0
"""The routes by which a gateway learns of access tokens: what one stands for, scopes, approvals.  CONTROL 5.4, 5.12."""

from typing import Annotated, Any, Final

import msgspec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from msgspec import UNSET, Meta, UnsetType

from arx_caps.credentials.access_token import MAX_CHARS, SEAL_TYPE
from arx_caps.credentials.jose import token_hash
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.routes.work.approvals import ApprovalAsked, ApprovalBody, ApprovalShown, show_approval
from arx_caps.mint.approvals import ApprovalRequest
from arx_caps.mint.oauth.handle_approvals import ask_for_handle, take_for_handle, withdraw_for_handle
from arx_caps.mint.oauth.handles import bundle_of, require_handle, scopes_at, scopes_for
from arx_verifier.errors import REASONS, ArxError, GrantError
from arx_verifier.request import read_json_object
from arx_verifier.token import wire

OPEN: Final = "arx.handles.open"
SCOPES: Final = "arx.handles.scopes"
APPROVE: Final = "arx.handles.approvals"
Text = Annotated[str, Meta(min_length=1, max_length=MAX_CHARS)]


class HandleBody(Hidden, Body, frozen=True):
    """An access token, and the key that its bundle is sealed to: X25519, in a JWS by the service's own key."""

    handle: Text
    seal: Text


class HandleOpened(Hidden, RouteAnswer, frozen=True):
    """The bundle of an access token as a JWE, and when the access token expires, ms since the Unix epoch."""

    sealed: str
    expires_at: int


class HandleApprovalBody(Hidden, ApprovalBody, frozen=True, kw_only=True):
    """A call with an access token that needs an approval."""

    handle: Text


class HandleDischargeBody(HandleBody, frozen=True, kw_only=True):
    """As ``HandleBody``, for an approval; ``withdraw`` takes back a request that waits."""

    withdraw: bool = False


class HandleDischarge(Hidden, RouteAnswer, frozen=True):
    """An approval, whether its discharge was taken before, and as a JWE what the call is made with, the first time."""

    approval: ApprovalShown
    taken: bool
    sealed: str | UnsetType = UNSET


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/handles", OPEN, HandleBody, callers=("service",), problems=(*REASONS, "conflict"))
def open_handle_route(call: RouteCall) -> HandleOpened:
    """Return the bundle that an access token stands for, sealed to the service that asks."""
    mint, audience = call.mint, call.authenticated.name
    key = sealing_key(call, call.body.handle)
    handle = require_handle(mint, call.body.handle, audience)
    content = {"bundle": bundle_of(mint, handle.row, handle.session), "scopes": scopes_at(mint, handle, audience)}
    return HandleOpened(sealed=seal_answer(content, key), expires_at=handle.row.expires_at)


@endpoint(
    "POST",
    "/v1/handles/approvals",
    APPROVE,
    HandleApprovalBody,
    callers=("service",),
    problems=(*REASONS, "bad_parameters", "conflict", "not_found", "session_ended", "too_many_approvals"),
)
def ask_handle_approval_route(call: RouteCall) -> ApprovalAsked:
    """Request an approval of a call with an access token, or find the one that there is."""
    body = call.body
    request = ApprovalRequest(body.caveat, body.tool, body.args, body.why)
    row = ask_for_handle(call.mint, call.unit, body.handle, call.authenticated.name, request)
    return ApprovalAsked(approval=show_approval(call.mint, row))


@endpoint(
    "POST",
    "/v1/handles/approvals/{approval}",
    APPROVE,
    HandleDischargeBody,
    callers=("service",),
    problems=(
        *REASONS,
        "approval_denied",
        "approval_expired",
        "approval_withdrawn",
        "conflict",
        "not_found",
        "session_ended",
    ),
)
def take_handle_discharge_route(call: RouteCall) -> HandleDischarge:
    """Return how an approval stands and, once it is given, its discharge, sealed to the service that asks."""
    mint, name, handle, audience = call.mint, call.path["approval"], call.body.handle, call.authenticated.name
    key = sealing_key(call, call.body.handle)
    if call.body.withdraw:
        row = withdraw_for_handle(mint, handle, audience, name)
        return HandleDischarge(approval=show_approval(mint, row), taken=False)
    found = take_for_handle(mint, call.unit, handle, audience, name)
    sealed: str | UnsetType = UNSET
    if found.discharge is not None:
        sealed = seal_answer({"bundle": found.bundle, "discharge": found.discharge}, key)
    return HandleDischarge(approval=show_approval(mint, found.row), taken=found.taken, sealed=sealed)


def seal_answer(content: Any, key: OKPKey) -> str:
    """Return an answer with a secret as a JWE.

    Args:
        content: The answer.
        key: The key of the service that asks, of ``sealing_key``.
    """
    # Sealed although the way is private: what terminates TLS before the mint, or logs its answers, gets no token.
    return str(jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, msgspec.json.encode(content), key))


class ScopesShown(RouteAnswer, frozen=True):
    """By scope that access tokens for the service may have, the tools of the service that it allows."""

    scopes: dict[str, list[str]]


@endpoint("GET", "/v1/scopes", SCOPES, callers=("service",), problems=("replayed",))
def list_scopes(call: RouteCall) -> ScopesShown:
    """Return the scopes of the service that asks."""
    return ScopesShown(scopes=scopes_for(call.mint, call.authenticated.name))


def sealing_key(call: RouteCall, about: str) -> OKPKey:
    """Return the key to which a service has its answer sealed.

    Args:
        call: The call; its body has ``seal``.
        about: The text in the body that ``seal`` is for, a secret.

    Raises:
        GrantError: ``bad_proof``: the service's own key did not sign it.
    """
    caller = call.authenticated
    own = call.mint.db.holder_keys.key_of(f"service:{caller.name}", caller.key)
    try:
        if own is None:
            raise ValueError(caller.key)
        header = read_json_object(wire.bytes_of(call.body.seal.partition(".")[0]))
        said: Any = read_json_object(own.open(call.body.seal))
        if header.get("typ") != SEAL_TYPE or said["ath"] != token_hash(about):
            raise ValueError(SEAL_TYPE)
        return OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": str(said["jwk"]["x"])})
    except (ArxError, JoseError, ValueError, KeyError, TypeError) as error:
        raise GrantError(
            "invalid seal: expected an X25519 key and the token's hash, signed by the service's own key",
            code="bad_proof",
        ) from error
