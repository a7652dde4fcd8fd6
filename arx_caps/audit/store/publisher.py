# SPDX-License-Identifier: Apache-2.0
"""Sign checkpoints of the log's database, and publish the signed log as files.  LOG 1.

A checkpoint is signed only for leaves that this process has just committed, or has read and hashed.  It must continue
every known checkpoint: the database's, the files' and the one in the memory file beside the key.  If the database
contradicts one of them, signing stops, and ``halted`` says why.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from arx_caps.audit.merkle.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.key_change import KEY_CHANGES, encode_changes
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import Note, Signer, text64
from arx_caps.audit.merkle.paths import CHECKPOINT, TILES
from arx_caps.audit.merkle.proof import RecordProof
from arx_caps.audit.merkle.tiles import Leaf, TileReader, TileWriter, fetch_from, lacks, prune, write_whole
from arx_caps.audit.merkle.tree import Frontier, check_consistency, check_inclusion
from arx_caps.audit.shipping.batch import LogWord
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.witness.cosigners import Witnesses
from arx_verifier.errors import AuditError

MAKE_S: Final = 0.5  # longest time in a step for rebuilding files, so that signing goes on meanwhile
REMEDY: Final = "stop every mint of the realm, then `arx audit reindex --reason …`, then start them"
_log = logging.getLogger(__name__)


class Publisher:
    """Signs one log and publishes it in a folder.  Threads may share it; they wait for each other.

    Args:
        store: The log's database, with its tables.
        signer: The log's key.
        keys: The log's keys, if it had others before; the signer's alone when omitted.
        folder: The folder of its files.  Lost or damaged files are rebuilt from the database.
        witnesses: The witnesses to ask for cosignatures; none when omitted.
        memory: A file beside the log's key for the last checkpoint that was published here.

    Attributes:
        keys: The log's keys.
        halted: How the database contradicts what was signed, or None.
        witnesses: The witnesses to ask for cosignatures.
        signed: The last checkpoint, by any mint, whose files are in the folder; None before the first.
    """

    def __init__(
        self,
        store: LogStore,
        signer: Signer,
        folder: Path,
        witnesses: Witnesses | None = None,
        memory: Path | None = None,
        keys: LogKeys | None = None,
    ) -> None:
        self._memory = memory
        self.keys = keys or LogKeys.of(signer.key)
        self.witnesses = witnesses or Witnesses()
        self.halted: str | None = None
        self.signed: Note | None = None
        self.folder, self.signer = folder, signer
        self._store, self._tree, self._first = store, Frontier(), 0  # the tree of the signed records
        self._writer: TileWriter | None = None  # None: the state of the files is unknown
        self._doubted: Frontier | None = None  # tree of the rows read so far, while files are being rebuilt
        self._note: Note | None = None  # the last signed checkpoint
        self._started = self._shows = False  # _shows: the folder has a checkpoint of this log and the files below it
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        """Number of signed records."""
        return self._tree.size

    @property
    def made(self) -> bool:
        """Whether the files are complete up to their checkpoint, and not being rebuilt."""
        return self._shows

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.signer.key.name

    def prove(self, index: int, kept: bytes, body: bytes | None) -> RecordProof:
        """Return the proof that a record is in the log, under the last checkpoint.

        Args:
            index: Its index.
            kept: Its kept part in the database.
            body: Its body; None if that was erased.

        Raises:
            AuditError: It is not signed yet.
            IncompleteError: A file that the proof needs is missing, and is being rebuilt.
            TamperedError: The database's record is not the signed one.
        """
        signed = self.signed  # read once: another thread may sign meanwhile
        head = None if signed is None else Checkpoint.parse(signed.text)
        if signed is None or head is None or head.size <= index:
            raise AuditError(f"record {index} is not signed yet; ask again in a second")
        (path,) = self.paths((index,), head.size, head)
        proof = RecordProof(kept, body, index, tuple(path), signed)
        proof.check(self.keys)  # `paths` has verified the files: a failure here is the database's record
        return proof

    def paths(self, indices: Iterable[int], size: int, head: Checkpoint) -> list[list[bytes]]:
        """Return the inclusion paths of records in the tree of the first ``size`` records.

        Args:
            indices: The records' indices.
            size: A size of the log, at most that of ``head``.
            head: A checkpoint whose files are in the folder; it proves the smaller tree.

        Raises:
            IncompleteError: A file that this needs is missing or wrong, and is being rebuilt.
        """
        proofs = []
        with self._made_again():
            reader = self.files(head.size)
            root = _root_within(reader, size, head)[0]
            for index in indices:
                proofs.append(reader.inclusion(index, size))
                check_inclusion(reader.subtree(0, index), index, size, proofs[-1], root)
        return proofs

    @contextlib.contextmanager
    def _made_again(self) -> Iterator[None]:
        """Start rebuilding the files if one that is read in this context is missing or wrong.

        Raises:
            IncompleteError: One is.
        """
        try:
            yield
        except (IncompleteError, TamperedError) as error:
            if self.made:  # else each request would restart the rebuilding
                self.remake()
            message = "a file of the log that this needs is missing or damaged; it is made again from the database"
            raise IncompleteError(f"{message}: ask again in some seconds") from error

    def files(self, size: int) -> TileReader:
        """Return a reader of the files of the log's first ``size`` records."""
        return TileReader(fetch_from(self.folder), size)

    def published(self) -> Checkpoint | None:
        """Return the checkpoint in the folder; None without one that this log signed."""
        return checkpoint_in(self.folder / CHECKPOINT, self.keys)

    def halt(self, error: Exception) -> None:
        """Stop signing until an operator has repaired the database.

        Args:
            error: How the database contradicts what was signed.
        """
        self.halted = f"the database contradicts what was signed: {error}"
        _log.error("the audit log %s is not signed any more: %s; %s", self.origin, self.halted, REMEDY)

    def remake(self) -> None:
        """Start rebuilding the files from the database."""
        _log.warning("the files of the audit log in %s are made again from its database", self.folder)
        with self._lock:
            self._writer, self._doubted, self._shows = None, Frontier(), False

    def meet(self, raw: bytes | None, has: int) -> bytes | None:
        """Compare the log with a checkpoint kept elsewhere, and halt if the log does not continue it.

        Args:
            raw: The checkpoint's note; ignored unless the log's key signed it.
            has: Number of records in the database, read after the note.

        Returns:
            The published checkpoint, if it should replace the other one.
        """
        mine = fetch_from(self.folder)(CHECKPOINT)
        head, shown = (_opened(note, self.keys) for note in (raw, mine))
        try:
            if head is not None and has < head.size:
                raise _older(has, head)
            if shown is None or (head is not None and shown.size < head.size):
                return None  # a later step compares it
            if head is not None:
                with self._made_again():
                    root = _root_within(self.files(shown.size), head.size, shown)[0]
                _hold(root, head)
        except IncompleteError:
            return None
        except TamperedError as error:
            self.halt(error)
            return None
        return mine if head is None or head.size < shown.size else None

    def word(self, seen: int) -> LogWord | None:
        """Return the published checkpoint, with the proof that it continues a size; None without one.

        Args:
            seen: The size to continue.  If the log is shorter, the proof is empty, and the caller's check fails.
        """
        raw = fetch_from(self.folder)(CHECKPOINT)
        if raw is None:
            return None
        signed = open_checkpoint(raw, self.keys)
        head = signed.checkpoint
        proof: list[bytes] = []
        try:
            with self._made_again():  # a wrong proof would raise an alarm at its reader
                if seen <= head.size:
                    proof = _root_within(self.files(head.size), seen, head)[1]
        except IncompleteError:
            return None
        # Those that a reader of this size has not seen.
        eras = (era for era in self.keys.eras if era.last is not None and seen <= era.last < head.size)
        changes = [era.change for era in eras if era.change is not None]
        return LogWord(str(signed.by), raw.decode(), tuple(map(text64, proof)), changes)

    def step(self) -> bool:
        """Sign new records, and publish the checkpoint.

        Returns:
            Whether a checkpoint was published.

        Raises:
            StoreError: The database did not answer.
            OSError: The files cannot be written; the next step tries again.
        """
        with self._lock:
            if self.halted is not None:
                return False
            try:
                if not self._started:
                    self._start()
                return self._advance()
            except (TamperedError, NoteError) as error:
                self.halt(error)
                return False

    def hold(self) -> int:
        """Compare the database with every known checkpoint, sign nothing, and return the largest signed size.

        Raises:
            TamperedError: The database contradicts one of them.
            NoteError: The database's checkpoint is malformed.
            StoreError: The database did not answer.
        """
        with self._lock:
            if not self._started:
                self._start()
            return self._tree.size

    def head(self) -> Checkpoint | None:
        """Return the last checkpoint's content, or None."""
        return None if self.signed is None else Checkpoint.parse(self.signed.text)

    def _start(self) -> None:
        """Check the database against every known checkpoint, the smallest first."""
        remembered = None if self._memory is None else checkpoint_in(self._memory, self.keys)
        heads = [head for head in (self.published(), remembered, self._last()) if head is not None]
        heads.sort(key=lambda head: head.size)
        has = self._store.size()
        if heads and has < heads[-1].size:
            raise _older(has, heads[-1])
        if heads:
            tree = self._store.stored_tree(heads[0].size)
            self._tree = tree if tree is not None and tree.root() == heads[0].root else Frontier()
        for head in heads:
            self._follow(head)
        self._started = True

    def _last(self) -> Checkpoint | None:
        raw = self._store.last_checkpoint()
        if raw is None:
            return None
        signed = open_checkpoint(raw, self.keys)
        self._note = signed.note
        return signed.checkpoint

    def _follow(self, head: Checkpoint) -> None:
        """Extend the signed tree to a checkpoint with the rows, and require the checkpoint's root."""
        if self._tree.size > head.size:
            return
        self._tree = self._grown(self._tree, head.size)
        _hold(self._tree.root(), head)

    def _grown(self, tree: Frontier, size: int) -> Frontier:
        tree = tree.copy()
        while tree.size < size:
            tree.extend([leaf.hash for leaf in self._leaves(tree.size, size)])
        return tree

    def _leaves(self, start: int, end: int) -> list[Leaf]:
        leaves = self._store.leaves(start, end)
        if not leaves:
            raise TamperedError(f"record {start} is missing", start)
        return leaves

    def _advance(self) -> bool:
        last = self._last()  # read before the tree, so that the tree contains all that it covers
        if last is not None:
            self._follow(last)  # another mint signed it
        tree, first = self._store.standing()
        if first > self._first:  # this or another mint has pruned
            prune(self.folder, self._tree.size, first)
            self._first = first
        if tree.size < self._tree.size:
            raise TamperedError(f"the log shrank from {self._tree.size} to {tree.size} records")
        if tree.size == self._tree.size and tree.root() != self._tree.root():
            raise TamperedError("its stored tree is not the one that was signed")
        if tree.size and (last is None or last.size < tree.size) and not self._sign(tree):
            return self._advance()  # another mint signed more meanwhile
        return self._note is not None and self._publish(self._note)

    def _sign(self, standing: Frontier) -> bool:
        """Sign all records and store the checkpoint.

        Returns:
            Whether no other mint stored one first.
        """
        tree = self._grown(self._tree, standing.size)
        if tree.root() != standing.root():
            raise TamperedError("its rows do not give its stored tree")
        note = Checkpoint(self.origin, tree.size, tree.root()).sign(self.signer)
        if not self._store.put_checkpoint(tree.size, note.encode(), tree.edge):
            return False
        self._tree, self._note = tree, note
        return True

    def _publish(self, note: Note) -> bool:
        """Publish a checkpoint with its files and cosignatures.

        Returns:
            Whether it was not published before, and is now.
        """
        head = Checkpoint.parse(note.text)
        writer = self._bring(head)
        if writer is None:
            return False
        writer.flush()
        self._shows = self._shows or self.published() is not None
        self.signed = note
        if self.witnesses.missing(note):
            try:
                note = self.witnesses.cosigned(note, head.size, self.files(head.size).consistency)
            except (IncompleteError, TamperedError):
                self.remake()
                return False
            if note != self.signed:
                self._store.cosign(head.size, note.encode())
                self.signed = self._note = note
            if self.witnesses.required and self.witnesses.missing(note):
                return False
        raw = note.encode()
        if fetch_from(self.folder)(CHECKPOINT) == raw:
            return False
        if self._memory is not None:
            write_whole(self._memory, raw)
        changes = encode_changes(self.keys)
        if changes is not None and fetch_from(self.folder)(KEY_CHANGES) != changes:
            write_whole(self.folder / KEY_CHANGES, changes)  # before the first checkpoint that needs it
        try:
            writer.publish(raw)
        except FileNotFoundError:
            self.remake()
            return False
        self._shows = True
        return True

    def _bring(self, head: Checkpoint) -> TileWriter | None:
        """Write the files up to a checkpoint, for at most ``MAKE_S`` seconds.

        Returns:
            Their writer once they are complete, else None.

        Raises:
            OSError: They cannot be written.
        """
        end = time.monotonic() + MAKE_S
        if self._writer is not None and self._writer.removed:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)  # never show a checkpoint without its files
            self.remake()
        elif self._shows and not (self.folder / CHECKPOINT).exists():
            self.remake()  # the tiles may have been removed together with the checkpoint
        if self._doubted is None and self._writer is None:
            self._resume()
        # The files may be the only copy of the log: overwrite them only after the rows have given the signed root.
        while self._doubted is not None:
            if self._doubted.size == head.size:
                _hold(self._doubted.root(), head)
                self._writer, self._doubted = TileWriter(self.folder), None
            elif time.monotonic() > end:
                return None
            else:
                self._doubted.extend([leaf.hash for leaf in self._leaves(self._doubted.size, head.size)])
        writer = self._writer
        assert writer is not None
        try:
            while writer.size < head.size:
                if time.monotonic() > end:
                    return None
                writer.append(self._leaves(writer.size, head.size))
        except OSError:
            self._writer = None  # the next step finds out from the folder how far the files are
            raise
        if writer.size > head.size:
            return None  # another mint wrote to the same folder; the next step follows its checkpoint
        self._store.forget(writer.size)
        _hold(writer.root(), head)
        return writer

    def _resume(self) -> None:
        """Continue with the existing files if they are complete up to their checkpoint; else rebuild them."""
        shown = self.published()
        if shown is None and not (self.folder / TILES).exists():
            self._writer = TileWriter(self.folder)
            return
        if shown is not None and not lacks(self.folder, shown.size, self._store.first()):
            try:
                writer = TileWriter.resume(self.folder, shown.size)
                if writer.root() == shown.root:
                    self._writer, self._shows = writer, True
                    return
            except (IncompleteError, TamperedError):
                pass
        self.remake()


def checkpoint_in(path: Path, key: LogKeys) -> Checkpoint | None:
    """Return the checkpoint in a file; None if the file is missing or this log did not sign it.

    Args:
        path: The file.
        key: The log's keys.
    """
    return _opened(fetch_from(path.parent)(path.name), key)


def _opened(raw: bytes | None, key: LogKeys) -> Checkpoint | None:
    try:
        return None if raw is None else open_checkpoint(raw, key).checkpoint
    except (NoteError, TamperedError):
        return None


def _older(has: int, head: Checkpoint) -> TamperedError:
    message = f"the database has {has} records, and {head.size} were signed: it is an older one, such as a backup"
    return TamperedError(message, has, head.size - 1)


def _root_within(reader: TileReader, size: int, head: Checkpoint) -> tuple[bytes, list[bytes]]:
    """Return the root of the first ``size`` records, and the proof that a checkpoint continues it."""
    root, proof = reader.root(size), reader.consistency(size)
    check_consistency(size, root, head.size, head.root, proof)
    return root, proof


def _hold(root: bytes, head: Checkpoint) -> None:
    if root != head.root:
        raise TamperedError(f"the first {head.size} records are not those that were signed", 0, head.size - 1)
