# SPDX-License-Identifier: Apache-2.0
"""Make the database's rows again from the signed files: those that are missing, edited, moved or removed.  SPEC 17.10.

An operator restores a backup: what was signed since is missing, and a log that went on from there would contradict its
own signatures.  The files have every record that was signed, without its body.  They are taken only where they give the
signed root; what they cannot give, or a database that has signed something else, is refused before anything is changed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import delete, insert, select

from arx_caps.audit.bulk import insert_rows
from arx_caps.audit.check import DIGEST_BYTES, Rows, read_filed, rows_of
from arx_caps.audit.checkpoint import Checkpoint, open_checkpoint
from arx_caps.audit.entries import LOG, RECOVERED, Entry, Reader, is_event, make_note, read_event
from arx_caps.audit.errors import IncompleteError, NoteError, TamperedError
from arx_caps.audit.note import VerifierKey
from arx_caps.audit.paths import CHECKPOINT as HEAD
from arx_caps.audit.paths import WIDTH
from arx_caps.audit.store import LogStore
from arx_caps.audit.tables import BATCH, CHECKPOINT, RECORD, SOURCE
from arx_caps.audit.tiles import fetch_from
from arx_caps.audit.tree import Frontier
from arx_caps.audit.writing import RECORD_COLUMNS, Writing


class Reindexed(NamedTuple):
    """What was done.

    Attributes:
        recovered: How many records were missing behind the database's end.
        mended: How many rows were wrong or missing before it.
    """

    recovered: int
    mended: int


def reindex(
    store: LogStore,
    folder: Path,
    key: VerifierKey,
    *,
    by: str,
    reason: str,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Reindexed:
    """Make the rows of a database again that are not as they were signed.

    Args:
        store: The log's database; nothing else writes it meanwhile.
        folder: The log's files.
        key: The log's key.
        by: The operator.
        reason: Why; both are recorded.
        replace: Whether records that the database has in place of signed ones may go, though its own tree has them.
        progress: Called now and then with how many records are looked at, of how many.

    Raises:
        IncompleteError: The files lack a record; nothing was changed.
        TamperedError: The files are not what was signed, or the database has a history of its own; nothing was changed.
        NoteError: There is no checkpoint of this log.
        StoreError: The database did not answer; the same command goes on.
    """
    work = _Work(store, folder, key)
    if not work.own and not replace:
        told = "the database's own tree is not that of the records that were signed: it went its own way"
        raise TamperedError(f"{told} (--replace drops what it has in place of them)", 0, work.size - 1)
    blocks, total = work.rows.blocks, work.rows.size
    wrong: list[int] = []
    for block in range(blocks):  # first that all can be had
        wrong += [index for index, _ in _signed(work.rows, block)]
        progress(min((block + 1) * WIDTH, total), 2 * total)
    before = [index for index in wrong if index < work.size]
    work.mend(before)
    for block in sorted({index // WIDTH for index in wrong[len(before) :]}):
        work.append(block)
        progress(total + min((block + 1) * WIDTH, total), 2 * total)
    named = {"first": min(wrong), "last": max(wrong), "records": len(wrong)} if wrong else {}
    work.finish(by, named, reason)
    return Reindexed(len(wrong) - len(before), len(before))


class _Work:
    """A database, and the signed files that its rows are made of.

    Attributes:
        rows: The rows, beside the files.
        size: How many records the database's own tree has.
        own: Whether that is the tree of the signed records, as far as it goes; an earlier run may stand at its end.
    """

    def __init__(self, store: LogStore, folder: Path, key: VerifierKey) -> None:
        self._store, self._head = store, fetch_from(folder)(HEAD)
        self.rows, tree = rows_of(store, folder, key), store.standing().tree
        self.size, self._last = tree.size, _last_signed(store, key)
        whole = _continue(store, self.rows, tree.size, self._last)
        self._tree = whole if tree.size >= self.rows.size else self.rows.tree(tree.size)
        self.own = tree.root() == self._tree.root() or self._ends_with_note(tree)

    def _ends_with_note(self, tree: Frontier) -> bool:
        """Tell whether the one unsigned record is that of an earlier run, from another mint's files that end sooner."""
        end = tree.size - 1
        signed = 0 if self._last is None else self._last.size
        row = self._store.record(end) if signed <= end < self.rows.size else None
        if row is None or not is_event(row.kept) or read_event(row.kept, None).kind != RECOVERED:
            return False
        found = self.rows.tree(end)
        found.extend([leaf.hash for leaf in self._store.leaves(end, tree.size)])
        return found.root() == tree.root()

    def mend(self, found: Sequence[int]) -> None:
        """File records anew whose rows are wrong; in one transaction, as bodies may only have been moved."""
        with self._store.writing() as log:
            log.tree = self._tree
            for table in (RECORD, BATCH):  # what is behind the end of the tree is not the log's
                log.connection.execute(delete(table).where(table.c.idx >= self.size))
            bodies = _take_away(log, found)
            for block in sorted({index // WIDTH for index in found}):
                for index, kept in _signed(self.rows, block):
                    if index < self.size:
                        _refile(log, index, kept, bodies.get(kept[-DIGEST_BYTES:]))

    def append(self, block: int) -> None:
        """File the missing records of a block behind the last one."""
        with self._store.writing() as log:
            found = [read_filed(kept, None, partial(_audience, log), Reader()) for _, kept in _signed(self.rows, block)]
            for run, group in groupby(found, lambda item: item[0]):
                source = log.source(*run)
                entries = [entry for _, entry in group]
                if run.verifier == LOG:  # what the log says of itself is numbered where it stands
                    entries = [entry._replace(sequence=n) for n, entry in enumerate(entries, source.high_water + 1)]
                log.append(source, entries)
                log.mark(source, max(source.high_water, *(entry.sequence for entry in entries)))

    def finish(self, by: str, named: Mapping[str, int], reason: str) -> None:
        """Store the checkpoint of the files, unless there is a newer one, and record what was done."""
        known = -1 if self._last is None else self._last.size
        with self._store.writing() as log:
            log.connection.execute(delete(CHECKPOINT).where(CHECKPOINT.c.size > known))
            if known < self.rows.size:
                signed = {"size": self.rows.size, "signed_ms": log.now_ms, "note": self._head}
                edge = b"".join(self.rows.tree(self.rows.size).edge)
                log.connection.execute(insert(CHECKPOINT).values(signed | {"edge": edge}))
            if named:
                log.note(make_note(RECOVERED, by, log.now_ms, named, {**named, "reason": reason}))


def _last_signed(store: LogStore, key: VerifierKey) -> Checkpoint | None:
    """Return the newest checkpoint of the database that the log's key signed."""
    with store.reading() as c:
        for note in c.execute(select(CHECKPOINT.c.note).order_by(CHECKPOINT.c.size.desc())).scalars():
            try:
                return open_checkpoint(bytes(note), key).checkpoint
            except (NoteError, TamperedError):
                continue
    return None


def _continue(store: LogStore, rows: Rows, size: int, last: Checkpoint | None) -> Frontier:
    """Return the tree of all signed records and those of the database behind them, in which its checkpoint stands.

    Raises:
        TamperedError: The database's checkpoint is of another history, or its rows behind the files do not give it.
    """
    tree, told = rows.tree(rows.size), "the database has signed another history"
    if last is not None and last.size <= rows.size and rows.tree(last.size).root() != last.root:
        raise TamperedError(f"{told} of {last.size} records", 0, last.size - 1)
    for end in sorted({max(rows.size, last.size if last else 0), max(rows.size, size)}):
        while tree.size < end:
            leaves = store.leaves(tree.size, end)
            if not leaves:
                raise IncompleteError(f"record {tree.size} is missing in the database and in the files")
            tree.extend([leaf.hash for leaf in leaves])
        if last is not None and tree.size == last.size > rows.size and tree.root() != last.root:
            told = f"the files end with {rows.size} records, and those behind them are not what was signed"
            raise TamperedError(told, rows.size, last.size - 1)
    return tree


def _signed(rows: Rows, block: int) -> Iterator[tuple[int, bytes]]:
    """Yield the signed record for each row of a block that is wrong or missing.

    Raises:
        IncompleteError: The files lack it.
        TamperedError: What the files have is not what was signed.
    """
    wrong = [index for index, _ in rows.wrong(block)]
    records = rows.records(block) if wrong else []
    for index in wrong:
        yield index, records[index % WIDTH]


def _take_away(log: Writing, found: Iterable[int]) -> dict[bytes, bytes]:
    """Take the rows away, and return their bodies by digest: some may only have been moved."""
    bodies = {}
    for index in found:
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
    """File a record anew: with its body where that is still the one it names."""
    run, entry = read_filed(kept, body, partial(_audience, log), Reader())
    source = log.source(*run)
    if run.verifier == LOG:  # what the log says of itself has the number of its stretch, or the next one
        entry = entry._replace(sequence=_number(log, index, source.id) or source.high_water + 1)
    row = (index, entry.at_ms, log.node_of(entry), source.id, entry.sequence, *entry[3:])
    insert_rows(log.connection, RECORD, RECORD_COLUMNS, [row])
    if _number(log, index, source.id) != entry.sequence:
        _stretch(log, index, source.id, entry)
    if entry.sequence > source.high_water:
        log.mark(source, entry.sequence)


def _number(log: Writing, index: int, source: int) -> int | None:
    """Return the number that the stretch of a source gives to an index."""
    within = (BATCH.c.source == source, BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index)
    found = log.connection.execute(select(BATCH.c.first + index - BATCH.c.idx).where(*within)).scalar()
    return None if found is None else int(found)


def _stretch(log: Writing, index: int, source: int, entry: Entry) -> None:
    """Give an index a stretch of its own, in place of any that has it otherwise."""
    c = log.connection
    c.execute(delete(BATCH).where(BATCH.c.idx <= index, BATCH.c.idx + BATCH.c.last - BATCH.c.first >= index))
    own = {"idx": index, "source": source, "first": entry.sequence, "last": entry.sequence, "taken_ms": log.now_ms}
    c.execute(insert(BATCH).values(own | {"since_ms": entry.at_ms, "until_ms": entry.at_ms}))
