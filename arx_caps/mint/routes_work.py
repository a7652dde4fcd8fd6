# SPDX-License-Identifier: Apache-2.0
"""Routes of sessions and tasks: what is being done.  SPEC 16.

An agent sees and ends its own session and that session's tasks; what is another's is not there for it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta

from arx_caps.mint import granting
from arx_caps.mint.ending import end_session, finish_task
from arx_caps.mint.endpoint import Answer, Asked, Body, Endpoint
from arx_caps.mint.identity import Shown
from arx_caps.mint.shown import STATES, show_session, show_task
from arx_verifier.errors import GrantError, RequestError, refusal

BOTH: Final = ("operator", "agent")
Token = Annotated[str, Meta(max_length=16 * 1024)]
Duration = Annotated[str, Meta(max_length=20)]


class SessionBody(Body, frozen=True):
    """A session to open: who, and on whose behalf."""

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


def open_session(asked: Asked) -> Answer:
    """Open a session for the agent that an assertion or a workload's token proves."""
    body = asked.body
    if asked.proof is None:
        raise refusal("missing_token")
    shown = Shown(body.assertion, body.workload_token, body.subject_token, body.subject_token_type)
    opened = granting.open_session(asked.mint, shown, asked.proof, ttl=body.ttl, purpose=body.purpose)
    session = show_session(asked.mint, opened.row)
    return Answer({"session": session, "token": opened.token, "token_type": "DPoP"}, 201)


def list_sessions(asked: Asked) -> Answer:
    """List sessions, the newest first."""
    state = asked.query.get("state")
    if state is not None and state not in STATES:
        raise RequestError(f"state is one of {', '.join(STATES)}")
    rows = asked.mint.state.sessions(agent=asked.query.get("agent"))
    shown = [show_session(asked.mint, row) for row in rows]
    return Answer({"sessions": [session for session in shown if state in (None, session["state"])]})


def get_session(asked: Asked) -> Answer:
    """Show a session with its tasks."""
    row = _session(asked, asked.path["session"])
    tasks = [show_task(asked.mint, task) for task in asked.mint.state.tasks(session=row["id"])]
    return Answer({"session": show_session(asked.mint, row), "tasks": tasks})


def delete_session(asked: Asked) -> Answer:
    """End a session and everything that came of it."""
    session = _session(asked, asked.path["session"])["id"]
    report = end_session(asked.mint, _session(asked, session), asked.by.by)
    return Answer({"session": show_session(asked.mint, _session(asked, session)), "kill": report})


def start_task(asked: Asked) -> Answer:
    """Start a task from a template of the policy."""
    body = asked.body
    wanted = granting.Asked(body.template, body.params or {}, body.ttl, body.tools, body.depth)
    started = granting.start_task(asked.mint, asked.by, wanted)
    return Answer({"task": show_task(asked.mint, started.row), "bundle": started.bundle}, 201)


def list_tasks(asked: Asked) -> Answer:
    """List tasks, the newest first; an agent sees those of its session."""
    own = asked.by.session
    session = asked.query.get("session") if own is None else own["id"]
    if own is not None and asked.query.get("session") not in (None, own["id"]):
        raise GrantError("there is no such session", code="not_found")
    return Answer({"tasks": [show_task(asked.mint, row) for row in asked.mint.state.tasks(session=session)]})


def delete_task(asked: Asked) -> Answer:
    """Finish a task: its tokens, also those handed over, are dead."""
    task = _task(asked, asked.path["task"])
    report = finish_task(asked.mint, task, asked.by.by)
    return Answer({"task": show_task(asked.mint, _task(asked, task["id"])), "kill": report})


def _session(asked: Asked, session: str) -> Mapping[str, Any]:
    row = asked.mint.state.session(session)
    own = asked.by.session
    if row is None or (own is not None and own["id"] != session):
        raise GrantError("there is no such session", code="not_found")
    return row


def _task(asked: Asked, task: str) -> Mapping[str, Any]:
    row = asked.mint.state.task(task)
    own = asked.by.session
    if row is None or (own is not None and own["id"] != row["session"]):
        raise GrantError("there is no such task", code="not_found")
    return row


ENDPOINTS: Final = (
    Endpoint("POST", "/v1/sessions", None, open_session, SessionBody),
    Endpoint("GET", "/v1/sessions", "arx.sessions.read", list_sessions, query=("agent", "state")),
    Endpoint("GET", "/v1/sessions/{session}", "arx.sessions.read", get_session, callers=BOTH),
    Endpoint("DELETE", "/v1/sessions/{session}", "arx.sessions.end", delete_session, callers=BOTH),
    Endpoint("POST", "/v1/tasks", "arx.tasks.start", start_task, TaskBody, callers=("agent",)),
    Endpoint("GET", "/v1/tasks", "arx.tasks.read", list_tasks, callers=BOTH, query=("session",)),
    Endpoint("DELETE", "/v1/tasks/{task}", "arx.tasks.finish", delete_task, callers=BOTH),
)
