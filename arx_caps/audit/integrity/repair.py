# SPDX-License-Identifier: Apache-2.0
"""Rebuild rows of the log's database from the signed files.  LOG 1.10.

It restores rows that are missing, edited, moved or removed, for example after a backup was restored.  Bodies are not in
the files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import LOG, RECOVERED, LogEntry, Reader, is_event, make_note, read_event
from arx_caps.audit.integrity.check import DIGEST_BYTES, Rows, read_filed, rows_of
from arx_caps.audit.integrity.erasures import read_erasures, split_ranges
from arx_caps.audit.merkle.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.merkle.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.merkle.log_keys import LogKeys
from arx_caps.audit.merkle.note import VerifierKey
from arx_caps.audit.merkle.paths import CHECKPOINT as HEAD
from arx_caps.audit.merkle.paths import WIDTH
from arx_caps.audit.merkle.tiles import fetch_from
from arx_caps.audit.merkle.tree import Frontier
from arx_caps.audit.store.bulk import insert_rows
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import BATCH, CHECKPOINT, RECORD, SOURCE
from arx_caps.audit.store.time_totals import rebuild
from arx_caps.audit.store.transaction import RECORD_COLUMNS, Writing


class Reindexed(NamedTuple):
    """The result of a rebuild.

    Attributes:
        recovered: Number of records restored after the database's end.
        mended: Number of wrong or missing rows replaced before it.
    """

    recovered: int
    mended: int


def reindex(
    store: LogStore,
    folder: Path,
    key: VerifierKey | LogKeys,
    *,
    by: str,
    reason: str,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Reindexed:
    """Replace the rows of a database that are not what was signed.

    Args:
        store: The log's database; nothing else may write it meanwhile.
        folder: The log's files.
        key: The log's key, or its keys.
        by: The operator, for the record.
        reason: The reason, for the record.
        replace: Whether to drop records that the database's own tree has in place of signed ones.
        progress: Called now and then with how many steps are done, of how many; each record takes two.

    Returns:
        The number of replaced and restored records.

    Raises:
        IncompleteError: The files lack a record; nothing was changed.
        TamperedError: The files are not what was signed, or the database has another history; nothing was changed.
        NoteError: The checkpoint is malformed.
        StoreError: The database did not answer; run it again to continue.
    """
    work = _Work(store, folder, key)
    if not work.own and not replace:
        message = "the database's own tree is not that of the signed records"
        raise TamperedError(f"{message}: --replace drops what it has in place of them", 0, work.size - 1)
    blocks, total = work.rows.blocks, work.rows.size
    wrong: list[int] = []
    # Two passes: a rebuild that stopped halfway for a missing file would leave a database that is neither the old one
    # nor the signed one.
    for block in range(blocks):  # change nothing before every record that is needed was found in the files
        wrong += [index for index, _ in _signed(work.rows, block)]
        progress(min((block + 1) * WIDTH, total), 2 * total)
    before = [index for index in wrong if index < work.size]
    work.mend(before)
    for block in sorted({index // WIDTH for index in wrong[len(before) :]}):
        work.append(block)
        progress(total + min((block + 1) * WIDTH, total), 2 * total)
    work.finish(by, wrong, reason)
    return Reindexed(len(wrong) - len(before), len(before))


class _Work:
    """A database, and the signed files that its rows are rebuilt from.

    Attributes:
        rows: The comparison of rows and files.
        size: Number of records in the database's own tree.
        own: Whether that is the tree of the signed records, as far as it goes; the record of an earlier run may follow.
    """

    def __init__(self, store: LogStore, folder: Path, key: VerifierKey | LogKeys) -> None:
        self._store, self._head = store, fetch_from(folder)(HEAD)
        self.rows, tree = rows_of(store, folder, key), store.standing().tree
        self.size, self._last = tree.size, _last_signed(store, key)
        with store.reading() as c:
            self._accounted = read_erasures(c)
        whole = _continue(store, self.rows, tree.size, self._last)
        self._tree = whole if tree.size >= self.rows.size else self.rows.tree(tree.size)
        self.own = tree.root() == self._tree.root() or self._ends_with_note(tree)

    def _ends_with_note(self, tree: Frontier) -> bool:
        """Return whether the tree ends with unsigned records of an earlier run."""
        # An earlier run from another mint's files, which ended sooner, has recorded itself there.
        if tree.size > self.rows.size:
            return False
        end, signed = tree.size, 0 if self._last is None else self._last.size
        while end > signed and self._is_note(end - 1):
            end -= 1
        expected = self.rows.tree(end)
        expected.extend([leaf.hash for leaf in self._store.leaves(end, tree.size)])
        return expected.root() == tree.root()

    def _is_note(self, index: int) -> bool:
        row = self._store.record(index)
        return row is not None and is_event(row.kept) and read_event(row.kept, None).kind == RECOVERED

    def mend(self, wrong: Sequence[int]) -> None:
        """Replace the rows at these indices."""
        # In one transaction: a body whose row was moved is found again only while all wrong rows are at hand.
        with self._store.writing() as log:
            log.tree = self._tree
            for table in (RECORD, BATCH):  # rows after the end of the tree are not the log's
                log.connection.execute(delete(table).where(table.c.idx >= self.size))
            bodies = _take_away(log, wrong)
            for block in sorted({index // WIDTH for index in wrong}):
                for index, kept in _signed(self.rows, block):
                    if index < self.size:
                        _refile(log, index, kept, bodies.get(kept[-DIGEST_BYTES:]))

    def append(self, block: int) -> None:
        """Append the missing records of a block."""
        with self._store.writing() as log:
            # Rows that were replaced have no body, and no record names them yet: they are wrong until it does.
            signed = (kept for index, kept in _signed(self.rows, block) if index >= self.size)
            filed = [read_filed(kept, None, partial(_audience, log), Reader()) for kept in signed]
            for run, group in groupby(filed, lambda item: item[0]):
                source = log.source(*run)
                entries = [entry for _, entry in group]
                if run.verifier == LOG:  # the log's own events have no numbers: they get the next ones
                    entries = [entry._replace(sequence=n) for n, entry in enumerate(entries, source.high_water + 1)]
                log.append(source, entries)
                log.mark(source, max(source.high_water, *(entry.sequence for entry in entries)))

    def finish(self, by: str, wrong: Sequence[int], reason: str) -> None:
        """Store the files' checkpoint, unless the database has a newer one; record the rebuild; count totals again."""
        known = -1 if self._last is None else self._last.size
        with self._store.writing() as log:
            log.connection.execute(delete(CHECKPOINT).where(CHECKPOINT.c.size > known))
            if known < self.rows.size:
                signed = {"size": self.rows.size, "signed_ms": log.now_ms, "note": self._head}
                edge = b"".join(self.rows.tree(self.rows.size).edge)
                log.connection.execute(insert(CHECKPOINT).values(signed | {"edge": edge}))
            # The rebuild is recorded in the log: batches without a statement are then known as restored.
            replaced = set(wrong)
            bare = self._without_body(log.connection, replaced)
            if restored := replaced.union(bare):
                whole = {"first": min(restored), "last": max(restored), "records": len(restored)}
                for part in split_ranges(bare):
                    named = {**whole, "indexes": part}
                    log.note(make_note(RECOVERED, by, log.now_ms, named, {**named, "reason": reason}))
            rebuild(log.connection)

    def _without_body(self, c: Connection, replaced: Set[int]) -> list[int]:
        """Return the records whose bodies this run lost, and those that only a replaced record accounted for."""
        # An earlier run's record, which this one replaced, named the bodies that were lost then: without a record that
        # names them, they would look removed by hand.
        known, now = self._accounted, read_erasures(c)
        bare = c.execute(select(RECORD.c.idx).where(RECORD.c.body.is_(None)).order_by(RECORD.c.idx)).scalars()
        return [index for index in bare if index in replaced or (known.name(index) and not now.name(index))]


def _last_signed(store: LogStore, key: VerifierKey | LogKeys) -> Checkpoint | None:
    """Return the newest checkpoint of the database that the log's key signed."""
    with store.reading() as c:
        for note in c.execute(select(CHECKPOINT.c.note).order_by(CHECKPOINT.c.size.desc())).scalars():
            # A checkpoint of another key may have been written by an attacker: it must not decide which history is
            # right.
            try:
                return open_checkpoint(bytes(note), key).checkpoint
            except (NoteError, TamperedError):
                continue
    return None


def _continue(store: LogStore, rows: Rows, size: int, last: Checkpoint | None) -> Frontier:
    """Return the tree of all signed records and of the database's records after them.

    Raises:
        TamperedError: The database's checkpoint has another history, or its rows after the files do not give it.
        IncompleteError: A record is missing in the database and in the files.
    """
    tree = rows.tree(rows.size)
    # Two signed histories are a fork: replacing rows would remove the evidence.
    if last is not None and last.size <= rows.size and rows.tree(last.size).root() != last.root:
        raise TamperedError(f"the database has signed another history of {last.size} records", 0, last.size - 1)
    for end in sorted({max(rows.size, last.size if last else 0), max(rows.size, size)}):
        while tree.size < end:
            leaves = store.leaves(tree.size, end)
            if not leaves:
                raise IncompleteError(f"record {tree.size} is missing in the database and in the files")
            tree.extend([leaf.hash for leaf in leaves])
        if last is not None and tree.size == last.size > rows.size and tree.root() != last.root:
            message = f"the files end with {rows.size} records, and those behind them are not what was signed"
            raise TamperedError(message, rows.size, last.size - 1)
    return tree


def _signed(rows: Rows, block: int) -> Iterator[tuple[int, bytes]]:
    """Yield index and signed record for each row of a block that is wrong or missing.

    Raises:
        IncompleteError: The files lack the record.
        TamperedError: The files are not what was signed.
    """
    wrong = [index for index, _ in rows.wrong(block)]
    records = rows.records(block) if wrong else []
    for index in wrong:
        yield index, records[index % WIDTH]


def _take_away(log: Writing, indices: Iterable[int]) -> dict[bytes, bytes]:
    """Delete the rows at these indices, and return their bodies by digest."""
    # An attacker may only have moved rows: then a body belongs to another record, and its digest says to which.
    bodies = {}
    for index in indices:
        which = RECORD.c.idx == index
        body = log.connection.execute(select(RECORD.c.body).where(which)).scalar()
        log.connection.execute(delete(RECORD).where(which))
        if body is not None:
            bodies[sha256(body).digest()] = bytes(body)
    return bodies


def _audience(log: Writing, verifier: str, boot: str) -> str:
    which = select(SOURCE.c.audience).where(SOURCE.c.verifier == verifier, SOURCE.c.boot == boot)
    return str(log.connection.execute(which).scalar() or "")


def _refile(log: Writing, index: int, kept: bytes, body: bytes | None) -> None:
    """Insert the row of a record, with its body if the body's digest matches."""
    run, entry = read_filed(kept, body, partial(_audience, log), Reader())
    source = log.source(*run)
    if run.verifier == LOG:  # the log's own events have no numbers: the stretch gives one, or it gets the next
        entry = entry._replace(sequence=_number(log, index, source.id) or source.high_water + 1)
    row = (index, entry.at_ms, log.node_of(entry), source.id, entry.sequence, *entry[3:])
    insert_rows(log.connection, RECORD, RECORD_COLUMNS, [row])
    if _number(log, index, source.id) != entry.sequence:
        _stretch(log, index, source.id, entry)
    if entry.sequence > source.high_water:
        log.mark(source, entry.sequence)


def _number(log: Writing, index: int, source: int) -> int | None:
    """Return the sequence that a source's stretch gives to an index, or None."""
    within = (BATCH.c.source == source, BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index)
    sequence = log.connection.execute(select(BATCH.c.first + index - BATCH.c.idx).where(*within)).scalar()
    return None if sequence is None else int(sequence)


def _stretch(log: Writing, index: int, source: int, entry: LogEntry) -> None:
    """Give an index a stretch of its own, in place of any other that covers it."""
    c = log.connection
    c.execute(delete(BATCH).where(BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index))
    own = {"idx": index, "source": source, "first": entry.sequence, "last": entry.sequence, "taken_ms": log.now_ms}
    c.execute(insert(BATCH).values(own | {"since_ms": entry.at_ms, "until_ms": entry.at_ms}))
