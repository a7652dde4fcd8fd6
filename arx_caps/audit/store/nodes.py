# SPDX-License-Identifier: Apache-2.0
"""Nodes of the log's index: the database's ids of places.

``ingest.place`` defines places, and the kinds of nodes.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.place import SESSION, TASK, RecordPlace, asked_by
from arx_caps.audit.store.bulk import find_nodes, insert_rows
from arx_caps.audit.store.tables import NODE

_KEPT: Final = 1 << 16  # cached nodes, about 10 MiB


class Nodes:
    """Finds the nodes of places, and makes new ones, within one transaction."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, bytes]] = {}  # id and path by key, all of them committed
        self._new: dict[bytes, tuple[int, bytes]] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._count = self._erasures = 0

    def begin(self, count: int, erasures: int) -> None:
        """Begin a transaction, and forget the nodes of one that was rolled back.

        Args:
            count: Number of nodes in the database.
            erasures: Counter of changes of existing nodes, by any mint; a new value empties the cache.
        """
        self._new, self._rows, self._count = {}, [], count
        # A cached id may belong to a node that an erasure, perhaps by another mint, has changed.
        if erasures != self._erasures:
            self._known, self._erasures = {}, erasures

    def prepare(self, connection: Connection, places: Iterable[RecordPlace]) -> None:
        """Look up the unknown nodes of these places, and of all nodes above them, at once.

        Args:
            connection: The transaction.
            places: The places.
        """
        known, unknown = self._known, set[bytes]()
        for wanted in places:
            place, key = wanted, wanted.key
            while key not in known and key not in self._new and key not in unknown:
                unknown.add(key)
                if len(place.steps) == 1:
                    break
                place = _above(place)
                key = place.key
        if unknown:
            self._new |= find_nodes(connection, list(unknown))

    def find(self, place: RecordPlace, at_ms: int) -> int:
        """Return the node's id of a prepared place; make the node if it is new.

        Args:
            place: The place.
            at_ms: Time of its first record, ms since the Unix epoch.
        """
        key = place.key
        return (self._known.get(key) or self._new.get(key) or self._make(place, at_ms))[0]

    def flush(self, connection: Connection) -> int:
        """Insert the new nodes.

        Returns:
            The number of nodes in the database.
        """
        if self._rows:
            insert_rows(connection, NODE, _COLUMNS, self._rows)
            self._rows = []
        return self._count

    def commit(self) -> None:
        """Cache the nodes of the transaction, which was committed."""
        # Names are chosen by holders: the cache must not grow with them.
        if len(self._known) + len(self._new) > _KEPT:
            self._known.clear()
        # Only after the commit: an id of a rolled-back transaction may be given to another node.
        self._known |= self._new

    def _make(self, place: RecordPlace, at_ms: int) -> tuple[int, bytes]:
        steps = place.steps
        parent, path = None, b""
        if len(steps) > 1:
            above = _above(place)
            parent, path = self._known.get(above.key) or self._new.get(above.key) or self._make(above, at_ms)
        self._count += 1
        # Of fixed width and big-endian, so that all nodes below one are a range of the index.
        path += self._count.to_bytes(8, "big")
        refs = {step.kind: step.ref for step in steps}
        last, where = steps[-1], (refs.get(SESSION, ""), refs.get(TASK, ""), place.agent)
        texts = map(asked_by, (*last, *where))
        self._rows.append((self._count, path, place.key, parent, *texts, place.subject, 0, 0, 0, at_ms, at_ms))
        made = self._new[place.key] = (self._count, path)
        return made


def _above(place: RecordPlace) -> RecordPlace:
    return RecordPlace(place.steps[:-1], place.agent, place.subject)


_COLUMNS: Final = tuple(NODE.columns.keys())
