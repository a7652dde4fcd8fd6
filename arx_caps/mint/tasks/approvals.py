# SPDX-License-Identifier: Apache-2.0
"""Have a call approved: an agent asks, operators answer, the agent gets a discharge for this very call.  CONTROL 2.7.

Asked for is what a token requires and its task allows; approved is tool and arguments as they are.  A discharge is made
when it is fetched and never kept.  It ends with its task, its time, or a kill of its own target, which a withdrawal is.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.approvals import APPROVED, DENIED, ENDED, WAITING, WITHDRAWN, ApprovalAnswer
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.operator_token import require_rules_allow
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.roles import APPROVE, rules_of
from arx_caps.mint.tasks.discharge import ApprovalCaveat, constraints_of, make_discharge, read_third_party
from arx_caps.mint.tasks.liveness import require_standing, task_state
from arx_caps.mint.tasks.revoke import withdraw_target
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import as_json, new_name
from arx_caps.revocation import KillReport
from arx_caps.revocation.targets import APPROVAL
from arx_verifier import names
from arx_verifier.errors import ArxError, GrantError, refusal, shorten

State = Literal["waiting", "approved", "denied", "withdrawn", "expired", "ended"]
Row = Mapping[str, Any]
_OVER: Final = ("ended", "expired", "killed")


class Wanted(NamedTuple):
    """What an agent wants to have approved: the third-party caveat of its token, and the call."""

    caveat: str
    tool: str
    args: Mapping[str, Any]
    why: str | None


def ask_approval(mint: MintContext, unit: UnitOfWork, caller: AuthenticatedCaller, wanted: Wanted) -> dict[str, Any]:
    """Keep an agent's request.

    Returns:
        Its row.

    Raises:
        GrantError: ``bad_parameters``: no token of the task requires it, or the task does not allow the call, or it
            cannot be approved as it is; ``not_found``, ``session_ended``, ``too_many_approvals``.
        RevokedError: The task was killed or is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born = _of(caller)
    third_party = read_third_party(wanted.caveat)
    task = mint.db.tasks.find(third_party.task)
    if task is None or task["session"] != session["id"]:
        raise GrantError("caveat is of no task of this session", code="not_found")
    if task_state(mint, task) in _OVER:
        raise GrantError("the task is over; start another", code="session_ended")
    require_standing(mint, born, task, session)
    constraints_of(wanted.args)  # can it be approved at all?
    template, audience, terms = _terms(mint, task, third_party, wanted)
    now, why = now_ms(), _cleaned(wanted.why)
    told: dict[str, Any] = {"session": session["id"], "task": task["id"], "agent": caller.name, "template": template}
    told |= {"audience": audience, "tool": wanted.tool, "why": why, "need": terms.need}
    row = told | {"id": new_name(APPROVAL), "caveat": wanted.caveat, "args": as_json(wanted.args), "asked_at": now}
    row |= {"ttl_ms": terms.ttl_ms, "once": int(terms.once), "status": WAITING, "by": "[]"}
    row |= {"subject_issuer": session["subject_issuer"], "subject": session["subject"]}
    row |= dict.fromkeys(("denied_by", "answer_why", "approved_at", "expires_at"))
    what = Event.of("approval.asked", caller.by, approval=row["id"], args=wanted.args, **told)
    mint.db.approvals.add(unit, row, what)
    return row | {"its": task}


def fetch_discharge(mint: MintContext, caller: AuthenticatedCaller, row: Row) -> str | None:
    """Make the discharge of an approval, the same one each time, a secret; None while nobody has answered.

    Raises:
        GrantError: ``approval_denied``, ``approval_withdrawn``, ``approval_expired``, ``session_ended``.
        RevokedError: The task, or the key of its token, was killed or is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born = _of(caller)
    found = approval_state(mint, row)
    if found == "waiting":
        return None
    if found == "expired":
        over_s = (now_ms() - row["expires_at"]) // 1000
        raise GrantError(f"{row['id']} is over since {over_s} s: ask again", code="approval_expired")
    if found == "ended":
        raise GrantError("the task that it was asked for is over", code="session_ended")
    if found != "approved":
        said = f" ({row['answer_why']})" if found == "denied" and row["answer_why"] else ""
        raise GrantError(f"{row['id']} was {found}{said}", code=f"approval_{found}")
    require_standing(mint, born, row["its"], session, (f"task:{row['id']}",))
    kid = read_third_party(row["caveat"]).kid
    mint.require(born, (f"key:{kid}",))
    key = mint.key_schedule.audience_keys(row["audience"]).get(kid)
    if key is None:
        raise refusal("revoked")  # the token that requires it was made with a key that is retired
    made = make_discharge(row, key[0], mint.realm.name)
    told = {name: row[name] for name in ("session", "task", "agent", "audience", "expires_at")}
    mint.db.record(Event.of("discharge.made", caller.by, approval=row["id"], **told))
    return made


def answer_approval(
    mint: MintContext, caller: AuthenticatedCaller, row: Row, *, yes: bool, why: str | None
) -> dict[str, Any]:
    """Approve a request, or deny it.

    Returns:
        The row as it is now.

    Raises:
        GrantError: ``session_ended``: its task is over; ``conflict``: it does not wait, this operator said so, or the
            task does not allow the call any more.
        RevokedError: The task was killed or is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    if approval_state(mint, row) == "withdrawn":
        raise GrantError(f"{row['id']} is withdrawn already", code="conflict")
    task, session = row["its"], mint.db.sessions.find(row["session"])
    if session is None or task_state(mint, task) in _OVER:
        raise GrantError("the task that it was asked for is over", code="session_ended")
    terms: ApprovalTerms | None = None
    if yes:
        require_standing(mint, mint.born(), task, session)
        terms = _terms_now(mint, row)

    def counts(operator: str, found: Row | None) -> bool:
        return operator == caller.name or (found is not None and _may_approve(mint, found, row))

    return mint.db.approvals.answer(row, ApprovalAnswer(caller.name, terms, _cleaned(why), counts)) | {"its": task}


def withdraw_approval(
    mint: MintContext, caller: AuthenticatedCaller, row: Row
) -> tuple[dict[str, Any], KillReport | None]:
    """End an approval, also where its discharge is in somebody's hands; or a request.

    Returns:
        The row as it is now, and the kill report; None where nothing was left to end.

    Raises:
        StoreError: The outcome is not known; repeat it.
    """
    # One that the store alone knows to be withdrawn is withdrawn again: whoever did it came no further.
    if row["status"] not in (WAITING, APPROVED) or approval_state(mint, row) in ("expired", "ended"):
        return dict(row), None
    told = {name: row[name] for name in ("session", "task", "agent", "audience")} | {"approval": row["id"]}
    # A request has no discharge that could be out, and gets none once its row says so.
    done = mint.db.approvals.withdraw(row["id"], WAITING, Event.of("approval.withdrawn", caller.by, **told))
    if done["status"] != APPROVED:
        return done | {"its": row["its"]}, None
    report = withdraw_target(mint, f"task:{row['id']}", caller.by)
    what = Event.of("approval.withdrawn", caller.by, **told, seq=report.seq)
    return mint.db.approvals.withdraw(row["id"], APPROVED, what) | {"its": row["its"]}, report


def approval_state(mint: MintContext, row: Row) -> State:
    """Tell the state of an approval, from its row and its task's, the clock and the kill epoch."""
    status: State = row["status"]
    if status in (DENIED, WITHDRAWN, ENDED):
        return status
    task = row["its"]
    target = f"task:{row['id']}"
    killed = mint.epochs.check(task["incarnation"], task["born"], (target,))
    if killed is not None and killed.target == target:
        return "withdrawn"
    if status == APPROVED and row["expires_at"] <= now_ms():
        return "expired"
    if task_state(mint, task) in _OVER:
        return "ended"
    return "approved" if status == APPROVED else "waiting"


def about(mint: MintContext, args: Mapping[str, Any]) -> dict[str, Any]:
    """Say what rules of operators may ask of a request beside its name: whose it is, of which task, for which tool."""
    row = mint.db.approvals.find(str(args.get("approval", "")))
    return {} if row is None else {name: row[name] for name in ("agent", "template", "tool")}


def _of(caller: AuthenticatedCaller) -> tuple[Row, Born]:
    if caller.session is None or caller.born is None:
        raise GrantError("approvals are asked for by agents, in a session", code="wrong_caller")
    return caller.session, caller.born


def _terms(mint: MintContext, task: Row, third_party: ApprovalCaveat, wanted: Wanted) -> tuple[str, str, ApprovalTerms]:
    """Find at which audience a token of a task requires this, and on what terms it was granted: the strictest."""
    if not names.is_tool(wanted.tool) or not any(names.matches_tool(each, wanted.tool) for each in third_party.tools):
        raise GrantError(f"caveat is not about the tool {shorten(wanted.tool)}", code="bad_parameters")
    found: list[tuple[str, str, ApprovalTerms]] = []
    failed: GrantError | None = None
    kids: dict[str, Collection[str]] = {}
    for row in mint.db.grants.live(task["id"]):
        granted = StoredGrant.read(row["content"])
        for audience, entries in granted.approvals.items():
            terms = next((each for each in entries if each.tools == third_party.tools), None)
            if audience not in kids:
                kids[audience] = mint.key_schedule.audience_keys(audience).keys()
            if terms is None or third_party.kid not in kids[audience]:
                continue
            try:
                _require_allowed(granted, audience, wanted)
                found.append((granted.template, audience, terms))
            except GrantError as error:
                failed = error
    if not found:
        words = "no token of this task needs this: caveat is what one says, byte for byte"
        raise failed or GrantError(words, code="bad_parameters")
    template, audience, _ = found[0]
    strict = [terms for _, at, terms in found if at == audience]
    need, ttl_ms = max(terms.need for terms in strict), min(terms.ttl_ms for terms in strict)
    return template, audience, ApprovalTerms(third_party.tools, need, ttl_ms, any(terms.once for terms in strict))


def _terms_now(mint: MintContext, row: Row) -> ApprovalTerms:
    """Return the terms of a request as they are by now: its task may have been granted the same on stricter ones."""
    wanted = Wanted(row["caveat"], row["tool"], msgspec.json.decode(row["args"], type=dict[str, Any]), None)
    try:
        _, _, terms = _terms(mint, row["its"], read_third_party(row["caveat"]), wanted)
    except GrantError as error:
        raise GrantError(f"the task changed since it was asked for: {error}", code="conflict") from error
    return terms


def _require_allowed(granted: StoredGrant, audience: str, wanted: Wanted) -> None:
    """Require that a task's token allows the call: nobody is asked to approve what would be refused all the same."""
    rules: Sequence[Any] = [caveat.allow for caveat in granted.caveats(audience) if caveat.allow is not None]
    for place, each in enumerate(rules):
        try:
            require_rules_allow(
                f"task {granted.template}" if place == 0 else "what was taken away", each, wanted.tool, wanted.args
            )
        except ArxError as error:
            said = f"the task does not allow this call, approved or not: {error}"
            raise GrantError(said, code="bad_parameters", failures=error.failures) from error


def _may_approve(mint: MintContext, found: Row, row: Row) -> bool:
    """Tell whether an operator who said yes before may still do so: what was taken away since counts no more."""
    if found["status"] != "active":
        return False
    operator = found["id"]
    _, applied, _ = mint.epochs.view()
    if mint.epochs.check(None, max(applied, 0), (f"operator:{operator}",)) is not None:
        return False
    asked = {"approval": row["id"], "outcome": "approve", "agent": row["agent"]}
    asked |= {"template": row["template"], "tool": row["tool"]}
    try:
        require_rules_allow(operator, rules_of(found["role"], found["rules"]), APPROVE, asked)
    except ArxError:
        return False
    return True


def _cleaned(text: str | None) -> str | None:
    """Return somebody's words on one line, without what would have them shown otherwise than they are."""
    if text is None:
        return None
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split()) or None
