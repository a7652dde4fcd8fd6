# SPDX-License-Identifier: Apache-2.0
"""Routes of people's accounts at upstreams: listed and ended by operators, lent to gateways.  CONTROL 9."""

from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.credentials.account_token import AskedToken, TokenAnswer
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import PageQuery, page_of
from arx_caps.mint.api.routes.oauth.handles import seal_answer, sealing_key
from arx_caps.mint.api.views import require_row, show_row
from arx_caps.mint.connections.connect import connection_of
from arx_caps.mint.connections.end import end_connection
from arx_caps.mint.connections.lend import lend_token, targets_of
from arx_caps.mint.connections.vault import rotate_key
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.repositories.oauth.connections import CONNECTIONS_ORDER
from arx_caps.mint.db.tables import ConnectionRow
from arx_verifier.errors import REASONS

READ: Final = "arx.connections.read"
END: Final = "arx.connections.end"
ROTATE: Final = "arx.connections.rotate"
LEND: Final = "arx.connections.lend"
_MOST_ROTATED: Final = 100  # keys by one call
_STATES: Final = {"revoked": "killed", "frozen": "frozen"}


class LendBody(Hidden, AskedToken, Body, frozen=True):
    """A service's request for the access token of a person's account, as a gateway sends it."""


class TokenLent(Hidden, TokenAnswer, RouteAnswer, frozen=True):
    """The access token, sealed, or what prevents it, as a gateway reads it."""


class LinkShown(Hidden, RouteAnswer, frozen=True):
    """Whether an account was connected by the link with a digest, also if it has ended since."""

    connected: bool


class ConnectionsQuery(PageQuery, frozen=True):
    """``subject`` is a person's target, ``name`` a connection's table."""

    subject: Annotated[str, Meta(max_length=64)] | None = None
    name: Annotated[str, Meta(max_length=32)] | None = None


class ConnectionShown(RouteAnswer, frozen=True):
    """A person's account at an upstream; ``state`` is ``open``, ``ended``, ``killed`` or ``frozen``.

    ``ended_why`` is ``operator``, ``person``, ``issuer``, ``replaced`` or ``erased``. ``is_unclear`` is true if the
    answer of the issuer to the last refresh was lost.
    """

    id: str
    name: str
    subject: str
    person: str
    issuer: str
    account: str
    scopes: tuple[str, ...]
    state: str
    is_unclear: bool
    created_at: int
    used_at: int | None
    refreshed_at: int | None
    ended_at: int | None
    ended_why: str | None


class ConnectionPage(RouteAnswer, frozen=True):
    """A page of connections, the oldest first."""

    connections: list[ConnectionShown]
    next: str | UnsetType = UNSET


class EndBody(Body, frozen=True):
    """The reason, for the record."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class ConnectionEnded(RouteAnswer, frozen=True):
    """The connection, how verifiers confirmed its end, and whether the issuer confirmed that it revoked the tokens."""

    connection: ConnectionShown
    status: str
    summary: str
    revoked_upstream: bool


class ConnectionsRotateBody(Body, frozen=True):
    """The person after whom to go on, as a target."""

    after: Annotated[str, Meta(max_length=64)] = ""


class KeysRotated(RouteAnswer, frozen=True):
    """How many people have another key now; ``next`` is the next call's ``after``."""

    rotated: int
    next: str | UnsetType = UNSET


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint(
    "POST",
    "/v1/connections/token",
    LEND,
    LendBody,
    callers=("service",),
    problems=(*REASONS, "conflict", "connection_refused", "exchange_not_allowed", "no_policy", "not_found"),
)
def lend_connection_token(call: RouteCall) -> TokenLent:
    """Lend an access token of the person on whose behalf a call is made, sealed to the service that asks."""
    seal = partial(seal_answer, key=sealing_key(call, call.body.token))
    return TokenLent(**msgspec.structs.asdict(lend_token(call.mint, call.authenticated.name, call.body, seal)))


@endpoint("GET", "/v1/connections/links/{link}", LEND, callers=("service",), problems=("replayed",))
def show_link(call: RouteCall) -> LinkShown:
    """Return whether an account was connected by the link that a service got for a call."""
    which = connection_of(call.path["link"])
    return LinkShown(connected=call.mint.db.connections.find(which) is not None)


@endpoint("GET", "/v1/connections", READ, query=ConnectionsQuery)
def list_connections(call: RouteCall) -> ConnectionPage:
    """List people's accounts at upstreams."""
    mint, query = call.mint, call.query
    rows = mint.db.connections.list(subject=query.subject, name=query.name, after=query.after, limit=query.limit + 1)
    page = page_of(rows, CONNECTIONS_ORDER, lambda row: show_connection(mint, row), limit=query.limit)
    return ConnectionPage(connections=page.shown, next=page.next)


@endpoint("POST", "/v1/connections/{connection}/end", END, EndBody, problems=("not_found", "conflict"))
def end_connection_route(call: RouteCall) -> ConnectionEnded:
    """End a connection: delete its tokens, revoke them at the issuer, and kill its target."""
    mint, by, row = call.mint, call.authenticated.actor, _find(call)
    report, revoked = end_connection(mint, row, by, call.body.reason)
    shown = show_connection(mint, _find(call))
    return ConnectionEnded(connection=shown, status=report.status, summary=report.summary, revoked_upstream=revoked)


@endpoint("POST", "/v1/connections/rotate", ROTATE, ConnectionsRotateBody, problems=("conflict",))
def rotate_person_keys(call: RouteCall) -> KeysRotated:
    """Replace people's keys, and seal their tokens with the new ones; each person in one transaction."""
    several = call.mint.db.connections.subjects(call.body.after, _MOST_ROTATED)
    rotated = sum(rotate_key(call.mint, subject, call.authenticated.actor) for subject in several)
    return KeysRotated(rotated=rotated, next=several[-1] if len(several) == _MOST_ROTATED else UNSET)


def _find(call: RouteCall) -> ConnectionRow:
    return require_row(call.mint.db.connections.find(call.path["connection"]), "connection")


def show_connection(mint: MintContext, row: ConnectionRow) -> ConnectionShown:
    """Return a connection as it is now."""
    state = row.status
    if state == "open":
        refused = mint.epochs.check(row.incarnation, row.born, targets_of(row))
        state = _STATES.get(refused.code, state) if refused is not None else state
    # While a refresh runs, its end is not due; one of a mint that died is due soon.
    is_unclear = row.refresher is not None and row.refresh_until == 0
    return show_row(ConnectionShown, row, state=state, is_unclear=is_unclear)
