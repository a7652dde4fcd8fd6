# SPDX-License-Identifier: Apache-2.0
"""One transaction of the log: append records, make nodes, move high-water marks.  LOG 1, 2."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.engine import Connection, Row

from arx_caps.audit.ingest.entries import LogEntry
from arx_caps.audit.merkle.tiles import Leaf, make_leaf
from arx_caps.audit.merkle.tree import HASH_BYTES, Frontier, leaf_hash
from arx_caps.audit.store.bulk import insert_rows
from arx_caps.audit.store.nodes import Nodes
from arx_caps.audit.store.tables import BATCH, RECORD, SOURCE, STATE

# Built once: they are the same for each batch, and building them takes as long as executing them.
_SOURCE_OF: Final = select(*SOURCE.c).where(
    SOURCE.c.boot == bindparam("boot"),
    SOURCE.c.verifier == bindparam("verifier"),
    SOURCE.c.audience == bindparam("audience"),
)
_MARK: Final = update(SOURCE).where(SOURCE.c.id == bindparam("which"))
_ADD_BATCH: Final = insert(BATCH)
_SET_STATE: Final = update(STATE)
RECORD_COLUMNS: Final = ("idx", "at_ms", "node", "source", "sequence", "outcome", "code", "tool", "kept", "body")


class Source(NamedTuple):
    """A row of ``tables.SOURCE``: how far the records of one run are in the log."""

    id: int
    verifier: str
    boot: str
    audience: str
    high_water: int
    lost: int
    seen_ms: int
    closed_ms: int | None


class Writing:
    """An open transaction that holds the log's lock.

    Attributes:
        connection: The transaction.
        now_ms: Its start, ms since the Unix epoch.
        tree: The tree with the records appended so far.
        leaves: The leaves appended so far.
        entries: The entries appended so far.
        first: Index of the first record that was not pruned.
        counted: Index of the first record that is in no node's totals.
    """

    def __init__(self, connection: Connection, nodes: Nodes, row: Row[Any], now_ms: int) -> None:
        self.connection, self.now_ms = connection, now_ms
        self.tree = tree_of(row)
        self.leaves: list[Leaf] = []
        self.entries: list[LogEntry] = []
        self._nodes, self._before, self._count = nodes, self.tree.edge, row.nodes
        self.first, self.counted = int(row.first), int(row.counted)
        nodes.begin(row.nodes, row.erasures)

    def source(self, verifier: str, boot: str, audience: str = "") -> Source:
        """Return a source, and insert it if it is new.

        Args:
            verifier: The verifier's id.
            boot: The run.
            audience: The service; empty for the mint's own sources.
        """
        run: dict[str, Any] = {"verifier": verifier, "boot": boot, "audience": audience}
        row = self.connection.execute(_SOURCE_OF, run).first()
        if row is None:
            self.connection.execute(insert(SOURCE), run | {"high_water": 0, "lost": 0, "seen_ms": self.now_ms})
            row = self.connection.execute(_SOURCE_OF, run).one()
        return Source(*row)

    def append(
        self,
        source: Source,
        entries: Sequence[LogEntry],
        statement: bytes | None = None,
        leaves: Sequence[bytes] | None = None,
    ) -> int:
        """Append records of one source, in order.

        Args:
            source: The source.
            entries: At least one, with rising sequences.
            statement: The statement that their service signed.
            leaves: The hashes of their leaves, if the caller has them.

        Returns:
            The index of the first.
        """
        connection, nodes = self.connection, self._nodes
        # A chain's records share their place: each place is looked up once, in their order, with its first time.
        places: dict[int, LogEntry] = {}
        for entry in entries:
            places.setdefault(id(entry[2]), entry)
        nodes.prepare(connection, [entry[2] for entry in places.values()])
        node_ids = {which: nodes.find(entry[2], entry[1]) for which, entry in places.items()}
        first, whose = self.tree.size, source.id
        # As bytearrays: SQLite's driver first looks for an adapter of bytes, which takes longer.
        rows = [
            (
                index,
                at_ms,
                node_ids[id(place)],
                whose,
                sequence,
                outcome,
                code,
                tool,
                bytearray(kept),
                body and bytearray(body),
            )
            for index, (sequence, at_ms, place, outcome, code, tool, kept, body) in enumerate(entries, first)
        ]
        self._count = nodes.flush(connection)
        insert_rows(connection, RECORD, RECORD_COLUMNS, rows)
        self._grow(entries, leaves or [leaf_hash(entry.kept) for entry in entries])
        common: dict[str, Any] = {"source": whose, "taken_ms": self.now_ms, "statement": statement}
        connection.execute(_ADD_BATCH, [common | stretch for stretch in _stretches(first, entries)])
        return first

    def _grow(self, entries: Sequence[LogEntry], leaves: Sequence[bytes]) -> None:
        self.tree.extend(leaves)
        self.entries += entries
        self.leaves += map(make_leaf, zip(leaves, [entry[6] for entry in entries], strict=True))

    def node_of(self, entry: LogEntry) -> int:
        """Return the id of an entry's node, and insert the node if it is new; its totals stay."""
        self._nodes.prepare(self.connection, [entry.place])
        node = self._nodes.find(entry.place, entry.at_ms)
        self._count = self._nodes.flush(self.connection)
        return node

    def note(self, entry: LogEntry) -> None:
        """Append a record about the log itself, with the source's next sequence."""
        source = self.source("log", "")
        self.append(source, [entry._replace(sequence=source.high_water + 1)])
        self.mark(source, source.high_water + 1)

    def last_of(self, verifier: str) -> int:
        """Return the highest mark of all runs of a verifier, 0 without one."""
        highest = select(func.max(SOURCE.c.high_water)).where(SOURCE.c.verifier == verifier)
        return int(self.connection.execute(highest).scalar() or 0)

    def mark(self, source: Source, high_water: int, *, lost: int = 0, closed: bool = False) -> None:
        """Set a source's high-water mark.

        Args:
            source: The source.
            high_water: The new mark.
            lost: Number of newly lost records.
            closed: Whether the run has ended in order.
        """
        values: dict[str, Any] = {"high_water": high_water, "lost": source.lost + lost, "seen_ms": self.now_ms}
        if closed:
            values["closed_ms"] = self.now_ms
        self.connection.execute(_MARK, values | {"which": source.id})

    def finish(self) -> None:
        """Write the tree's state; ``LogStore.writing`` calls it last."""
        if self.tree.edge != self._before:
            values = {"size": self.tree.size, "edge": b"".join(self.tree.edge), "nodes": self._count}
            self.connection.execute(_SET_STATE, values)


def tree_of(row: Any) -> Frontier:
    """Return the tree in a row of ``log_state``.

    Raises:
        TamperedError: The edge is not one of a tree of this size.
    """
    edge = bytes(row.edge or b"")
    return Frontier(row.size, (edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES)))


def _stretches(index: int, entries: Sequence[LogEntry]) -> Iterator[dict[str, int]]:
    """Yield the parts of the appended records that have consecutive sequences; most often it is one."""
    start = 0
    whole = entries[-1].sequence - entries[0].sequence == len(entries) - 1
    for end in (len(entries),) if whole else range(1, len(entries) + 1):
        if end == len(entries) or entries[end].sequence != entries[end - 1].sequence + 1:
            part = entries[start:end]
            times = [entry[1] for entry in part]
            stretch = {"idx": index + start, "first": part[0].sequence, "last": part[-1].sequence}
            yield stretch | {"since_ms": min(times), "until_ms": max(times)}
            start = end
