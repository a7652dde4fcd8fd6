# SPDX-License-Identifier: Apache-2.0
"""What the mint itself puts into the audit log: its events, its decisions on calls, and the store's log.

Each feed reads its source from the log's high-water mark on, and appends each entry with its number: in order and once,
also when the mint is killed in between or two mints append at the same time.  The store's log has every kill, those
made without the mint included.
"""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any, Final

from arx_caps.audit.ingest import (
    GAP,
    Entry,
    EventRecord,
    Place,
    Step,
    make_event,
    make_note,
    place_of_event,
    read_event,
)
from arx_caps.audit.ingest import MINT as MINT_NODE
from arx_caps.audit.shipping import Journal
from arx_caps.audit.store import LogStore, Publisher
from arx_caps.mint.db.events import Recorded
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.revocation import Entry as Line
from arx_caps.revocation import RevocationStore
from arx_verifier.errors import StoreError
from arx_verifier.token import MINT_AUDIENCE

EVENTS: Final = "mint"  # the sources' names
KILLS: Final = "store"
LOST: Final = "kills.unread"
RESTORED: Final = "mint.database_restored"
PAGE: Final = 1000
KEEP_S: Final = 30 * 24 * 3600  # events stay where they were recorded: `arx mint events` reads them there
TIDY_S: Final = 3600
JOURNAL_KEPT_MS: Final = 24 * 3600 * 1000
# What of an event stands in its kept part: ids that are no person's.
NAMED: Final = (
    "agent",
    "approval",
    "audience",
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


class SignedFeed:
    """Keeps the last checkpoint in the revocation store, and holds the log to the one that it finds there.

    A database that is put back takes its checkpoints with it.  A mint without files or memory of later ones would sign
    a second history; the store, which is not put back with the database, shows it that there is a first one.

    Args:
        revocation: The store.
        publisher: Signs the log.
    """

    def __init__(self, revocation: RevocationStore, publisher: Publisher) -> None:
        self._revocation, self._publisher = revocation, publisher

    def begin(self, store: LogStore) -> None:
        """Hold the log to what the store has, before anything is recorded; later, where the store does not answer."""
        with contextlib.suppress(StoreError):
            self(store)

    def __call__(self, store: LogStore) -> None:
        """Hold the log to what the store has, and keep what was published since.

        Raises:
            StoreError: The revocation store did not answer.
        """
        newer = self._publisher.meet(self._revocation.signed(), store.size())
        if newer is not None:
            self._revocation.mark_signed(newer)


class EventFeed:
    """Puts in what the mint recorded.

    Args:
        db: The mint's database.
    """

    def __init__(self, db: MintDatabase) -> None:
        self._db = db
        self._tidied = time.monotonic()

    def begin(self, store: LogStore) -> None:
        """See that the mint's database is not older than the log; to be called before anything is recorded in it.

        An older one gives numbers a second time.  It gets a run of its own, which goes on behind what both have.
        """
        outbox = self._db.outbox
        run, last = outbox.run(), outbox.last()
        mark = store.high_water(EVENTS, run)
        if last >= mark:
            return
        common = self._common(store, run, last)
        _log.error("the mint's database was put back: of its events %d the log has %d", last, mark)
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
                found = store.find(run, event.id)
                record = store.record(found[0]) if found else None
                if record is None or read_event(record.kept, None)[1:4] != (event.id, event.at_ms, event.kind):
                    return event.id - 1
            number = events[-1].id
        return last

    def __call__(self, store: LogStore) -> None:
        """Put in what is new."""
        run = self._db.outbox.run()
        mark = store.high_water(EVENTS, run)
        while events := self._db.outbox.after(mark, PAGE):
            entries = [self._entry(run, event) for event in events]
            with store.writing() as log:
                source = log.source(EVENTS, run)
                new = [entry for entry in entries if entry.sequence > source.high_water]
                mark = events[-1].id
                if new:
                    log.append(source, new)
                    log.mark(source, mark)
        if time.monotonic() - self._tidied > TIDY_S:
            self._tidied = time.monotonic()
            self._db.outbox.forget(mark, before_ms=int((time.time() - KEEP_S) * 1000))

    def _entry(self, run: str, event: Recorded) -> Entry:
        facts = event.facts
        named = {name: facts[name] for name in NAMED if facts.get(name) is not None} | {"mint": event.mint}
        record = EventRecord(f"{EVENTS}/{run}", event.id, event.at_ms, event.kind, event.by, named, facts)
        return make_event(record, place_of_event(event.by, facts | dict(event.owner)))


class KillFeed:
    """Puts in what the revocation store's log says, and tells the store that it may forget it.

    Args:
        revocation: The store.
    """

    def __init__(self, revocation: RevocationStore) -> None:
        self._revocation = revocation

    def begin(self, store: LogStore) -> None:
        """Nothing is to be seen to."""

    def __call__(self, store: LogStore) -> None:
        """Put in what is new.

        Raises:
            StoreError: The revocation store did not answer.
        """
        header = self._revocation.header()
        mark = store.high_water(KILLS, header.incarnation)
        if mark >= header.seq:
            return
        while mark < header.seq:
            # A history that was begun anew has nothing of what led to its first number.
            entries = self._revocation.log(mark, PAGE)
            mark = self._put(store, header.incarnation, entries, header.seq)
        self._revocation.mark_taken(mark)

    def _put(self, store: LogStore, incarnation: str, entries: tuple[Line, ...], last: int) -> int:
        """Put in some lines, and say what is missing before them, or up to ``last`` where there are none."""
        with store.writing() as log:
            source = log.source(KILLS, incarnation)
            before = source.high_water or log.last_of(KILLS)
            new = [entry for entry in entries if entry.seq > source.high_water]
            mark = entries[-1].seq if entries else last
            made = [_kill(incarnation, entry) for entry in new]
            first = new[0].seq if new else mark + 1
            if before and first > before + 1 and mark > source.high_water:
                made.insert(0, _unread(incarnation, before + 1, first - 1, log.now_ms))
            if made:
                log.append(source, made)
            if mark > source.high_water:
                log.mark(source, mark)
            return mark


class JournalFeed:
    """Puts in the mint's own decisions, those of processes that are gone as well.

    Args:
        folder: The folder of the mint's journals.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder, MINT_AUDIENCE)

    def begin(self, store: LogStore) -> None:
        """Nothing is to be seen to."""

    def __call__(self, store: LogStore) -> None:
        """Put in what is new."""
        self._journal.look()
        for run in tuple(self._journal.runs.values()):
            while (batch := run.batch()) is not None:
                run.acknowledge(batch, store.take(batch, None))
            run.free(JOURNAL_KEPT_MS)


def _kill(incarnation: str, entry: Line) -> Entry:
    kind, _, name = entry.target.partition(":")
    named: dict[str, Any] = {"incarnation": incarnation, "seq": entry.seq, "op": entry.op}
    if kind != "subject":
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
    return make_event(record, Place(place.steps, place.agent, subject))


def _unread(incarnation: str, first: int, last: int, at_ms: int) -> Entry:
    named = {"incarnation": incarnation, "first": first, "last": last}
    record = EventRecord(f"{KILLS}/{incarnation}", last, at_ms, LOST, "mint", named, {})
    return make_event(record, Place((Step(MINT_NODE, "", "the mint"),)), GAP)
