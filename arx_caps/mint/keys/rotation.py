# SPDX-License-Identifier: Apache-2.0
"""Make, rotate and retire root keys; replace the key of one audience; remove a service.  SPEC 9, 21.

The database comes first: a crash in between leaves a key that mints no more and is not handed out, and the freeze that
is missing is put in its place by whoever repeats the call, or by the mint itself.  A retired key is frozen, so that it
is worth nothing anywhere within a lease, also where a service still has it.
"""

import re
import time
from typing import Any, Final, Literal, NamedTuple

from arx_caps.mint.context import MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.keys import RootRow
from arx_caps.mint.db.state import now_ms
from arx_caps.mint.keys.key_schedule import USED_MS, Plan
from arx_caps.mint.tasks.revoke import end_targets
from arx_caps.revocation import KillReport
from arx_verifier.errors import GrantError

MAX_TARGETS: Final = 1000  # as many as one step of the store takes
MAX_ROOTS: Final = 8  # live ones: each is a key more in every service
_NUMBERED: Final = re.compile(r"k([1-9][0-9]{0,8})")


class RootView(NamedTuple):
    """How it stands with a root key.  Times are ms.

    Attributes:
        row: What is stored of it.
        state: ``published``, ``waiting``, ``minting``, ``accepted`` or ``retired``.
        mints_for: The audiences that it mints for; the mint's own is ``arx.mint``.
        waits_for: By audience, the own keys of services that have not fetched it.
        outlived_at: When every token that was made with it is over; None for one that mints.
    """

    row: RootRow
    state: Literal["published", "waiting", "minting", "accepted", "retired"]
    mints_for: tuple[str, ...]
    waits_for: dict[str, list[str]]
    outlived_at: int | None


def view_roots(mint: MintContext) -> list[RootView]:
    """Return how it stands with every root key, the oldest first."""
    plan, book = mint.book.look(at_once=True), mint.book
    minting: dict[str, list[str]] = {book.minting(): ["arx.mint"]}
    for audience in sorted(plan.numbers):
        minting.setdefault(book.minting(audience), []).append(audience)
    return [_view(mint, plan, row, tuple(minting.get(row.name, ()))) for row in plan.rows.roots]


def make_root(mint: MintContext, by: str) -> str:
    """Make a root key and publish it; it mints nothing before a rotation.

    Returns:
        Its name.

    Raises:
        GrantError: ``conflict``: there are too many, or somebody else makes one.
    """
    plan = mint.book.look(at_once=True)
    if len(plan.roots) >= MAX_ROOTS:
        raise GrantError(f"there are {MAX_ROOTS} root keys; retire one first", code="conflict")
    taken = [int(found[1]) for row in plan.rows.roots if (found := _NUMBERED.fullmatch(row.name))]
    name = f"k{max(taken, default=0) + 1}"
    mint.state.add_root(mint.roots.make(name), Event.of("key.created", by, key=name))
    mint.book.look(at_once=True)
    return name


def rotate_root(mint: MintContext, by: str, *, now: bool) -> str:
    """Let the newest root key mint, and make one if there is none that does not yet.

    Args:
        mint: The mint.
        by: Who asks.
        now: Whether it mints at once, although services may not know it yet.

    Returns:
        Its name.
    """
    plan = mint.book.look(at_once=True)
    fresh = [row.name for row in plan.roots if row.mints_from is None or row.mints_from > now_ms()]
    name = fresh[-1] if fresh else make_root(mint, by)
    row = next(row for row in mint.book.look().roots if row.name == name)
    mints_from = now_ms() if now else max(now_ms(), mint.book.ready_at(row))
    what = Event.of("key.rotated", by, key=name, mints_from=mints_from, at_once=now)
    mint.state.let_root_mint(name, mints_from, what, waits=not now)
    mint.book.look(at_once=True)
    return name


def retire_root(mint: MintContext, name: str, by: str, *, now: bool) -> KillReport | None:
    """Retire a root key for good: nothing that was made with it is worth anything any more.

    Args:
        mint: The mint.
        name: The root key.
        by: Who asks.
        now: Whether tokens that it made are ended before their time.

    Raises:
        GrantError: ``not_found``; ``conflict``: it mints, or tokens that it made are alive.
        StoreError: The outcome is not known; repeat it.
    """
    found = next((view for view in view_roots(mint) if view.row.name == name), None)
    if found is None:
        raise GrantError("there is no such root key", code="not_found")
    if found.mints_for and (not now or len(mint.book.look().roots) == 1 or found.row.name == mint.book.minting()):
        raise GrantError(
            f"{name} mints for {', '.join(found.mints_for)}: rotate first, and wait until another one does",
            code="conflict",
        )
    if not now and found.outlived_at is not None and found.outlived_at > now_ms() and found.state != "published":
        raise GrantError(
            f"tokens that {name} made live until {_utc(found.outlived_at)}: wait, or end them now",
            code="conflict",
        )
    mint.state.retire_root(name, Event.of("key.retired", by, key=name))
    mint.book.look(at_once=True)
    return _freeze(mint, f"root key {name} retired", by)


def replace_audience_key(mint: MintContext, audience: str, by: str, *, stolen: bool) -> KillReport | None:
    """Give an audience its next key.

    Args:
        mint: The mint.
        audience: The audience.
        by: Who asks.
        stolen: Whether the older ones are worth nothing from now on; else they are accepted until the last token that
            was made with them is over.

    Returns:
        The kill report of the older ones, where they were stolen and are no other audience's as well.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    what = Event.of("service.key_replaced", by, audience=audience, stolen=stolen)
    mint.state.replace_audience_key(audience, what, stolen=stolen)
    mint.book.look(at_once=True)
    return end_stolen(mint, audience, by) if stolen else None


def end_stolen(mint: MintContext, audience: str, by: str) -> KillReport | None:
    """Freeze the keys of an audience that were retired because they were stolen; to repeat it is harmless.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    return _freeze(mint, f"the key of {audience} was stolen", by)


def remove_service(mint: MintContext, audience: str, by: str) -> KillReport | None:
    """Remove a service: its own keys sign nothing any more, and no token for it is worth anything.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    what = Event.of("service.removed", by, audience=audience)
    mint.state.retire_audience(audience, Event.of("service.key_retired", by, audience=audience))
    mint.state.remove_service(audience, what)
    mint.book.look(at_once=True)
    return _freeze(mint, f"the service {audience} was removed", by)


def _freeze(mint: MintContext, reason: str, by: str) -> KillReport | None:
    """Freeze every key that is retired and not frozen yet; when all are, say so again, to tell who has confirmed."""
    targets = sorted(mint.book.retired_targets())
    missing = sorted(set(targets) - set(mint.store.freezes())) or targets[:1]
    report = None
    for first in range(0, len(missing), MAX_TARGETS):
        part = missing[first : first + MAX_TARGETS]
        report = end_targets(mint, "freeze", part, reason=reason, by=by, wait=True)
    return report


def _view(mint: MintContext, plan: Plan, row: RootRow, mints_for: tuple[str, ...]) -> RootView:
    outlived_at: Any = None if mints_for else row.used_at + mint.realm.max_ttl_ms + 2 * USED_MS
    if row.retired_at is not None:
        return RootView(row, "retired", (), {}, None)
    waits = mint.book.waits_for(row, plan) if row.waits else {}
    if row.mints_from is None:
        return RootView(row, "published", mints_for, waits, None)
    if row.mints_from > now_ms() or (not mints_for and row.used_at == 0):
        return RootView(row, "waiting", mints_for, waits, None)
    return RootView(row, "minting" if mints_for else "accepted", mints_for, waits, outlived_at)


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))
