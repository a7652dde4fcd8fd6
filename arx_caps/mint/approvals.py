# SPDX-License-Identifier: Apache-2.0
"""Approvals: an agent's request, operators' answers, and the discharge. CONTROL 2.7.

The bytes of discharges are in ``discharge``.
"""

# A discharge is made when it is fetched and never stored. It ends with its task, with its time, or with a kill of its
# own target, which is a withdrawal.

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from arx_caps.mint.context import Born, HasDatabase, HasEpochs, HasLedger, IssuingParts, TaskParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.approvals import (
    APPROVED,
    DENIED,
    ENDED,
    WAITING,
    WITHDRAWN,
    ApprovalAnswer,
    ApprovalWithTask,
)
from arx_caps.mint.db.tables import OperatorRow, SessionRow, ShownMark, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.operator_role import role_of
from arx_caps.mint.identity.operator_token import require_rules_allow
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.roles import APPROVE
from arx_caps.mint.tasks.discharge import ApprovalCaveat, constraints_of, make_discharge, read_third_party
from arx_caps.mint.tasks.liveness import require_unrevoked, task_state
from arx_caps.mint.tasks.revoke import withdraw_target
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import new_name
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.targets import APPROVAL
from arx_verifier import names
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, refusal, shorten
from arx_verifier.ledger.pools import MarkSetting

State = Literal["waiting", "approved", "denied", "withdrawn", "expired", "ended"]
_OVER: Final = ("ended", "expired", "killed")  # states of a task


class ApprovalRequest(NamedTuple):
    """An agent's request: the third-party caveat of its token, the tool, its arguments, and why."""

    caveat: str
    tool: str
    args: Mapping[str, Any]
    why: str | None


def ask_approval(
    mint: TaskParts,
    unit: UnitOfWork,
    caller: AuthenticatedCaller,
    request: ApprovalRequest,
    *,
    handle: str | None = None,
) -> ApprovalWithTask:
    """Store an agent's request for an approval.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        caller: The authenticated agent.
        request: The request.
        handle: The id of the access token for which a gateway asks; None if the agent asks itself.

    Returns:
        Its row.

    Raises:
        GrantError: ``bad_parameters``: no token of the task requires the approval, the task does not allow the call,
            or the arguments cannot be approved; ``conflict``: no mark is set after which the call needs it, or marks
            may be lost; ``not_found``, ``session_ended``, ``too_many_approvals``.
        StoreError: The ledger does not answer.
        RevokedError: The task was killed or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    session, born = _session_of(caller)
    third_party = read_third_party(request.caveat)
    task = mint.db.tasks.find(third_party.task)
    if task is None or task.session != session.id:
        raise GrantError("this session has no task with this caveat", code="not_found")
    if task_state(mint.kills, task) in _OVER:
        raise GrantError("the task is over; start another", code="session_ended")
    require_unrevoked(mint.kills, born, task, session)
    constraints_of(request.args)  # arguments that no discharge can express must not reach an operator
    template, audience, terms = _terms(mint, task, third_party, request)
    marks = _marks_to_show(mint, session, third_party) if third_party.when else None
    facts: dict[str, Any] = {"session": session.id, "task": task.id, "agent": caller.name, "template": template}
    facts |= {"audience": audience, "tool": request.tool, "why": _cleaned(request.why), "need": terms.need}
    row = ApprovalWithTask(
        **facts,
        id=new_name(APPROVAL),
        caveat=request.caveat,
        args=dict(request.args),
        asked_at=now_ms(),
        ttl_ms=terms.ttl_ms,
        # An access token can be replayed: its approval is for one call, also where the policy allows several.
        once=terms.once or handle is not None,
        status=WAITING,
        handle=handle,
        subject_issuer=session.subject_issuer,
        subject=session.subject,
        marks=marks,
        its=task,
    )
    about: dict[str, Any] = {"handle": handle} if handle is not None else {}
    about |= {"marks": sorted({each.mark for each in marks})} if marks else {}
    what = Event.of("approval.asked", caller.actor, approval=row.id, args=request.args, **facts, **about)
    mint.db.approvals.add(unit, row, what)
    return row


def fetch_discharge(mint: IssuingParts, caller: AuthenticatedCaller, row: ApprovalWithTask) -> str | None:
    """Return the discharge of an approval, a secret; None while the request waits.

    Raises:
        GrantError: ``approval_denied``, ``approval_expired``, ``session_ended``; ``approval_withdrawn``: it was, or an
            operator who approved it may approve it no more.
        RevokedError: The task, or the key of its token, was killed or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    session, born = _session_of(caller)
    state = approval_state(mint, row)
    if state == "waiting":
        return None
    if state == "expired" and row.expires_at is not None:
        over_s = (now_ms() - row.expires_at) // 1000
        raise GrantError(f"{row.id} expired {over_s} s ago: ask again", code="approval_expired")
    if state == "ended":
        raise GrantError("the task that it was asked for is over", code="session_ended")
    if state != "approved":
        reason = f" ({row.answer_why})" if state == "denied" and row.answer_why else ""
        raise GrantError(f"{row.id} was {state}{reason}", code=f"approval_{state}")
    # Judged again: the policy or the operator's role may have changed since the answer.
    for approver in row.by:
        operator_row = mint.db.operators.find(approver)
        if operator_row is None or not _may_approve(mint, operator_row, row):
            words = f"{row.id} was approved by an operator who may not approve it any more: ask again"
            raise GrantError(words, code="approval_withdrawn")
    require_unrevoked(mint.kills, born, row.its, session, (f"task:{row.id}",))
    kid = read_third_party(row.caveat).kid
    mint.kills.require(born, (f"key:{kid}",))
    key = mint.key_schedule.audience_keys(row.audience).get(kid)
    if key is None:
        raise refusal("revoked")  # the key of the token that requires it was retired
    made = make_discharge(row, key[0], mint.realm.name)
    mint.db.record(Event.of("discharge.made", caller.actor, **row.facts(), expires_at=row.expires_at))
    return made


def answer_approval(
    mint: IssuingParts, caller: AuthenticatedCaller, row: ApprovalWithTask, *, yes: bool, why: str | None
) -> ApprovalWithTask:
    """Approve or deny a request.

    Args:
        mint: The mint.
        caller: The authenticated operator.
        row: The approval's row.
        yes: Whether to approve.
        why: The operator's reason, or None.

    Returns:
        The row after the answer.

    Raises:
        GrantError: ``session_ended``: its task is over; ``conflict``: it has an answer, this operator has approved it,
            the task does not allow the call any more, or this operator was killed since the task began.
        RevokedError: The task was killed or is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    if approval_state(mint, row) == "withdrawn":
        raise GrantError(f"{row.id} is withdrawn already", code="conflict")
    task = row.its
    session = mint.db.sessions.find(row.session)
    if session is None or task_state(mint.kills, task) in _OVER:
        raise GrantError("the task that it was asked for is over", code="session_ended")
    terms: ApprovalTerms | None = None
    if yes:
        require_unrevoked(mint.kills, mint.kills.born(), task, session)
        if _ended_since(mint, caller.name, task):
            words = f"{caller.name} was killed since task {task.id} began: another operator must approve"
            raise GrantError(f"{words}, or the agent starts another task", code="conflict")
        terms = _terms_now(mint, row)

    def counts(operator: str, operator_row: OperatorRow | None) -> bool:
        return operator == caller.name or (operator_row is not None and _may_approve(mint, operator_row, row))

    return mint.db.approvals.answer(row, ApprovalAnswer(caller.name, terms, _cleaned(why), counts))


def withdraw_approval(
    mint: TaskParts, caller: AuthenticatedCaller, row: ApprovalWithTask
) -> tuple[ApprovalWithTask, KillReport | None]:
    """Withdraw an approval, also if its discharge was fetched; or a request.

    Returns:
        The row afterwards, and the kill report; None if there was nothing to revoke.

    Raises:
        StoreError: The outcome is not known: retry.
    """
    # An approval whose kill is in the store and not in its row is withdrawn again: the first attempt crashed between.
    if row.status not in (WAITING, APPROVED) or approval_state(mint, row) in ("expired", "ended"):
        return row, None
    # A request has no discharge, and gets none once its row is withdrawn, so it needs no kill.
    withdrawn = mint.db.approvals.withdraw(row, WAITING, caller.actor)
    if withdrawn.status != APPROVED:
        return withdrawn, None
    report = withdraw_target(mint.revoker, f"task:{row.id}", caller.actor)
    return mint.db.approvals.withdraw(row, APPROVED, caller.actor, seq=report.seq), report


def approval_state(mint: IssuingParts, row: ApprovalWithTask) -> State:
    """Return the state of an approval, by its row, its task's row, the clock and the kill epoch."""
    if row.status in (DENIED, WITHDRAWN, ENDED):
        return cast("State", row.status)
    task, targets = row.its, [f"task:{row.id}"]
    if row.status == APPROVED:
        targets += [f"operator:{approver}" for approver in row.by]
    # Since the task's birth: a discharge has none of its own.
    killed = mint.epochs.check(task.incarnation, task.born, targets)
    if killed is not None and killed.target in targets:
        return "withdrawn"
    if row.expires_at is not None and row.expires_at <= now_ms():
        return "expired"
    if task_state(mint.kills, task) in _OVER:
        return "ended"
    return "approved" if row.status == APPROVED else "waiting"


def about(mint: HasDatabase, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a request that operators' rules may constrain, beside its id."""
    row = mint.db.approvals.find(str(args.get("approval", "")))
    return {} if row is None else {"agent": row.agent, "template": row.template, "tool": row.tool}


def _session_of(caller: AuthenticatedCaller) -> tuple[SessionRow, Born]:
    if caller.session is None or caller.born is None:
        raise GrantError("approvals are asked for by agents, in a session", code="wrong_caller")
    return caller.session, caller.born


def _terms(
    mint: IssuingParts, task: TaskRow, third_party: ApprovalCaveat, request: ApprovalRequest
) -> tuple[str, str, ApprovalTerms]:
    """Return the template, audience and strictest terms of the grants that require a caveat."""
    if not names.is_tool(request.tool) or not any(
        names.matches_tool(pattern, request.tool) for pattern in third_party.tools
    ):
        raise GrantError(f"the caveat does not name the tool {shorten(request.tool)}", code="bad_parameters")
    matches: list[tuple[str, str, ApprovalTerms]] = []
    failed: GrantError | None = None
    kids: dict[str, Collection[str]] = {}
    for row in mint.db.grants.live(task.id):
        granted = StoredGrant.read(row.content)
        for audience, entries in granted.approvals.items():
            wanted = (third_party.tools, third_party.when)
            terms = next((entry for entry in entries if (entry.tools, entry.when) == wanted), None)
            if audience not in kids:
                kids[audience] = mint.key_schedule.audience_keys(audience).keys()
            if terms is None or third_party.kid not in kids[audience]:
                continue
            try:
                _require_allowed(granted, audience, request)
                matches.append((granted.template, audience, terms))
            except GrantError as error:
                failed = error
    if not matches:
        words = "no token of this task requires this: give the caveat of one, byte for byte"
        raise failed or GrantError(words, code="bad_parameters")
    template, audience, _ = matches[0]
    strict = [terms for _, other, terms in matches if other == audience]
    # The strictest terms of all grants: a policy that asks for more must not be bypassed by an older grant.
    need, ttl_ms = max(terms.need for terms in strict), min(terms.ttl_ms for terms in strict)
    return template, audience, ApprovalTerms(third_party.tools, need, ttl_ms, any(terms.once for terms in strict))


def marks_now(mint: HasLedger, session: SessionRow, *caveats: ApprovalCaveat) -> list[tuple[ShownMark, ...]]:
    """Return for each third-party caveat of a session those of its marks that are set now.  SPEC 21.8.

    Raises:
        GrantError: ``conflict``: marks may be lost, or the realm has no ledger.
        StoreError: The ledger does not answer.
    """
    if mint.ledger is None:
        raise GrantError("this realm has no ledger: set `ledger` in realm.toml", code="conflict")
    lost, fields = mint.ledger.marks(session.id, session.opened_at)
    if lost:
        raise GrantError("the ledger may have lost marks of this session: open another session", code="conflict")
    found: list[tuple[ShownMark, ...]] = []
    for third_party in caveats:
        marks = []
        for name in dict.fromkeys(name for marks in third_party.when for name in marks):
            for value in filter(None, (fields.get(f"w:{of}:{name}") for of in ("s", f"t/{third_party.task}"))):
                its = MarkSetting.read(value)
                marks.append(ShownMark(name, its.at, its.shown_tool, its.service))
        found.append(tuple(marks))
    return found


def _marks_to_show(mint: HasLedger, session: SessionRow, third_party: ApprovalCaveat) -> tuple[ShownMark, ...]:
    """Return the marks after which a call needs an approval now."""
    [found] = marks_now(mint, session, third_party)
    if not any({each.mark for each in found}.issuperset(marks) for marks in third_party.when):
        raise GrantError("no mark is set after which this call needs an approval: call it", code="conflict")
    return found


def _terms_now(mint: IssuingParts, row: ApprovalWithTask) -> ApprovalTerms:
    """Return the terms of a request by the grants of today."""
    request = ApprovalRequest(row.caveat, row.tool, row.args, None)
    try:
        _, _, terms = _terms(mint, row.its, read_third_party(row.caveat), request)
    except GrantError as error:
        raise GrantError(f"the task changed since it was asked for: {error}", code="conflict") from error
    return terms


def _require_allowed(granted: StoredGrant, audience: str, request: ApprovalRequest) -> None:
    """Require that a task's token allows the call."""
    rules: Sequence[Any] = [caveat.allow for caveat in granted.caveats(audience) if caveat.allow is not None]
    # No operator is asked to approve a call that would be refused all the same.
    for index, allowed in enumerate(rules):
        try:
            require_rules_allow(
                f"task {granted.template}" if index == 0 else "an attenuation", allowed, request.tool, request.args
            )
        except ArxError as error:
            message = f"the task does not allow this call, approved or not: {error}"
            raise GrantError(message, code="bad_parameters", failures=error.failures) from error


def _may_approve(mint: IssuingParts, operator_row: OperatorRow, row: ApprovalWithTask) -> bool:
    """Return whether an operator who approved before may still approve."""
    # Removed, frozen, or with another role since: an approval counts only if it could be given again now.
    if operator_row.status != "active":
        return False
    operator = operator_row.id
    if _ended_since(mint, operator, row.its):
        return False
    asked = {"approval": row.id, "outcome": "approve", "agent": row.agent}
    asked |= {"template": row.template, "tool": row.tool}
    try:
        require_rules_allow(operator, role_of(mint, operator_row).rules, APPROVE, asked)
    except ArxError:
        return False
    return True


def _ended_since(mint: HasEpochs, operator: str, task: TaskRow) -> bool:
    """Return whether an operator is frozen, or was killed since a task began, so that verifiers take no discharge."""
    return mint.epochs.check(task.incarnation, task.born, (f"operator:{operator}",)) is not None


def _cleaned(text: str | None) -> str | None:
    """Return text on one line, without characters that are not printable."""
    if text is None:
        return None
    # An agent's reason is shown on operators' terminals: control characters could rewrite the screen.
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split()) or None
