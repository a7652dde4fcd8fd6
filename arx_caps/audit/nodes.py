# SPDX-License-Identifier: Apache-2.0
"""Whom a record is about: the way from a session down to the delegation that called, and how it is found again.

A node is known by everything from its root to itself, names included: what two services say of one session under two
agents is two trees, and nobody can write himself into another one's.  Kinds of nodes, each with its ``ref``:

* ``session`` (its id), and below it ``task`` (its id), ``link`` (the delegation's public name), ``subtask`` (its id);
* ``holder`` without a session: ``operator:alice`` or ``agent:acme/bot``;
* ``service`` (its audience), for what was not proven and for what is missing;
* ``mint`` (empty), for what concerns nobody else.
"""

from collections.abc import Iterable
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy.engine import Connection

from arx_caps.audit.bulk import find_nodes, insert_rows
from arx_caps.audit.tables import NODE, asked_by
from arx_verifier.journal.record import Facts
from arx_verifier.token.targets import subject_target

SESSION: Final = "session"
TASK: Final = "task"
LINK: Final = "link"
SUBTASK: Final = "subtask"
HOLDER: Final = "holder"
SERVICE: Final = "service"
MINT: Final = "mint"
_KEPT: Final = 1 << 16  # nodes that are remembered, about 10 MiB


class Step(NamedTuple):
    """One node of a way: its kind, what it is asked for by, and its name for people."""

    kind: str
    ref: str
    name: str


class Place(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """Whom a record is about.

    Attributes:
        steps: From the root down, at least one.
        agent: The agent or, as ``operator:<id>``, the operator; empty where nobody is known.
        subject: The target of whom it was for, or None.
    """

    steps: tuple[Step, ...]
    agent: str = ""
    subject: str | None = None

    @cached_property
    def key(self) -> bytes:
        """What its node is found by, made at the first use: a chain's records share their place."""
        return sha256(msgspec.msgpack.encode(self)).digest()


def place_of(facts: Facts, subject: tuple[str, str] | None, audience: str) -> Place:
    """Return whom a decision is about.

    Args:
        facts: Its chain.
        subject: Issuer and subject, or None.
        audience: The service that sent it.
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
    """Finds the nodes of places, and makes those that are new; within one transaction."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, bytes]] = {}  # id and path by key, all of them committed
        self._new: dict[bytes, tuple[int, bytes]] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._count = self._erasures = 0

    def begin(self, count: int, erasures: int) -> None:
        """Begin a transaction; what an undone one found is forgotten.

        Args:
            count: How many nodes there are.
            erasures: How often nodes were changed, by whomever.
        """
        self._new, self._rows, self._count = {}, [], count
        if erasures != self._erasures:
            self._known, self._erasures = {}, erasures

    def prepare(self, connection: Connection, places: Iterable[Place]) -> None:
        """Look up those of these places, and of all above them, that are not known yet: at once."""
        known, unknown = self._known, set[bytes]()
        for each in places:
            place, key = each, each.key
            while key not in known and key not in self._new and key not in unknown:
                unknown.add(key)
                if len(place.steps) == 1:
                    break
                place = _above(place)
                key = place.key
        if unknown:
            self._new |= find_nodes(connection, list(unknown))

    def find(self, place: Place, at_ms: int) -> int:
        """Return the id of the node of a place that was prepared; one that is not there is made."""
        key = place.key
        return (self._known.get(key) or self._new.get(key) or self._make(place, at_ms))[0]

    def flush(self, connection: Connection) -> int:
        """Write the new nodes; return how many there are."""
        if self._rows:
            insert_rows(connection, NODE, _COLUMNS, self._rows)
            self._rows = []
        return self._count

    def commit(self) -> None:
        """Remember what the transaction found; it was committed."""
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
