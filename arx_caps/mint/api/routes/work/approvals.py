# SPDX-License-Identifier: Apache-2.0
"""Routes of approvals: request, answer, withdraw, and fetch the discharge.  CONTROL 2.7.

An agent sees and uses the requests of its own session; operators see and answer all of them.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint import approvals
from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_in_state
from arx_caps.mint.api.routes.work.sessions import BOTH, GONE, own_query
from arx_caps.mint.api.views import KillShown, SubjectShown, show_kill, show_row, show_subject
from arx_caps.mint.approvals import State, approval_state
from arx_caps.mint.context import IssuingParts
from arx_caps.mint.db.repositories.work.approvals import (
    APPROVALS_ORDER,
    APPROVED,
    DENIED,
    ENDED,
    WAITING,
    WITHDRAWN,
    ApprovalWithTask,
)
from arx_caps.mint.db.repositories.work.repeats import Made
from arx_caps.mint.db.tables import ShownMark
from arx_caps.mint.policy.roles import APPROVE
from arx_caps.settings.durations import format_duration
from arx_verifier.errors import GrantError
from arx_verifier.names import MAX_PATH_BYTES, MAX_TOOL_CHARS

# Short enough to be read: an operator approves what a request says.
Why = Annotated[str, Meta(max_length=500)]
Name = Annotated[str, Meta(max_length=32)]
# The statuses of rows that may be in each state.  Clock, task and kill epoch decide the rest, row by row.
_STATUSES: Final[dict[State | None, tuple[str, ...] | None]] = {
    None: None,
    "waiting": (WAITING,),
    "approved": (APPROVED,),
    "denied": (DENIED,),
    "withdrawn": (WITHDRAWN, WAITING, APPROVED),
    "expired": (APPROVED,),
    "ended": (ENDED, WAITING, APPROVED),
}


class ApprovalBody(Body, frozen=True):
    """A call that needs an approval: its caveat as in the token, tool, arguments and reason."""

    caveat: Annotated[str, Meta(min_length=1, max_length=4096)]
    tool: Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_CHARS)]
    args: dict[str, Any]
    why: Why | None = None


class OutcomeBody(Body, frozen=True):
    """An operator's answer to a request, and the reason."""

    approval: Name
    outcome: Literal["approve", "deny"]
    why: Why | None = None


class ApprovalsQuery(PageQuery, frozen=True):
    """The approvals to list: in a state; of a task, session, agent or template."""

    state: State | None = None
    task: Name | None = None
    session: Name | None = None
    agent: Annotated[str, Meta(max_length=MAX_PATH_BYTES)] | None = None
    template: Annotated[str, Meta(max_length=64)] | None = None


class ApprovalShown(RouteAnswer, frozen=True):
    """A call that needs an approval; times are ms since the Unix epoch.

    ``by`` are the operators that approved, of ``need``.  ``expires_at`` is the task's end while the request waits, then
    the discharge's, which lives for ``ttl`` at most.  ``why`` is the agent's own text and proves nothing.
    ``marks`` are those after which the call needs the approval, which does not count for one that is set later.
    """

    id: str
    state: State
    task: str
    session: str
    agent: str
    subject: SubjectShown | None
    template: str
    audience: str
    tool: str
    args: dict[str, Any]
    why: str | None
    need: int
    ttl: str
    once: bool
    asked_at: int
    by: list[str]
    denied_by: str | None
    answer_why: str | None
    approved_at: int | None
    expires_at: int
    marks: list[ShownMark] | UnsetType = UNSET


class ApprovalAsked(RouteAnswer, frozen=True):
    """A request for an approval."""

    approval: ApprovalShown


class DischargeGiven(Hidden, RouteAnswer, frozen=True):
    """An approval, and if approved its discharge, a secret to bind to the task's token."""

    approval: ApprovalShown
    discharge: str | UnsetType = UNSET


class Approvals(Paged, frozen=True):
    """A page of approvals, the newest first."""

    approvals: list[ApprovalShown]


class ApprovalWithdrawn(RouteAnswer, frozen=True):
    """A withdrawn approval, and the kill of its discharge; null if there was none."""

    approval: ApprovalShown
    kill: KillShown | None


_NOT_ASKED: Final = ("bad_parameters", "conflict", "not_found", "session_ended", "too_many_approvals")
_NOT_GIVEN: Final = ("approval_denied", "approval_expired", "approval_withdrawn", "not_found", "session_ended")
ENDPOINTS, endpoint = collect(Endpoint)


def asked_again(call: RouteCall, made: Made) -> ApprovalAsked:
    """Answer a repeat of a request."""
    return ApprovalAsked(approval=show_approval(call.mint, _find_own(call, made.facts["approval"])))


@endpoint(
    "POST",
    "/v1/discharges",
    "arx.approvals.ask",
    ApprovalBody,
    callers=("agent",),
    status=201,
    problems=_NOT_ASKED,
    again=asked_again,
    makes="approval.asked",
    # One commit for the request and its proof: a call waits for the disk once.
    one_change=True,
)
def ask_approval_route(call: RouteCall) -> ApprovalAsked:
    """Request an approval of one call with exactly these arguments."""
    body = call.body
    # The discharge is bound to tool and arguments: an approved call cannot become another one.
    request = approvals.ApprovalRequest(body.caveat, body.tool, body.args, body.why)
    return ApprovalAsked(
        approval=show_approval(call.mint, approvals.ask_approval(call.mint, call.unit, call.authenticated, request))
    )


@endpoint("POST", "/v1/discharges/{approval}", "arx.approvals.ask", callers=("agent",), problems=_NOT_GIVEN)
def fetch_discharge_route(call: RouteCall) -> DischargeGiven:
    """Return the state of a request, and its discharge once it is approved."""
    row = _find_own(call, call.path["approval"])
    discharge = approvals.fetch_discharge(call.mint, call.authenticated, row)
    return DischargeGiven(approval=show_approval(call.mint, row), discharge=discharge or UNSET)


@endpoint("GET", "/v1/approvals", "arx.approvals.read", callers=BOTH, query=ApprovalsQuery, problems=GONE)
def list_approvals(call: RouteCall) -> Approvals:
    """List approvals, the newest first; an agent gets those of its session."""
    mint, query = call.mint, own_query(call)
    filters = {"task": query.task, "session": query.session, "agent": query.agent, "template": query.template}
    statuses, alive = _STATUSES[query.state], query.state in ("waiting", "approved")
    page = page_in_state(
        lambda most: mint.db.approvals.list(statuses=statuses, alive=alive, after=query.after, limit=most, **filters),
        APPROVALS_ORDER,
        lambda row: show_approval(mint, row),
        limit=query.limit,
        state=query.state,
    )
    return Approvals(approvals=page.shown, next=page.next)


@endpoint("GET", "/v1/approvals/{approval}", "arx.approvals.read", callers=BOTH, problems=GONE, about=approvals.about)
def get_approval(call: RouteCall) -> ApprovalAsked:
    """Return a request and its answer."""
    return ApprovalAsked(approval=show_approval(call.mint, _find_own(call, call.path["approval"])))


@endpoint(
    "POST",
    "/v1/approvals",
    APPROVE,
    OutcomeBody,
    problems=(*GONE, "session_ended"),
    # The body has only an id: with the request's agent, template and tool, a role can restrict its approvals.
    about=approvals.about,
)
def answer_approval_route(call: RouteCall) -> ApprovalAsked:
    """Approve a request as it is, or deny it."""
    body, row = call.body, _find_own(call, call.body.approval)
    yes = body.outcome == "approve"
    return ApprovalAsked(
        approval=show_approval(
            call.mint, approvals.answer_approval(call.mint, call.authenticated, row, yes=yes, why=body.why)
        )
    )


@endpoint("DELETE", "/v1/approvals/{approval}", APPROVE, problems=GONE, about=approvals.about)
def withdraw_approval_route(call: RouteCall) -> ApprovalWithdrawn:
    """Withdraw an approval: revoke its discharge, or cancel its request."""
    row, report = approvals.withdraw_approval(call.mint, call.authenticated, _find_own(call, call.path["approval"]))
    return ApprovalWithdrawn(approval=show_approval(call.mint, row), kill=show_kill(report) if report else None)


def show_approval(mint: IssuingParts, row: ApprovalWithTask) -> ApprovalShown:
    """Return an approval as the API shows it."""
    return show_row(
        ApprovalShown,
        row,
        state=approval_state(mint, row),
        subject=show_subject(row.subject_issuer, row.subject),
        ttl=format_duration(row.ttl_ms),
        by=list(row.by),
        marks=list(row.marks or ()) or UNSET,
        expires_at=row.its.expires_at if row.expires_at is None else row.expires_at,
    )


def _find_own(call: RouteCall, name: str) -> ApprovalWithTask:
    """Return an approval that the caller may see."""
    own = call.authenticated.session
    # The session is a condition of the query: to an agent, another session's approval does not exist.
    rows = call.mint.db.approvals.list(id=name, session=own.id if own is not None else None, limit=1)
    if not rows:
        raise GrantError("no such approval", code="not_found")
    return rows[0]
