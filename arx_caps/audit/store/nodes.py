# SPDX-License-Identifier: Apache-2.0
"""Nodes of the log's index: a record's path from its session down to the calling delegation, and its database id.

Kinds of nodes, each with its ``ref``:

* ``session`` (its id), and below it ``task`` (its id), ``link`` (the delegation's public name), ``subtask`` (its id);
* ``holder`` without a session: ``operator:alice`` or ``agent:acme/bot``;
* ``service`` (its audience), for unauthenticated calls and for lost records;
* ``mint`` (empty), for everything else.
"""

from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy.engine import Connection

from arx_caps.audit.store.bulk import find_nodes, insert_rows
from arx_caps.audit.store.tables import NODE, asked_by
from arx_verifier.journal import Facts
from arx_verifier.token import subject_target

SESSION: Final = "session"
TASK: Final = "task"
LINK: Final = "link"
SUBTASK: Final = "subtask"
HOLDER: Final = "holder"
SERVICE: Final = "service"
MINT: Final = "mint"
_KEPT: Final = 1 << 16  # cached nodes, about 10 MiB


class Step(NamedTuple):
    """One node of a path: its kind, its search key, and its name for people."""

    kind: str
    ref: str
    name: str


# The key covers the whole path, names included: records of two services about one session under two agents make two
# trees, so that no service can write itself into another agent's tree.
class Place(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """The path of a record's node.

    Attributes:
        steps: From the root down, at least one.
        agent: The agent or, as ``operator:<id>``, the operator; empty if unknown.
        subject: The target of the subject, or None.
    """

    steps: tuple[Step, ...]
    agent: str = ""
    subject: str | None = None

    @cached_property
    def key(self) -> bytes:
        """The node's key in the database."""
        # Computed at the first use: all records of a chain share their place.
        return sha256(msgspec.msgpack.encode(self)).digest()


def place_of(facts: Facts, subject: tuple[str, str] | None, audience: str) -> Place:
    """Return the place of a decision.

    Args:
        facts: The facts of its chain.
        subject: Issuer and subject, or None.
        audience: The service that sent the decision.
    """
    target = None if subject is None else subject_target(*subject)
    if not facts.session:
        if not facts.agent:
            return Place((Step(SERVICE, audience, audience),))
        ref = facts.agent if ":" in facts.agent else f"agent:{facts.agent}"
        return Place((Step(HOLDER, ref, facts.agent),), facts.agent, target)
    steps = [Step(SESSION, facts.session, facts.agent)]
    if facts.task is not None:
        steps.append(Step(TASK, facts.task, facts.agent))
    steps += [Step(LINK, link, name) for name, link in zip(facts.named, facts.links, strict=False)]
    steps += [Step(SUBTASK, task, task) for task in facts.tasks]
    return Place(tuple(steps), facts.agent, target)


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
        if erasures != self._erasures:
            self._known, self._erasures = {}, erasures

    def prepare(self, connection: Connection, places: Iterable[Place]) -> None:
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

    def find(self, place: Place, at_ms: int) -> int:
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
        if len(self._known) + len(self._new) > _KEPT:
            self._known.clear()
        self._known |= self._new

    def _make(self, place: Place, at_ms: int) -> tuple[int, bytes]:
        steps = place.steps
        parent, path = None, b""
        if len(steps) > 1:
            above = _above(place)
            parent, path = self._known.get(above.key) or self._new.get(above.key) or self._make(above, at_ms)
        self._count += 1
        path += self._count.to_bytes(8, "big")
        refs = {step.kind: step.ref for step in steps}
        last, where = steps[-1], (refs.get(SESSION, ""), refs.get(TASK, ""), place.agent)
        texts = map(asked_by, (*last, *where))
        self._rows.append((self._count, path, place.key, parent, *texts, place.subject, 0, 0, 0, at_ms, at_ms))
        made = self._new[place.key] = (self._count, path)
        return made


def _above(place: Place) -> Place:
    return Place(place.steps[:-1], place.agent, place.subject)


_COLUMNS: Final = tuple(NODE.columns.keys())
