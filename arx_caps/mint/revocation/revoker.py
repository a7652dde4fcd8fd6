# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets: in the store, then in the database and the record.  SPEC 10.

The store comes first: what is written there is in force, even if the rest fails.  Then the database and the record
follow, and only then is the call answered.  Every operation can be repeated, which is how a crash in between is mended.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Literal

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.revocation.freezes import FreezeKeeper
from arx_caps.mint.revocation.store_history import StoreHistory
from arx_caps.revocation import Bump, KillReport, RevocationStore, StoreHistoryError, parse_targets
from arx_verifier.errors import ArxError, AuditError, UnavailableError
from arx_verifier.revocation import HistoryPlace

Op = Literal["kill", "kill+freeze", "freeze", "thaw"]
NO_WAIT_MS: Final = 0
# The kind of each operation's event.
_KINDS: Final[dict[Op, str]] = {
    "kill": "targets.killed",
    "kill+freeze": "targets.killed",
    "freeze": "targets.frozen",
    "thaw": "targets.thawed",
}


class Revoker:
    """Changes the revocation store, and what the mint remembers of it.

    Args:
        db: The mint's database.
        store: The store.
        history: Attests the store's history, should another mint have begun one.
        freezes: Keeps the database's freezes up with the store.
        noted: Remembers a change of the kill epoch and waits until the mint's own view has it.
    """

    def __init__(
        self,
        db: MintDatabase,
        store: RevocationStore,
        history: StoreHistory,
        freezes: FreezeKeeper,
        noted: Callable[[HistoryPlace], None],
    ) -> None:
        self._db, self._store, self._noted = db, store, noted
        self._history, self._freezes = history, freezes

    def end(self, op: Op, targets: Sequence[str], *, reason: str, by: str, wait: bool) -> KillReport:
        """Kill, freeze or thaw targets, as an operator asks.

        Args:
            op: ``kill`` does to each target what a kill of its kind is.
            targets: At least one.
            reason: Kept in the log.
            by: Who.
            wait: Whether to wait until every verifier has confirmed.

        Returns:
            The kill report.

        Raises:
            RequestError: A target is not one.
            StoreError: The outcome is not known; repeat it.
            AuditError: It is in force, and could not be recorded.
        """
        parse_targets(targets)
        if op == "thaw":
            # First: what the database has for ended is frozen again wherever the store has lost it.
            self._thaw(targets, by)
        what: dict[str, Callable[[], Bump]] = {
            "kill": lambda: self._store.kill_by_kind(targets, reason, by),
            "kill+freeze": lambda: self._store.kill_and_freeze(targets, reason, by),
            "freeze": lambda: self._store.freeze(targets, reason, by),
            "thaw": lambda: self._store.thaw(targets, reason, by),
        }
        bump = self.change(what[op])
        report = self.settle(bump, None if wait else NO_WAIT_MS)
        self._record(bump, _KINDS[op], by, reason)
        return report

    def change(self, change: Callable[[], Bump]) -> Bump:
        """Make a change of the store; if another mint began a new history meanwhile, attest it and try once more.

        Args:
            change: Makes the change.

        Raises:
            StoreError: The outcome is not known; repeat it.
        """
        try:
            return change()
        except StoreHistoryError:
            self._history.attest()
            # Before the change, which may be a thaw; what fails here is tried again, and a kill does not wait for it.
            with contextlib.suppress(ArxError):
                self._freezes.restore()
            return change()

    def settle(self, bump: Bump, timeout_ms: int | None) -> KillReport:
        """Wait for the verifiers' confirmations, then remember the place in the kill sequence.

        Args:
            bump: The change.
            timeout_ms: How long to wait, ms; None until the leases of all have ended.

        Returns:
            The kill report.
        """
        report = self._store.wait_confirmed(bump, timeout_ms)
        self._noted(bump.header.place)
        return report

    def _thaw(self, targets: Sequence[str], by: str) -> None:
        for target in targets:
            path = target.removeprefix("agent:")
            agent = self._db.agents.find(path) if path != target else None
            if agent is not None and agent["status"] != "active":
                self._db.agents.set_status(path, "active", Event.of("agent.thawed", by, agent=path))

    def _record(self, bump: Bump, kind: str, by: str, reason: str) -> None:
        seq = bump.header.seq
        try:
            self._freezes.follow()
            self._db.record(
                Event.of(kind, by, targets=list(bump.targets), seq=seq, reason=reason, durable=bump.durable)
            )
        except UnavailableError as error:
            raise AuditError(f"it is in force as number {seq}, but could not be recorded: {error}") from error
