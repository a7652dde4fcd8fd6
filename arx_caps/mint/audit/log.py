# SPDX-License-Identifier: Apache-2.0
"""The realm's audit log at its mint: appends, signatures, and the state of both. LOG 1, 2.

The mint's own records are in ``arx_caps.mint.audit.feeds``.
"""

# One thread appends the mint's own entries and signs new records; services send batches over HTTP meanwhile. A log that
# differs from what was signed takes no more records. Senders keep theirs until an operator has looked.

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from arx_caps.audit.ingest.entries import EventRecord, is_event, make_dispute, read_event
from arx_caps.audit.ingest.upload_order import Turns, run_of
from arx_caps.audit.integrity.check import Answered, Rows, check_batches, check_rows, rows_of
from arx_caps.audit.merkle.checkpoint import open_checkpoint
from arx_caps.audit.merkle.errors import DisputedError, IncompleteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import Signer
from arx_caps.audit.merkle.paths import CHECKPOINT
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tiles import TileReader, fetch_from
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.audit.witness.cosigners import Witnesses
from arx_caps.mint.audit.row_check import RowCheck
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError, AuditError, GrantError, shorten

# Between the checks of two blocks of rows, however often the mint signs: ten million records in three hours.  A block
# takes about 10 ms, by which an answer may be late; several at once would make it later.
PAUSE_S: Final = 0.23
REST_S: Final = 600.0  # between two rounds of checks
SIGN_S: Final = 1.0  # the longest time until a record is under a signed checkpoint
SIGN_RECORDS: Final = 32_768  # records after which it signs at once: their leaves are in memory, which is bounded
STOP_S: Final = 10.0
ABSENT: Final = "not_found"
MOST_LOST: Final = 100_000  # records in which `lost_events` looks
_DIGITS: Final = 19  # numbers with fewer digits fit into 63 bits
_DISPUTED: Final = 4096  # disputed runs that are remembered

_logger = logging.getLogger(__name__)


def open_store(realm: Realm) -> LogStore:
    """Open the log's database: a file in the realm's folder, or the realm's PostgreSQL.

    Raises:
        SettingsError: The URL names no database.
    """
    url = realm.database_url
    return LogStore(f"sqlite:///{realm.audit_path}" if url.startswith("sqlite:") else url)


class CheckedLog(NamedTuple):
    """The result of ``check_log``.

    Attributes:
        records: Number of signed records, which all match.
        answered: The batches of services, by result.
    """

    records: int
    answered: Answered


def check_log(
    store: LogStore, folder: Path, keys: LogKeys, db: MintDatabase, progress: Callable[[int, int], None]
) -> CheckedLog:
    """Require that the log's rows are what was signed, and each batch what its service signed.  LOG 1.11, 2.2.

    Args:
        store: The log's database.
        folder: The log's files.
        keys: The log's keys.
        db: The mint's database, which has the services' keys.
        progress: Called now and then with how many records are done, of how many.

    Raises:
        IncompleteError: A file that this needs is missing.
        NoteError: The checkpoint is malformed.
        TamperedError: A row, a batch or a file is not what was signed.
        StoreError: A database did not answer.
    """
    rows = rows_of(store, folder, keys)
    check_rows(rows, progress)
    return CheckedLog(rows.size, check_batches(store, rows.size, db.holder_keys.key_of, progress))


class Feed(Protocol):
    """A source of the mint's own records."""

    def begin(self, store: LogStore) -> None:
        """Compare log and source once, before anything is recorded."""

    def __call__(self, store: LogStore) -> None:
        """Append new records."""


class AuditLog:
    """The audit log of a realm's mint. The mint's ``start`` and ``close`` call its own.

    Args:
        realm: The realm.
        signer: The log's key.
        keys: The log's keys, if it had others before.

    Raises:
        SettingsError: The URL of the realm's database names none.

    Attributes:
        store: The log's records.
        publisher: Signs the log, and writes its files.
        check: Checks all rows when an operator asks for it.
        feeds: The sources of the mint's own records, called in turn.
        turns: The order of a run's concurrent batches.
        failing: Why the last step could not append or sign, or None.
    """

    def __init__(self, realm: Realm, signer: Signer, keys: LogKeys | None = None) -> None:
        self.store = open_store(realm)
        witnesses = Witnesses.of(realm.witnesses, required=realm.witnesses_required, ca=realm.ca)
        memory = realm.log_key_path.with_suffix(".signed")
        kept = os.access(memory.parent, os.W_OK)
        if not kept:
            _logger.warning("%s cannot be written: the last checkpoint is known from database and files alone", memory)
        self.publisher = Publisher(self.store, signer, realm.log_dir, witnesses, memory if kept else None, keys)
        self.check = RowCheck(self.store, self.publisher)
        self.failing: str | None = None
        self.turns = Turns()
        self.feeds: Sequence[Feed] = ()
        self._taken = 0  # records since the thread was woken, about
        self._next, self._rests_until = 0, 0.0  # the next block of the round, and when it goes on
        self._disputed: set[tuple[str, str]] = set()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._stepping = threading.Lock()  # feeds have state: one step at a time

    def start(self) -> None:
        """Create the tables, compare the log with its last checkpoint, and begin to sign.

        Raises:
            SettingsError: The tables belong to another version.
            StoreError: The database did not answer.
        """
        self.store.create()
        self._note_state(self._try(self.publisher.step) or self.publisher.halted)
        for feed in self.feeds:
            # A log that was restored halts: a record that is appended to it now could never be reconciled.
            if self.publisher.halted is None:
                feed.begin(self.store)
        self._note_state(self.publisher.halted or self.failing)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="arx-mint-log", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Append and sign new records now, instead of at the next turn."""
        self._wake.set()

    def close(self) -> None:
        """Append and sign new records, and close the database."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            # One step more after the thread has ended: it signs the events of requests that ended last.
            self._thread.join(STOP_S)
            self._thread = None
            self.step()
        self.check.stop()
        self.store.close()

    def take(self, batch: Batch, statement: str, leaves: Sequence[bytes] | None = None) -> int:
        """Append the new records of a service's batch.

        Args:
            batch: The batch.
            statement: The statement that the service signed for it.
            leaves: The leaf hashes, if the caller has computed them.

        Returns:
            The number up to which the log has the run.

        Raises:
            DisputedError: The log has another record at a position of the run. That is recorded now.
            RequestError: A record does not match the batch.
            AuditError: The log is halted.
            StoreError: The database did not answer; nothing was appended.
        """
        self.require_whole()
        # Batches of one run are appended in order, also if they arrive at once.
        turn = self.turns.turn(run_of(batch.audience, batch.boot), batch.first)
        try:
            mark = self.store.take(batch, statement, leaves, turn)
        except DisputedError as error:
            self._dispute(batch, error)
            raise
        self._taken += len(batch.records)
        if self._taken >= SIGN_RECORDS:
            self._taken = 0
            self.wake()
        return mark

    def _dispute(self, batch: Batch, error: DisputedError) -> None:
        """Record that a run has two different records at one position."""
        run = (batch.verifier, batch.boot)
        # Once: its sender retries for ever, and must not fill the log.
        if run in self._disputed:
            return
        _logger.error("verifier %s, run %s: %s", *map(shorten, run), error)
        with self.store.writing() as log:
            log.note(make_dispute(batch, error, log.now_ms))
        if len(self._disputed) >= _DISPUTED:
            self._disputed.clear()
        self._disputed.add(run)

    def require_whole(self) -> None:
        """Require that the log has not been halted.

        Raises:
            AuditError: It differs from what was signed, and takes no records until an operator has looked.
        """
        if self.publisher.halted is not None:
            raise AuditError(f"the audit log takes no records: {self.publisher.halted}; see docs/audit.md")

    def find(self, name: str) -> int:
        """Return the index of a record.

        Args:
            name: An index; or the id of a decision, ``<boot>-<sequence>`` or ``<verifier>/<boot>/<sequence>``.

        Raises:
            GrantError: ``not_found``: no record, or more than one, has this id.
        """
        if name.isascii() and name.isdigit() and len(name) < _DIGITS:
            return int(name)
        verifier, _, rest = (
            name.rpartition("/")[0].rpartition("/") if "/" in name else ("", "", name.rpartition("-")[0])
        )
        number = name.rpartition("/" if "/" in name else "-")[2]
        indexes: list[int] = []
        if rest and number.isascii() and number.isdigit() and len(number) < _DIGITS:
            indexes = self.store.find(rest, int(number), verifier or None)
        if len(indexes) != 1:
            many = "more than one record" if indexes else "no record"
            raise GrantError(
                f"the log has {many} of this name: give an index, or an id as decisions show it", code=ABSENT
            )
        return indexes[0]

    def prove(self, index: int) -> RecordProof:
        """Return the inclusion proof of a record, under the last or the next checkpoint.

        Raises:
            GrantError: ``not_found``: there is no such record, or retention has deleted it.
            AuditError: The record is not signed, and cannot be signed now.
            StoreError: The database did not answer.
        """
        row = self.store.record(index)
        if row is None:
            raise GrantError(f"the log has no record {index}, or retention has deleted it", code=ABSENT)
        self.sign(index + 1)
        return self.publisher.prove(index, bytes(row.kept), None if row.body is None else bytes(row.body))

    def sign(self, size: int) -> None:
        """Sign and publish now, unless this number of records is signed.

        Raises:
            AuditError: The log cannot be signed now.
            StoreError: The database did not answer.
            OSError: The log's files cannot be written.
        """
        head = self.publisher.head()
        if head is None or head.size < size:
            self.publisher.step()
            self.require_whole()

    def lost_events(self) -> Iterator[EventRecord]:
        """Yield the newest signed events that the files have and the database lost, the newest first.

        Raises:
            AuditError: The files or their checkpoint are damaged.
            StoreError: The database did not answer.
        """
        fetch = fetch_from(self.publisher.folder)
        raw, size = fetch(CHECKPOINT), self.store.size()
        if raw is None:
            return
        signed = open_checkpoint(raw, self.publisher.keys).checkpoint.size
        reader = TileReader(fetch, signed)
        for index in range(signed - 1, max(size, signed - MOST_LOST) - 1, -1):
            kept = reader.record(index)
            if kept is not None and is_event(kept):
                yield read_event(kept, None)

    def step(self) -> None:
        """Append the mint's own records, and sign new records. The next step retries errors."""
        with self._stepping:
            failed = self._try(self.publisher.step)
            if self.publisher.halted is None:
                # A feed that fails must not stop the others. Asked before each: a feed may halt the log.
                errors = [self._try(feed, self.store) for feed in self.feeds if self.publisher.halted is None]
                errors += [self._try(self.publisher.step), self._try(self._patrol)]
                failed = next(filter(None, errors), None)
            self._note_state(self.publisher.halted or failed)

    def _patrol(self) -> None:
        """Check the next rows against the signed files, round after round."""
        # Files that are being written anew are incomplete, and would start it over.
        if time.monotonic() < self._rests_until or not self.publisher.made:
            return
        head = self.publisher.published()
        if head is None:
            return
        rows, block = Rows(self.store, self.publisher.files(head.size), head), self._next
        try:
            if block < rows.blocks:
                rows.hold_files(block)
        except (IncompleteError, TamperedError):
            # Damaged files prove nothing against the rows: they are written anew, and their root must be the signed
            # one.
            self.publisher.remake()
            return
        try:
            if block == 0:
                rows.hold_first()
                rows.hold_erasures()
            if block < rows.blocks:
                rows.hold(block)
        except TamperedError as error:
            self.publisher.halt(error)
        done = block + 1 >= rows.blocks
        self._next, rest = (0, REST_S) if done else (block + 1, PAUSE_S)
        self._rests_until = time.monotonic() + rest

    def _try(self, function: Callable[..., object], *arguments: object) -> str | None:
        """Call a function, and return its error as text, or None."""
        try:
            function(*arguments)
        except ArxError as error:
            return str(error)
        except OSError as error:
            return f"its files cannot be written: {error.strerror or error}"
        return None

    def _note_state(self, why: str | None) -> None:
        """Set the state, and log it if it changed."""
        if why != self.failing:
            _logger.warning("the audit log: %s", why if why is not None else "appends and signs again")
        self.failing = why

    def _run(self) -> None:
        stepped = time.monotonic()
        while True:
            woken = self._wake.wait(PAUSE_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            if woken or time.monotonic() - stepped >= SIGN_S - PAUSE_S:
                self.step()
                stepped = time.monotonic()
            elif self.publisher.halted is None:
                with self._stepping:
                    self._try(self._patrol)  # the next step reports its error: it checks the same block again
