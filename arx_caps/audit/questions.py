# SPDX-License-Identifier: Apache-2.0
"""Ask the log: which records are like this, how many, from when until when.  SPEC 19.

A question about a session, task, delegation, agent or subject is answered by nodes: first which nodes it reaches
(``reach``), then their records by ``(node, idx)``.  Where that is more than is worth gathering, the log is walked from
one end, and each record's node is looked at instead.  Everything is filtered here and never by whoever asks: a page is
full or the last.
"""

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, exists, func, literal, literal_column, or_, select, true
from sqlalchemy.engine import Connection

from arx_caps.audit.bulk import among
from arx_caps.audit.reach import Held, Question, different, held
from arx_caps.audit.tables import ALLOW, BATCH, COUNTED, DENY, END, EVENT, GAP, NODE, RECORD, SOURCE, STATE
from arx_verifier.names import matches_tool

MAX_PAGE: Final = 1_000
COUNTED_TO: Final = 10_000  # more than so many are not counted one by one
OUTCOMES: Final = {
    "event": EVENT,
    "allow": ALLOW,
    "ok": ALLOW,
    "deny": DENY,
    "end": END,
    "counted": COUNTED,
    "gap": GAP,
}
_WORTH: Final = 20_000  # so many records of known nodes are gathered and sorted sooner than anything else is done
_TOOLS: Final = 1_000  # different tools that are held against a pattern; where there are more, each record's is


class Total(NamedTuple):
    """What a question reaches in all.

    Attributes:
        records: How many records.
        exact: Whether there are just so many; else there are more.
        since_ms: The time of the first of them that were counted, or None.
        until_ms: The time of the last.
    """

    records: int
    exact: bool
    since_ms: int | None
    until_ms: int | None


class Found(NamedTuple):
    """One record, as the log has it.

    Attributes:
        idx: Its place in the log.
        node: Its node.
        outcome: A number of ``tables``.
        tool: The tool, or the event's kind.
        kept: The leaf.
        body: Its body, or None where that was erased.
        audience: The service whose verifier sent it; empty for the mint's own.
    """

    idx: int
    node: int
    outcome: int
    tool: str
    kept: bytes
    body: bytes | None
    audience: str


def records(
    connection: Connection, question: Question, *, before: int | None = None, after: int | None = None, limit: int = 100
) -> list[Found]:
    """Return a page of records.

    Args:
        connection: A state of the log.
        question: What is asked for.
        before: The newest below this index, newest first; the newest of all when neither is given.
        after: Instead, the oldest above this index, oldest first.
        limit: At most so many.
    """
    rising = after is not None
    edge = RECORD.c.idx > after if rising else true() if before is None else RECORD.c.idx < before
    reached = held(connection, question)
    pages = []
    for where, gathered in _streams(connection, question, reached, limit):
        # With + 0 the order is no reason for walking the whole log in search of a few records.
        order = RECORD.c.idx + 0 if gathered else RECORD.c.idx
        wanted = select(RECORD.c.idx).where(edge, *where).order_by(order if rising else order.desc()).limit(limit)
        found = _FOUND.where(RECORD.c.idx.in_(wanted.scalar_subquery()))
        found = found.order_by(RECORD.c.idx if rising else RECORD.c.idx.desc())
        pages.append([Found._make(row) for row in connection.execute(found)])
    merged = heapq.merge(*pages, key=lambda found: found.idx, reverse=not rising)
    return [found for found, _ in zip(merged, range(limit), strict=False)]


def total(connection: Connection, question: Question) -> Total:
    """Count what a question reaches: exactly where nodes keep the count, else as far as ``COUNTED_TO``."""
    reached = held(connection, question, some=True)
    gone = bool(connection.execute(select(STATE.c.first)).scalar_one())
    if not question.of_records and not (gone and reached):  # nodes go on counting what retention took
        return _total_of_nodes(connection, reached)
    count, since, until = 0, list[int](), list[int]()
    for where, _ in _streams(connection, question, reached, COUNTED_TO):
        some = select(RECORD.c.at_ms).where(*where).limit(COUNTED_TO + 1).subquery()
        found = connection.execute(select(func.count(), func.min(some.c.at_ms), func.max(some.c.at_ms))).one()
        if found[0]:
            count, since, until = count + found[0], [*since, found[1]], [*until, found[2]]
    exact = count <= COUNTED_TO
    return Total(min(count, COUNTED_TO), exact, min(since, default=None), max(until, default=None))


def size(connection: Connection) -> int:
    """Return how many records the log has."""
    return int(connection.execute(select(STATE.c.size)).scalar_one())


def _streams(
    connection: Connection, question: Question, reached: Held | None, limit: int
) -> Iterator[tuple[list[ColumnElement[bool]], bool]]:
    """Yield conditions that together take all records and no two the same; and whether they are gathered by node.

    Each can follow one index in its order: several tools, or a reason and the counts that hold it, are several.
    """
    within = list(_in_time(connection, question))
    tools = None if question.tool is None else _tools(connection, question.tool)
    if question.tool is not None and tools is None:
        within.append(_of_tool(question.tool))
    reasons = _reasons(connection, question.reason)
    if reached is not None and reached.complete:
        if _worth_gathering(connection, reached.records, limit):
            more = [] if tools is None else [RECORD.c.tool.in_(tools)]
            yield (
                [
                    among(connection, RECORD.c.node, reached.ids),
                    or_(*(and_(*each) for each in reasons)),
                    *more,
                    *within,
                ],
                True,
            )
            return
        within.append(among(connection, RECORD.c.node + 0, reached.ids))
    elif reached is not None:
        within.append(exists().where(NODE.c.id == RECORD.c.node, reached.where))
    for reason in reasons:
        for tool in [None] if tools is None else tools:
            yield [*([] if tool is None else [RECORD.c.tool == tool]), *reason, *within], False


def _worth_gathering(connection: Connection, records: int, limit: int) -> bool:
    """Tell whether so many records of known nodes are sooner sorted than met on a walk from the log's end."""
    return records <= _WORTH or records * records < limit * size(connection)


def _reasons(connection: Connection, reason: str | None) -> list[list[ColumnElement[bool]]]:
    if reason is None:
        return [[true()]]
    if reason in ("allow", "ok", "event"):
        return [[RECORD.c.outcome == OUTCOMES[reason]]]
    if reason in OUTCOMES:
        return [[_REFUSED, RECORD.c.outcome == OUTCOMES[reason]]]
    # What nobody proved has no record of its own, but is counted by reason.
    text = reason.encode()
    sqlite = connection.dialect.name == "sqlite"
    at = func.instr(RECORD.c.kept, text) if sqlite else func.position(literal(text).op("IN")(RECORD.c.kept))
    return [[_REFUSED, RECORD.c.code == reason], [_REFUSED, RECORD.c.code == "counted", at > 0]]


def _tools(connection: Connection, pattern: str) -> list[str] | None:
    """Return the tools that a pattern means; None where there are too many different ones to look at each.

    Whoever calls chooses what it calls a tool, and is refused, and recorded: an answer must not depend on how many
    names somebody made up.
    """
    if not pattern.endswith("*"):
        return [pattern]
    known = [tool for tool, _ in zip(different(connection, RECORD.c.tool), range(_TOOLS + 1), strict=False)]
    return [tool for tool in known if matches_tool(pattern, tool)] if len(known) <= _TOOLS else None


def _of_tool(pattern: str) -> ColumnElement[bool]:
    """Say what holds for a tool that a pattern means."""
    start = pattern[:-1]
    return and_(func.substr(RECORD.c.tool, 1, len(start)) == start, func.length(RECORD.c.tool) > len(start))


def _in_time(connection: Connection, question: Question) -> Iterator[ColumnElement[bool]]:
    """Yield what a time means: for records, and for indices, which rise with it from batch to batch only roughly."""
    if question.since_ms is not None:
        first = select(func.min(BATCH.c.idx)).where(BATCH.c.until_ms >= question.since_ms)
        yield RECORD.c.idx >= (connection.execute(first).scalar() or 0)
        yield RECORD.c.at_ms >= question.since_ms
    if question.until_ms is not None:
        last = select(func.max(BATCH.c.idx + BATCH.c.last - BATCH.c.first)).where(BATCH.c.since_ms < question.until_ms)
        found = connection.execute(last).scalar()
        yield RECORD.c.idx <= (-1 if found is None else found)
        yield RECORD.c.at_ms < question.until_ms


def _total_of_nodes(connection: Connection, reached: Held | None) -> Total:
    if reached is None:
        times = connection.execute(select(func.min(BATCH.c.since_ms), func.max(BATCH.c.until_ms))).one()
        held = connection.execute(select(STATE.c.size - STATE.c.first)).scalar_one()
        return Total(int(held), True, *times)
    return Total(reached.records, reached.complete, reached.since_ms, reached.until_ms)


_REFUSED: Final = RECORD.c.outcome > literal_column(str(ALLOW))  # as the partial indexes say it
_COLUMNS: Final = [RECORD.c[name] for name in ("idx", "node", "outcome", "tool", "kept", "body")]
_FOUND: Final = select(*_COLUMNS, SOURCE.c.audience).join(SOURCE, SOURCE.c.id == RECORD.c.source)
