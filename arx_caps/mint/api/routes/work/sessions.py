# SPDX-License-Identifier: Apache-2.0
"""Routes of sessions and tasks: open, renew, start, list and end them.  CONTROL 1.

An agent sees and ends its own session and that session's tasks; any other is ``not_found``.
"""

from http.client import SERVICE_UNAVAILABLE
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.audit.query.session_calls import NO_CALLS, calls_of
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, RowPage, page_in_state
from arx_caps.mint.api.views import (
    KillShown,
    SessionShown,
    TaskShown,
    require_row,
    show_kill,
    show_row,
    show_session,
    show_task,
)
from arx_caps.mint.context import BudgetParts, LoggedParts, LogParts
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.db.repositories.work.sessions import SESSIONS_ORDER, Which
from arx_caps.mint.db.repositories.work.tasks import TASKS_ORDER
from arx_caps.mint.db.tables import SessionRow, TaskRow
from arx_caps.mint.identity.issuer_token import MAX_NAME_CHARS
from arx_caps.mint.identity.session_login import LoginCredentials
from arx_caps.mint.tasks import issue, reissue, sessions
from arx_caps.mint.tasks.liveness import State
from arx_caps.mint.tasks.revoke import end_session, finish_task
from arx_verifier.errors import REASONS, GrantError, RequestError, StoreError
from arx_verifier.names import MAX_PATH_BYTES, is_agent_path

# The rows that may be in each state, as far as the database knows; the kill epoch decides the rest, row by row.
WHICH: Final[dict[State | None, Which | None]] = {
    None: None,
    "open": "alive",
    "killed": "alive",
    "frozen": "alive",
    "expired": "expired",
    "ended": "ended",
}
COUNTED_TO: Final = 10_000  # sessions beyond this number are not counted one by one
BOTH: Final = ("operator", "agent")
GONE: Final = ("not_found", "conflict")
Token = Annotated[str, Meta(max_length=16 * 1024)]  # the bound of ``issuer_token``
Duration = Annotated[str, Meta(max_length=20)]


class SessionBody(Hidden, Body, frozen=True):
    """A session to open: the agent's credential, and its subject's."""

    assertion: Token | None = None
    workload_token: Token | None = None
    subject_token: Token | None = None
    subject_token_type: Annotated[str, Meta(max_length=100)] | None = None
    ttl: Duration | None = None
    purpose: Annotated[str, Meta(max_length=500)] | None = None


class TaskBody(Body, frozen=True):
    """A task to start."""

    template: Annotated[str, Meta(max_length=64)]
    params: dict[str, Any] | None = None
    ttl: Duration | None = None
    tools: Annotated[tuple[Annotated[str, Meta(max_length=96)], ...], Meta(max_length=64)] | None = None
    depth: int | None = None
    parent: Annotated[str, Meta(max_length=32)] | None = None
    holder: Annotated[str, Meta(max_length=64)] | None = None


class SessionsQuery(PageQuery, frozen=True):
    """The sessions to list.

    They are of an agent (or, as ``acme/**``, of it and those below it), of a subject, with a task of a template, in a
    state, or with a text in agent, purpose or subject, or an id.  ``counts`` asks for ``total`` and ``activity``.
    """

    agent: Annotated[str, Meta(max_length=MAX_PATH_BYTES + 3)] | None = None
    subject: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    template: Annotated[str, Meta(max_length=64)] | None = None
    state: State | None = None
    text: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    counts: bool = False


class TasksQuery(PageQuery, frozen=True):
    """The tasks to list: of a session, agent or template, in a state."""

    session: Annotated[str, Meta(max_length=32)] | None = None
    agent: Annotated[str, Meta(max_length=MAX_PATH_BYTES)] | None = None
    template: Annotated[str, Meta(max_length=64)] | None = None
    state: State | None = None


class SessionOpened(Hidden, RouteAnswer, frozen=True, kw_only=True):
    """A session and its new token, a secret, which expires at ``expires_at`` (ms)."""

    session: SessionShown
    token: str
    expires_at: int
    token_type: Literal["DPoP"] = "DPoP"  # noqa: S105 - a scheme of RFC 9449, no secret


class ActivityShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a session did: its tasks by template, and its calls as the audit log has them.

    ``delegations`` is the number of holders that its agents named, ``depth`` how many of them follow each other.
    ``last_at`` is the time of its last record, ms since the Unix epoch.
    """

    templates: dict[str, int]
    allowed: int
    denied: int
    delegations: int
    depth: int
    last_at: int | None
    last_tool: str | None


class SessionsTotal(msgspec.Struct, frozen=True):
    """How many sessions match; ``exact`` is false for a lower bound."""

    sessions: int
    exact: bool


class Sessions(Paged, frozen=True):
    """A page of sessions, the newest first.

    ``activity``, by session, is absent if the log does not answer.  ``total`` is on the first page, and absent for a
    state that the kill epoch decides, unless the page has all.
    """

    sessions: list[SessionShown]
    total: SessionsTotal | UnsetType = UNSET
    activity: dict[str, ActivityShown] | UnsetType = UNSET


class SessionWithTasks(Paged, frozen=True):
    """A session and its newest tasks; ``next`` continues the list of its tasks."""

    session: SessionShown
    tasks: list[TaskShown]


class SessionEnded(RouteAnswer, frozen=True):
    """An ended session, and the kill that ended it; null if it had ended before."""

    session: SessionShown
    kill: KillShown | None


class TaskStarted(Hidden, RouteAnswer, frozen=True):
    """A new task and its bundle, a secret."""

    task: TaskShown
    bundle: str


class Tasks(Paged, frozen=True):
    """A page of tasks, the newest first."""

    tasks: list[TaskShown]


class TaskEnded(RouteAnswer, frozen=True):
    """An ended task, and the kill that ended it; null if it had ended before."""

    task: TaskShown
    kill: KillShown | None


# Refusals of a new session, beside those of its credentials.
_NOT_OPENED: Final = (
    "bad_parameters",
    "bad_subject_token",
    "bad_workload_token",
    "conflict",
    "issuer_unavailable",
    "no_policy",
    "not_found",
    "revoked",
    "session_not_allowed",
    "subject_not_allowed",
    "subject_required",
    "too_many_sessions",
    *(code for code, reason in REASONS.items() if reason.status == SERVICE_UNAVAILABLE),
)
_NOT_RENEWED: Final = (
    *GONE,
    "no_policy",
    "session_ended",
    "session_not_allowed",
    "subject_not_allowed",
    "subject_required",
)
NOT_STARTED: Final = (
    "bad_parameters",
    "conflict",
    "no_policy",
    "session_ended",
    "subject_not_allowed",
    "subject_required",
    "unknown_task",
)
ENDPOINTS, endpoint = collect(Endpoint)


def session_again(call: RouteCall, made: Made) -> SessionOpened:
    """Answer a repeat of opening a session."""
    mint, recipe = call.mint, made.recipe or {}
    row = mint.db.sessions.find(made.facts["session"])
    # The answer has a token: only the holder of the session's key may have it again.
    if row is None or call.proof is None or row.jkt != call.proof.key.kid:
        raise GrantError("no such session", code="not_found")
    token = reissue.reissue_session(mint, recipe, row)
    return SessionOpened(session=show_session(mint.kills, row), token=token, expires_at=recipe["expires_at"])


@endpoint(
    "POST",
    "/v1/sessions",
    None,
    SessionBody,
    status=201,
    problems=_NOT_OPENED,
    again=session_again,
    makes="session.opened",
    one_change=True,
)
def open_session_route(call: RouteCall) -> SessionOpened:
    """Open a session for the agent that an assertion or a workload's token authenticates."""
    body = call.body
    credentials = LoginCredentials(body.assertion, body.workload_token, body.subject_token, body.subject_token_type)
    opened = sessions.open_session(call.mint, call.unit, credentials, call.signed, ttl=body.ttl, purpose=body.purpose)
    session = show_session(call.mint.kills, opened.row)
    return SessionOpened(session=session, token=opened.token, expires_at=opened.expires_at)


@endpoint(
    "POST",
    "/v1/sessions/{session}/renew",
    "arx.sessions.renew",
    callers=("agent",),
    problems=_NOT_RENEWED,
    one_change=True,
    database_only=True,
)
def renew_session_route(call: RouteCall) -> SessionOpened:
    """Return a new token for a session, which expires later, within the session's lifetime."""
    if call.authenticated.session is None or call.authenticated.session.id != call.path["session"]:
        raise GrantError("no such session", code="not_found")
    renewed = sessions.renew_session(call.mint, call.unit, call.authenticated)
    session = show_session(call.mint.kills, renewed.row)
    return SessionOpened(session=session, token=renewed.token, expires_at=renewed.expires_at)


@endpoint("GET", "/v1/sessions", "arx.sessions.read", query=SessionsQuery)
def list_sessions(call: RouteCall) -> Sessions:
    """List sessions, the newest first."""
    return sessions_of(call.mint, call.query)


def sessions_of(mint: LogParts, query: SessionsQuery) -> Sessions:
    """Return a page of sessions.

    Raises:
        RequestError: The agent is neither a path nor one with ``/**``.
    """
    if query.agent is not None and not is_agent_path(query.agent.removesuffix("/**")):
        raise RequestError("invalid agent: expected a path, or a path and /**")
    filters = {"agent": query.agent, "subject": query.subject, "template": query.template, "text": query.text}
    which = WHICH[query.state]
    page = page_in_state(
        lambda most: mint.db.sessions.list(**filters, which=which, after=query.after, limit=most),
        SESSIONS_ORDER,
        lambda row: show_session(mint.kills, row),
        limit=query.limit,
        state=query.state,
    )
    if not query.counts:
        return Sessions(sessions=page.shown, next=page.next)
    total: SessionsTotal | UnsetType = UNSET
    if query.after is None and page.next is UNSET:
        total = SessionsTotal(len(page.shown), True)
    elif query.after is None and which != "alive":
        count = mint.db.sessions.count(COUNTED_TO, which=which, **filters)
        total = SessionsTotal(min(count, COUNTED_TO), count <= COUNTED_TO)
    return Sessions(sessions=page.shown, next=page.next, total=total, activity=_activity(mint, page.shown))


@endpoint("GET", "/v1/sessions/{session}", "arx.sessions.read", callers=BOTH, problems=GONE)
def get_session(call: RouteCall) -> SessionWithTasks:
    """Return a session with its tasks."""
    row = find_session(call, call.path["session"])
    page = _tasks(call.mint, TasksQuery(session=row.id))
    return SessionWithTasks(session=show_session(call.mint.kills, row), tasks=page.shown, next=page.next)


@endpoint("DELETE", "/v1/sessions/{session}", "arx.sessions.end", callers=BOTH, problems=GONE)
def delete_session(call: RouteCall) -> SessionEnded:
    """End a session, its tasks and all of their tokens."""
    session = find_session(call, call.path["session"]).id
    # Read again below: the answer shows the state after the kill.
    report = end_session(call.mint.db, call.mint.revoker, find_session(call, session), call.authenticated.actor)
    return SessionEnded(
        session=show_session(call.mint.kills, find_session(call, session)), kill=show_kill(report) if report else None
    )


def task_again(call: RouteCall, made: Made) -> TaskStarted:
    """Answer a repeat of starting a task."""
    mint, task = call.mint, own_task(call, made.facts["task"])
    session = find_session(call, task.session)
    bundle = reissue.reissue_task(mint, made.recipe or {}, session, task.id)
    return TaskStarted(task=show_task(mint.kills, task), bundle=bundle)


@endpoint(
    "POST",
    "/v1/tasks",
    "arx.tasks.start",
    TaskBody,
    callers=("agent",),
    status=201,
    problems=(*NOT_STARTED, *GONE),
    again=task_again,
    makes="task.started",
    one_change=True,
    database_only=True,
)
def start_task_route(call: RouteCall) -> TaskStarted:
    """Start a task from a template of the policy."""
    body = call.body
    request = issue.TaskRequest(
        body.template, body.params or {}, body.ttl, body.tools, body.depth, body.parent, body.holder
    )
    started = issue.start_task(call.mint, call.unit, call.authenticated, request)
    return TaskStarted(task=show_task(call.mint.kills, started.row), bundle=started.bundle)


@endpoint("GET", "/v1/tasks", "arx.tasks.read", callers=BOTH, query=TasksQuery, problems=GONE)
def list_tasks(call: RouteCall) -> Tasks:
    """List tasks, the newest first; an agent gets those of its session."""
    page = _tasks(call.mint, own_query(call))
    return Tasks(tasks=page.shown, next=page.next)


@endpoint("DELETE", "/v1/tasks/{task}", "arx.tasks.finish", callers=BOTH, problems=GONE)
def delete_task(call: RouteCall) -> TaskEnded:
    """Finish a task: its tokens are revoked, delegated ones included."""
    task = own_task(call, call.path["task"])
    # A kill, because services accept the task's tokens until they expire or are revoked.
    report = finish_task(call.mint.db, call.mint.revoker, task, call.authenticated.actor)
    shown = show_task(call.mint.kills, own_task(call, task.id))
    return TaskEnded(task=shown, kill=show_kill(report) if report else None)


def _activity(mint: LoggedParts, shown: list[SessionShown]) -> dict[str, ActivityShown] | UnsetType:
    agents = {session.id: session.agent for session in shown}
    templates = mint.db.sessions.templates([*agents])
    try:
        with mint.log.store.reading() as c:
            calls = calls_of(c, agents)
    except StoreError:  # the list itself is needed most when something is broken
        return UNSET
    return {
        session: show_row(
            ActivityShown, found._asdict(), templates=templates.get(session, {}), last_at=found.last_ms or None
        )
        for session in agents
        for found in (calls.get(session, NO_CALLS),)
    }


def _tasks(mint: BudgetParts, query: TasksQuery) -> RowPage[TaskShown]:
    filters = {"session": query.session, "agent": query.agent, "template": query.template}
    return page_in_state(
        lambda most: mint.db.tasks.list(**filters, which=WHICH[query.state], after=query.after, limit=most),
        TASKS_ORDER,
        lambda row: show_task(mint.kills, row),
        limit=query.limit,
        state=query.state,
    )


def find_session(call: RouteCall, session: str) -> SessionRow:
    """Return the row of a session that the caller may see.

    Raises:
        GrantError: ``not_found``: there is none, or it is another agent's.
    """
    own = call.authenticated.session
    # The same answer for another agent's session as for none, so that ids cannot be probed.
    is_seen = own is None or own.id == session
    return require_row(call.mint.db.sessions.find(session) if is_seen else None, "session")


def own_query(call: RouteCall) -> Any:
    """Return the query of a list; an agent's is for its session alone.

    Raises:
        GrantError: ``not_found``: an agent asks for another session.
    """
    own, query = call.authenticated.session, call.query
    if own is None:
        return query
    # Not an empty page: an agent learns that it asked for another's session.
    require_row(own if query.session in (None, own.id) else None, "session")
    return msgspec.structs.replace(query, session=own.id)


def own_task(call: RouteCall, task: str) -> TaskRow:
    """Return a task that the caller may see.

    Raises:
        GrantError: ``not_found``: there is none, or it is another session's.
    """
    row, own = call.mint.db.tasks.find(task), call.authenticated.session
    is_seen = row is not None and (own is None or own.id == row.session)
    return require_row(row if is_seen else None, "task")
