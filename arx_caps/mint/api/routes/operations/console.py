# SPDX-License-Identifier: Apache-2.0
"""Routes of the sign-ins to the console: the link that begins one, those that go on, and their end.  CONTROL 6."""

from typing import Final, Literal

import msgspec

from arx_caps.mint.api.endpoint import Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import require_row, show_row
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.console_sessions import CONSOLE_ORDER
from arx_caps.mint.db.tables import ConsoleSessionRow
from arx_caps.mint.identity.console_session import make_link
from arx_caps.mint.policy.roles import OPEN_CONSOLE
from arx_verifier.token import wire

OPEN_PATH: Final = "/console/open"
READ: Final = "arx.operators.read"


class ConsoleLink(Hidden, RouteAnswer, frozen=True):
    """A link that signs this operator in once, a secret, and when it expires, ms since the Unix epoch."""

    url: str
    expires_at: int


class SignInShown(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in that goes on; times are ms since the Unix epoch.

    ``until`` is its end without further use, ``ends_at`` the end that no use extends.
    """

    id: str
    operator: str
    by: Literal["key", "login"]
    key: str | None
    signed_in_at: int
    used_at: int
    until: int
    ends_at: int


class SignIns(Paged, frozen=True):
    """A page of the sign-ins to the console that go on, the newest first."""

    sign_ins: list[SignInShown]


class SignInEnded(RouteAnswer, frozen=True):
    """A sign-in that was ended."""

    id: str
    operator: str


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/console/links", OPEN_CONSOLE, one_change=True)
def open_console(call: RouteCall) -> ConsoleLink:
    """Return a link that signs the operator in to the console, once."""
    secret, expires_at = make_link(call.mint, call.unit, call.authenticated)
    return ConsoleLink(url=f"{call.mint.realm.issuer}{OPEN_PATH}?link={wire.text_of(secret)}", expires_at=expires_at)


@endpoint("GET", "/v1/console/sessions", READ, query=PageQuery)
def list_sign_ins(call: RouteCall) -> SignIns:
    """List the sign-ins to the console that go on."""
    life_ms, limit = call.mint.realm.console.life_ms, call.query.limit
    rows = call.mint.db.console_sessions.list(after=call.query.after, limit=limit + 1)
    page = page_of(rows, CONSOLE_ORDER, lambda row: _shown(row, life_ms), limit=limit)
    return SignIns(sign_ins=page.shown, next=page.next)


@endpoint("DELETE", "/v1/console/sessions/{console}", "arx.console.end", problems=("not_found",))
def end_sign_in(call: RouteCall) -> SignInEnded:
    """End a sign-in to the console: its browser is asked to sign in again."""
    row = require_row(call.mint.db.console_sessions.get(call.path["console"]), "sign-in goes on")
    what = Event.of("console.ended", call.authenticated.actor, console=row.id, operator=row.operator)
    call.mint.db.console_sessions.end(row.id, what)
    return SignInEnded(id=row.id, operator=row.operator)


def _shown(row: ConsoleSessionRow, life_ms: int) -> SignInShown:
    by = "login" if row.key is None else "key"
    return show_row(SignInShown, row, by=by, ends_at=(row.signed_in_at or 0) + life_ms)
