# SPDX-License-Identifier: Apache-2.0
"""Query the log: pages of records, and counts, by node, tool, reason and time.  LOG 3.

``node_search`` finds the nodes of a question.
"""

import heapq
import time
from itertools import islice
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, and_, case, exists, func, literal, literal_column, or_, select
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.entries import ALLOW, COUNTED, DENY, EFFECT, END, EVENT, GAP, WOULD_REFUSE
from arx_caps.audit.query.node_search import Held, Question, different, held
from arx_caps.audit.query.top_names import sum_of
from arx_caps.audit.store.bulk import among
from arx_caps.audit.store.tables import BATCH, NODE, RECORD, SOURCE, STATE
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
    "would_refuse": WOULD_REFUSE,
    "effect": EFFECT,
}
_WINDOW: Final = 2_500  # records that a search tests at once
_TESTED: Final = 2_000  # records that a total tests, if it is of nodes and filtered by more
_EACH_S: Final = 0.0005  # how long a search takes for each record of a page that it does not find
_MANY: Final = 25  # conditions that a question may have for windows of a size of their own
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


class Searched(NamedTuple):
    """A page of records.

    Attributes:
        records: The records.
        end: The index of the last record that was looked at, if the search stopped before the page was full; else None.
        at_ms: That record's time, ms since the Unix epoch.
    """

    records: list[Found]
    end: int | None = None
    at_ms: int | None = None


class _Span(NamedTuple):
    """A part of the log, from one index to another, and the conditions on the time of its records."""

    low: int
    high: int
    tested: list[ColumnElement[bool]]


class _Reason(NamedTuple):
    """The conditions of a reason.

    Attributes:
        found: What an index finds, in the order of the log; empty for each record.
        tested: What each of them is tested for.
        outcome: The same as tests alone: of the outcome, alike for all reasons of a question.
        rest: And of other columns.
    """

    found: list[ColumnElement[bool]]
    tested: list[ColumnElement[bool]]
    outcome: list[ColumnElement[bool]]
    rest: list[ColumnElement[bool]]


class _Stream(NamedTuple):
    """The conditions of some of the records that match.

    Attributes:
        found: What an index finds, in the order of the log; empty for each record.
        tested: What each of them is tested for.
        gathered: Whether an index finds them in another order: they are few, and are sorted.
    """

    found: list[ColumnElement[bool]]
    tested: list[ColumnElement[bool]]
    gathered: bool = False


def search(
    connection: Connection,
    question: Question,
    reached: Held | None,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 100,
) -> Searched:
    """Return a page of records: it is full, or the last, or as much as was found in some milliseconds.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
        reached: The nodes that it reaches, as ``held`` returns them.
        before: Return the newest records below this index, newest first; the newest of all if neither is given.
        after: Return the oldest records above this index, oldest first.
        limit: The largest number of records.
    """
    rising, until = after is not None, time.monotonic() + limit * _EACH_S
    low, high, tested = _span(connection, question)
    low, high = max(low, -1 if after is None else after + 1), min(high, high if before is None else before - 1)
    streams = _streams(connection, question, reached, limit, _Span(low, high, tested))
    found: list[Found] = []
    # One window of the log after the other: a test of each record may find none in the whole log.
    while True:
        end = _end_of_window(connection, streams, low, high, rising=rising)
        window = (low, high) if end is None else (low, end) if rising else (end, high)
        found += _page(connection, streams, window, rising=rising, limit=limit - len(found))
        if end is None or len(found) == limit:
            return Searched(found)
        if time.monotonic() >= until:
            return Searched(found, end, connection.execute(select(RECORD.c.at_ms).where(RECORD.c.idx == end)).scalar())
        low, high = (end + 1, high) if rising else (low, end - 1)


def records(
    connection: Connection, question: Question, *, before: int | None = None, after: int | None = None, limit: int = 100
) -> list[Found]:
    """Return a page of records as ``search`` does, however long it takes: it is full, or the last."""
    found, reached = list[Found](), held(connection, question)
    while True:
        page, end, _ = search(connection, question, reached, before=before, after=after, limit=limit - len(found))
        found += page
        if end is None:
            return found
        before, after = (end, None) if after is None else (None, end)


def _end_of_window(connection: Connection, streams: list[_Stream], low: int, high: int, *, rising: bool) -> int | None:
    """Return the last index of a window in which few records are tested; None if all that are left are few."""
    ends, most = [], 1 + _WINDOW // min(max(1, len(streams)), _MANY)
    for stream in streams:
        if stream.found and stream.tested:
            last = select(RECORD.c.idx).where(*stream.found, *_between(low, high))
            last = last.order_by(_order(stream, rising=rising))
            ends.append(connection.execute(last.offset(most - 1).limit(1)).scalar())
        elif stream.tested:
            ends.append(low + most - 1 if rising else high - most + 1)
    # An end at the last index of all is none.
    inner = [end for end in ends if end is not None and (low <= end < high if rising else low < end <= high)]
    return min(inner, default=None) if rising else max(inner, default=None)


def _page(
    connection: Connection, streams: list[_Stream], window: tuple[int, int], *, rising: bool, limit: int
) -> list[Found]:
    """Return the first records of a window that match."""
    pages = []
    for stream in streams:
        wanted = select(RECORD.c.idx).where(*stream.found, *stream.tested, *_between(*window))
        wanted = wanted.order_by(_order(stream, rising=rising)).limit(limit)
        query = _FOUND.where(RECORD.c.idx.in_(wanted.scalar_subquery()))
        query = query.order_by(RECORD.c.idx if rising else RECORD.c.idx.desc())
        pages.append([Found._make(row) for row in connection.execute(query)])
    merged = heapq.merge(*pages, key=lambda record: record.idx, reverse=not rising)
    return list(islice(merged, limit))


def _order(stream: _Stream, *, rising: bool) -> ColumnElement[int]:
    # With + 0 the planner cannot use the index of the order, and walk the whole log in search of a few records.
    order = RECORD.c.idx + 0 if stream.gathered else RECORD.c.idx
    return order if rising else order.desc()


def total(connection: Connection, question: Question, reached: Held | None = None) -> Total:
    """Return the number of records that a question reaches.

    It is exact where nodes have counts, or a whole time has (``top_names``).  Else the search reads at most
    ``COUNTED_TO`` records, or tests ``_TESTED``, of other nodes too if each record's node has to be tested; if there
    are more, the number is a lower bound.

    Args:
        connection: A transaction that reads the log.
        question: The filter.
        reached: The nodes that it reaches, as ``held`` returns them with ``some``; sought if it is None.
    """
    reached = reached or held(connection, question, some=True)
    pruned = bool(connection.execute(select(STATE.c.first)).scalar_one())
    if not question.of_records and not (pruned and reached):  # the counts of nodes include pruned records
        return _total_of_nodes(connection, reached)
    if not (pruned or question.of_nodes) and (kept := _kept_total(connection, question)) is not None:
        return kept
    span = _span(connection, question)
    count, read, most, since, until = 0, 0, COUNTED_TO, list[int](), list[int]()
    for stream in _streams(connection, question, reached, COUNTED_TO, span):
        if stream.tested and reached is not None:
            most = _TESTED
        # Tested behind the bound: else the search for a few records of these nodes would read the whole log.
        at_ms = case((and_(*stream.tested), RECORD.c.at_ms)) if stream.tested else RECORD.c.at_ms
        seen = select(at_ms.label("at_ms")).where(*stream.found, *_between(span.low, span.high))
        at = seen.limit(most + 1 - read).subquery().c.at_ms
        sums = select(func.count(), func.count(at), func.min(at), func.max(at)).select_from(at.table)
        looked, *row = connection.execute(sums).one()
        read += looked
        if row[0]:
            count, since, until = count + row[0], [*since, row[1]], [*until, row[2]]
        if read > most:
            break
    return Total(min(count, most), read <= most, min(since, default=None), max(until, default=None))


def size(connection: Connection) -> int:
    """Return the number of records in the log."""
    return int(connection.execute(select(STATE.c.size)).scalar_one())


def _streams(
    connection: Connection, question: Question, reached: Held | None, limit: int, span: _Span
) -> list[_Stream]:
    """Return disjoint conditions that together select all records of a span of the log."""
    # Each condition can follow one index in its order.  So a question with several tools, or with a reason that counted
    # records may contain as well, has several.
    low, high, tested = span
    tools = None if question.tool is None else _tools(connection, question.tool)
    reasons = _reasons(connection, question.reason)
    if reached is not None and reached.complete:
        # A walk for records of one outcome or time, too, may find none before it has seen the whole log.
        filtered = question.of_records and reached.records <= _WORTH_FILTERED
        if filtered or _worth_gathering(connection, reached.records, limit):
            found = [among(connection, RECORD.c.node, reached.ids), *reasons[0].outcome]
            return [_Stream(found, [*_rest(reasons), *_of_tool(question.tool, tools), *tested], gathered=True)]
        tested = [*tested, among(connection, RECORD.c.node + 0, reached.ids)]
    elif reached is not None:
        tested = [*tested, exists().where(NODE.c.id == RECORD.c.node + 0, reached.where)]
    if tools is not None and (
        not all(reason.found for reason in reasons) or _few(connection, RECORD.c.tool.in_(tools), low, high)
    ):
        tested = [*reasons[0].outcome, *_rest(reasons), *tested]
        return [_Stream([RECORD.c.tool == tool], tested) for tool in tools]
    tested = [*_of_tool(question.tool, tools), *tested]
    return [_Stream(reason.found, [*reason.tested, *tested]) for reason in reasons]


def _few(connection: Connection, where: ColumnElement[bool], low: int, high: int) -> bool:
    """Return whether a window has room for all records of some tools."""
    matching = select(RECORD.c.idx).where(where, *_between(low, high)).limit(_WINDOW + 1).subquery()
    return bool(connection.execute(select(func.count()).select_from(matching)).scalar_one() <= _WINDOW)


def _worth_gathering(connection: Connection, records: int, limit: int) -> bool:
    """Return whether sorting the records of known nodes is faster than a walk from the log's end."""
    return records <= _WORTH or records * records < limit * size(connection)


def _reasons(connection: Connection, reason: str | None) -> list[_Reason]:
    if reason is None:
        return [_Reason([], [], [], [])]
    # No index is used for a test of an expression.
    number, outcome, code = OUTCOMES.get(reason), RECORD.c.outcome + 0, RECORD.c.code + ""
    if number == ALLOW:
        return [_Reason([], [outcome == number], [outcome == number], [])]
    if number is not None:
        return [_Reason([_NOT_ALLOWED, RECORD.c.outcome == number], [], [outcome == number], [])]
    # Unauthenticated refusals have no records of their own; `counted` records hold their numbers by reason.
    has = _has(connection, reason)
    return [
        _Reason([_REFUSED, RECORD.c.code == reason], [], [outcome > ALLOW], [code == reason]),
        _Reason([_REFUSED, RECORD.c.code == "counted"], [has], [outcome > ALLOW], [code == "counted", has]),
    ]


def _has(connection: Connection, text: str) -> ColumnElement[bool]:
    """Return the condition that a record's kept part has a text."""
    raw, sqlite = text.encode(), connection.dialect.name == "sqlite"
    at = func.instr(RECORD.c.kept, raw) if sqlite else func.position(literal(raw).op("IN")(RECORD.c.kept))
    return at > 0


def _rest(reasons: list[_Reason]) -> list[ColumnElement[bool]]:
    return [or_(*(and_(*reason.rest) for reason in reasons))] if reasons[0].rest else []


def _tools(connection: Connection, pattern: str) -> list[str] | None:
    """Return the tools that match a pattern; None if the log has too many different tools."""
    # A caller chooses the tool's name in a call that is refused and recorded: the time of an answer must not depend on
    # how many names a caller has invented.
    if not pattern.endswith("*"):
        return [pattern]
    known = different(connection, RECORD.c.tool, _TOOLS + 1)
    return [tool for tool in known if matches_tool(pattern, tool)] if len(known) <= _TOOLS else None


def _of_tool(pattern: str | None, tools: list[str] | None) -> list[ColumnElement[bool]]:
    """Return the condition that a tool is one of some, or else matches a pattern that ends with ``*``."""
    if pattern is None:
        return []
    if tools is not None:
        return [(RECORD.c.tool + "").in_(tools)]
    start = pattern[:-1]
    return [func.substr(RECORD.c.tool, 1, len(start)) == start, func.length(RECORD.c.tool) > len(start)]


def _span(connection: Connection, question: Question) -> _Span:
    """Return where the records of the question's times are."""
    # Indices rise with time only roughly, from batch to batch: the span narrows the search, no more.
    low, end = connection.execute(select(STATE.c.first, STATE.c.size)).one()
    high, tested = end - 1, list[ColumnElement[bool]]()
    if question.since_ms is not None:
        low = max(low, _first_since(connection, question.since_ms))
        tested.append(RECORD.c.at_ms >= question.since_ms)
    if question.until_ms is not None:
        last = select(func.max(BATCH.c.idx + BATCH.c.last - BATCH.c.first)).where(BATCH.c.since_ms < question.until_ms)
        high = connection.execute(select(func.coalesce(last.scalar_subquery(), -1))).scalar_one()
        tested.append(RECORD.c.at_ms < question.until_ms)
    if question.connection is not None:
        tested.append(_has(connection, question.connection))
    return _Span(low, high, tested)


def _between(low: int, high: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return RECORD.c.idx >= low, RECORD.c.idx <= high


def _first_since(connection: Connection, since_ms: int) -> int:
    """Return the index of the first batch that has a record of this time or later; of the last batch if none has."""
    # Every record is in a batch.  Without the last batch, a time after the whole log would walk all of it.
    first = select(func.min(BATCH.c.idx)).where(BATCH.c.until_ms >= since_ms).scalar_subquery()
    last = select(func.max(BATCH.c.idx)).scalar_subquery()
    return int(connection.execute(select(func.coalesce(first, last, 0))).scalar_one())


def _kept_total(connection: Connection, question: Question) -> Total | None:
    """Return the total of a question about an outcome, reason, tool or time; None if the log does not keep it."""
    reason, tool = question.reason, question.tool
    if question.connection is not None:
        return None
    outcomes = {
        "allow": ("allow",),
        "ok": ("allow",),
        "deny": ("deny",),
        "end": ("end",),
        None: ("allow", "deny", "end"),
    }
    if reason in outcomes and (tool is None or not tool.endswith("*")):
        by, name, members = (None, "", outcomes[reason]) if tool is None else ("tool", tool, outcomes[reason])
        members = (*members, "other") if reason is None else members
    elif reason not in OUTCOMES and tool is None and reason is not None:
        by, name, members = "reason", reason, ("deny", "end", "other")
    else:
        return None
    counts = sum_of(connection, by, name, since_ms=question.since_ms, until_ms=question.until_ms)
    if counts is None or (by == "reason" and counts.counted):
        return None
    count = sum(getattr(counts, member) for member in members)
    if count <= COUNTED_TO:  # counting so few takes no longer, and has their times
        return None
    start = connection.execute(select(STATE.c.counted)).scalar_one()
    span = _span(connection, question)
    for stream in _streams(connection, question, None, COUNTED_TO, span):
        new = stream.found + stream.tested + [*_between(max(span.low, start), span.high)]
        count += connection.execute(select(func.count()).where(*new)).scalar_one()
    ends = [records(connection, question, limit=1), records(connection, question, after=-1, limit=1)]
    times = connection.execute(
        select(func.min(RECORD.c.at_ms), func.max(RECORD.c.at_ms)).where(
            RECORD.c.idx.in_([found.idx for page in ends for found in page])
        )
    ).one()
    return Total(count, True, *times)


def _total_of_nodes(connection: Connection, reached: Held | None) -> Total:
    if reached is None:
        times = connection.execute(select(func.min(BATCH.c.since_ms), func.max(BATCH.c.until_ms))).one()
        count = connection.execute(select(STATE.c.size - STATE.c.first)).scalar_one()
        return Total(int(count), True, *times)
    return Total(reached.records, reached.complete, reached.since_ms, reached.until_ms)


# Literally the conditions of the partial indexes.
_REFUSED: Final = RECORD.c.outcome > literal_column(str(ALLOW))
_NOT_ALLOWED: Final = RECORD.c.outcome != literal_column(str(ALLOW))
_COLUMNS: Final = [RECORD.c[name] for name in ("idx", "node", "outcome", "tool", "kept", "body")]
_FOUND: Final = select(*_COLUMNS, SOURCE.c.audience).join(SOURCE, SOURCE.c.id == RECORD.c.source)
