# SPDX-License-Identifier: Apache-2.0
"""Totals of nodes: added up at each checkpoint; newer records are counted at each query."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, case, func, literal_column, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.sql.expression import bindparam

from arx_caps.audit.ingest.entries import ALLOW, DENY
from arx_caps.audit.store.tables import NODE, RECORD, STATE
from arx_caps.audit.store.time_totals import add_times

STRIDE: Final = 50_000  # records in one statement


class Counted(NamedTuple):
    """A row of ``log_node`` with its totals up to the log's last record."""

    id: int
    path: bytes
    key: bytes
    parent: int | None
    kind: str
    ref: str
    name: str
    session: str
    task: str
    agent: str
    subject: str | None
    allow: int
    deny: int
    other: int
    first_ms: int
    last_ms: int


def add_up(connection: Connection, start: int, end: int) -> None:
    """Add records to the totals of their nodes and of their time; the caller has locked the log.

    Args:
        connection: The transaction.
        start: Index of the first record that is in no total.
        end: Index after the last record to add.
    """
    for at in range(start, end, STRIDE):
        some = {"start": at, "end": min(at + STRIDE, end)}
        connection.execute(_ADD, some)
        add_times(connection, **some)
    if end > start:
        connection.execute(update(STATE).values(counted=end))


def up_to_date(connection: Connection, rows: Sequence[Row[Any]]) -> list[Counted]:
    """Return nodes with their totals up to the log's last record.

    Args:
        connection: A transaction that reads the log.
        rows: Rows of ``log_node``.
    """
    # Both in one query: a checkpoint between two would count some records twice, or not at all.
    start, end = connection.execute(select(STATE.c.counted, STATE.c.size)).one()
    # Members of a database's row are looked up by name, which takes long for thousands of nodes.
    nodes = [Counted._make(row) for row in rows]
    if start == end or not rows:
        return nodes
    new = _NEW.where(RECORD.c.node.in_([node.id for node in nodes]))
    newer_of = {row.node: row for row in connection.execute(new, {"start": start, "end": end})}
    return [_add(node, newer_of[node.id]) if node.id in newer_of else node for node in nodes]


def newer(
    connection: Connection, of: Callable[[ColumnElement[int]], ColumnElement[bool]]
) -> tuple[int, int | None, int | None]:
    """Return the number of some nodes' records that are in no total yet, and the first and last of their times.

    Args:
        connection: A transaction that reads the log.
        of: Returns the condition that a record's node is one of them.
    """
    start, end = connection.execute(select(STATE.c.counted, STATE.c.size)).one()
    if start == end:
        return 0, None, None
    new = select(func.count(), func.min(RECORD.c.at_ms), func.max(RECORD.c.at_ms))
    row = connection.execute(new.where(RECORD.c.idx >= start, RECORD.c.idx < end, of(_WHOSE))).one()
    return tuple(row)


def _add(node: Counted, new: Row[Any]) -> Counted:
    counts = {"allow": node.allow + new.allow, "deny": node.deny + new.deny, "other": node.other + new.other}
    times = {"first_ms": min(node.first_ms, new.first_ms), "last_ms": max(node.last_ms, new.last_ms)}
    return node._replace(**counts, **times)


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, _ONE), else_=_NOUGHT))


_NOUGHT: Final[ColumnElement[int]] = literal_column("0")
_ONE: Final[ColumnElement[int]] = literal_column("1")
# With + 0 the planner does not walk the whole index of records by node to form the groups.
_WHOSE: Final = RECORD.c.node + _NOUGHT
_NEW: Final = (
    select(
        _WHOSE.label("node"),
        _sum(RECORD.c.outcome == literal_column(str(ALLOW))).label("allow"),
        _sum(RECORD.c.outcome == literal_column(str(DENY))).label("deny"),
        _sum(RECORD.c.outcome.not_in((literal_column(str(ALLOW)), literal_column(str(DENY))))).label("other"),
        func.min(RECORD.c.at_ms).label("first_ms"),
        func.max(RECORD.c.at_ms).label("last_ms"),
    )
    .where(RECORD.c.idx >= bindparam("start"), RECORD.c.idx < bindparam("end"))
    .group_by(_WHOSE)
)
_OF: Final = _NEW.subquery("more")
_ADD: Final = (
    update(NODE)
    .where(NODE.c.id == _OF.c.node)
    .values(
        allow=NODE.c.allow + _OF.c.allow,
        deny=NODE.c.deny + _OF.c.deny,
        other=NODE.c.other + _OF.c.other,
        first_ms=case((_OF.c.first_ms < NODE.c.first_ms, _OF.c.first_ms), else_=NODE.c.first_ms),
        last_ms=case((_OF.c.last_ms > NODE.c.last_ms, _OF.c.last_ms), else_=NODE.c.last_ms),
    )
)
