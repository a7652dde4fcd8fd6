# SPDX-License-Identifier: Apache-2.0
"""The confirmations of kills, freezes and thaws: watched while they come in, and recorded once. SPEC 10.

The rows are those of ``db.kills``. ``arx_caps.revocation.confirm`` waits for the store.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.operations.kills import KillMark
from arx_caps.revocation.confirm import report_row
from arx_caps.revocation.report import KillReport, fenced_after_ms
from arx_caps.revocation.store import DEFAULT_LEASE_MS, RevocationStore
from arx_caps.revocation.wire import DIRECT, Bump
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, StoreError

CONFIRMED: Final = "targets.confirmed"  # the kind of event
GRACE_MS: Final = 3000  # beyond the last lease, for the mint that made a kill to record what it saw
NEWER: Final = "in force: a new history of the store began since, so that every older token is revoked"
SILENT: Final = "in force; the store does not answer, so the confirmations are unknown"
_FACTS: Final = ("status", "verifiers", "confirmed", "unreachable", "watching", "took_ms", "durable")
# A waiter needs at most as long as the last lease.
_WAITERS: Final = 8

_log = logging.getLogger(__name__)


class Confirmations:
    """Watches the confirmations of a realm's kills, and records each kill's once.

    Args:
        db: The mint's database.
        store: The store.

    Attributes:
        on_settled: Called with status and duration (ms) of each report that this process recorded.
    """

    on_settled: Callable[[str, float], object] = staticmethod(lambda *_: None)

    def __init__(self, db: MintDatabase, store: RevocationStore) -> None:
        self._db, self._store = db, store
        self._lease_ms = DEFAULT_LEASE_MS  # as the store answered last
        self._waiters = ThreadPoolExecutor(_WAITERS, "arx-mint-kill")

    def close(self) -> None:
        """Wait for the waiters at work; those that have not begun are left to the next mint."""
        self._waiters.shutdown(wait=True, cancel_futures=True)

    def watch(self, bump: Bump, by: str) -> None:
        """Record the confirmations of a kill in the background: also if its caller has left.

        Args:
            bump: The kill.
            by: The actor.
        """
        self._waiters.submit(self._wait, bump, by)

    def _wait(self, bump: Bump, by: str) -> None:
        try:
            self.settle(self._store.wait_confirmed(bump, None), by)
        except ArxError as error:  # ``settle_rest`` tries again
            _log.warning("the confirmations of kill %d are not recorded yet: %s", bump.header.seq, error)

    def settle(self, report: KillReport, by: str) -> None:
        """Record the final report of a kill that this process made.

        Args:
            report: The report.
            by: The actor.

        Raises:
            UnavailableError: The database did not answer.
        """
        self._record(report.seq, report.incarnation, by, report.to_dict())

    def settle_rest(self) -> None:
        """Record the confirmations of kills that no process waits for: direct ones, and those of a mint that ended.

        Raises:
            UnavailableError: Store or database did not answer.
        """
        for row in self._db.kills.unsettled():
            direct, over = DIRECT in row.by, now_ms() > row.at_ms + self._lease_ms + GRACE_MS
            report = self.look(row) if direct or over else None
            if report is not None and (report["status"] == "confirmed" or (over and report["fenced_in_ms"] == 0)):
                self._record(row.seq, row.incarnation, row.by, report)

    def look(self, row: KillMark) -> dict[str, Any]:
        """Return the confirmations of a kill as they are now.

        Args:
            row: Its row.

        Returns:
            The members of ``KillReport`` without the targets; ``durable`` is None if that is not known.

        Raises:
            StoreError: The store did not answer.
        """
        if row.report is not None:
            return row.report
        header = self._store.header()
        self._lease_ms = header.lease_ms + header.lag_ms
        if header.incarnation != row.incarnation:
            return _unknown("unconfirmed", NEWER, 0)
        report = report_row(self._store.unacked, header, row.seq, row.at_ms, self._store.replicas)
        return report | {"durable": None}

    def look_or_guess(self, row: KillMark) -> dict[str, Any]:
        """Return the confirmations as ``look`` does; without an answer of the store, when the last lease ends."""
        try:
            return self.look(row)
        except StoreError:
            left = max(0, round(row.at_ms + fenced_after_ms(self._lease_ms) - now_ms()))
            return _unknown("unknown", SILENT, left)

    def _record(self, seq: int, incarnation: str, by: str, report: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in report.items() if name not in ("targets", "seq", "incarnation")}
        facts = {name: kept[name] for name in _FACTS if name != "watching" or kept.get(name)}
        # In the transaction of the row: of two mints, or a mint and a repeat, one records it.
        what = Event.of(CONFIRMED, by, seq=seq, incarnation=incarnation, **facts)
        if self._db.kills.settle(seq, incarnation, kept, what):
            self.on_settled(kept["status"], kept["took_ms"])


def _unknown(status: str, summary: str, fenced_in_ms: int) -> dict[str, Any]:
    nothing = {"verifiers": 0, "confirmed": 0, "unreachable": [], "watching": [], "took_ms": 0.0, "durable": None}
    return {"status": status, "summary": f"{status}: {summary}", "fenced_in_ms": fenced_in_ms, **nothing}
