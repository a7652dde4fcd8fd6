# SPDX-License-Identifier: Apache-2.0
"""The realm's audit log at its mint: what comes in, what is signed, and the alarm when signing fails.  LOG 1, 2.

One thread appends the mint's own entries and signs what is new; services send their batches over HTTP meanwhile.  A log
that differs from what was signed takes nothing more: senders keep their records until an operator has looked.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from arx_caps.audit.ingest import Turns, make_dispute, run_of
from arx_caps.audit.integrity import Rows
from arx_caps.audit.merkle import DisputedError, IncompleteError, Proof, TamperedError, read_signer
from arx_caps.audit.shipping import Batch
from arx_caps.audit.store import LogStore, Publisher
from arx_caps.audit.witness import Witnesses
from arx_caps.realm import Realm
from arx_verifier.errors import ArxError, AuditError, GrantError, shorten

BLOCKS: Final = 4  # whose rows are checked at a time; about 20 ms, once a second: ten million records in three hours
PAUSE_S: Final = 0.9  # until the next ones, however often the mint signs
REST_S: Final = 600.0  # between two rounds
SIGN_S: Final = 1.0  # a record is under a signed checkpoint after at most so long
SIGN_RECORDS: Final = 32_768  # or as soon as so many came: what was committed is signed from memory, which is bounded
STOP_S: Final = 10.0
ABSENT: Final = "not_found"
_DIGITS: Final = 19
_DISPUTED: Final = 4096  # runs that are remembered

_logger = logging.getLogger(__name__)


def open_store(realm: Realm, database: str | None = None) -> LogStore:
    """Open the log's database: a file in the realm's folder, or the realm's PostgreSQL.

    Raises:
        SettingsError: There is no such database.
    """
    url = database or realm.database_url
    return LogStore(f"sqlite:///{realm.audit_path}" if url.startswith("sqlite:") else url)


class Feed(Protocol):
    """Puts in what the mint has to say."""

    def begin(self, store: LogStore) -> None:
        """Look at where it stands, once, before anything is recorded."""

    def __call__(self, store: LogStore) -> None:
        """Put in what is new."""


class AuditLog:
    """The audit log of a realm's mint.  ``start`` and ``close`` belong to the mint's.

    Args:
        realm: The realm.
        database: Another database than the realm's, in SQLAlchemy's form.

    Raises:
        SettingsError: The log's key is missing, or the database is none.

    Attributes:
        store: What is in the log.
        publisher: Signs it, and writes its files.
        feeds: Put in what the mint has to say; called again and again.
        turns: In which batches are taken that come at a time.
        failing: Why nothing could be put in or signed the last time, or None.
    """

    def __init__(self, realm: Realm, database: str | None = None) -> None:
        self.store = open_store(realm, database)
        witnesses = Witnesses.of(realm.witnesses, required=realm.witnesses_required, ca=realm.ca)
        signer, memory = read_signer(realm.log_key_path, "log"), realm.log_key_path.with_suffix(".signed")
        kept = os.access(memory.parent, os.W_OK)
        if not kept:
            _logger.warning("%s cannot be written: what was signed is known from database and files alone", memory)
        self.publisher = Publisher(self.store, signer, realm.log_dir, witnesses, memory if kept else None)
        self.failing: str | None = None
        self.turns = Turns()
        self.feeds: Sequence[Feed] = ()
        self._taken = 0  # about how many records came since the log was woken for them
        self._next, self._rests_until = 0, 0.0  # how far the round of the rows is
        self._disputed: set[tuple[str, str]] = set()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._stepping = threading.Lock()  # feeds know where they are: one step at a time, whoever asks for it

    def start(self) -> None:
        """Make the tables, hold the log to what was signed, and begin to sign.

        Raises:
            SettingsError: The tables belong to another version.
            StoreError: The database does not answer.
        """
        self.store.create()
        self._tell(self._try(self.publisher.step) or self.publisher.halted)
        for feed in self.feeds:
            if self.publisher.halted is None:  # into an older log nothing is put, or it could not be mended
                feed.begin(self.store)
        self._tell(self.publisher.halted or self.failing)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="arx-mint-log", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Put in and sign what there is, soon and not at the next turn."""
        self._wake.set()

    def close(self) -> None:
        """Put in and sign what there is, and let go."""
        if self._thread is not None:
            self._stop.set()
            self._wake.set()
            self._thread.join(STOP_S)
            self._thread = None
            self.step()
        self.store.close()

    def take(self, batch: Batch, statement: str, leaves: Sequence[bytes] | None = None) -> int:
        """Take what is new of a service's batch, behind those before it; see ``LogStore.take``.

        Raises:
            DisputedError: The log has something else at a place of the run; that there are two is a record now.
            RequestError: A record is not what the batch says.
            AuditError: The log takes nothing now.
            StoreError: The database did not answer; nothing was taken.
        """
        self.require_whole()
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
        """Record that a run has two stories: once, as its sender tries for ever."""
        run = (batch.verifier, batch.boot)
        if run in self._disputed:
            return
        _logger.error("verifier %s, run %s: %s", *map(shorten, run), error)
        with self.store.writing() as log:
            log.note(make_dispute(batch, error, log.now_ms))
        if len(self._disputed) >= _DISPUTED:
            self._disputed.clear()
        self._disputed.add(run)

    def require_whole(self) -> None:
        """Require that the log is as it was signed.

        Raises:
            AuditError: It is not, and takes nothing until somebody has looked.
        """
        if self.publisher.halted is not None:
            raise AuditError(f"the audit log takes no records: {self.publisher.halted}; see docs/audit.md")

    def find(self, name: str) -> int:
        """Find a record.

        Args:
            name: Its index; or a decision's id, ``<boot>-<sequence>``, also as ``<verifier>/<boot>/<sequence>``.

        Returns:
            Its index.

        Raises:
            GrantError: ``not_found``: there is none of this name, or more than one.
        """
        if name.isascii() and name.isdigit() and len(name) < _DIGITS:
            return int(name)
        verifier, _, rest = (
            name.rpartition("/")[0].rpartition("/") if "/" in name else ("", "", name.rpartition("-")[0])
        )
        number = name.rpartition("/" if "/" in name else "-")[2]
        found: list[int] = []
        if rest and number.isascii() and number.isdigit() and len(number) < _DIGITS:
            found = self.store.find(rest, int(number), verifier or None)
        if len(found) != 1:
            many = "more than one record" if found else "no record"
            raise GrantError(
                f"the log has {many} of this name: say an index, or an id as decisions show it", code=ABSENT
            )
        return found[0]

    def prove(self, index: int) -> Proof:
        """Prove that a record is in the log, under its last checkpoint or, for a record that is new, the next one.

        Raises:
            GrantError: ``not_found``: there is no such record, or retention has taken it.
            AuditError: It is not signed, and cannot be now.
            StoreError: The database did not answer.
        """
        row = self.store.record(index)
        if row is None:
            raise GrantError(f"the log has no record {index}, or retention has taken it", code=ABSENT)
        head = self.publisher.head()
        if head is None or head.size <= index:
            self.publisher.step()
            self.require_whole()
        return self.publisher.prove(index, bytes(row.kept), None if row.body is None else bytes(row.body))

    def step(self) -> None:
        """Put in what the mint has to say, and sign what is new; what fails is tried again with the next one."""
        with self._stepping:
            failed = self._try(self.publisher.step)
            if self.publisher.halted is None:
                # One that fails keeps no other from being put in and signed; one may find that nothing is to be.
                found = [self._try(feed, self.store) for feed in self.feeds if self.publisher.halted is None]
                found += [self._try(self.publisher.step), self._try(self._patrol)]
                failed = next(filter(None, found), None)
            self._tell(self.publisher.halted or failed)

    def _patrol(self) -> None:
        """Check some more rows, round and round; files that rows cannot be held to are made again."""
        if time.monotonic() < self._rests_until or not self.publisher.made:
            return  # files that are being made again are not found wanting, which would begin it anew
        head = self.publisher.published()
        if head is None:
            return
        rows = Rows(self.store, self.publisher.files(head.size), head)
        blocks = range(self._next, min(self._next + BLOCKS, rows.blocks))
        try:
            for block in blocks:
                rows.hold_files(block)
        except (IncompleteError, TamperedError):
            self.publisher.remake()
            return
        try:
            if blocks.start == 0:
                rows.hold_first()
            for block in blocks:
                rows.hold(block)
        except TamperedError as error:
            self.publisher.halt(error)
        done = blocks.stop >= rows.blocks
        self._next, rest = (0, REST_S) if done else (blocks.stop, PAUSE_S)
        self._rests_until = time.monotonic() + rest

    def _try(self, what: Callable[..., object], *arguments: object) -> str | None:
        """Do something, and return what kept it from being done, or None."""
        try:
            what(*arguments)
        except ArxError as error:
            return str(error)
        except OSError as error:
            return f"its files cannot be written: {error.strerror or error}"
        return None

    def _tell(self, why: str | None) -> None:
        if why != self.failing:
            _logger.warning("the audit log: %s", why if why is not None else "all is well again")
        self.failing = why

    def _run(self) -> None:
        while True:
            self._wake.wait(SIGN_S)
            self._wake.clear()
            if self._stop.is_set():
                return
            self.step()
