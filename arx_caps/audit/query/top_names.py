# SPDX-License-Identifier: Apache-2.0
"""Query the totals over time: the names with the most records, and the records of each minute, hour or day.  LOG 3.6.

An answer is the sum of a few kept rows, however many records the log has.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, func, select, union_all
from sqlalchemy.engine import Connection

from arx_caps.audit.ingest.place import SESSION
from arx_caps.audit.store.tables import NODE, STATE, TOTAL
from arx_caps.audit.store.time_totals import ALL, DAY, HOUR, KINDS, MINUTE, SPANS_MS, SUMS, span_at
from arx_verifier.clock import now_ms

MAX_TOP: Final = 100
# A long time is asked for in hours or days: no answer adds up thousands of minutes.
_IN_MINUTES_MS: Final = 6 * SPANS_MS[HOUR]
_IN_HOURS_MS: Final = 14 * SPANS_MS[DAY]


class OutcomeCounts(NamedTuple):
    """Numbers of records, and of refusals without a record each.

    Attributes:
        allow: Allowed calls.
        deny: Refused calls.
        end: Running work that was ended.
        counted: Unauthenticated refusals, which are counted and not recorded one by one.
        other: Records of other kinds: events, gaps and counts.
    """

    allow: int = 0
    deny: int = 0
    end: int = 0
    counted: int = 0
    other: int = 0

    @property
    def refused(self) -> int:
        """Refusals of any kind."""
        return self.deny + self.end + self.counted

    @property
    def decisions(self) -> int:
        """Decisions of any outcome."""
        return self.allow + self.refused


class TopRow(NamedTuple):
    """A name with its counts; of a session also the agent that opened it."""

    name: str
    counts: OutcomeCounts
    agent: str = ""


class Top(NamedTuple):
    """The names with the most records over a time.

    Attributes:
        rows: The names, the first with the most.
        rest: The counts of all other names.
        since_ms: The first time that is counted, ms since the Unix epoch.
        until_ms: The time after the last; None without one.
    """

    rows: list[TopRow]
    rest: OutcomeCounts
    since_ms: int
    until_ms: int | None


class Series(NamedTuple):
    """Counts over a time, in steps of one length.

    Attributes:
        points: The start of each step that has records, ms since the Unix epoch, and its counts, in order.
        step_ms: The length of a step.
        total: The sum.
        since_ms: The start of the first step.
        until_ms: The end of the last.
        size: Number of the log's records that are counted; later ones are counted at the next checkpoint.
    """

    points: list[tuple[int, OutcomeCounts]]
    step_ms: int
    total: OutcomeCounts
    since_ms: int
    until_ms: int
    size: int


class _Stretch(NamedTuple):
    """Spans of one length, from ``first`` to before ``end``; None is without an end."""

    span: int
    first: int
    end: int | None


def top(
    connection: Connection, by: str, *, since_ms: int, until_ms: int | None = None, order: str = "all", limit: int = 20
) -> Top:
    """Return the names with the most records over a time.

    Args:
        connection: A transaction that reads the log.
        by: What is named: one of ``KINDS``.
        since_ms: The first time; the start of its minute, hour or day counts, the longer the time is.
        until_ms: The time after the last, or None for no end.
        order: ``all`` for the most decisions, ``refused`` for the most refusals.
        limit: The largest number of names.
    """
    unit = _unit(since_ms, until_ms)
    stretches = list(_stretches(since_ms, until_ms, unit))
    named = _rows(KINDS[by], stretches).subquery().c
    sums = [func.sum(named[name]) for name in SUMS]
    refused = named.deny + named.ended + named.counted
    most = func.sum(refused if order == "refused" else named.allow + refused)
    # One sum for all names, and the others for the few that are shown: in one query they take twice as long.
    wanted = select(named.name).where(named.name != "").group_by(named.name)
    names = connection.execute(wanted.having(most > 0).order_by(most.desc(), named.name).limit(limit)).scalars().all()
    shown = select(named.name, *sums).where(named.name.in_(names)).group_by(named.name)
    found = {name: _counts(counts) for name, *counts in connection.execute(shown)}
    rows = [TopRow(name, found[name]) for name in names]
    whole = connection.execute(select(*sums)).one()
    rest = OutcomeCounts(
        *(all_ - sum(part) for all_, *part in zip(_counts(whole), *(row.counts for row in rows), strict=True))
    )
    if by == "session":
        rows = _with_agents(connection, rows)
    until = None if until_ms is None else _end(until_ms, SPANS_MS[unit])
    return Top(rows, rest, span_at(since_ms, SPANS_MS[unit]) * SPANS_MS[unit], until)


def names_above(connection: Connection, by: str, *, denied: int, since_ms: int, until_ms: int, limit: int) -> list[str]:
    """Return the names with at least a number of refused calls in one minute of a time, in order.

    Args:
        connection: A transaction that reads the log.
        by: What is named: one of ``KINDS``.
        denied: The number of refused calls.
        since_ms: The first time; its whole minute counts.
        until_ms: The last time; its whole minute counts.
        limit: The largest number of names.
    """
    first, last = (span_at(at_ms, SPANS_MS[MINUTE]) for at_ms in (since_ms, until_ms))
    its = (TOTAL.c.what == KINDS[by], TOTAL.c.span == MINUTE, TOTAL.c.at.between(first, last), TOTAL.c.name != "")
    wanted = select(TOTAL.c.name).where(*its, TOTAL.c.deny >= denied).distinct().order_by(TOTAL.c.name).limit(limit)
    return [str(name) for name in connection.execute(wanted).scalars()]


def series(
    connection: Connection, *, since_ms: int, until_ms: int | None = None, by: str | None = None, name: str = ""
) -> Series:
    """Return counts over a time, in steps of a minute, an hour or a day.

    Args:
        connection: A transaction that reads the log.
        since_ms: The first time; its whole step counts.
        until_ms: The time after the last; now if None.
        by: What ``name`` names, one of ``KINDS``; None for all records.
        name: The name whose records are counted.
    """
    unit = _unit(since_ms, until_ms)
    step, what = SPANS_MS[unit], ALL if by is None else KINDS[by]
    first, end = span_at(since_ms, step), _end(now_ms() if until_ms is None else until_ms, step) // step
    row = (TOTAL.c.what == what, TOTAL.c.span == unit, TOTAL.c.name == name, TOTAL.c.at >= first, TOTAL.c.at < end)
    found = connection.execute(select(TOTAL.c.at, *(TOTAL.c[each] for each in SUMS)).where(*row).order_by(TOTAL.c.at))
    points = [(at * step, _counts(counts)) for at, *counts in found]
    total = OutcomeCounts(*map(sum, zip(*(counts for _, counts in points), strict=True))) if points else OutcomeCounts()
    size = int(connection.execute(select(STATE.c.counted)).scalar_one())
    return Series(points, step, total, first * step, end * step, size)


def sum_of(
    connection: Connection, by: str | None, name: str, *, since_ms: int | None, until_ms: int | None
) -> OutcomeCounts | None:
    """Return the counts of a name over a time; None if the totals do not have that time or that name alone.

    Args:
        connection: A transaction that reads the log.
        by: What ``name`` names, one of ``KINDS``; None for all records.
        name: The name.
        since_ms: The first time; None for all from the first record on.
        until_ms: The time after the last; None for no end.
    """
    minute = SPANS_MS[MINUTE]
    if (since_ms or 0) % minute or (until_ms or 0) % minute:
        return None
    what = ALL if by is None else KINDS[by]
    rows = _rows(what, list(_stretches(since_ms or 0, until_ms, MINUTE))).subquery().c
    sums = select(*(func.sum(rows[each]) for each in SUMS))
    # A span that has too many names has some of them under the empty one.
    if by is not None and any(_counts(connection.execute(sums.where(rows.name == "")).one())):
        return None
    return _counts(connection.execute(sums.where(rows.name == name)).one())


def _unit(since_ms: int, until_ms: int | None) -> int:
    length = (now_ms() if until_ms is None else until_ms) - since_ms
    return MINUTE if length <= _IN_MINUTES_MS else HOUR if length <= _IN_HOURS_MS else DAY


def _end(until_ms: int, length: int) -> int:
    return -(-until_ms // length) * length


def _stretches(since_ms: int, until_ms: int | None, unit: int) -> Iterator[_Stretch]:
    """Yield the fewest spans that make up a time: days, and at its ends hours and minutes."""
    start = span_at(since_ms, SPANS_MS[unit]) * SPANS_MS[unit]
    end = None if until_ms is None else max(start, _end(until_ms, SPANS_MS[unit]))
    for span in range(unit, DAY):
        length, longer = SPANS_MS[span], SPANS_MS[span + 1]
        up = _end(start, longer)
        if end is not None and up >= end // longer * longer:  # no whole longer span is within
            yield _Stretch(span, start // length, end // length)
            return
        yield _Stretch(span, start // length, up // length)
        if end is not None:
            yield _Stretch(span, end // longer * longer // length, end // length)
            end = end // longer * longer
        start = up
    yield _Stretch(DAY, start // SPANS_MS[DAY], None if end is None else end // SPANS_MS[DAY])


def _rows(what: int, stretches: list[_Stretch]) -> Any:
    columns = [TOTAL.c[name] for name in ("name", *SUMS)]
    selects = []
    for stretch in stretches:
        within: list[ColumnElement[bool]] = [TOTAL.c.what == what, TOTAL.c.span == stretch.span]
        within += [TOTAL.c.at >= stretch.first]
        within += [] if stretch.end is None else [TOTAL.c.at < stretch.end]
        selects.append(select(*columns).where(*within))
    return union_all(*selects)


def _counts(sums: Any) -> OutcomeCounts:
    return OutcomeCounts(*(int(value or 0) for value in sums))


def _with_agents(connection: Connection, rows: list[TopRow]) -> list[TopRow]:
    named = select(NODE.c.ref, NODE.c.agent).where(NODE.c.kind == SESSION, NODE.c.ref.in_([row.name for row in rows]))
    agents = {row.ref: row.agent for row in connection.execute(named)}
    return [row._replace(agent=agents.get(row.name, "")) for row in rows]
