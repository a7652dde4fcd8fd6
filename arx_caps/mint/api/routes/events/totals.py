# SPDX-License-Identifier: Apache-2.0
"""Routes of the audit log's totals over time: the names with the most decisions, and the decisions of each minute.

They read sums that the log keeps, and so cost the same for any number of records.  LOG 3.6.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.audit.query.top_names import MAX_TOP, series, top
from arx_caps.mint.api.endpoint import Endpoint, Query, RouteAnswer, RouteCall, collect
from arx_caps.mint.audit.log import AuditLog
from arx_verifier.clock import now_ms
from arx_verifier.errors import RequestError

READ: Final = "arx.audit.read"
DEFAULT_MS: Final = 3_600_000
MAX_MS: Final = 3_660 * 86_400_000  # ten years; a series of them has a step for each day

_Time = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # JSON numbers above are not exact in every client
_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class SpanQuery(Query, frozen=True):
    """A time, ms since the Unix epoch: the last hour if omitted."""

    since: _Time | None = None
    until: _Time | None = None


class TopQuery(SpanQuery, frozen=True):
    """What to list over a time, and in which order."""

    by: Literal["agent", "session", "tool", "reason"] = "agent"
    order: Literal["all", "refused"] = "all"
    limit: Annotated[int, Meta(ge=1, le=MAX_TOP)] = 20


class TotalsQuery(SpanQuery, frozen=True):
    """A time, and at most one name whose records are counted."""

    agent: _Name | None = None
    session: _Name | None = None
    tool: _Name | None = None
    reason: _Name | None = None


class CountsShown(msgspec.Struct, frozen=True):
    """Numbers of allowed, refused and ended calls, of unauthenticated refusals, and of other records."""

    allow: int
    deny: int
    end: int
    counted: int
    other: int


class TopShown(CountsShown, frozen=True, kw_only=True):
    """A name and its numbers; of a session also the agent that opened it."""

    name: str
    agent: str | UnsetType = UNSET


class TopNames(RouteAnswer, frozen=True):
    """The names with the most decisions, or refusals, and the sum of all others.

    ``since`` and ``until`` are the time that is counted: whole minutes, hours or days.
    """

    by: str
    order: str
    since: int
    until: int | None
    rows: list[TopShown]
    rest: CountsShown


class PointShown(CountsShown, frozen=True, kw_only=True):
    """The numbers of a step that begins at a time."""

    at: int


class Totals(RouteAnswer, frozen=True):
    """The numbers of each step that has records, and their sum.

    ``step`` is the length of a step in ms.  ``size`` records of the log are counted; the next checkpoint counts later
    ones.
    """

    since: int
    until: int
    step: int
    points: list[PointShown]
    total: CountsShown
    size: int


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/audit/top", READ, query=TopQuery)
def get_top(call: RouteCall) -> TopNames:
    """Return the agents, sessions, tools or reasons with the most decisions, or refusals, over a time."""
    query = call.query
    since, until = _time(query)
    with call.mint.log.store.reading() as c:
        found = top(c, query.by, since_ms=since, until_ms=until, order=query.order, limit=query.limit)
    rows = [
        TopShown(name=row.name, agent=row.agent if query.by == "session" else UNSET, **row.counts._asdict())
        for row in found.rows
    ]
    rest = CountsShown(**found.rest._asdict())
    return TopNames(by=query.by, order=query.order, since=found.since_ms, until=found.until_ms, rows=rows, rest=rest)


@endpoint("GET", "/v1/audit/totals", READ, query=TotalsQuery)
def get_totals(call: RouteCall) -> Totals:
    """Return the numbers of decisions in each minute, hour or day of a time."""
    return totals_of(call.mint.log, call.query)


def totals_of(log: AuditLog, query: TotalsQuery) -> Totals:
    """Return the numbers of ``get_totals``, for a page; its caller authorizes the viewers.

    Args:
        log: The realm's audit log.
        query: The time and the filter.

    Raises:
        RequestError: The time or the filter is invalid.
        StoreError: The log's database does not answer.
    """
    since, until = _time(query)
    named = {by: name for by in ("agent", "session", "tool", "reason") if (name := getattr(query, by)) is not None}
    if len(named) > 1:
        raise RequestError("invalid filter: expected at most one of agent, session, tool and reason")
    by, name = next(iter(named.items()), (None, ""))
    with log.store.reading() as c:
        found = series(c, since_ms=since, until_ms=until, by=by, name=name)
    points = [PointShown(at=at, **counts._asdict()) for at, counts in found.points]
    total = CountsShown(**found.total._asdict())
    span = {"since": found.since_ms, "until": found.until_ms, "step": found.step_ms}
    return Totals(**span, points=points, total=total, size=found.size)


def _time(query: SpanQuery) -> tuple[int, int | None]:
    """Return the first time and the time after the last.

    Raises:
        RequestError: The time is empty, or longer than ``MAX_MS``.
    """
    now = now_ms()
    since = max(0, (now if query.until is None else query.until) - DEFAULT_MS) if query.since is None else query.since
    end = max(now, since) if query.until is None else query.until
    if not 0 <= end - since <= MAX_MS:
        raise RequestError("invalid time: expected `since` before `until`, at most ten years before")
    return since, query.until
