# SPDX-License-Identifier: Apache-2.0
"""Make, rotate and retire root keys; replace the key of one audience; remove a service.  SPEC 9, CONTROL 3.

The database comes first.  A crash in between leaves a key that mints no more and is not handed out; a repeated call, or
the mint itself, adds the missing freeze.  A retired key is frozen, so that every service refuses it within a lease,
also one that still has it.
"""

import re
import time
from typing import Any, Final, Literal, NamedTuple

from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.keys import RootRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.keys.key_schedule import USED_MS, KeySchedule, Plan
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.revocation.revoker import Revoker
from arx_caps.realm import Realm
from arx_caps.revocation import KillReport, RevocationStore
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


class KeyRotation:
    """Makes, rotates and retires the keys of a realm.

    Args:
        realm: The realm.
        db: The mint's database, which has the rows of the keys.
        roots: The root keys.
        schedule: Which of them mints what.
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
        """Return how it stands with every root key, the oldest first."""
        plan, schedule = self._schedule.look(at_once=True), self._schedule
        minting: dict[str, list[str]] = {schedule.minting(): ["arx.mint"]}
        for audience in sorted(plan.numbers):
            minting.setdefault(schedule.minting(audience), []).append(audience)
        return [self._view(plan, row, tuple(minting.get(row.name, ()))) for row in plan.rows.roots]

    def make_root(self, unit: UnitOfWork, by: str) -> str:
        """Make a root key and publish it; it mints nothing before a rotation.

        Returns:
            Its name.

        Raises:
            GrantError: ``conflict``: there are too many, or somebody else makes one.
        """
        plan = self._schedule.look(at_once=True)
        if len(plan.roots) >= MAX_ROOTS:
            raise GrantError(f"there are {MAX_ROOTS} root keys; retire one first", code="conflict")
        taken = [int(found[1]) for row in plan.rows.roots if (found := _NUMBERED.fullmatch(row.name))]
        name = f"k{max(taken, default=0) + 1}"
        self._db.keys.add_root(unit, self._roots.make(name), Event.of("key.created", by, key=name))
        self._schedule.look(at_once=True)
        return name

    def rotate_root(self, unit: UnitOfWork, by: str, *, now: bool) -> str:
        """Let the newest root key mint, and make one if there is none that does not yet.

        Args:
            unit: The call's.
            by: Who asks.
            now: Whether it mints at once, although services may not know it yet.

        Returns:
            Its name.
        """
        plan = self._schedule.look(at_once=True)
        fresh = [row.name for row in plan.roots if row.mints_from is None or row.mints_from > now_ms()]
        name = fresh[-1] if fresh else self.make_root(unit, by)
        row = next(row for row in self._schedule.look().roots if row.name == name)
        mints_from = now_ms() if now else max(now_ms(), self._schedule.ready_at(row))
        what = Event.of("key.rotated", by, key=name, mints_from=mints_from, at_once=now)
        self._db.keys.let_root_mint(unit, name, mints_from, what, waits=not now)
        self._schedule.look(at_once=True)
        return name

    def retire_root(self, name: str, by: str, *, now: bool) -> KillReport | None:
        """Retire a root key for good: nothing that was made with it is worth anything any more.

        Args:
            name: The root key.
            by: Who asks.
            now: Whether tokens that it made are ended before their time.

        Raises:
            GrantError: ``not_found``; ``conflict``: it mints, or tokens that it made are alive.
            StoreError: The outcome is not known; repeat it.
        """
        found = next((view for view in self.view_roots() if view.row.name == name), None)
        if found is None:
            raise GrantError("there is no such root key", code="not_found")
        if found.mints_for and (
            not now or len(self._schedule.look().roots) == 1 or found.row.name == self._schedule.minting()
        ):
            raise GrantError(
                f"{name} mints for {', '.join(found.mints_for)}: rotate first, and wait until another one does",
                code="conflict",
            )
        if not now and found.outlived_at is not None and found.outlived_at > now_ms() and found.state != "published":
            raise GrantError(
                f"tokens that {name} made live until {_utc(found.outlived_at)}: wait, or end them now",
                code="conflict",
            )
        self._db.keys.retire_root(name, Event.of("key.retired", by, key=name))
        self._schedule.look(at_once=True)
        return self._freeze(f"root key {name} retired", by)

    def replace_audience_key(self, unit: UnitOfWork, audience: str, by: str, *, stolen: bool) -> KillReport | None:
        """Give an audience its next key.

        Args:
            unit: The call's.
            audience: The audience.
            by: Who asks.
            stolen: Whether the older keys are revoked now; else they are accepted until the last token that was made
                with them has expired.

        Returns:
            The kill report of the older ones, where they were stolen and are no other audience's as well.

        Raises:
            StoreError: The outcome is not known; repeat it.
        """
        what = Event.of("service.key_replaced", by, audience=audience, stolen=stolen)
        self._db.keys.replace_audience_key(unit, audience, what, stolen=stolen)
        self._schedule.look(at_once=True)
        return self.end_stolen(audience, by) if stolen else None

    def end_stolen(self, audience: str, by: str) -> KillReport | None:
        """Freeze the keys of an audience that were retired because they were stolen; to repeat it is harmless.

        Raises:
            StoreError: The outcome is not known; repeat it.
        """
        return self._freeze(f"the key of {audience} was stolen", by)

    def remove_service(self, audience: str, by: str) -> KillReport | None:
        """Remove a service: its own keys sign nothing any more, and no token for it is worth anything.

        Raises:
            StoreError: The outcome is not known; repeat it.
        """
        what = Event.of("service.removed", by, audience=audience)
        self._db.keys.retire_audience(audience, Event.of("service.key_retired", by, audience=audience))
        self._db.services.remove(audience, what)
        self._schedule.look(at_once=True)
        return self._freeze(f"the service {audience} was removed", by)

    def _freeze(self, reason: str, by: str) -> KillReport | None:
        """Freeze every retired key that is not frozen; when all are, freeze one again, to learn who has confirmed."""
        targets = sorted(self._schedule.retired_targets())
        missing = sorted(set(targets) - set(self._store.freezes())) or targets[:1]
        report = None
        for first in range(0, len(missing), MAX_TARGETS):
            part = missing[first : first + MAX_TARGETS]
            report = self._revoker.end("freeze", part, reason=reason, by=by, wait=True)
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


def _utc(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))
