# SPDX-License-Identifier: Apache-2.0
"""Sign what the log's database holds, and keep its files up with it.  SPEC 17.

The database is the truth and the files are a copy.  A checkpoint is signed only for leaves that this process has just
committed, or read back and hashed, and that continue what was signed before; it is stored before it is published.
Where the rows do not give what was signed, nothing is signed any more until a person has looked: ``halted`` says why.
"""

import logging
import shutil
import threading
from pathlib import Path

from arx_caps.audit.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.cosigning import Witnesses
from arx_caps.audit.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.note import Note, Signer, text64
from arx_caps.audit.paths import CHECKPOINT
from arx_caps.audit.proof import Proof
from arx_caps.audit.store import LogStore
from arx_caps.audit.tiles import Leaf, TileReader, TileWriter, fetch_from, prune, write_whole
from arx_caps.audit.tree import Frontier
from arx_caps.audit.wire import LogWord
from arx_verifier.errors import AuditError

_log = logging.getLogger(__name__)


class Publisher:
    """Signs and publishes one log; one at a time for a folder.  Its threads wait for each other.

    Args:
        store: The log's database, its tables made.
        signer: The log's key.
        folder: Where its files are, or will be.
        witnesses: Who is asked to cosign; nobody when left out.
        memory: A file for the last checkpoint that was published, where whoever keeps database and files has no hand.

    Attributes:
        halted: Why nothing is signed, or None.
        witnesses: Who is asked to cosign.
        signed: The last checkpoint that was signed, by whichever mint, with all its signatures; None before the first.
    """

    def __init__(
        self,
        store: LogStore,
        signer: Signer,
        folder: Path,
        witnesses: Witnesses | None = None,
        memory: Path | None = None,
    ) -> None:
        self._memory = memory
        self.witnesses = witnesses or Witnesses()
        self.halted: str | None = None
        self.signed: Note | None = None
        self.folder, self.signer = folder, signer
        self._store, self._writer = store, TileWriter(folder)
        self._started, self._first, self._lock = False, 0, threading.Lock()

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.signer.key.name

    def prove(self, index: int, kept: bytes, body: bytes | None) -> Proof:
        """Prove that a record is in the log, under the last checkpoint.

        Args:
            index: Its index.
            kept: What the database has of it.
            body: Its body; None where it was erased.

        Raises:
            AuditError: It is not signed.
            IncompleteError: A file that the proof needs is not there now.
            TamperedError: The database's record is not the one that was signed.
        """
        signed = self.signed
        head = None if signed is None else Checkpoint.parse(signed.text)
        if signed is None or head is None or head.size <= index:
            raise AuditError(f"record {index} is not signed yet; ask again in a second")
        path = self.files(head.size).inclusion(index)
        proof = Proof(kept, body, index, tuple(path), signed)
        proof.check(self.signer.key)
        return proof

    def files(self, size: int) -> TileReader:
        """Return a reader of the files, as they are with so many records."""
        return TileReader(fetch_from(self.folder), size)

    def published(self) -> Checkpoint | None:
        """Return the checkpoint that the files have, or None.

        Raises:
            NoteError: It is none.
            TamperedError: It is not this log's.
        """
        raw = fetch_from(self.folder)(CHECKPOINT)
        return None if raw is None else open_checkpoint(raw, self.signer.key).checkpoint

    def halt(self, why: str) -> None:
        """Sign nothing any more, until a person has looked."""
        self.halted = why
        _log.error("the audit log %s is not signed any more: %s", self.origin, why)

    def word(self, seen: int) -> LogWord | None:
        """Return the published checkpoint, with the proof that it continues a size; None before there is one.

        A size that the log does not have cannot be proven: whoever asked with it finds the proof missing.
        """
        fetch = fetch_from(self.folder)
        raw = fetch(CHECKPOINT)
        if raw is None:
            return None
        size = open_checkpoint(raw, self.signer.key).checkpoint.size
        try:
            proof = TileReader(fetch, size).consistency(seen) if seen <= size else []
        except IncompleteError:
            return None  # the files are being made again
        return LogWord(str(self.signer.key), raw.decode(), tuple(map(text64, proof)))

    def step(self) -> bool:
        """Sign what is new, and publish it.

        Returns:
            Whether there was something new.

        Raises:
            StoreError: The database did not answer.
            OSError: The files cannot be written; they are tried again.
        """
        with self._lock:
            return self.halted is None and self._step()

    def _step(self) -> bool:
        try:
            if not self._started:
                self._start()
            return self._advance()
        except (TamperedError, IncompleteError, NoteError) as error:
            self.halt(str(error))
            return False

    def head(self) -> Checkpoint | None:
        """Return what the last checkpoint says."""
        return None if self.signed is None else Checkpoint.parse(self.signed.text)

    def _start(self) -> None:
        """Hold the rows to all that is known to be signed, and have the files go on from there."""
        shown, last, known = self._shown(), self._last(), self._remembered()
        if known is not None and all(each is None or each.size < known.size for each in (shown, last)):
            self._hold_rows(known)  # of database and files, both were put back
        if shown is not None and (last is None or last.size < shown.size):
            # It was stored before it was published, so this database was put back.
            self._hold_rows(shown)
        self._writer = TileWriter(self.folder) if shown is None else self._resume(shown)
        if last is not None and last.size >= self._writer.size:
            self._catch_up(last)
        elif last is not None:  # the files are ahead, and their end is in the rows: so is what stands before it
            self._hold(self.files(self._writer.size).root(last.size), last)
        if known is not None and known.size <= self._writer.size:
            self._hold(self.files(self._writer.size).root(known.size), known)
        self._started = True

    def _remembered(self) -> Checkpoint | None:
        """Return the checkpoint in the memory; of another log, as after a new beginning, it says nothing."""
        if self._memory is None or not self._memory.exists():
            return None
        try:
            return open_checkpoint(self._memory.read_bytes(), self.signer.key).checkpoint
        except (NoteError, TamperedError):
            return None

    def _shown(self) -> Checkpoint | None:
        """Return the checkpoint in the folder; one that this log did not sign is as good as none."""
        try:
            return self.published()
        except (NoteError, TamperedError):
            return None

    def _last(self) -> Checkpoint | None:
        raw = self._store.last_checkpoint()
        if raw is None:
            return None
        signed = open_checkpoint(raw, self.signer.key)
        self.signed = signed.note
        return signed.checkpoint

    def _hold_rows(self, head: Checkpoint) -> None:
        """Hold the rows to a checkpoint, without touching a file."""
        has = self._store.size()
        if has < head.size:
            told = f"the database has {has} records, and {head.size} were signed: it is an older one, such as a backup"
            raise TamperedError(told, has, head.size - 1)
        rows = Frontier()
        while rows.size < head.size:
            for leaf in self._leaves(rows.size, head.size):
                rows.append(leaf.hash)
        self._hold(rows.root(), head)

    def _resume(self, shown: Checkpoint) -> TileWriter:
        try:
            writer = TileWriter.resume(self.folder, shown.size)
            if writer.root() == shown.root:
                return writer
        except (IncompleteError, TamperedError):
            pass
        # Whatever else is there may be all that is left of the log: it goes only once the rows are known to give it.
        self._hold_rows(shown)
        _log.warning("the files of the audit log in %s are made again from its database", self.folder)
        shutil.rmtree(self.folder / "tile", ignore_errors=True)
        self._writer = TileWriter(self.folder)
        self._append(shown.size)
        self._writer.flush()
        return self._writer

    def _catch_up(self, head: Checkpoint) -> None:
        """Bring the files to a checkpoint, from the rows, whose hashes must lead to it."""
        self._append(head.size)
        self._hold(self._writer.root(), head)

    def _append(self, size: int) -> None:
        while self._writer.size < size:
            self._writer.append(self._leaves(self._writer.size, size))

    def _leaves(self, start: int, end: int) -> list[Leaf]:
        leaves = self._store.leaves(start, end)
        if not leaves:
            raise TamperedError(f"record {start} is not in the database any more", start)
        return leaves

    def _hold(self, root: bytes, head: Checkpoint) -> None:
        if root != head.root:
            told = f"the first {head.size} records of the database are not those that were signed"
            raise TamperedError(told, 0, head.size - 1)

    def _advance(self) -> bool:
        last = self._last()  # before the tree, which then has all of it
        tree, first = self._store.standing()
        if first > self._first:  # retention has taken more, here or at another mint
            prune(self.folder, self._writer.size, first)
            self._first = first
        if last is not None and self._writer.size < last.size:
            self._catch_up(last)  # another mint signed it
        if tree.size < self._writer.size:
            raise TamperedError(f"the database went back from {self._writer.size} to {tree.size} records")
        if tree.size == 0:
            return False  # there is nothing to be signed
        if last is not None and tree.size == last.size:
            return self._publish()
        self._append(tree.size)
        head = Checkpoint(self.origin, tree.size, tree.root())
        if self._writer.root() != head.root:
            raise TamperedError("the rows of the database are not those that its own tree was made of")
        self._writer.flush()
        note = head.sign(self.signer)
        if not self._store.put_checkpoint(head.size, note.encode()):
            return self._advance()  # another mint signed more meanwhile
        self.signed = note
        return self._publish()

    def _publish(self) -> bool:
        """Publish the last checkpoint, with what its witnesses say, unless it is there."""
        assert self.signed is not None
        head = Checkpoint.parse(self.signed.text)
        files = TileReader(fetch_from(self.folder), head.size)
        if self.witnesses.missing(self.signed):
            self._writer.flush()  # whoever is asked wants a proof
            note = self.witnesses.cosigned(self.signed, head.size, files.consistency)
            if note != self.signed:
                self._store.cosign(head.size, note.encode())
                self.signed = note
            if self.witnesses.required and self.witnesses.missing(note):
                return False
        raw = self.signed.encode()
        if fetch_from(self.folder)(CHECKPOINT) == raw:
            return False
        self._writer.flush()
        if self._memory is not None:
            write_whole(self._memory, raw)
        self._writer.publish(raw)
        return True
