# SPDX-License-Identifier: Apache-2.0
"""Routes of marks: those of a session, and an operator's lift of one.  CONTROL 2.12."""

from contextlib import suppress
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from arx_caps.audit.query import questions
from arx_caps.audit.query.node_search import Question
from arx_caps.audit.query.views import show_record
from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.routes.work.budgets import ledger_of
from arx_caps.mint.api.routes.work.sessions import find_session
from arx_caps.mint.context import HasLog
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.approvals import WAITING
from arx_verifier.errors import GrantError, StoreError
from arx_verifier.ledger.pools import MarkSetting
from arx_verifier.names import is_tool_pattern

WRITE: Final = "arx.marks.write"
_KINDS: Final = {"w": "warning", "p": "proof"}
_OF: Final = {"s": "session", "t": "task", "l": "link"}
_NEAR_MS: Final = 30_000  # the clocks of the ledger and of a service differ, and a call may set a mark at its end
_WITH_RECORDS: Final = 100  # marks whose record is looked for; a holder's links can have thousands
_CALLS: Final = 100  # of a tool, near a mark


class LiftBody(Body, frozen=True):
    """The mark to lift, wherever in the session it is set, and the reason."""

    mark: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class MarkShown(RouteAnswer, frozen=True):
    """A mark, and the call that set it; ``ref`` is the task's id or the link's name that it is of.

    ``set_at`` is ms since the Unix epoch.  ``record`` is the index in the audit log of the allowed call of this tool
    at this service that is the nearest to it, within 30 s: of those whose records have the mark, if there are any.
    """

    mark: str
    kind: Literal["warning", "proof"]
    of: Literal["session", "task", "link"]
    set_at: int
    tool: str
    service: str
    ref: str | UnsetType = UNSET
    record: int | UnsetType = UNSET


class Marks(RouteAnswer, frozen=True):
    """The marks of a session, the first that was set first.

    ``lost``: the ledger may have lost marks, so that each warning counts as set, and no proof does.
    """

    marks: list[MarkShown]
    lost: bool


class Lifted(RouteAnswer, frozen=True):
    """What was lifted: nothing, if the mark was not set."""

    session: str
    lifted: list[MarkShown]


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/sessions/{session}/marks", "arx.sessions.read", problems=("not_found",))
def list_session_marks(call: RouteCall) -> Marks:
    """Show the marks of a session, each with the call that set it."""
    mint, session = call.mint, find_session(call, call.path["session"])
    lost, fields = ledger_of(mint).marks(session.id, session.opened_at)
    shown = _show(fields)
    for place, mark in enumerate(shown[:_WITH_RECORDS]):
        with suppress(StoreError):  # without the log, the marks are known all the same
            shown[place] = _with_record(mint, session.id, mark)
    return Marks(marks=shown, lost=lost)


@endpoint("POST", "/v1/sessions/{session}/marks/lift", WRITE, LiftBody, problems=("not_found", "conflict"))
def lift_mark(call: RouteCall) -> Lifted:
    """Lift a mark of a session; a later call may set it again."""
    body, ledger, session = call.body, ledger_of(call.mint), find_session(call, call.path["session"])
    name, opened = session.id, session.opened_at
    lost, fields = ledger.marks(name, opened)
    if not lost and not any(field.endswith(f":{body.mark}") for field in fields):
        return Lifted(session=name, lifted=[])
    if not lost:
        # Before the ledger lifts it: nothing is lifted without a record.
        facts = {"session": name, "agent": session.agent, "mark": body.mark, "reason": body.reason}
        waiting = call.mint.db.approvals.list(statuses=(WAITING,), alive=True, session=name)
        stale = [row for row in waiting if any(shown.mark == body.mark for shown in row.marks or ())]
        event = Event.of("mark.lifted", call.authenticated.actor, **facts)
        call.mint.db.approvals.withdraw_waiting(stale, event)
        lost, fields = ledger.marks(name, opened, body.mark)
    if lost:
        text = "the ledger may have lost marks of this session, so each warning counts as set: open another session"
        raise GrantError(text, code="conflict")
    return Lifted(session=name, lifted=_show(fields))


def _show(fields: dict[str, str]) -> list[MarkShown]:
    """Return marks, given their fields of the ledger."""
    shown = []
    for field, value in fields.items():
        kind, of, mark = field.split(":", 2)
        its = MarkSetting.read(value)
        where, _, ref = of.partition("/")
        facts: dict[str, Any] = {"kind": _KINDS[kind], "of": _OF[where], "ref": ref or UNSET}
        shown.append(MarkShown(mark=mark, set_at=its.at, tool=its.tool, service=its.service, **facts))
    return sorted(shown, key=lambda mark: (mark.set_at, mark.mark, mark.of))


def _with_record(mint: HasLog, session: str, mark: MarkShown) -> MarkShown:
    """Return a mark with the nearest allowed call of its tool at its service; without it, if the log has none."""
    if not is_tool_pattern(mark.tool):  # a holder made it up
        return mark
    since, until = mark.set_at - _NEAR_MS, mark.set_at + _NEAR_MS
    question = Question(session=session, tool=mark.tool, reason="allow", since_ms=since, until_ms=until)
    with mint.log.store.reading() as c:
        found = questions.records(c, question, limit=_CALLS)
    calls = [show_record(each) for each in found if (each.tool, each.audience) == (mark.tool, mark.service)]
    near = [(mark.mark not in each.get("marks", ()), abs(each["at"] - mark.set_at), each["index"]) for each in calls]
    return msgspec.structs.replace(mark, record=min(near)[2]) if near else mark
