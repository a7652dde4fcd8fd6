# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets, with their events. SPEC 10.

What ends with a task, a session or an agent is in ``arx_caps.mint.tasks.revoke``.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec.structs import replace

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.revocation.confirmations import Confirmations
from arx_caps.mint.revocation.freezes import FreezeKeeper
from arx_caps.mint.revocation.store_history import StoreHistory
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.targets import parse_targets
from arx_caps.revocation.wire import Bump, ProofUsedError, StoreHistoryError, UsedProof
from arx_verifier.errors import ArxError, AuditError, GrantError, RequestError, UnavailableError
from arx_verifier.memory.taints import read_window
from arx_verifier.revocation.history import HistoryPlace

Op = Literal["kill", "kill+freeze", "freeze", "thaw", "clear"]
NO_WAIT_MS: Final = 0
MOST_WAITING: Final = 16  # calls that wait for confirmations: half of the threads for kills stay free for further ones
LATER: Final = "the mint's database takes no changes now: the mint records it later, from the store's log"
# The kinds of events.
_KINDS: Final[dict[Op, str]] = {
    "kill": "targets.killed",
    "kill+freeze": "targets.killed",
    "freeze": "targets.frozen",
    "thaw": "targets.thawed",
    "clear": "memory.cleared",
}


_log = logging.getLogger(__name__)


# The store comes first: a change in it is in force, even if everything after it fails, and a database that takes no
# changes delays none. The store's log has the kind of the event, which any mint records when it reads the entry: so a
# mint that ends, or cannot write, loses none.
class Revoker:
    """Changes the revocation store, and records the changes.

    Attributes:
        store: The store.

    Args:
        db: The mint's database.
        store: The store.
        history: Attests the store's history, if another mint has begun a new one.
        freezes: Keeps the freezes of database and store alike.
        confirmations: Records the confirmations of each change.
        advance: Raises the high-water mark to a position and waits until the mint's own view has it.
    """

    def __init__(
        self,
        db: MintDatabase,
        store: RevocationStore,
        history: StoreHistory,
        freezes: FreezeKeeper,
        confirmations: Confirmations,
        advance: Callable[[HistoryPlace], None],
    ) -> None:
        self._db, self.store, self._advance = db, store, advance
        self._history, self._freezes, self._confirmations = history, freezes, confirmations
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def end(
        self,
        op: Op,
        targets: Sequence[str],
        *,
        reason: str,
        by: str,
        wait: bool,
        memory_before: int | None = None,
        proof: UsedProof | None = None,
    ) -> KillReport:
        """Kill, freeze or thaw targets for an operator.

        Args:
            op: The operation; ``kill`` also freezes targets of kinds that a kill freezes, such as agents.  ``clear``
                thaws nothing.
            targets: At least one target.
            reason: The reason, kept in the audit log.
            by: The actor.
            wait: Whether to wait until every verifier has confirmed; without that if ``MOST_WAITING`` calls wait.
            memory_before: For ``thaw`` and ``clear``: what the targets wrote into memories before this time is trusted
                again, ms since the Unix epoch.
            proof: For ``kill``, ``kill+freeze`` and ``freeze``: the proof of the call, which the store uses up in the
                same step.

        Returns:
            The kill report, whose summary has ``LATER`` if the change is not recorded yet.

        Raises:
            GrantError: ``replayed``: the proof was used before, and nothing was changed.
            RequestError: A target is malformed, or a taint without an end is to be frozen.
            StoreError: The outcome is not known: retry.
            AuditError: For ``clear``: the change is in force, and its event could not be recorded.
        """
        windows = [read_window(str(target)) for target in parse_targets(targets)]
        # It narrows the freeze of its target: the right to freeze would be one to trust a killed agent (SPEC 18.4).
        if op != "thaw" and any(window is not None and window.until is None for window in windows):
            raise RequestError("invalid memory target: expected a taint with an end, such as `arx memory taint` makes")
        unkilled = self._unkilled(targets) if op == "thaw" else set()
        if op == "thaw":
            # The row before the store: what the database has as ended is frozen again in the store.
            self._thaw(targets, by)
        event = _KINDS[op]
        operations: dict[str, Callable[[], Bump]] = {
            "kill": lambda: self.store.kill_by_kind(targets, reason, by, event=event, proof=proof),
            "kill+freeze": lambda: self.store.kill_and_freeze(targets, reason, by, event=event, proof=proof),
            "freeze": lambda: self.store.freeze(targets, reason, by, event=event, proof=proof),
            "thaw": lambda: self.store.thaw(
                targets, reason, by, memory_before=memory_before, unkilled=unkilled, event=event
            ),
            "clear": lambda: self.store.clear_taints(targets, reason, by, before=memory_before),
        }
        try:
            bump = self.change(operations[op])
        except ProofUsedError as error:
            raise GrantError("this proof was used before; sign anew", code="replayed") from error
        report, is_final = self._wait(bump, wait)
        report = self._record(bump, report, op, by, reason)
        if is_final or report.status == "confirmed":
            with contextlib.suppress(ArxError):  # the kill is in force and recorded; the keeper records this later
                self._confirmations.settle(report, by)
        else:
            self._confirmations.watch(bump, by)
        return report

    def change(self, change: Callable[[], Bump]) -> Bump:
        """Make a change of the store; attest a new history of another mint, and try once more.

        Args:
            change: Makes the change.

        Raises:
            StoreError: The outcome is not known: retry.
        """
        try:
            return change()
        except StoreHistoryError:
            self._history.attest()
            # Before the change, which may be a thaw of a lost freeze. An error is ignored: the keeper tries again, and
            # a kill must not wait for it.
            with contextlib.suppress(ArxError):
                self._freezes.restore()
            return change()

    def settle(self, bump: Bump, timeout_ms: int | None) -> KillReport:
        """Wait for the verifiers' confirmations, and raise the high-water mark.

        Args:
            bump: The change.
            timeout_ms: How long to wait, ms; None until the leases of all verifiers have ended.

        Returns:
            The kill report.
        """
        report = self.store.wait_confirmed(bump, timeout_ms)
        self._advance(bump.header.place)
        return report

    def _wait(self, bump: Bump, wait: bool) -> tuple[KillReport, bool]:
        """Return the report, and whether the confirmations were waited for."""
        if not wait or not self._waiting.acquire(blocking=False):
            return self.store.wait_confirmed(bump, NO_WAIT_MS), False
        try:
            return self.store.wait_confirmed(bump), True
        finally:
            self._waiting.release()

    def _thaw(self, targets: Sequence[str], by: str) -> None:
        for target in targets:
            path = target.removeprefix("agent:")
            agent = self._db.agents.find(path) if path != target else None
            if agent is not None and agent.status != "active":
                self._db.agents.set_status(path, "active", Event.of("agent.thawed", by, agent=path))

    def _unkilled(self, targets: Sequence[str]) -> set[str]:
        """Return the targets whose freeze came without a kill; if that is unknown, none."""
        try:
            self._freezes.follow_store()
            return {target for target in targets if self._db.epoch.freeze_op(target) == "freeze"}
        except ArxError:
            return set()

    def _record(self, bump: Bump, report: KillReport, op: Op, by: str, reason: str) -> KillReport:
        seq = bump.header.seq
        try:
            self._advance(bump.header.place)
            self._freezes.follow_store()
            if op == "clear":  # its entries name the taints, and not what the operator named
                facts = {"targets": list(bump.targets), "seq": seq, "reason": reason, "durable": bump.durable}
                self._db.record(Event.of(_KINDS[op], by, **facts))
        except UnavailableError as error:
            if op == "clear":
                raise AuditError(f"it is in force as number {seq}, but could not be recorded: {error}") from error
            _log.warning("%s %d is in force, and is recorded later: %s", op, seq, error)
            return replace(report, summary=f"{report.summary}; {LATER}")
        return report
