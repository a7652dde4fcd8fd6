# SPDX-License-Identifier: Apache-2.0
"""Routes that query the audit log.  LOG 3.

The mint filters, counts and pages, so that a caller sees a full page or the last one.
"""

import threading
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import select

from arx_caps.audit.merkle import Checkpoint, text64
from arx_caps.audit.query import MAX_PAGE, OUTCOMES, Found, Question, questions, reach, show_nodes, show_record
from arx_caps.audit.store import SOURCE, LogStore
from arx_caps.mint.api.endpoint import Endpoint, Query, RouteAnswer, RouteCall
from arx_caps.mint.api.pagination import PageQuery, page_of
from arx_caps.mint.audit.log import AuditLog
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.cursor import Order, behind
from arx_caps.mint.db.database import plain
from arx_verifier.errors import REASONS, AuditError, RequestError
from arx_verifier.names import MAX_PATH_BYTES, MAX_TOOL_CHARS, is_path_pattern, is_tool_pattern

READ: Final = "arx.audit.read"
MAX_WAIT_MS: Final = 20_000  # an answer that is waited for is older than any proxy's patience otherwise
_LOOK_S: Final = 0.2
_WAITING: Final = threading.BoundedSemaphore(8)  # further ones are answered at once: threads are for those who ask

_Id = Annotated[str, Meta(min_length=1, max_length=128)]
_Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
RUNS_ORDER: Final = Order((SOURCE.c.id,), tuple[Annotated[int, Meta(ge=0, le=2**31 - 1)]], newest_first=True)


class NodesQuery(Query, frozen=True):
    """Whose nodes."""

    session: _Id | None = None
    task: _Id | None = None
    link: _Id | None = None
    agent: Annotated[str, Meta(min_length=1, max_length=MAX_PATH_BYTES)] | None = None
    subject: _Id | None = None


class RecordsQuery(NodesQuery, frozen=True):
    """Which records, and which page of them.  Times are ms since the Unix epoch."""

    tool: Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_CHARS)] | None = None
    reason: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    since: _Number | None = None
    until: _Number | None = None
    before: _Number | None = None
    after: Annotated[int, Meta(ge=-1, le=2**53 - 1)] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0
    prove: _Number | None = None


class TotalShown(msgspec.Struct, frozen=True):
    """How many records there are, and from when to when; ``exact`` is false where there are more than were counted."""

    records: int
    exact: bool
    since: int | None
    until: int | None


class Records(RouteAnswer, frozen=True):
    """A page of records; ``next`` is the ``before`` or ``after`` of the next one, null at the end.

    ``checkpoint`` is what the paths of proven records lead to.
    """

    origin: str
    records: list[dict[str, Any]]
    next: int | None
    total: TotalShown | None
    size: int
    checkpoint: str | None


class LogNodes(RouteAnswer, frozen=True):
    """Nodes, each before what is below it; not all of them where ``complete`` is false."""

    nodes: list[dict[str, Any]]
    complete: bool


class RunShown(msgspec.Struct, frozen=True):
    """One run of one verifier, or of the mint: how far the log has it.  Times are ms; ``closed_at``: its end, if told.

    A run that was not closed and is silent was killed, or somebody keeps its records back.
    """

    service: str
    verifier: str
    boot: str
    high_water: int
    lost: int
    seen_at: int
    closed_at: int | None


class RunsQuery(PageQuery, frozen=True):
    """Which runs: all, or a service's."""

    service: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")] | None = None


class Runs(RouteAnswer, frozen=True):
    """A page of runs, the newest first."""

    runs: list[RunShown]
    next: str | UnsetType = UNSET


def list_runs(call: RouteCall) -> Runs:
    """Show whose records the log has and how far, and which runs never ended in order."""
    query, limit = call.query, call.query.limit
    statement = behind(select(*SOURCE.c), RUNS_ORDER, query.after).limit(limit + 1)
    if query.service is not None:
        statement = statement.where(SOURCE.c.audience == query.service)
    with call.mint.log.store.reading() as c:
        rows = list(map(plain, c.execute(statement)))
    page = page_of(rows, RUNS_ORDER, _show_run, limit=limit, fetched=limit + 1)
    return Runs(runs=page.shown, next=page.next)


def _show_run(row: Mapping[str, Any]) -> RunShown:
    names = ("verifier", "boot", "high_water", "lost")
    told = {name: row[name] for name in names}
    return RunShown(service=row["audience"], **told, seen_at=row["seen_ms"], closed_at=row["closed_ms"])


def list_records(call: RouteCall) -> Records:
    """Show records of the audit log: the newest, those before or after one, or those that come."""
    query, store = call.query, call.mint.log.store
    question = _question(call.mint, query)
    if query.before is not None and query.after is not None:
        raise RequestError("a page is before an index or after one, not both")
    if query.wait and query.after is None:
        raise RequestError("what is waited for comes after an index: say `after`")
    found, size = _page(store, question, query)
    total = None
    if query.before is None and query.after is None:
        with store.reading() as c:
            total = TotalShown(*questions.total(c, question))
    more = len(found) == query.limit or query.after is not None
    told = _told(found, query)
    checkpoint, shown = (
        (None, list(map(show_record, told))) if query.prove is None else _proven(call.mint.log, told, query)
    )
    return Records(
        origin=call.mint.log.publisher.origin,
        records=shown,
        next=found[-1].idx if found and more else query.after,
        total=total,
        size=size,
        checkpoint=checkpoint,
    )


def list_nodes(call: RouteCall) -> LogNodes:
    """Show whom records are about, as a tree with the counts of what was allowed and denied at each place."""
    question = _question(call.mint, call.query)
    if not question.of_nodes:
        raise RequestError("say whose: a session, task, link, agent or subject")
    return nodes_of(call.mint.log, question)


def nodes_of(log: AuditLog, question: Question) -> LogNodes:
    """Show the nodes that a question by somebody reaches.

    Raises:
        StoreError: The log's database does not answer.
    """
    with log.store.reading() as c:
        reached = reach(c, question)
    assert reached is not None
    return LogNodes(nodes=show_nodes(reached.nodes), complete=reached.complete)


def _proven(log: AuditLog, found: list[Found], query: RecordsQuery) -> tuple[str, list[dict[str, Any]]]:
    """Show records with their bytes and their paths to the root of a checkpoint; those behind it are left out.

    Args:
        log: The log.
        found: The records.
        query: Its ``prove`` is the size of a checkpoint, 0 for the last one.
    """
    signed = log.publisher.signed
    if signed is None:
        raise AuditError("the log is not signed yet; ask again in a second")
    head = Checkpoint.parse(signed.text)
    size = query.prove or head.size
    if size > head.size:
        raise RequestError(f"prove is the size of a checkpoint, at most {head.size}")
    within = [each for each in found if each.idx < size]
    shown = []
    for each, path in zip(within, log.publisher.paths((each.idx for each in within), size, head), strict=True):
        body = None if each.body is None else text64(bytes(each.body))
        proven = {"kept": text64(bytes(each.kept)), "body": body, "path": [*map(text64, path)]}
        shown.append(show_record(each) | proven)
    return signed.encode().decode(), shown


def _page(store: LogStore, question: Question, query: RecordsQuery) -> tuple[list[Found], int]:
    """Return a page and the size of the log it is of; wait for one that is empty, if that is asked."""
    until = time.monotonic() + query.wait / 1000
    waits = query.wait > 0 and _WAITING.acquire(blocking=False)
    try:
        while True:
            with store.reading() as c:
                size = questions.size(c)
                found = questions.records(c, question, before=query.before, after=query.after, limit=query.limit)
            if _told(found, query) or not waits or time.monotonic() >= until:
                return found, size
            while waits and store.size() == size and time.monotonic() < until:
                time.sleep(_LOOK_S)
    finally:
        if waits:
            _WAITING.release()


def _told(found: list[Found], query: RecordsQuery) -> list[Found]:
    """Leave out, for those who wait, that somebody read the log: each look would be the next one's news."""
    return [each for each in found if each.tool != READ] if query.wait and query.tool is None else found


def _question(mint: MintContext, query: NodesQuery) -> Question:
    call = msgspec.structs.asdict(query)
    grant = None if query.link is None else mint.db.grants.find(query.link)
    question = Question(
        **{name: call[name] for name in NodesQuery.__struct_fields__},
        **{name: call.get(name) for name in ("tool", "reason")},
        since_ms=call.get("since"),
        until_ms=call.get("until"),
    )
    if grant is not None:  # link 0, which every token that the mint gave for the task begins with
        question = question._replace(link=None, granted=str(grant["task"]))
    if question.agent is not None and not is_path_pattern(question.agent) and ":" not in question.agent:
        raise RequestError("agent is an agent's path or a pattern such as acme/**, or operator:NAME")
    if question.tool is not None and not is_tool_pattern(question.tool):
        raise RequestError("tool is a tool, prefix.* or *")
    if question.reason is not None and question.reason not in (*OUTCOMES, *REASONS):
        raise RequestError("reason is allow, deny, end, counted, gap, event or a reason's code")
    return question


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/audit/records", READ, list_records, query=RecordsQuery, problems=("incomplete", "tampered")),
    Endpoint("GET", "/v1/audit/nodes", READ, list_nodes, query=NodesQuery),
    Endpoint("GET", "/v1/audit/runs", READ, list_runs, query=RunsQuery),
)
