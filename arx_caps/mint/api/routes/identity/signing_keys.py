# SPDX-License-Identifier: Apache-2.0
"""Routes of the keys that sign access tokens.  CONTROL 5.1."""

from arx_caps.credentials.access_token import Algorithm
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.routes.identity.keys import READ, WRITE
from arx_caps.mint.api.views import show_row
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.keys.signing_keys import SigningKeyView


class SigningRotateBody(Body, frozen=True):
    """How to rotate: ``algorithm`` of the next key, and ``stolen`` to sign with it at once and retire the others."""

    algorithm: Algorithm | None = None
    stolen: bool = False


class SigningKeyShown(RouteAnswer, frozen=True):
    """A key that signs access tokens; times are ms since the Unix epoch."""

    kid: str
    algorithm: str
    state: str
    created_at: int
    signs_from: int
    retired_at: int | None


class SigningKeysShown(RouteAnswer, frozen=True):
    """The keys that sign access tokens, in the order in which they sign."""

    keys: tuple[SigningKeyShown, ...]


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/signing-keys", READ)
def list_signing_keys(call: RouteCall) -> SigningKeysShown:
    """List the keys that sign access tokens."""
    return SigningKeysShown(keys=tuple(map(_show, call.mint.signing_keys.view())))


def signing_key_again(call: RouteCall, made: Made) -> SigningKeyShown:
    """Answer a repeat of a rotation."""
    return _find(call, made.facts["key"])


@endpoint(
    "POST",
    "/v1/signing-keys/rotate",
    WRITE,
    SigningRotateBody,
    again=signing_key_again,
    makes="signing_key.created",
    problems=("conflict",),
)
def rotate_signing_key(call: RouteCall) -> SigningKeyShown:
    """Make the next key that signs access tokens; it signs once it was published for long enough."""
    keys, body = call.mint.signing_keys, call.body
    return _find(call, keys.rotate(call.unit, call.authenticated.actor, algorithm=body.algorithm, at_once=body.stolen))


def _find(call: RouteCall, kid: str) -> SigningKeyShown:
    return next(_show(view) for view in call.mint.signing_keys.view() if view.row.kid == kid)


def _show(view: SigningKeyView) -> SigningKeyShown:
    return show_row(SigningKeyShown, view.row._asdict(), state=view.state)
