# SPDX-License-Identifier: Apache-2.0
"""The freezes in force, alike in the mint's database and the revocation store. SPEC 10.12.

Freezes are made and thawed in ``revoker``. A store that lost its history is in ``store_history``.
"""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.identity.keys import retired_targets
from arx_caps.mint.db.repositories.operations.kills import KillRow, KillStep, row_of
from arx_caps.mint.db.tables import Freeze
from arx_caps.mint.revocation.logged_freezes import find_missing
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import StoreEntry, StoreHistoryError
from arx_verifier.errors import AuditError, UnavailableError
from arx_verifier.memory.taints import read_window
from arx_verifier.revocation.epoch import FREEZING, KILLING
from arx_verifier.revocation.history import NOWHERE, HistoryPlace

AT_ONCE: Final = 1000  # targets in one operation of the store, and entries of one page
EVERY_S: Final = 60.0  # between two comparisons of database and store
TRIES: Final = 3  # another mint may apply the same entries at the same time
NOT_BACK: Final = "the freezes of this realm are not back in the revocation store yet"
UNKNOWN: Final = "freezes since the backup are unknown until `arx audit reindex`: {}"
WHY: Final = "the store had lost it"
FOUND: Final = "found in the store"
AGENTS: Final = "agent:"  # what the names of agents in the store's log begin with
TAINTS: Final = "memory:"  # the same, of taints
EACH: Final = "each"  # a step whose targets have different operations

_log = logging.getLogger(__name__)


class Changes(NamedTuple):
    """The changes of freezes in the store's log after an entry.

    Attributes:
        to: The last entry that was read.
        frozen: The freezes that are in force at that entry.
        thawed: The targets whose last entry is a thaw.
        steps: What operators and the mint did; agents end sessions and tasks all the time.
    """

    to: HistoryPlace
    frozen: tuple[Freeze, ...]
    thawed: frozenset[str]
    steps: tuple[KillStep, ...] = ()


# Database and store must have the same freezes. The database follows the store's log, so that it has freezes that were
# made at the store directly. The store gets the freezes back that it lost, and those of everything that the mint has
# ended for good: agents, operators, keys and approvals. In a new history no token is minted before the store has all of
# them: a frozen agent could otherwise begin anew. Kills need nothing like it, because no older token is valid in a new
# history. If store and database were both restored from a backup, the signed log alone has the freezes made since: they
# are looked up there at a start and in each new history, which a loss of the store's entries begins.
class FreezeKeeper:
    """Keeps the freezes of database and store alike.

    Args:
        realm: The realm's name.
        db: The mint's database.
        store: The store.
        log: The audit log.
        advance: Raises the high-water mark to a position and waits until the mint's own view has it.

    Attributes:
        missing: The freezes that the store lacked at the last comparison and has not got back yet.
        followed: The entry of the store's log up to which the database has the freezes.
    """

    def __init__(
        self,
        realm: str,
        db: MintDatabase,
        store: RevocationStore,
        log: AuditLog,
        advance: Callable[[HistoryPlace], None],
    ) -> None:
        self._realm, self._db, self._store, self._log, self._advance = realm, db, store, log, advance
        self._unknown = ""  # why freezes may be missing that only the log has
        self._complete: HistoryPlace | None = None  # the store has all freezes from this position on
        self._compared = float("-inf")
        self.missing: tuple[str, ...] = ()
        self.followed = NOWHERE

    def require_complete(self, incarnation: str, seq: int) -> None:
        """Require that a view of the kill epoch has every freeze in force.

        Args:
            incarnation: The view's incarnation.
            seq: The view's position.

        Raises:
            UnavailableError: ``syncing``: the store has not got them back yet, or that is unknown.
        """
        if self.why_incomplete(incarnation, seq):
            raise UnavailableError(self._unknown or NOT_BACK, code="syncing")

    def why_incomplete(self, incarnation: str, seq: int) -> list[str]:
        """Return why a view of the kill epoch may lack freezes; empty if it has all of them."""
        complete = self._complete
        if complete is not None and incarnation == complete.incarnation and seq >= complete.seq:
            return []
        return [self._unknown or NOT_BACK + (f": {', '.join(self.missing[:8])}" if self.missing else "")]

    def trust(self, place: HistoryPlace) -> None:
        """Set the position from which on the store has all freezes."""
        self._complete = place

    def follow_store(self) -> None:
        """Apply the new entries of the store's log to the freezes of the database.

        Raises:
            StoreError: Store or database did not answer, or the store has another history than the mint.
        """
        for _ in range(TRIES):
            since, mark = self._db.epoch.followed(self._realm), self._db.epoch.high_water(self._realm)
            changes = changes_since(self._store, since)
            if mark is None or mark.incarnation != changes.to.incarnation:
                raise StoreHistoryError("INCARNATION", "the store is in a history that this mint has not looked at")
            # ``follow`` compares ``since`` with the row again: of two mints that apply the same entries, one reads them
            # anew.
            if changes.to == since or self._db.epoch.follow(
                self._realm, since, changes.to, changes.frozen, changes.thawed, changes.steps
            ):
                self.followed = changes.to
                return

    def find_step(self, number: int) -> KillRow | None:
        """Return the step with a number as its row will be, while the database takes no changes; None if none has it.

        Args:
            number: The number of one of its entries.

        Raises:
            StoreError: Store or database did not answer.
        """
        changes = changes_since(self._store, self._db.epoch.followed(self._realm))
        step = next((step for step in changes.steps if step.first <= number <= step.seq), None)
        return None if step is None else row_of(step)

    def restore_if_due(self, incarnation: str) -> None:
        """Restore lost freezes at once in a new incarnation, and otherwise once a minute.

        Args:
            incarnation: The store's incarnation.

        Raises:
            UnavailableError: Store or database did not answer, or the event cannot be recorded.
        """
        if (
            self._complete is None
            or self._complete.incarnation != incarnation
            or time.monotonic() - self._compared >= EVERY_S
        ):
            self.restore()

    def restore(self) -> list[str]:
        """Freeze again what the store has lost.

        Returns:
            The targets that were frozen again.

        Raises:
            UnavailableError: Store or database did not answer, or the event cannot be recorded.
        """
        incarnation = self._store.header().incarnation
        if self._complete is None or self._complete.incarnation != incarnation:
            self._unknown = self._recall(incarnation)
        lost = self._find_lost()
        self.missing = tuple(lost)
        for first in range(0, len(lost), AT_ONCE):
            self._freeze_again(lost[first : first + AT_ONCE])
        if lost:
            self.follow_store()
            named = ", ".join(lost[:8]) + (", …" if len(lost) > 8 else "")
            _log.warning("realm %s: the store had lost %d freezes: %s", self._realm, len(lost), named)
        self.missing = ()
        self._compared = time.monotonic()
        # A history that began in the meantime was not compared.
        if (
            not self._unknown
            and self.followed.incarnation == incarnation
            and (lost or self._complete is None or self._complete.incarnation != incarnation)
        ):
            self._complete = self.followed
        return lost

    def _recall(self, incarnation: str) -> str:
        """Put the freezes back that the signed log alone has; return why they are unknown, or an empty text."""
        if (halted := self._log.publisher.halted) is not None:
            # A history for which they were put back before has them all: every later one is in the store's own log.
            return "" if self._db.epoch.recalled() == incarnation else UNKNOWN.format(halted)
        self.follow_store()  # the thaws first
        try:
            missing = find_missing(self._db, self._log.store)
        except AuditError as error:
            return UNKNOWN.format(error)
        if missing or self._db.epoch.recalled() != incarnation:
            self._db.epoch.recall(incarnation, missing)
        if missing:
            named = ", ".join(freeze.target for freeze in missing)
            _log.warning(
                "realm %s: the database had lost %d freezes that the audit log has: %s",
                self._realm,
                len(missing),
                named,
            )
        return ""

    def _find_lost(self) -> list[str]:
        """Return the targets that must be frozen and are not, and those whose freeze must be younger than them."""
        # Compared twice: a freeze or a thaw may be in the store and not yet in the database, or the other way round.
        lost: set[str] | None = None
        for _ in range(2):
            frozen = set(self._store.freezes())
            # After the store was read: a thaw that the read has missed is in the database now.
            self.follow_store()
            wanted = freezes_of(self._db)
            lost = wanted - frozen if lost is None else lost & (wanted - frozen)
            if not lost:
                return []
        # A taint that is younger than the freeze of its target narrows it (SPEC 18.4).  Which one was younger is lost,
        # so the freeze comes last, also one that the store still has: too much may be tainted, and never too little.
        windows = [window for target in lost or () if (window := read_window(target)) is not None]
        narrowed = {window.target for window in windows if window.until is None}
        return sorted((lost or set()) | (narrowed & wanted), key=lambda target: (not target.startswith(TAINTS), target))

    def _freeze_again(self, targets: list[str]) -> None:
        bump = self._store.freeze(targets, WHY, "mint")
        facts = {"targets": list(bump.targets), "seq": bump.header.seq, "reason": WHY, "durable": bump.durable}
        self._db.record(Event.of("targets.frozen", "mint", **facts))
        self._advance(bump.header.place)


def changes_since(store: RevocationStore, since: HistoryPlace | None) -> Changes:
    """Read the changes of freezes from the store's log.

    Args:
        store: The revocation store.
        since: The last entry that is known, or None.

    Returns:
        The changes after it.

    Raises:
        StoreHistoryError: The store lacks that entry, or the realm has no history in it.
        StoreError: The store did not answer.
    """
    header = store.header()
    same = since is not None and since.incarnation == header.incarnation
    if since is not None and same:
        if since == header.place:
            return Changes(since, (), frozenset())
        if since.seq > header.seq or (store.chain_at(since.seq) or since.chain) != since.chain:
            raise StoreHistoryError("REGRESSED", f"number {since.seq} is not what this mint has seen")
    after = since.seq if since is not None and same else 0
    entries = list(_read_entries(store, after, header.seq))
    frozen: dict[str, Freeze] = {}
    if not same or len(entries) < header.seq - after:
        # The store has forgotten entries, or has another history: every freeze in it counts as in force. Of two errors
        # this one is mended, for an operator thaws again what was thawed; no one would freeze again what was lost.
        frozen = {target: Freeze(target, header.at_ms, "", FOUND) for target in store.freezes()}
    thawed: set[str] = set()
    for entry in entries:
        if entry.op in FREEZING:
            # A freeze does not undo a kill before it: a thaw would trust what the target wrote into memories (18.4).
            known = frozen.get(entry.target)
            op = known.op if known is not None and known.op in KILLING else entry.op
            made = (entry.at_ms, _clean(entry.by), _clean(entry.why), op, entry.seq)
            frozen[entry.target] = Freeze(entry.target, *made)
            thawed.discard(entry.target)
        elif entry.op == "thaw":
            frozen.pop(entry.target, None)
            thawed.add(entry.target)
    return Changes(header.place, tuple(frozen.values()), frozenset(thawed), tuple(_steps(header.incarnation, entries)))


def _steps(incarnation: str, entries: list[StoreEntry]) -> Iterator[KillStep]:
    # All entries of one step have its time, actor and reason.
    for (at_ms, by, why, event), group in groupby(entries, key=lambda entry: (*entry[3:6], entry.event)):
        step = list(group)
        if not by.startswith(AGENTS):
            # The taints that a kill or a thaw of other targets brings with it are not what an operator asked for.
            asked = [entry for entry in step if not entry.target.startswith(TAINTS)] or step
            ops = {entry.op for entry in asked}
            op = ops.pop() if len(ops) == 1 else EACH
            targets = [(entry.op, entry.target) for entry in asked]
            about = (at_ms, _clean(by), _clean(why), event)
            yield KillStep(step[-1].seq, incarnation, step[0].seq, op, targets, *about)


def _read_entries(store: RevocationStore, after: int, last: int) -> Iterator[StoreEntry]:
    while after < last and (page := store.log(after, AT_ONCE)):
        yield from (entry for entry in page if entry.seq <= last)
        after = page[-1].seq


def _clean(text: str) -> str:
    """Return text without NUL, which PostgreSQL cannot store."""
    return text.replace("\0", "")


def wanted_freezes(db: MintDatabase, store: RevocationStore, realm: str) -> set[str]:
    """Return what must be frozen, for ``arx doctor``: no mint may have followed the store's log.

    Raises:
        StoreError: Store or database did not answer.
    """
    wanted = freezes_of(db)
    try:
        changes = changes_since(store, db.epoch.followed(realm))
    except StoreHistoryError:  # the store was emptied or restored: the database counts
        return wanted
    return (wanted | {freeze.target for freeze in changes.frozen}) - (changes.thawed - ended_of(db))


def freezes_of(db: MintDatabase) -> set[str]:
    """Return every target that must be frozen, by the database alone."""
    return db.epoch.freezes() | ended_of(db)


def ended_of(db: MintDatabase) -> set[str]:
    """Return the targets of everything that the mint has ended for good."""
    return (
        db.agents.ended_targets()
        | db.operators.ended_targets()
        | db.approvals.withdrawn_targets()
        | retired_targets(db.keys.rows())
    )
