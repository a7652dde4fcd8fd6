# SPDX-License-Identifier: Apache-2.0
"""Change what a running task may do: attenuate it for all holders, or extend it. CONTROL 2."""

# An attenuation kills the links of every grant of the task, with all that was delegated from its tokens, and then signs
# a smaller grant. It does not kill the task's own target: a kill of that target, even at the store directly, means that
# the task is over. Between kill and signature nothing is stored, so that a retry mends a crash at any point.

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from arx_caps.mint.context import Born, HasDatabase, HasKills, IssuingParts, TaskParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.tables import AgentRow, GrantRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.session_login import subject_of
from arx_caps.mint.policy.explain import explain_refusal
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_caps.mint.tasks.issue import Started, grant_recipe, grant_row, holder_for, sign_grant, task_end
from arx_caps.mint.tasks.liveness import require_unrevoked
from arx_caps.mint.tasks.revoke import kill_links
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import Birth, new_link
from arx_caps.revocation.report import KillReport
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, refusal
from arx_verifier.token.caveats import Caveat

ROUNDS: Final = 4  # attempts while other calls change the task at the same time
MAX_LIVE: Final = 200  # grants of one task: an attenuation kills all of them in one operation


class Attenuated(NamedTuple):
    """An attenuated task's row, its bundle (a secret), and the report of the kill."""

    row: TaskRow
    bundle: str
    report: KillReport


class More(NamedTuple):
    """An agent's request to extend a task; None leaves a member as the grant ``link`` has it."""

    template: str | None
    params: Mapping[str, Any] | None
    ttl: str | None
    tools: Sequence[str] | None
    depth: int | None
    link: str | None = None


def attenuate_task(
    mint: TaskParts,
    unit: UnitOfWork,
    caller: AuthenticatedCaller,
    task: TaskRow,
    link: str | None,
    caveats: Mapping[str, Sequence[Caveat]],
) -> Attenuated:
    """Revoke every token of a task, delegated ones included, and sign a smaller grant.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        caller: The task's agent.
        task: The task's row.
        link: The first link of the grant to continue with; None for the newest.
        caveats: By audience, the caveats to add; other audiences are removed.

    Raises:
        GrantError: There is no such grant, the task is over, or the caveats do not fit.
        RevokedError: The task, or one of its targets, was killed or frozen in the meantime.
        UnavailableError: The outcome is not known, or the kill is not in this mint's view yet: retry.
    """
    session, _, agent = caller.in_session()
    _require_open(mint, mint.kills.born(), task, session)
    for _ in range(ROUNDS):
        grant = _grant(mint, task, link)
        granted = StoredGrant.read(grant.content).attenuate(caveats)
        # A trial: a grant that does not fit into a token must fail before the kill.
        sign_grant(mint, _birth(agent, task, session, grant, granted, mint.kills.born()), granted)
        killed = {row.link for row in (grant, *mint.db.grants.live(task.id))}
        # After the links are read: the grant of another attempt at this call may be among them, and must not be killed.
        unit.require_first()
        report = kill_links(mint.revoker, killed, caller.actor)
        # Born after the kill, and checked again from there: a task that was killed in the meantime, even at the store
        # directly, must not be revived.
        born = _born_after(mint, report)
        _require_open(mint, born, task, session)
        birth = _birth(agent, task, session, grant, granted, born)
        bundle = sign_grant(mint, birth, granted)
        unit.recipe = grant_recipe(mint, birth, granted) | {"kill": report.to_dict()}
        facts = {"task": task.id, "link": birth.link, "before": grant.link, "audiences": granted.audiences}
        what = Event.of("task.attenuated", caller.actor, **facts, seq=report.seq, attenuated=granted.attenuated)
        new, mark, audiences = grant_row(birth, granted), HighWater(*born), granted.audiences
        row = mint.db.grants.replace(unit, killed, new, grant.link, audiences, mark, mint.realm.name, what)
        if row is not None:
            return Attenuated(row, bundle, report)
    raise GrantError("other calls keep changing this task: retry", code="conflict")


def extend_task(
    mint: IssuingParts, unit: UnitOfWork, caller: AuthenticatedCaller, task: TaskRow, more: More
) -> Started:
    """Add a grant to a task. The grants that it has remain.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        caller: The task's agent.
        task: The task's row.
        more: The request. Without template, parameters, tools or depth it repeats a grant with its attenuations and a
            later expiry. Otherwise the policy decides about a new grant.

    Raises:
        GrantError: The policy refuses; the error names what would be granted.
        RevokedError: The task, or one of its targets, was killed or frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    session, born, agent = caller.in_session()
    _require_open(mint, born, task, session)
    if len(mint.db.grants.live(task.id)) >= MAX_LIVE:
        raise GrantError(
            f"a task has at most {MAX_LIVE} grants at once: attenuate it, or start another one", code="conflict"
        )
    policy, now = mint.policy, now_ms()
    last = StoredGrant.read(_grant(mint, task, more.link).content)
    granted, grant = _more(policy, caller, session, task, last, more)
    mint.kills.require(born, (f"policy:{policy.digest}",))
    ends_at = task_end(mint, now, grant.ttl_ms, session, _parent_of(mint, task))
    link, subject, depth, holder = new_link(), subject_of(session), granted.depth, granted.holder
    birth = Birth(agent, born, session.id, task.id, policy.digest, now, ends_at, depth, link, subject, holder)
    bundle = sign_grant(mint, birth, granted)
    unit.recipe = grant_recipe(mint, birth, granted)
    facts: dict[str, Any] = {
        "task": task.id,
        "link": birth.link,
        "template": granted.template,
        "params": granted.params,
    }
    facts |= {"policy": policy.digest, "expires_at": birth.expires_at, "audiences": granted.audiences}
    facts |= {"holder": granted.holder} if granted.holder is not None else {}
    what = Event.of("task.extended", caller.actor, **facts)
    row = mint.db.grants.add(unit, grant_row(birth, granted), HighWater(*born), mint.realm.name, what)
    return Started(row, bundle)


def _require_open(mint: HasKills, born: Born, task: TaskRow, session: SessionRow) -> None:
    """Require that a task is open, and that neither it nor its session was revoked or frozen."""
    if task.status != "open" or task.expires_at <= now_ms():
        raise GrantError("the task is over; start another", code="session_ended")
    require_unrevoked(mint.kills, born, task, session)


def _grant(mint: HasDatabase, task: TaskRow, link: str | None) -> GrantRow:
    """Return a grant that has not ended; for one that was attenuated, its replacement."""
    if link is None:
        link = (mint.db.tasks.find(task.id) or task).link
    grant = mint.db.grants.find(link)
    # A retry whose first attempt has replaced the grant continues with the replacement.
    while grant is not None and grant.replaced_by is not None:
        grant = mint.db.grants.find(grant.replaced_by)
    if grant is None or grant.task != task.id or grant.ended_at is not None:
        raise GrantError("this task has no such grant any more: start another task", code="not_found")
    return grant


def _born_after(mint: HasKills, report: KillReport) -> Born:
    born = mint.kills.born()
    # A token born before the kill would be revoked by it at once.
    if born.incarnation != report.incarnation or born.seq < report.seq:
        raise refusal("behind")
    return born


def _birth(
    agent: AgentRow,
    task: TaskRow,
    session: SessionRow,
    grant: GrantRow,
    granted: StoredGrant,
    born: Born,
) -> Birth:
    now, expires_at = now_ms(), granted.end(grant.expires_at)
    if expires_at <= now:
        raise GrantError("nothing would be left: every remaining token would have expired", code="bad_parameters")
    link, subject, depth, holder = new_link(), subject_of(session), granted.depth, granted.holder
    return Birth(agent, born, session.id, task.id, grant.policy, now, expires_at, depth, link, subject, holder)


def _parent_of(mint: HasDatabase, task: TaskRow) -> TaskRow | None:
    return mint.db.tasks.find(task.above[-1]) if task.above else None


def _more(
    policy: Policy,
    caller: AuthenticatedCaller,
    session: SessionRow,
    task: TaskRow,
    last: StoredGrant,
    more: More,
) -> tuple[StoredGrant, TaskGrant]:
    """Return the grant of an extension, by the policy in force."""
    template = more.template if more.template is not None else last.template
    same = template == last.template
    params = dict(more.params or {}) if not same else {**last.params, **(more.params or {})}
    again = (more.template, more.params, more.tools, more.depth) == (None, None, None, None)
    tools, depth = (last.tools, last.depth) if again else (more.tools, more.depth)
    subject = subject_of(session)

    def ask(which: str, given: Mapping[str, Any]) -> TaskGrant:
        return policy.grant(which, caller.name, given, ttl=more.ttl, tools=tools, depth=depth, subject=subject)

    try:
        grant = ask(template, params)
    except GrantError as error:
        raise explain_refusal(policy, caller.name, template, error, lambda other: ask(other, params)) from error
    holder = last.holder or holder_for(grant, None, caller)  # bound stays bound, whatever the policy says by now
    granted = StoredGrant.of(grant, params, tools, task.above, holder, task.started_at, session.opened_at)
    if again:
        granted = granted.attenuated_like(last)
    return granted, grant
