# SPDX-License-Identifier: Apache-2.0
"""Routes by which a person's command line logs in as an operator, and out again.  CONTROL 1.7, RFC 8628.

The command line asks the issuer for a device code by itself; the mint takes the ID token alone.
"""

from typing import Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_caps.mint.api import problems
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.openapi import OpenRoute
from arx_caps.mint.db.events import Event
from arx_caps.mint.identity.authenticate import LOGOUT
from arx_caps.mint.identity.operator_login import log_operator_in
from arx_caps.mint.login.oidc import OidcLogin
from arx_caps.mint.tasks.sessions import token_for
from arx_caps.settings.realm import Login
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

PATH: Final = "/v1/login"
NO_LOGIN: Final = "this mint takes no login of programs: it has no login_device_client_id"


class LoginPlace(RouteAnswer, frozen=True):
    """Where a program asks for a device code: the issuer, the program's id there, and the scope to ask for."""

    issuer: str
    client_id: str
    scope: str


class LoginBody(Hidden, Body, frozen=True):
    """A person's ID token."""

    id_token: str


class LoggedIn(Hidden, RouteAnswer, frozen=True, kw_only=True):
    """An operator's token, a secret; ``until`` is the end of the key that signed the call.

    Times are ms since the Unix epoch.
    """

    operator: str
    token: str
    token_type: Literal["DPoP"] = "DPoP"  # noqa: S105 - a scheme of RFC 9449, no secret
    expires_at: int
    until: int


class LoggedOut(RouteAnswer, frozen=True):
    """The operator whose key was removed."""

    operator: str


_CODES: Final = (
    *("bad_subject_token", "issuer_unavailable", "no_policy", "no_role", "not_found", "revoked"),
    *("operator_exists", "key_enrolled", "conflict"),
)
OPEN: Final[tuple[Any, ...]] = (
    OpenRoute(PATH, "Return where a program asks for a device code.", {200: LoginPlace}, ("not_found",)),
)
ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", PATH, None, LoginBody, status=201, problems=_CODES)
def log_in(call: RouteCall) -> LoggedIn:
    """Log a person in as an operator: enrol the key of the proof until the login ends, and return a token."""
    mint, proof = call.mint, call.signed
    token = OidcLogin(mint, _login(mint.realm.login)).take(call.unit, call.body.id_token)
    # Spent only now that the person is proven: strangers cannot fill the memory of used proofs.
    call.unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    until = now_ms() + mint.realm.console.life_ms
    name = log_operator_in(mint, call.unit, token, peer=call.peer, key=proof.key, until=until)
    operator_token, expires_at = token_for(mint, name)
    return LoggedIn(operator=name, token=operator_token, expires_at=expires_at, until=until)


@endpoint("DELETE", PATH, LOGOUT, problems=("conflict", "not_found"))
def log_out(call: RouteCall) -> LoggedOut:
    """Remove the key of the call, if a login enrolled it."""
    caller, keys = call.authenticated, call.mint.db.holder_keys
    row = keys.row_of(caller.actor, caller.key)
    if row is None or row.until is None:
        raise GrantError("this key is not a login's: an administrator removes it", code="conflict")
    what = Event.of("operator.logged_out", caller.actor, operator=caller.name, key=caller.key)
    keys.change(caller.actor, None, caller.key, what, keep_one=False)
    return LoggedOut(operator=caller.name)


async def show_place(request: Request) -> Response:
    """Return where a program asks for a device code."""
    note(request, route=PATH)
    realm = request.app.state.mint.realm
    try:
        login = _login(realm.login)
    except GrantError as error:
        return problems.of_error(error, realm)
    assert login.device_client_id is not None
    place = LoginPlace(issuer=login.issuer, client_id=login.device_client_id, scope=login.scope)
    return Response(msgspec.json.encode(place), headers={"Cache-Control": "no-store"}, media_type="application/json")


def _login(login: Login | None) -> Login:
    if login is None or login.device_client_id is None:
        raise GrantError(NO_LOGIN, code="not_found")
    return login


def routes() -> list[Route]:
    """Return the open route."""
    return [Route(PATH, show_place)]
