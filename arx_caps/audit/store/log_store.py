# SPDX-License-Identifier: Apache-2.0
"""The log's database: append batches, read leaves and records, keep checkpoints.  LOG 1, 2.

``tables`` defines the schema, ``nodes`` the ids of nodes; ``publisher`` signs checkpoints and writes files.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import delete, func, insert, inspect, select, update
from sqlalchemy.engine import Connection, Row

import arx_caps.audit.store.tables as tables
from arx_caps.audit.ingest.counts import Counts
from arx_caps.audit.ingest.entries import EVENT_CODE, Reader
from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.merkle.paths import WIDTH, Tile, hashes_in
from arx_caps.audit.merkle.tiles import Leaf, leaf_of
from arx_caps.audit.merkle.tree import Frontier, leaf_hash
from arx_caps.audit.shipping.batch import Batch
from arx_caps.audit.store.batch_queue import BatchQueue, Taking, logged
from arx_caps.audit.store.bulk import read_leaves
from arx_caps.audit.store.nodes import Nodes
from arx_caps.audit.store.tables import BATCH, CHECKPOINT, META, METADATA, NODE, PRUNED, RECORD, SOURCE, STATE, TOTAL
from arx_caps.audit.store.time_totals import rebuild
from arx_caps.audit.store.totals import add_up
from arx_caps.audit.store.transaction import Writing, tree_of
from arx_caps.database.engines import READING, database_errors, open_engine, other_version, place_of
from arx_verifier.clock import now_ms

NAME: Final = "the audit log's database"
KEEP_MS: Final = 24 * 3600 * 1000  # how long checkpoints are kept; the last one always is
_AT_ONCE: Final = 4096  # leaves in one query
# Every writer locks this row first: several mints on one PostgreSQL write one log.
_HELD: Final = select(*STATE.c).with_for_update()
MAX_BYTES: Final = 32 * 1024 * 1024  # of kept parts, the load of some seconds; with more, signing seems to have stopped
LOCK: Final = 0x617279  # advisory lock of `create`; no other code uses this number in this database


# A row that an attacker changes between commit and signing is signed as it was committed, so a later check of the row
# detects the change.  Leaves of other mints, or from before a start, are read from the database.
class Recent:
    """The log's last leaves, in order and without gaps.  Threads may share it."""

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._start = self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int, leaves: list[Leaf]) -> None:
        """Add committed leaves.

        Args:
            size: The log's size with them.
            leaves: The leaves.
        """
        with self._lock:
            if self._start + len(self._leaves) != size - len(leaves) or self._bytes > MAX_BYTES:
                # Another mint appended in between, or signing has stopped.
                self._leaves, self._start, self._bytes = [], size - len(leaves), 0
            self._leaves += leaves
            self._bytes += _bytes_of(leaves)

    def take(self, start: int, end: int) -> list[Leaf]:
        """Return the cached leaves from ``start`` to before ``end``, in order."""
        with self._lock:
            return self._leaves[start - self._start : end - self._start] if start >= self._start else []

    def forget(self, before: int) -> None:
        """Drop the leaves before an index."""
        with self._lock:
            count = max(0, before - self._start)
            self._bytes -= _bytes_of(self._leaves[:count])
            self._start += len(self._leaves[:count])
            del self._leaves[:count]


def _bytes_of(leaves: list[Leaf]) -> int:
    return sum([len(record or b"") for _, record in leaves])


class Standing(NamedTuple):
    """The state of the log.

    Attributes:
        tree: The tree of all records.
        first: Index of the first record that was not pruned.
    """

    tree: Frontier
    first: int


class LogStore:
    """The log's database, as a context manager.  Methods block: call them from a thread.

    Args:
        url: In SQLAlchemy's form: a SQLite file of its own, or the mint's PostgreSQL.

    Raises:
        SettingsError: The URL names no database that this installation can open.

    Attributes:
        counts: Counts of the records that this process appended, by outcome.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        self.counts = Counts()
        self._reader = self._engine.execution_options(**{READING: True})
        self._nodes, self._batches, self._recent, self._lock = Nodes(), Reader(), Recent(), threading.Lock()
        self._line = BatchQueue(self.writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LogStore in {place_of(self._engine)}>"

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def create(self) -> None:
        """Create the tables and indexes that are missing.

        Raises:
            SettingsError: They belong to another version.
            StoreError: The database did not answer.
        """
        if self._engine.dialect.name == "sqlite" and self._engine.url.database:
            # Mode 0600 whatever the umask: SQLite gives its other files the mode of this one.
            os.close(os.open(self._engine.url.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with database_errors(NAME), self._engine.begin() as c:
            create_tables(c)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writing]:
        """Lock the log and change it in one transaction; on an error nothing was changed.

        Raises:
            StoreError: The database did not answer.
        """
        # Records, tree and mark change together: no record is appended twice, and no acknowledged one is lost.
        with self._lock:  # `_nodes` is for one thread at a time; the row's lock keeps other processes out
            with database_errors(NAME), self._engine.begin() as c:
                row = c.execute(_HELD).one()
                writing = Writing(c, self._nodes, row, now_ms())
                yield writing
                writing.finish()
            self._nodes.commit()
            self._recent.add(writing.tree.size, writing.leaves)
        self.counts.add(writing.entries)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one state of the log, without waiting for a writer.

        Raises:
            StoreError: The database did not answer.
        """
        with database_errors(NAME), self._reader.begin() as connection:
            yield connection

    def settle(self) -> None:
        """Copy SQLite's write-ahead log into the database file, and empty it."""
        if self._engine.dialect.name == "sqlite":
            with database_errors(NAME), self._engine.connect() as c:
                c.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def take(
        self,
        batch: Batch,
        statement: str | None,
        leaves: Sequence[bytes] | None = None,
        turn: AbstractContextManager[None] | None = None,
    ) -> int:
        """Append the new records of a batch, all or none.  LOG 2.3.

        Args:
            batch: The batch, from an authenticated sender.
            statement: Its service's statement, kept with the records; None for the mint's own records.
            leaves: The hashes of its records' leaves, if the caller has them.
            turn: Entered after parsing the records, and left when the batch is queued; it may wait for another batch.

        Returns:
            The high-water mark of the run.

        Raises:
            DisputedError: The log has another record, or a loss, at the sequence of one of these.
            RequestError: A record is not what the batch says.
            StoreError: The database did not answer; nothing was appended.
        """
        taking = Taking(batch, self._batches.read(batch), statement, leaves)
        with turn or contextlib.nullcontext():
            self._line.stand(taking)
        return self._line.take(taking)

    def leaf_at(self, batch: Batch, sequence: int) -> bytes | None:
        """Return the hash of the log's leaf at a sequence of a batch's run, or None.

        Args:
            batch: A batch of the run.
            sequence: The sequence.

        Raises:
            StoreError: The database did not answer.
        """
        which = (SOURCE.c.boot == batch.boot, SOURCE.c.verifier == batch.verifier, SOURCE.c.audience == batch.audience)
        with self.reading() as c:
            source = c.execute(select(SOURCE.c.id).where(*which)).scalar()
            kept = {} if source is None else logged(c, source, sequence, sequence)
        return leaf_hash(kept[sequence]) if sequence in kept else None

    def size(self) -> int:
        """Return the number of records."""
        with self.reading() as c:
            return int(c.execute(select(STATE.c.size)).scalar_one())

    def first(self) -> int:
        """Return the index of the first record that was not pruned."""
        with self.reading() as c:
            return int(c.execute(select(STATE.c.first)).scalar_one())

    def high_water(self, verifier: str, boot: str) -> int:
        """Return the mark of a run of one of the mint's own sources, 0 if it is new.

        Args:
            verifier: The source.
            boot: The run.
        """
        which = (SOURCE.c.boot == boot, SOURCE.c.verifier == verifier, SOURCE.c.audience == "")
        with self.reading() as c:
            return int(c.execute(select(SOURCE.c.high_water).where(*which)).scalar() or 0)

    def last_of(self, verifier: str) -> int:
        """Return the highest mark of all runs of one of the mint's own sources, 0 without one.

        Args:
            verifier: The source.
        """
        which = (SOURCE.c.verifier == verifier, SOURCE.c.audience == "")
        with self.reading() as c:
            return int(c.execute(select(func.max(SOURCE.c.high_water)).where(*which)).scalar() or 0)

    def last_sent(self, audiences: Sequence[str]) -> dict[str, int]:
        """Return by service when it last shipped, ms since the Unix epoch; one that never did is left out.

        Args:
            audiences: The services.
        """
        of = (SOURCE.c.audience.in_(audiences), SOURCE.c.high_water > 0)
        which = select(SOURCE.c.audience, func.max(SOURCE.c.seen_ms)).where(*of).group_by(SOURCE.c.audience)
        with self.reading() as c:
            return {str(audience): int(at) for audience, at in c.execute(which)}

    def standing(self) -> Standing:
        """Return the state of the log."""
        with self.reading() as c:
            row = c.execute(select(*STATE.c)).one()
            return Standing(tree_of(row), int(row.first))

    def leaves(self, start: int, end: int) -> list[Leaf]:
        """Return leaves from ``start`` on, in order.

        Args:
            start: The first index.
            end: The index after the last.

        Returns:
            At least one leaf if the log has one there, but perhaps not all.

        Raises:
            TamperedError: A record in this range is missing.
            StoreError: The database did not answer.
        """
        end = min(end, start + _AT_ONCE)
        if recent := self._recent.take(start, end):
            return recent
        with self.reading() as c:
            pruned = int(c.execute(select(STATE.c.first)).scalar_one())
            if start < pruned:
                block = c.execute(select(PRUNED.c.hashes).where(PRUNED.c.block == start // WIDTH)).scalar()
                hashes = hashes_in(bytes(block or b""), Tile(0, start // WIDTH))
                return [Leaf(leaf, None) for leaf in hashes[start % WIDTH :]][: end - start]
            rows = read_leaves(c, start, end)
        leaves = []
        for index, (row_index, kept) in enumerate(rows, start):
            if row_index != index:
                raise TamperedError(f"record {index} is not in the database any more", index)
            leaves.append(leaf_of(bytes(kept)))
        return leaves

    def forget(self, before: int) -> None:
        """Drop the cached leaves before an index, which are signed and in the files."""
        self._recent.forget(before)

    def last_checkpoint(self) -> bytes | None:
        """Return the last signed checkpoint as a note, or None."""
        with self.reading() as c:
            raw = c.execute(select(CHECKPOINT.c.note).order_by(CHECKPOINT.c.size.desc()).limit(1)).scalar()
            return None if raw is None else bytes(raw)

    def stored_tree(self, size: int) -> Frontier | None:
        """Return the tree that is stored with the checkpoint of a size, or None.

        The caller compares its root with the checkpoint's.
        """
        with self.reading() as c:
            row = c.execute(select(CHECKPOINT.c.size, CHECKPOINT.c.edge).where(CHECKPOINT.c.size == size)).first()
        try:
            return None if row is None else tree_of(row)
        except TamperedError:
            return None

    def signed_ms(self) -> int | None:
        """Return when the last checkpoint was signed, ms since the Unix epoch, or None."""
        with self.reading() as c:
            at_ms = c.execute(select(CHECKPOINT.c.signed_ms).order_by(CHECKPOINT.c.size.desc()).limit(1)).scalar()
            return None if at_ms is None else int(at_ms)

    def put_checkpoint(self, size: int, note: bytes, edge: Sequence[bytes] = ()) -> bool:
        """Store a checkpoint before it is published.

        Args:
            size: Its size.
            note: The signed note.
            edge: The edge of its tree.

        Returns:
            Whether it is larger than the last one; if not, it was not stored, and must not be published.
        """
        with self.writing() as log:
            c = log.connection
            add_up(c, log.counted, log.tree.size)
            last = c.execute(select(func.max(CHECKPOINT.c.size))).scalar()
            if last is not None and last >= size:
                return False
            c.execute(insert(CHECKPOINT).values(size=size, signed_ms=log.now_ms, note=note, edge=b"".join(edge)))
            c.execute(delete(CHECKPOINT).where(CHECKPOINT.c.signed_ms < log.now_ms - KEEP_MS, CHECKPOINT.c.size < size))
            return True

    def cosign(self, size: int, note: bytes) -> None:
        """Replace a stored checkpoint's note by one with cosignatures."""
        with self.writing() as log:
            log.connection.execute(update(CHECKPOINT).where(CHECKPOINT.c.size == size).values(note=note))

    def find(self, boot: str, sequence: int, verifier: str | None = None) -> list[int]:
        """Return the indices of the records that a decision's id names.

        It is one index, unless two services use the same run id.

        Args:
            boot: The run.
            sequence: The sequence in it.
            verifier: The verifier, to select one of several.
        """
        within = [SOURCE.c.boot == boot, BATCH.c.first <= sequence, BATCH.c.last >= sequence]
        within += [] if verifier is None else [SOURCE.c.verifier == verifier]
        wanted = select(BATCH.c.idx + sequence - BATCH.c.first).join(SOURCE, SOURCE.c.id == BATCH.c.source)
        with self.reading() as c:
            return [int(index) for index in c.execute(wanted.where(*within)).scalars()]

    def record(self, index: int) -> Row[Any] | None:
        """Return a row of ``log_record``; None if it never existed or was pruned."""
        with self.reading() as c:
            return c.execute(select(*RECORD.c).where(RECORD.c.idx == index)).first()

    def events(self, kinds: Sequence[str]) -> Iterator[Row[Any]]:
        """Yield the rows of all events of some kinds, in order; those that were pruned are left out."""
        last = -1
        while True:
            wanted = select(*RECORD.c).where(RECORD.c.tool.in_(kinds), RECORD.c.code == EVENT_CODE, RECORD.c.idx > last)
            with self.reading() as c:
                rows = c.execute(wanted.order_by(RECORD.c.idx).limit(_AT_ONCE)).all()
            yield from rows
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1].idx

    def node(self, kind: str, ref: str) -> list[Row[Any]]:
        """Return the nodes with a kind and ref, such as ``link`` and a link; most often one."""
        with self.reading() as c:
            return list(c.execute(select(*NODE.c).where(NODE.c.kind == kind, NODE.c.ref == ref).order_by(NODE.c.id)))


def create_tables(connection: Connection) -> None:
    """Create the log's tables and indexes that are missing, in an open transaction.

    Raises:
        SettingsError: They belong to another version.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    had = inspect(connection).get_table_names()
    if META.name not in had:
        METADATA.create_all(connection)
        connection.execute(insert(META).values(name="schema", value=tables.SCHEMA))
        connection.execute(insert(STATE).values(id=1, size=0, edge=b"", nodes=0, first=0, counted=0, erasures=0))
    schema = connection.execute(select(META.c.value).where(META.c.name == "schema")).scalar()
    if schema != tables.SCHEMA:
        raise other_version(f"{NAME} is of schema", str(schema), tables.SCHEMA)
    if META.name in had:
        if TOTAL.name not in had:  # a log from before there were totals over time
            TOTAL.create(connection)
            rebuild(connection)
        _make_indexes(connection)


def _make_indexes(connection: Connection) -> None:
    """Make the indexes that a log of an earlier version does not have, or has with other columns."""
    # Without them its questions are answered as well, but a page takes seconds.
    inspector = inspect(connection)
    for table in METADATA.sorted_tables:
        had = {index["name"]: index["column_names"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if had.get(index.name) != index.columns.keys():
                index.drop(connection, checkfirst=True)
                index.create(connection)
