# SPDX-License-Identifier: Apache-2.0
"""Make, rotate and retire the keys of a realm, and remove services. SPEC 9, CONTROL 3.

Which key mints is decided in ``key_schedule``.
"""

import contextlib
import re
from collections.abc import Collection
from typing import Any, Final, Literal, NamedTuple

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.keys import RootRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.keys.key_schedule import USED_MS, KeySchedule, Plan
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.revocation.revoker import Revoker
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.durations import show_time
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.memory.memory import MEMORY_AUDIENCE

MAX_TARGETS: Final = 1000  # in one operation of the store
MAX_ROOTS: Final = 8  # that are not retired: each is one more key in every service
_NUMBERED: Final = re.compile(r"k([1-9][0-9]{0,8})")


class RootView(NamedTuple):
    """A root key and its state. Times are in ms since the Unix epoch.

    Attributes:
        row: Its row.
        state: ``published``, ``waiting``, ``minting``, ``accepted`` or ``retired``.
        mints_for: The audiences that it mints for; ``arx.mint`` for the mint's own tokens.
        waits_for: By audience, the own keys of services that have not fetched it.
        outlived_at: When the last token that it minted has expired; None while it mints.
    """

    row: RootRow
    state: Literal["published", "waiting", "minting", "accepted", "retired"]
    mints_for: tuple[str, ...]
    waits_for: dict[str, list[str]]
    outlived_at: int | None


# The database changes first, the store second. A crash in between leaves a key that mints no more and is not handed
# out; a retry, or the mint itself, adds the missing freeze. A retired key is frozen so that every service refuses it
# within a lease, also one that still has it.
class KeyRotation:
    """Makes, rotates and retires the keys of a realm.

    Args:
        realm: The realm.
        db: The mint's database, with the rows of the keys.
        roots: The root keys.
        schedule: Decides which key mints.
        store: The revocation store.
        revoker: Freezes retired keys.
    """

    def __init__(
        self,
        realm: Realm,
        db: MintDatabase,
        roots: RootKeys,
        schedule: KeySchedule,
        store: RevocationStore,
        revoker: Revoker,
    ) -> None:
        self._realm, self._db, self._roots, self._schedule = realm, db, roots, schedule
        self._store, self._revoker = store, revoker

    def view_roots(self) -> list[RootView]:
        """Return all root keys with their state, the oldest first."""
        plan, schedule = self._schedule.read_plan(fresh=True), self._schedule
        minting: dict[str, list[str]] = {schedule.minting(): ["arx.mint"]}
        for audience in sorted(plan.numbers):
            minting.setdefault(schedule.minting(audience), []).append(audience)
        return [self._view(plan, row, tuple(minting.get(row.name, ()))) for row in plan.rows.roots]

    def make_root(self, unit: UnitOfWork, by: str) -> str:
        """Make a root key and publish it; it mints only after a rotation.

        Returns:
            Its name.

        Raises:
            GrantError: ``conflict``: there are too many, or another call makes one.
        """
        plan = self._schedule.read_plan(fresh=True)
        if len(plan.roots) >= MAX_ROOTS:
            raise GrantError(
                f"the realm has {MAX_ROOTS} root keys, which is the most: retire one first", code="conflict"
            )
        # Retired names count too: a name is never given twice, for its key ids are frozen.
        taken = [int(match[1]) for row in plan.rows.roots if (match := _NUMBERED.fullmatch(row.name))]
        name = f"k{max(taken, default=0) + 1}"
        self._db.keys.add_root(unit, self._roots.make(name), Event.of("key.created", by, key=name))
        self._schedule.read_plan(fresh=True)
        # The retired numbers of every audience have a key id with the new root key too.  Without the store, the mint's
        # next comparison freezes them.
        with contextlib.suppress(ArxError):
            self._freeze(f"root key {name} made", by, wait=False)
        return name

    def rotate_root(self, unit: UnitOfWork, by: str, *, now: bool) -> str:
        """Schedule the newest root key to mint; make one first if all of them mint.

        Args:
            unit: The call's unit of work.
            by: The actor.
            now: Whether it mints at once, although services may not know it yet.

        Returns:
            Its name.
        """
        plan = self._schedule.read_plan(fresh=True)
        fresh = [row.name for row in plan.roots if row.mints_from is None or row.mints_from > now_ms()]
        name = fresh[-1] if fresh else self.make_root(unit, by)
        row = next(row for row in self._schedule.read_plan().roots if row.name == name)
        mints_from = now_ms() if now else max(now_ms(), self._schedule.ready_at(row))
        what = Event.of("key.rotated", by, key=name, mints_from=mints_from, at_once=now)
        self._db.keys.let_root_mint(unit, name, mints_from, what, waits=not now)
        self._schedule.read_plan(fresh=True)
        return name

    def retire_root(self, name: str, by: str, *, now: bool) -> KillReport | None:
        """Retire a root key for good, and freeze its key ids: its tokens are refused.

        Args:
            name: The root key.
            by: The actor.
            now: Whether to retire it although tokens that it minted are alive.

        Raises:
            GrantError: ``not_found``; ``conflict``: it mints, or tokens that it minted are alive.
            StoreError: The outcome is not known: retry.
        """
        root = next((view for view in self.view_roots() if view.row.name == name), None)
        if root is None:
            raise GrantError("there is no such root key", code="not_found")
        if root.mints_for and (
            not now or len(self._schedule.read_plan().roots) == 1 or root.row.name == self._schedule.minting()
        ):
            raise GrantError(
                f"{name} mints for {', '.join(root.mints_for)}: rotate first, and wait until another one does",
                code="conflict",
            )
        if not now and root.outlived_at is not None and root.outlived_at > now_ms() and root.state != "published":
            raise GrantError(
                f"tokens that {name} made live until {show_time(root.outlived_at)}: wait, or end them now",
                code="conflict",
            )
        self._db.keys.retire_root(name, Event.of("key.retired", by, key=name))
        self._schedule.read_plan(fresh=True)
        return self._freeze(f"root key {name} retired", by)

    def replace_audience_key(self, unit: UnitOfWork, audience: str, by: str, *, stolen: bool) -> KillReport | None:
        """Give an audience its next key.

        Args:
            unit: The call's unit of work.
            audience: The audience.
            by: The actor.
            stolen: Whether to freeze the older keys now. Otherwise services accept them until the last token that they
                minted has expired.

        Returns:
            The report of the freeze, or None if nothing was frozen.

        Raises:
            StoreError: The outcome is not known: retry.
        """
        what = Event.of("service.key_replaced", by, audience=audience, stolen=stolen)
        # First: a repeat of this call makes no key, and would find no older one to freeze.
        if audience == MEMORY_AUDIENCE:
            self._schedule.make_memory_key()
        self._db.keys.replace_audience_key(unit, audience, what, stolen=stolen)
        self._schedule.read_plan(fresh=True)
        return self.end_stolen(audience, by) if stolen else None

    def end_stolen(self, audience: str, by: str) -> KillReport | None:
        """Freeze the retired keys of an audience, and for that of memories all memory keys but the newest.

        It is idempotent.

        Raises:
            StoreError: The outcome is not known: retry.
        """
        older = list(self._schedule.memory_keys())[:-1] if audience == MEMORY_AUDIENCE else ()
        return self._freeze(f"the key of {audience} was stolen", by, {f"key:{kid}" for kid in older})

    def remove_service(self, audience: str, by: str) -> KillReport | None:
        """Remove a service: its own keys authenticate nothing, and its tokens are refused.

        Raises:
            StoreError: The outcome is not known: retry.
        """
        what = Event.of("service.removed", by, audience=audience)
        self._db.keys.retire_audience(audience, Event.of("service.key_retired", by, audience=audience))
        self._db.services.remove(audience, what)
        self._schedule.read_plan(fresh=True)
        return self._freeze(f"the service {audience} was removed", by)

    def _freeze(self, reason: str, by: str, more: Collection[str] = (), *, wait: bool = True) -> KillReport | None:
        """Freeze every retired key, and more targets, that are not frozen; wait for the verifiers, or do not."""
        targets = sorted({*self._schedule.retired_targets(), *more})
        # If all are frozen, one is frozen again, which changes nothing: a retry needs a report of which verifiers have
        # confirmed.
        missing = sorted(set(targets) - set(self._store.freezes())) or (targets[:1] if wait else [])
        report = None
        for first in range(0, len(missing), MAX_TARGETS):
            part = missing[first : first + MAX_TARGETS]
            report = self._revoker.end("freeze", part, reason=reason, by=by, wait=wait)
        return report

    def _view(self, plan: Plan, row: RootRow, mints_for: tuple[str, ...]) -> RootView:
        outlived_at: Any = None if mints_for else row.used_at + self._realm.max_ttl_ms + 2 * USED_MS
        if row.retired_at is not None:
            return RootView(row, "retired", (), {}, None)
        waits = self._schedule.waits_for(row, plan) if row.waits else {}
        if row.mints_from is None:
            return RootView(row, "published", mints_for, waits, None)
        if row.mints_from > now_ms() or (not mints_for and row.used_at == 0):
            return RootView(row, "waiting", mints_for, waits, None)
        return RootView(row, "minting" if mints_for else "accepted", mints_for, waits, outlived_at)
