# SPDX-License-Identifier: Apache-2.0
"""Feeds: the mint's events, its decisions and the store's log, appended to the audit log.

Batches of services are in ``arx_caps.mint.audit.log``.
"""

# Each feed reads its source from the log's high-water mark on, and appends each entry with its number. So each entry is
# in the log in order and once, also if the mint is killed in between, or if two mints append at the same time.

import contextlib
import logging
import time
from pathlib import Path
from typing import Any, Final

from arx_caps.audit.ingest.entries import GAP, EventRecord, LogEntry, make_event, make_note, place_of_event, read_event
from arx_caps.audit.ingest.place import MINT as MINT_NODE
from arx_caps.audit.ingest.place import PlaceStep, RecordPlace
from arx_caps.audit.shipping.journal_runs import JournalRuns
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.mint.db.events import Recorded
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.targets import names_person
from arx_caps.revocation.wire import StoreEntry
from arx_verifier.errors import StoreError
from arx_verifier.token.macaroon import MINT_AUDIENCE

EVENTS: Final = "mint"  # names of sources in the log
KILLS: Final = "store"
LOST: Final = "kills.unread"
RESTORED: Final = "mint.database_restored"
PAGE: Final = 1000
KEEP_S: Final = 30 * 24 * 3600  # how long events stay in the database, where `arx doctor` reads some
TIDY_S: Final = 3600  # between two deletions of older events
JOURNAL_KEPT_MS: Final = 24 * 3600 * 1000
# The facts in the part of a record that an erasure keeps: ids that name no person.
NAMED: Final = (
    "agent",
    "approval",
    "audience",
    "connection",
    "incarnation",
    "key",
    "link",
    "operator",
    "policy",
    "role",
    "seq",
    "session",
    "task",
)

_log = logging.getLogger(__name__)


# A database that is restored loses its later checkpoints. A mint without files or memory of them would sign a second
# history. The revocation store is not restored with the database, so its pinned checkpoint shows that there is a first
# one.
class SignedFeed:
    """Pins the last checkpoint in the revocation store, and compares the log with it.

    Args:
        revocation: The revocation store.
        publisher: Signs the log.
    """

    def __init__(self, revocation: RevocationStore, publisher: Publisher) -> None:
        self._revocation, self._publisher = revocation, publisher

    def begin(self, store: LogStore) -> None:
        """Compare the log with the pinned checkpoint before anything is appended."""
        # A store that does not answer does not stop the start: each later call compares again.
        with contextlib.suppress(StoreError):
            self(store)

    def __call__(self, store: LogStore) -> None:
        """Compare the log with the pinned checkpoint, and pin a newer one.

        Raises:
            StoreError: The revocation store did not answer.
        """
        newer = self._publisher.meet(self._revocation.signed(), store.size())
        if newer is not None:
            self._revocation.mark_signed(newer)


class EventFeed:
    """Appends the events that the mint recorded.

    Args:
        db: The mint's database.
    """

    def __init__(self, db: MintDatabase) -> None:
        self._db = db
        self._tidied = time.monotonic()

    def begin(self, store: LogStore) -> None:
        """Begin a new run of event numbers if the database is older than the log."""
        # A restored database gives numbers a second time, and the log would drop the new events as duplicates. Their
        # new run continues after the last event that both have. Called before the mint records anything.
        outbox = self._db.outbox
        run, last = outbox.run(), outbox.last()
        mark = store.high_water(EVENTS, run)
        if last >= mark:
            return
        common = self._common(store, run, last)
        _log.error("the mint's database was restored: it has %d events, the log has %d", last, mark)
        outbox.begin_run()
        with store.writing() as log:
            source = log.source(EVENTS, outbox.run())
            log.note(make_note(RESTORED, "mint", log.now_ms, {"run": run, "has": last, "had": mark}, {}))
            log.mark(source, common)

    def _common(self, store: LogStore, run: str, last: int) -> int:
        """Return the last number under which database and log have the same event."""
        number = 0
        while events := self._db.outbox.after(number, PAGE):
            for event in events:
                indexes = store.find(run, event.id)
                record = store.record(indexes[0]) if indexes else None
                if record is None or read_event(record.kept, None)[1:4] != (event.id, event.at_ms, event.kind):
                    return event.id - 1
            number = events[-1].id
        return last

    def __call__(self, store: LogStore) -> None:
        """Append new events."""
        run = self._db.outbox.run()
        mark = store.high_water(EVENTS, run)
        while events := self._db.outbox.after(mark, PAGE):
            entries = [self._entry(run, event) for event in events]
            with store.writing() as log:
                source = log.source(EVENTS, run)
                # Compared again in the transaction: another mint may have appended them since.
                new = [entry for entry in entries if entry.sequence > source.high_water]
                mark = events[-1].id
                if new:
                    log.append(source, new)
                    log.mark(source, mark)
            if len(events) < PAGE:
                break  # what was recorded meanwhile goes with the next step: else the load keeps a step from ending
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            self._db.outbox.forget(mark, before_ms=int((time.time() - KEEP_S) * 1000))

    def _entry(self, run: str, event: Recorded) -> LogEntry:
        facts = event.facts
        named = {name: facts[name] for name in NAMED if facts.get(name) is not None} | {"mint": event.mint}
        record = EventRecord(f"{EVENTS}/{run}", event.id, event.at_ms, event.kind, event.by, named, facts)
        return make_event(record, place_of_event(event.by, facts | dict(event.owner)))


# The store's log has every kill, also those that were made at the store directly, without the mint.
class KillFeed:
    """Appends the entries of the revocation store's log, which the store may then forget.

    Args:
        revocation: The revocation store.
    """

    def __init__(self, revocation: RevocationStore) -> None:
        self._revocation = revocation

    def begin(self, store: LogStore) -> None:
        """Do nothing: the store's history is attested elsewhere."""

    def __call__(self, store: LogStore) -> None:
        """Append new entries.

        Raises:
            StoreError: The revocation store did not answer.
        """
        header = self._revocation.header()
        mark = store.high_water(KILLS, header.incarnation)
        if mark >= header.seq:
            return
        while mark < header.seq:
            # A new history has no entries before its first number, so this may be an empty page.
            entries = self._revocation.log(mark, PAGE)
            mark = self._put(store, header.incarnation, entries, header.seq)
        self._revocation.mark_taken(mark)

    def _put(self, store: LogStore, incarnation: str, entries: tuple[StoreEntry, ...], last: int) -> int:
        """Append a page of entries, and a record of those that are missing before it.

        Args:
            store: The audit log.
            incarnation: The store's incarnation.
            entries: The page, in order.
            last: The last number of the history, up to which entries are missing if the page is empty.

        Returns:
            The number up to which the log has the history.
        """
        with store.writing() as log:
            source = log.source(KILLS, incarnation)
            before = source.high_water or log.last_of(KILLS)
            new = [entry for entry in entries if entry.seq > source.high_water]
            mark = entries[-1].seq if entries else last
            made = [_kill(incarnation, entry) for entry in new]
            first = new[0].seq if new else mark + 1
            if before and first > before + 1 and mark > source.high_water:
                # A gap is recorded: a reader must not take missing kills for none.
                made.insert(0, _unread(incarnation, before + 1, first - 1, log.now_ms))
            if made:
                log.append(source, made)
            if mark > source.high_water:
                log.mark(source, mark)
            return mark


class JournalFeed:
    """Appends the mint's own decisions, also those of processes that have ended.

    Args:
        folder: The folder of the mint's journals.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = JournalRuns(folder, MINT_AUDIENCE)

    def begin(self, store: LogStore) -> None:
        """Do nothing: a run of a journal knows its own position."""

    def __call__(self, store: LogStore) -> None:
        """Append new decisions."""
        self._journal.look()
        for run in tuple(self._journal.runs.values()):
            while (batch := run.batch()) is not None:
                run.acknowledge(batch, store.take(batch, None))
            run.free(JOURNAL_KEPT_MS)


def _kill(incarnation: str, entry: StoreEntry) -> LogEntry:
    kind, _, name = entry.target.partition(":")
    named: dict[str, Any] = {"incarnation": incarnation, "seq": entry.seq, "op": entry.op}
    # The target of a subject, or of what a subject wrote into memories, names a person, so an erasure must remove it:
    # it is in the facts alone.
    if not names_person(entry.target):
        named["target"] = entry.target
    facts = {
        "incarnation": incarnation,
        "seq": entry.seq,
        "op": entry.op,
        "target": entry.target,
        "by": entry.by,
        "reason": entry.why,
    }
    record = EventRecord(f"{KILLS}/{incarnation}", entry.seq, entry.at_ms, f"store.{entry.op}", entry.by, named, facts)
    about = {"agent": name} if kind == "agent" else {"operator": name} if kind == "operator" else {}
    place = place_of_event("", about)
    subject = entry.target if kind == "subject" else place.subject
    return make_event(record, RecordPlace(place.steps, place.agent, subject))


def _unread(incarnation: str, first: int, last: int, at_ms: int) -> LogEntry:
    named = {"incarnation": incarnation, "first": first, "last": last}
    record = EventRecord(f"{KILLS}/{incarnation}", last, at_ms, LOST, "mint", named, {})
    return make_event(record, RecordPlace((PlaceStep(MINT_NODE, "", "the mint"),)), GAP)
