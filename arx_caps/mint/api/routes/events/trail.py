# SPDX-License-Identifier: Apache-2.0
"""Routes that query the audit log.  LOG 3.

The mint filters, counts and pages.  A search that finds few records stops before its page is full, and says where.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from sqlalchemy import select

from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.note import text64
from arx_caps.audit.query import questions
from arx_caps.audit.query.node_search import Question, held, reach
from arx_caps.audit.query.questions import MAX_PAGE, OUTCOMES, Found
from arx_caps.audit.query.views import show_nodes, show_record
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.tables import SOURCE
from arx_caps.mint.api.endpoint import Endpoint, Query, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import show_row
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.db.cursor import Order, behind
from arx_caps.mint.db.mint_database import MintDatabase
from arx_verifier.errors import REASONS, ArxError, AuditError, RequestError
from arx_verifier.names import MAX_PATH_BYTES, MAX_TOOL_CHARS, is_path_pattern, is_tool_pattern

READ: Final = "arx.audit.read"
MAX_WAIT_MS: Final = 20_000  # proxies close a request without an answer, often after 30 s
_LOOK_S: Final = 0.2
# A waiting request holds one of the handlers' threads: further ones get their answer at once.
_WAITING: Final = threading.BoundedSemaphore(8)

_Id = Annotated[str, Meta(min_length=1, max_length=128)]
_Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]  # JSON numbers above are not exact in every client
RUNS_ORDER: Final = Order((SOURCE.c.id,), tuple[Annotated[int, Meta(ge=0, le=2**31 - 1)]], newest_first=True)


class NodesQuery(Query, frozen=True):
    """The nodes to return: of a session, task, link, agent or subject."""

    session: _Id | None = None
    task: _Id | None = None
    link: _Id | None = None
    agent: Annotated[str, Meta(min_length=1, max_length=MAX_PATH_BYTES)] | None = None
    subject: _Id | None = None


class RecordsQuery(NodesQuery, frozen=True):
    """The records to return, and the page.  Times are ms since the Unix epoch."""

    tool: Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_CHARS)] | None = None
    connection: Annotated[str, Meta(pattern=r"^c-[a-z2-7]{16}\Z")] | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    since: _Number | None = None
    until: _Number | None = None
    before: _Number | None = None
    after: Annotated[int, Meta(ge=-1, le=2**53 - 1)] | None = None  # -1 is before the first record
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0
    prove: _Number | None = None


class TotalShown(msgspec.Struct, frozen=True):
    """How many records match, and from when to when; ``exact`` is false for a lower bound."""

    records: int
    exact: bool
    since: int | None
    until: int | None


class Records(RouteAnswer, frozen=True):
    """A page of records; ``next`` is the next page's ``before`` or ``after``, null at the end.

    ``searched`` is the time of the last record that was looked at, ms since the Unix epoch, if the search stopped
    before the page was full; else null.
    ``checkpoint`` has the root that the records' inclusion paths lead to.
    """

    origin: str
    records: list[dict[str, Any]]
    next: int | None
    searched: int | None
    total: TotalShown | None
    size: int
    checkpoint: str | None


class LogNodes(RouteAnswer, frozen=True):
    """Nodes of delegation trees, parents first; ``complete`` is false if some are missing."""

    nodes: list[dict[str, Any]]
    complete: bool


class RunShown(msgspec.Struct, frozen=True):
    """The log's high-water mark of one run of a verifier or the mint.

    Times are ms since the Unix epoch.  ``closed_at`` is the end that it reported.  A silent run without it was killed,
    or its records are withheld.
    """

    service: str
    verifier: str
    boot: str
    high_water: int
    lost: int
    seen_at: int
    closed_at: int | None


class RunsQuery(PageQuery, frozen=True):
    """The runs to list: all, or a service's."""

    service: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")] | None = None


class Runs(Paged, frozen=True):
    """A page of runs, the newest first."""

    runs: list[RunShown]


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/audit/runs", READ, query=RunsQuery)
def list_runs(call: RouteCall) -> Runs:
    """List the runs whose records the log has, with their high-water marks and ends."""
    query, limit = call.query, call.query.limit
    statement = behind(select(*SOURCE.c), RUNS_ORDER, query.after).limit(limit + 1)
    if query.service is not None:
        statement = statement.where(SOURCE.c.audience == query.service)
    with call.mint.log.store.reading() as c:
        rows = [dict(row) for row in c.execute(statement).mappings()]
    page = page_of(rows, RUNS_ORDER, _show_run, limit=limit)
    return Runs(runs=page.shown, next=page.next)


def _show_run(row: Mapping[str, Any]) -> RunShown:
    return show_row(RunShown, row, service=row["audience"], seen_at=row["seen_ms"], closed_at=row["closed_ms"])


@endpoint("GET", "/v1/audit/records", READ, query=RecordsQuery, problems=("incomplete", "tampered"))
def list_records(call: RouteCall) -> Records:
    """Return records of the audit log: the newest, those before or after an index, or new ones."""
    query, store = call.query, call.mint.log.store
    question = question_of(call.mint.db, query)
    if query.before is not None and query.after is not None:
        raise RequestError("invalid page: expected either before or after; send at most one")
    if query.wait and query.after is None:
        raise RequestError("invalid wait: expected an index to wait after; send `after` as well")
    (found, end, searched), size, counted = _page(store, question, query)
    total = None
    if counted is not None:
        # A lower bound may lack records that are on the page.
        total = TotalShown(*counted._replace(records=max(counted.records, len(found))))
    # A reader that follows the log goes on after its last record, however few there were.
    more = len(found) == query.limit or query.after is not None
    kept = _without_reads(found, query)
    checkpoint, shown = (
        (None, list(map(show_record, kept))) if query.prove is None else _proven(call.mint.log, kept, query, size)
    )
    return Records(
        origin=call.mint.log.publisher.origin,
        records=shown,
        next=end if end is not None else found[-1].idx if found and more else query.after,
        searched=searched,
        total=total,
        size=size,
        checkpoint=checkpoint,
    )


def records_after(log: AuditLog, after: int | None, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return new records, and the log's size; for a stream, whose viewers are authorized elsewhere.

    Args:
        log: The realm's audit log.
        after: The index of the last known record; None reads the size alone.
        limit: The largest number of records; they are the oldest new ones.

    Raises:
        StoreError: The log's database does not answer.
    """
    with log.store.reading() as c:
        size = questions.size(c)
        found = [] if after is None or size <= after + 1 else questions.records(c, Question(), after=after, limit=limit)
    return [show_record(each) for each in found if each.tool != READ], size


@endpoint("GET", "/v1/audit/nodes", READ, query=NodesQuery)
def list_nodes(call: RouteCall) -> LogNodes:
    """Return delegation trees, with the counts of allowed and denied calls at each place."""
    question = question_of(call.mint.db, call.query)
    if not question.of_nodes:
        raise RequestError("missing filter: send session, task, link, agent or subject")
    with call.mint.log.store.reading() as c:
        reached = reach(c, question)
    assert reached is not None
    return LogNodes(nodes=show_nodes(reached.nodes), complete=reached.complete)


def _proven(log: AuditLog, found: list[Found], query: RecordsQuery, known: int) -> tuple[str, list[dict[str, Any]]]:
    """Return a checkpoint and the records in it, with their bytes and inclusion paths.

    Args:
        log: The log.
        found: The records.
        query: Its ``prove`` is the size of a checkpoint, 0 for the last one.
        known: The number of records of the log.
    """
    if not query.prove:
        # Otherwise a selection would lack records that a query has just shown.  A log that cannot sign now still proves
        # what it has signed.
        with contextlib.suppress(ArxError, OSError):
            log.sign(known)
    signed = log.publisher.signed
    if signed is None:
        raise AuditError("the log has no checkpoint yet; retry in a second")
    head = Checkpoint.parse(signed.text)
    size = query.prove or head.size
    if size > head.size:
        raise RequestError(f"invalid prove: expected the size of a checkpoint, at most {head.size}, got {size}")
    # Records after the checkpoint have no path to its root yet: a later page has them.
    within = [record for record in found if record.idx < size]
    shown = []
    for record, path in zip(within, log.publisher.paths((record.idx for record in within), size, head), strict=True):
        body = None if record.body is None else text64(bytes(record.body))
        proven = {"kept": text64(bytes(record.kept)), "body": body, "path": [*map(text64, path)]}
        shown.append(show_record(record) | proven)
    return signed.encode().decode(), shown


def _page(
    store: LogStore, question: Question, query: RecordsQuery
) -> tuple[questions.Searched, int, questions.Total | None]:
    """Return a page, the size of its log, and a first page's total; an empty page waits if the query asks for it."""
    # Counted once, for the first page: a count reads every matching row.
    first = query.before is None and query.after is None
    until = time.monotonic() + query.wait / 1000
    waits = query.wait > 0 and _WAITING.acquire(blocking=False)
    try:
        while True:
            with store.reading() as c:
                size = questions.size(c)
                reached = held(c, question, some=first)
                page = questions.search(c, question, reached, before=query.before, after=query.after, limit=query.limit)
                total = questions.total(c, question, reached) if first else None
            shown = page.end is not None or _without_reads(page.records, query)
            if shown or not waits or time.monotonic() >= until:
                return page, size, total
            # Polled, because another mint may append; the size alone, because the query's filters cost more.
            while waits and store.size() == size and time.monotonic() < until:
                time.sleep(_LOOK_S)
    finally:
        if waits:
            _WAITING.release()


def _without_reads(found: list[Found], query: RecordsQuery) -> list[Found]:
    """Return the records without reads of the log, if the query waits."""
    # Each waiting request is a record itself, and would wake all others.
    return [record for record in found if record.tool != READ] if query.wait and query.tool is None else found


def question_of(db: MintDatabase, query: NodesQuery) -> Question:
    """Return the question of a query.

    Args:
        db: The mint's database.
        query: The filters.

    Raises:
        RequestError: A filter is none that any record could match.
    """
    call = msgspec.structs.asdict(query)
    grant = None if query.link is None else db.grants.find(query.link)
    question = Question(
        **{name: call[name] for name in NodesQuery.__struct_fields__},
        **{name: call.get(name) for name in ("tool", "connection", "reason")},
        since_ms=call.get("since"),
        until_ms=call.get("until"),
    )
    if grant is not None:  # the link of a grant of the mint, with which all tokens of the grant begin
        question = question._replace(link=None, granted=grant.task)
    if question.agent is not None and not is_path_pattern(question.agent) and ":" not in question.agent:
        raise RequestError("invalid agent: expected a path, a pattern such as acme/**, or operator:NAME")
    if question.tool is not None and not is_tool_pattern(question.tool):
        raise RequestError("invalid tool: expected a tool's name, prefix.* or *")
    if question.reason is not None and question.reason not in (*OUTCOMES, *REASONS):
        raise RequestError(
            "invalid reason: expected allow, deny, end, would_refuse, effect, counted, gap, event or a reason code"
        )
    return question
