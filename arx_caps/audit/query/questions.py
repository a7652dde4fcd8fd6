# SPDX-License-Identifier: Apache-2.0
"""Query the log: pages of records, and counts, by node, tool, reason and time.  LOG 3.

``node_search`` finds the nodes of a question.
"""

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, literal_column, or_, select, true
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest import ALLOW, COUNTED, DENY, END, EVENT, GAP
from arx_caps.audit.query.node_search import Held, Question, different, held
from arx_caps.audit.query.top_names import sum_of
from arx_caps.audit.store import BATCH, NODE, RECORD, SOURCE, STATE, among
from arx_verifier.names import matches_tool

MAX_PAGE: Final = 1_000
COUNTED_TO: Final = 10_000  # records beyond this number are not counted one by one
OUTCOMES: Final = {
    "event": EVENT,
    "allow": ALLOW,
    "ok": ALLOW,
    "deny": DENY,
    "end": END,
    "counted": COUNTED,
    "gap": GAP,
}
_WORTH: Final = 20_000  # up to this number, gathering and sorting the records of known nodes is the fastest way
_WORTH_FILTERED: Final = 100_000  # the same, if they are filtered by more than nodes
_TOOLS: Final = 1_000  # different tools that are matched with a pattern; with more, each record's tool is matched


class Total(NamedTuple):
    """The number of records that a question reaches.

    Attributes:
        records: The number.
        exact: Whether it is exact; else it is a lower bound.
        since_ms: Time of the first counted record, ms since the Unix epoch, or None.
        until_ms: Time of the last counted record.
    """

    records: int
    exact: bool
    since_ms: int | None
    until_ms: int | None


class Found(NamedTuple):
    """One record in the log.

    Attributes:
        idx: Its index in the log.
        node: Its node's id.
        outcome: An outcome number of ``ingest.entries``.
        tool: The tool, or the event's kind.
        kept: The leaf.
        body: Its body, or None if that was erased.
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
    """Return a page of records; it is full, or it is the last.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
        before: Return the newest records below this index, newest first; the newest of all if neither is given.
        after: Return the oldest records above this index, oldest first.
        limit: The largest number of records.
    """
    # A question by nodes gathers their records by (node, idx).  If these are too many, the log is walked from one end,
    # and each record's node is tested.  All filters run here: a page that the caller filtered again could be short.
    rising = after is not None
    edge = RECORD.c.idx > after if rising else true() if before is None else RECORD.c.idx < before
    reached = held(connection, question)
    pages = []
    for where, tested, gathered in _streams(connection, question, reached, limit):
        # With + 0 the planner cannot use the index of the order, and walk the whole log in search of a few records.
        order = RECORD.c.idx + 0 if gathered else RECORD.c.idx
        wanted = (
            select(RECORD.c.idx).where(edge, *where, *tested).order_by(order if rising else order.desc()).limit(limit)
        )
        query = _FOUND.where(RECORD.c.idx.in_(wanted.scalar_subquery()))
        query = query.order_by(RECORD.c.idx if rising else RECORD.c.idx.desc())
        pages.append([Found._make(row) for row in connection.execute(query)])
    merged = heapq.merge(*pages, key=lambda record: record.idx, reverse=not rising)
    return [record for record, _ in zip(merged, range(limit), strict=False)]


def total(connection: Connection, question: Question) -> Total:
    """Return the number of records that a question reaches.

    It is exact where nodes have counts, or a whole time has (``top_names``).  Else the search
    reads at most ``COUNTED_TO`` records, of other nodes too if each record's node has to be tested; if there are more,
    the number is a lower bound.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
    """
    reached = held(connection, question, some=True)
    pruned = bool(connection.execute(select(STATE.c.first)).scalar_one())
    if not question.of_records and not (pruned and reached):  # the counts of nodes include pruned records
        return _total_of_nodes(connection, reached)
    if not (pruned or question.of_nodes) and (kept := _kept_total(connection, question)) is not None:
        return kept
    count, since, until, whole = 0, list[int](), list[int](), True
    for found, tested, _ in _streams(connection, question, reached, COUNTED_TO):
        # Tested behind the bound: else the search for a few records of these nodes would read the whole log.
        at_ms = case((and_(*tested), RECORD.c.at_ms)).label("at_ms") if tested else RECORD.c.at_ms
        seen = select(at_ms).where(*found).limit(COUNTED_TO + 1).subquery().c.at_ms
        sums = select(func.count(), func.count(seen), func.min(seen), func.max(seen)).select_from(seen.table)
        read, *row = connection.execute(sums).one()
        whole &= read <= COUNTED_TO
        if row[0]:
            count, since, until = count + row[0], [*since, row[1]], [*until, row[2]]
    exact = whole and count <= COUNTED_TO
    return Total(min(count, COUNTED_TO), exact, min(since, default=None), max(until, default=None))


def size(connection: Connection) -> int:
    """Return the number of records in the log."""
    return int(connection.execute(select(STATE.c.size)).scalar_one())


def _streams(
    connection: Connection, question: Question, reached: Held | None, limit: int
) -> Iterator[tuple[list[ColumnElement[bool]], list[ColumnElement[bool]], bool]]:
    """Yield disjoint conditions that together select all records.

    With each come the conditions on the record's node that no index serves, and whether it is gathered by node.
    """
    # Each condition can follow one index in its order.  So a question with several tools, or with a reason that counted
    # records may contain as well, has several.
    within, tested = list(_in_time(connection, question)), list[ColumnElement[bool]]()
    tools = None if question.tool is None else _tools(connection, question.tool)
    if question.tool is not None and tools is None:
        within.append(_of_tool(question.tool))
    reasons = _reasons(connection, question.reason)
    if reached is not None and reached.complete:
        # A walk for records of one outcome or time, too, may find none before it has seen the whole log.
        filtered = question.of_records and reached.records <= _WORTH_FILTERED
        if filtered or _worth_gathering(connection, reached.records, limit):
            more = [] if tools is None else [RECORD.c.tool.in_(tools)]
            yield (
                [
                    among(connection, RECORD.c.node, reached.ids),
                    or_(*(and_(*reason) for reason in reasons)),
                    *more,
                    *within,
                ],
                [],
                True,
            )
            return
        tested.append(among(connection, RECORD.c.node + 0, reached.ids))
    elif reached is not None:
        tested.append(exists().where(NODE.c.id == RECORD.c.node, reached.where))
    for reason in reasons:
        for tool in [None] if tools is None else tools:
            yield [*([] if tool is None else [RECORD.c.tool == tool]), *reason, *within], tested, False


def _worth_gathering(connection: Connection, records: int, limit: int) -> bool:
    """Return whether sorting the records of known nodes is faster than a walk from the log's end."""
    return records <= _WORTH or records * records < limit * size(connection)


def _reasons(connection: Connection, reason: str | None) -> list[list[ColumnElement[bool]]]:
    if reason is None:
        return [[true()]]
    if reason in ("allow", "ok", "event"):
        return [[RECORD.c.outcome == OUTCOMES[reason]]]
    if reason in OUTCOMES:
        return [[_REFUSED, RECORD.c.outcome == OUTCOMES[reason]]]
    # Unauthenticated refusals have no records of their own; `counted` records hold their numbers by reason.
    text = reason.encode()
    sqlite = connection.dialect.name == "sqlite"
    at = func.instr(RECORD.c.kept, text) if sqlite else func.position(literal(text).op("IN")(RECORD.c.kept))
    return [[_REFUSED, RECORD.c.code == reason], [_REFUSED, RECORD.c.code == "counted", at > 0]]


def _tools(connection: Connection, pattern: str) -> list[str] | None:
    """Return the tools that match a pattern; None if the log has too many different tools."""
    # A caller chooses the tool's name in a call that is refused and recorded: the time of an answer must not depend on
    # how many names a caller has invented.
    if not pattern.endswith("*"):
        return [pattern]
    known = [tool for tool, _ in zip(different(connection, RECORD.c.tool), range(_TOOLS + 1), strict=False)]
    return [tool for tool in known if matches_tool(pattern, tool)] if len(known) <= _TOOLS else None


def _of_tool(pattern: str) -> ColumnElement[bool]:
    """Return the condition that a tool matches a pattern that ends with ``*``."""
    start = pattern[:-1]
    return and_(func.substr(RECORD.c.tool, 1, len(start)) == start, func.length(RECORD.c.tool) > len(start))


def _in_time(connection: Connection, question: Question) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions of the question's times, on records and on indices."""
    # Indices rise with time only roughly, from batch to batch: the condition on them narrows the search, no more.
    if question.since_ms is not None:
        yield RECORD.c.idx >= _first_since(connection, question.since_ms)
        yield RECORD.c.at_ms >= question.since_ms
    if question.until_ms is not None:
        last = select(func.max(BATCH.c.idx + BATCH.c.last - BATCH.c.first)).where(BATCH.c.since_ms < question.until_ms)
        end = connection.execute(last).scalar()
        yield RECORD.c.idx <= (-1 if end is None else end)
        yield RECORD.c.at_ms < question.until_ms


def _first_since(connection: Connection, since_ms: int) -> int:
    """Return the index of the first batch that has a record of this time or later; of the last batch if none has."""
    # Every record is in a batch.  Without the last batch, a time after the whole log would walk all of it.
    first = select(func.min(BATCH.c.idx)).where(BATCH.c.until_ms >= since_ms).scalar_subquery()
    last = select(func.max(BATCH.c.idx)).scalar_subquery()
    return int(connection.execute(select(func.coalesce(first, last, 0))).scalar_one())


def _kept_total(connection: Connection, question: Question) -> Total | None:
    """Return the total of a question about an outcome, reason, tool or time; None if the log does not keep it."""
    reason, tool = question.reason, question.tool
    outcomes = {
        "allow": ("allow",),
        "ok": ("allow",),
        "deny": ("deny",),
        "end": ("end",),
        None: ("allow", "deny", "end"),
    }
    if reason in outcomes and (tool is None or not tool.endswith("*")):
        by, name, members = (None, "", outcomes[reason]) if tool is None else ("tool", tool, outcomes[reason])
        members = (*members, "other") if reason is None and tool is None else members
    elif reason not in OUTCOMES and tool is None and reason is not None:
        by, name, members = "reason", reason, ("deny", "end")
    else:
        return None
    counts = sum_of(connection, by, name, since_ms=question.since_ms, until_ms=question.until_ms)
    if counts is None or (by == "reason" and counts.counted):
        return None
    count = sum(getattr(counts, member) for member in members)
    if count <= COUNTED_TO:  # counting so few takes no longer, and has their times
        return None
    start = connection.execute(select(STATE.c.counted)).scalar_one()
    for where, _, _ in _streams(connection, question, None, COUNTED_TO):
        count += connection.execute(select(func.count()).where(RECORD.c.idx >= start, *where)).scalar_one()
    # SQLite uses one lower bound of several, so this walk begins where the time does.
    after = _first_since(connection, question.since_ms or 0) - 1
    ends = [records(connection, question, limit=1), records(connection, question, after=after, limit=1)]
    times = connection.execute(
        select(func.min(RECORD.c.at_ms), func.max(RECORD.c.at_ms)).where(
            RECORD.c.idx.in_([found.idx for page in ends for found in page])
        )
    ).one()
    return Total(count, True, *times)


def _total_of_nodes(connection: Connection, reached: Held | None) -> Total:
    if reached is None:
        times = connection.execute(select(func.min(BATCH.c.since_ms), func.max(BATCH.c.until_ms))).one()
        held = connection.execute(select(STATE.c.size - STATE.c.first)).scalar_one()
        return Total(int(held), True, *times)
    return Total(reached.records, reached.complete, reached.since_ms, reached.until_ms)


_REFUSED: Final = RECORD.c.outcome > literal_column(str(ALLOW))  # literally the condition of the partial indexes
_COLUMNS: Final = [RECORD.c[name] for name in ("idx", "node", "outcome", "tool", "kept", "body")]
_FOUND: Final = select(*_COLUMNS, SOURCE.c.audience).join(SOURCE, SOURCE.c.id == RECORD.c.source)
