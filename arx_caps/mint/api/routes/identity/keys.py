# SPDX-License-Identifier: Apache-2.0
"""Routes of root keys, and of a service's audience key.  CONTROL 3.4."""

from typing import Final, Literal

import msgspec

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import KillShown, require_row, show_kill, show_row
from arx_caps.mint.db.repositories.identity.holder_keys import KEYS_ORDER
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.keys.rotation import RootView

READ: Final = "arx.keys.read"
WRITE: Final = "arx.keys.write"
WRITE_SERVICES: Final = "arx.services.write"


class RotateBody(Body, frozen=True):
    """How to rotate; ``now`` does not wait for services that have not fetched the key."""

    now: bool = False


class RetireBody(Body, frozen=True):
    """How to retire; ``now`` revokes the tokens of the key that have not expired."""

    now: bool = False


class ReplaceBody(Body, frozen=True):
    """How to replace a key; ``stolen`` revokes the older keys and every token signed with them."""

    stolen: bool = False


class WaitingShown(msgspec.Struct, frozen=True, kw_only=True):
    """A service that has not fetched a key: thumbprints of its own keys, or ``file:NAME``."""

    audience: str
    holders: tuple[str, ...]


class RootShown(RouteAnswer, frozen=True):
    """A root key; times are ms since the Unix epoch."""

    name: str
    state: Literal["published", "waiting", "minting", "accepted", "retired"]
    created_at: int
    used_at: int | None
    mints_from: int | None
    mints_for: tuple[str, ...]
    waits_for: tuple[WaitingShown, ...]
    outlived_at: int | None
    retired_at: int | None


class Roots(RouteAnswer, frozen=True):
    """Root keys, the oldest first."""

    keys: tuple[RootShown, ...]


class HolderKeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """The key of an agent, ``operator:NAME`` or ``service:AUDIENCE``; ``used_at`` is exact to about a minute."""

    kid: str
    holder: str
    added_at: int
    used_at: int | None


class HolderKeys(Paged, frozen=True):
    """A page of the keys of agents, operators and services, by holder."""

    keys: list[HolderKeyShown]


class RootRetired(RouteAnswer, frozen=True):
    """A retired root key, and which verifiers refuse it."""

    key: RootShown
    kill: KillShown | None


class KeyReplaced(RouteAnswer, frozen=True):
    """The replaced key of an audience; ``kill`` is null if nothing had to be frozen."""

    audience: str
    kill: KillShown | None


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/root-keys", READ)
def list_root_keys(call: RouteCall) -> Roots:
    """List the root keys, with the services for which each mints and for which it waits."""
    return Roots(keys=tuple(map(_show, call.mint.rotation.view_roots())))


@endpoint("GET", "/v1/holder-keys", READ, query=PageQuery)
def list_holder_keys(call: RouteCall) -> HolderKeys:
    """List the keys of agents, operators and services, and when each last signed."""
    limit = call.query.limit
    rows = call.mint.db.holder_keys.page(after=call.query.after, limit=limit + 1)
    page = page_of(rows, KEYS_ORDER, lambda row: show_row(HolderKeyShown, row), limit=limit)
    return HolderKeys(keys=page.shown, next=page.next)


def root_again(call: RouteCall, made: Made) -> RootShown:
    """Answer a repeat of making or rotating a root key."""
    return _find_root(call, made.facts["key"])


@endpoint("POST", "/v1/root-keys", WRITE, status=201, problems=("conflict",), again=root_again, makes="key.created")
def create_root_key(call: RouteCall) -> RootShown:
    """Make a root key and publish it to services; it mints nothing before a rotation."""
    return _find_root(call, call.mint.rotation.make_root(call.unit, call.authenticated.actor))


@endpoint(
    "POST", "/v1/root-keys/rotate", WRITE, RotateBody, problems=("conflict",), again=root_again, makes="key.rotated"
)
def rotate_root_key(call: RouteCall) -> RootShown:
    """Let the newest root key mint once every service has had the time to fetch it."""
    return _find_root(call, call.mint.rotation.rotate_root(call.unit, call.authenticated.actor, now=call.body.now))


@endpoint("POST", "/v1/root-keys/{name}/retire", WRITE, RetireBody, problems=("not_found", "conflict"))
def retire_root_key(call: RouteCall) -> RootRetired:
    """Retire a root key for good: within a lease, no service accepts it any more."""
    name = call.path["name"]
    report = call.mint.rotation.retire_root(name, call.authenticated.actor, now=call.body.now)
    return RootRetired(key=_find_root(call, name), kill=show_kill(report) if report is not None else None)


def replaced_again(call: RouteCall, made: Made) -> KeyReplaced:
    """Answer a repeat of a replacement, and finish the revocation of stolen keys."""
    audience = made.facts["audience"]
    # The first call may have failed between the new key and the revocation of the old ones.
    report = call.mint.rotation.end_stolen(audience, call.authenticated.actor) if call.body.stolen else None
    return KeyReplaced(audience=audience, kill=show_kill(report) if report is not None else None)


@endpoint(
    "POST",
    "/v1/services/{audience}/replace-key",
    WRITE_SERVICES,
    ReplaceBody,
    problems=("not_found",),
    again=replaced_again,
    makes="service.key_replaced",
)
def replace_key(call: RouteCall) -> KeyReplaced:
    """Replace the key of one service's audience."""
    audience = _enrolled(call)
    report = call.mint.rotation.replace_audience_key(
        call.unit, audience, call.authenticated.actor, stolen=call.body.stolen
    )
    return KeyReplaced(audience=audience, kill=show_kill(report) if report is not None else None)


@endpoint("DELETE", "/v1/services/{audience}", WRITE_SERVICES, problems=("not_found",))
def delete_service(call: RouteCall) -> KeyReplaced:
    """Remove a service: remove its own keys, and revoke all tokens for it."""
    audience = _enrolled(call)
    # Its keys are frozen in the store, because the service itself cannot be trusted to forget them.
    report = call.mint.rotation.remove_service(audience, call.authenticated.actor)
    return KeyReplaced(audience=audience, kill=show_kill(report) if report is not None else None)


def _enrolled(call: RouteCall) -> str:
    audience = call.path["audience"]
    # A key can be derived for any name: a mistyped one must not pass for a replaced key.
    require_row(call.mint.db.services.find(audience), "service")
    return audience


def _find_root(call: RouteCall, name: str) -> RootShown:
    return next(_show(view) for view in call.mint.rotation.view_roots() if view.row.name == name)


def _show(view: RootView) -> RootShown:
    waits = [WaitingShown(audience=name, holders=tuple(holders)) for name, holders in sorted(view.waits_for.items())]
    row, used_at = view.row._asdict() | view._asdict(), view.row.used_at or None
    return show_row(RootShown, row, used_at=used_at, waits_for=tuple(waits))
