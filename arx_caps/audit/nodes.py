# SPDX-License-Identifier: Apache-2.0
"""Whom a record is about: the way from a session down to the hand-over that called, and how it is found again.

A node is known by everything from its root to itself, names included: what two services say of one session under two
agents is two trees, and nobody can write himself into another one's.  Kinds of nodes, each with its ``ref``:

* ``session`` (its id), and below it ``task`` (its id), ``link`` (the hand-over's public name), ``subtask`` (its id);
* ``holder`` without a session: ``operator:alice`` or ``agent:acme/bot``;
* ``service`` (its audience), for what was not proven and for what is missing;
* ``mint`` (empty), for what concerns nobody else.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import bindparam, case, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.audit.tables import ALLOW, DENY, NODE
from arx_verifier.records import Facts
from arx_verifier.scopes import subject_scope

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


class Place(NamedTuple):
    """Whom a record is about.

    Attributes:
        steps: From the root down, at least one.
        agent: The agent or, as ``operator:<id>``, the operator; empty where nobody is known.
        subject: The scope of whom it was for, or None.
    """

    steps: tuple[Step, ...]
    agent: str = ""
    subject: str | None = None


def place_of(facts: Facts, subject: tuple[str, str] | None, audience: str) -> Place:
    """Return whom a decision is about.

    Args:
        facts: Its chain.
        subject: Issuer and subject, or None.
        audience: The service that sent it.
    """
    scope = None if subject is None else subject_scope(*subject)
    if not facts.session:
        if not facts.agent:
            return Place((Step(SERVICE, audience, audience),))
        ref = facts.agent if ":" in facts.agent else f"agent:{facts.agent}"
        return Place((Step(HOLDER, ref, facts.agent),), facts.agent, scope)
    steps = [Step(SESSION, facts.session, facts.agent)]
    if facts.task is not None:
        steps.append(Step(TASK, facts.task, facts.agent))
    steps += [Step(LINK, link, name) for name, link in zip(facts.named, facts.links, strict=False)]
    steps += [Step(SUBTASK, task, task) for task in facts.tasks]
    return Place(tuple(steps), facts.agent, scope)


class Nodes:
    """Finds the nodes of places, and makes those that are new; within one transaction."""

    def __init__(self) -> None:
        self._known: dict[Place, tuple[int, bytes]] = {}  # id and path, all of them committed
        self._new: dict[Place, tuple[int, bytes]] = {}
        self._rows: list[dict[str, Any]] = []
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

    def find(self, connection: Connection, place: Place, at_ms: int) -> int:
        """Return the id of a place's node."""
        found = self._known.get(place) or self._new.get(place) or self._look(connection, place, at_ms)
        return found[0]

    def flush(self, connection: Connection, seen: Iterable[tuple[int, int, int]]) -> int:
        """Write the new nodes and add to the totals of those that were seen.

        Args:
            connection: The transaction.
            seen: Node, outcome and time of each record.

        Returns:
            How many nodes there are.
        """
        if self._rows:
            connection.execute(insert(NODE), self._rows)
            self._rows = []
        totals: dict[int, list[int]] = {}
        for node, outcome, at_ms in seen:
            total = totals.get(node)
            if total is None:
                total = totals[node] = [0, 0, 0, at_ms, at_ms]
            total[0 if outcome == ALLOW else 1 if outcome == DENY else 2] += 1
            if at_ms < total[3]:
                total[3] = at_ms
            elif at_ms > total[4]:
                total[4] = at_ms
        rows = [dict(zip(_TOTALS, (node, *total), strict=True)) for node, total in sorted(totals.items())]
        if rows:
            connection.execute(_ADD, rows)
        return self._count

    def commit(self) -> None:
        """Remember what the transaction found; it was committed."""
        if len(self._known) + len(self._new) > _KEPT:
            self._known.clear()
        self._known |= self._new

    def _look(self, connection: Connection, place: Place, at_ms: int) -> tuple[int, bytes]:
        key = sha256(msgspec.msgpack.encode(place)).digest()
        row = connection.execute(select(NODE.c.id, NODE.c.path).where(NODE.c.key == key)).first()
        found = (row.id, row.path) if row is not None else self._make(connection, place, key, at_ms)
        self._new[place] = found
        return found

    def _make(self, connection: Connection, place: Place, key: bytes, at_ms: int) -> tuple[int, bytes]:
        steps = place.steps
        parent, path = None, b""
        if len(steps) > 1:
            above = place._replace(steps=steps[:-1])
            parent, path = self._known.get(above) or self._new.get(above) or self._look(connection, above, at_ms)
        self._count += 1
        path += self._count.to_bytes(8, "big")
        kind, ref, name = steps[-1]
        refs = {step.kind: step.ref for step in steps}
        row = {"id": self._count, "path": path, "key": key, "parent": parent, "kind": kind, "ref": ref, "name": name}
        row |= {"session": refs.get(SESSION, ""), "task": refs.get(TASK, ""), "agent": place.agent}
        row |= {"subject": place.subject, "allow": 0, "deny": 0, "other": 0, "first_ms": at_ms, "last_ms": at_ms}
        self._rows.append(row)
        return self._count, path


_TOTALS: Final = ("b_node", "b_allow", "b_deny", "b_other", "b_first", "b_last")


def _least(column: Any, value: Any, *, most: bool) -> Any:
    return case((column < value if most else column > value, value), else_=column)


_ADD: Final = (
    update(NODE)
    .where(NODE.c.id == bindparam("b_node"))
    .values(
        allow=NODE.c.allow + bindparam("b_allow"),
        deny=NODE.c.deny + bindparam("b_deny"),
        other=NODE.c.other + bindparam("b_other"),
        first_ms=_least(NODE.c.first_ms, bindparam("b_first", type_=NODE.c.first_ms.type), most=False),
        last_ms=_least(NODE.c.last_ms, bindparam("b_last", type_=NODE.c.last_ms.type), most=True),
    )
)
