# SPDX-License-Identifier: Apache-2.0
"""Start tasks: what the policy grants becomes a bundle of tokens. SPEC 4, 15.1, CONTROL 2.

Sessions are in ``sessions``, later changes of a task in ``modify``.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from arx_caps.mint.context import BudgetParts, HasLedger, HasPolicy, HasRealm, IssuingParts, TaskParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.tables import GrantRow, SessionRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.session_login import subject_of, subject_targets
from arx_caps.mint.policy.model import TaskGrant
from arx_caps.mint.tasks.liveness import task_state
from arx_caps.mint.tasks.reissue import recipe_of
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import (
    Birth,
    keys_for,
    new_link,
    new_name,
    sign_tokens,
    write_bundle,
)
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError, GrantError, StoreError
from arx_verifier.ledger.pools import PoolDraw
from arx_verifier.token.holder import check_public, is_point

MAX_ABOVE: Final = 8  # parent tasks: each is a caveat in every token


class TaskRequest(NamedTuple):
    """An agent's request to start a task.

    Attributes:
        template: The name of the policy's template.
        params: The template's parameters.
        ttl: The wanted lifetime, as ``15m``; None for the template's.
        tools: The tools that the agent wants of the template's; None for all.
        depth: How many delegations may follow; None for the template's.
        parent: The task that this one is a part of, or None.
        holder: The public key of a bound task's first holder, 43 characters; None for the key of the session.
    """

    template: str
    params: Mapping[str, Any]
    ttl: str | None
    tools: Sequence[str] | None
    depth: int | None
    parent: str | None = None
    holder: str | None = None


class Started(NamedTuple):
    """A task's row and its bundle, which is a secret."""

    row: TaskRow
    bundle: str


def start_task(mint: TaskParts, unit: UnitOfWork, caller: AuthenticatedCaller, request: TaskRequest) -> Started:
    """Start a task in the caller's session.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        caller: The authenticated agent.
        request: The request.

    Raises:
        GrantError: The policy refuses, or the grant does not fit into a token.
        RevokedError: The policy or a key is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    # ``born`` was read before the caller was authenticated, and so before all authority: a kill since then revokes the
    # new tokens too.
    (session, born, agent), policy, now = caller.in_session(), mint.policy, now_ms()
    subject, params = subject_of(session), dict(request.params)
    template, tools, depth = request.template, request.tools, request.depth
    grant = policy.grant(template, caller.name, params, ttl=request.ttl, tools=tools, depth=depth, subject=subject)
    parent = _parent(mint, session, request.parent) if request.parent is not None else None
    above = above_of(parent)
    holder = holder_for(grant, request.holder, caller)
    # The policy alone: the session, its agent and the agents above it were checked when the session's token was
    # verified, from a birth that is no later than this one.
    mint.kills.require(born, (f"policy:{policy.digest}",))
    task, link, ends_at = new_name("t-"), new_link(), task_end(mint, now, grant.ttl_ms, session, parent)
    birth = Birth(agent, born, session.id, task, policy.digest, now, ends_at, grant.depth, link, subject, holder)
    granted = StoredGrant.of(grant, params, tools, above, holder, now, session.opened_at)
    bundle = sign_grant(mint, birth, granted)
    facts: dict[str, Any] = {"session": birth.session, "template": grant.template, "link": birth.link}
    facts |= {"policy": policy.digest, "expires_at": birth.expires_at}
    row = TaskRow(
        id=task,
        agent=birth.path,
        **facts,
        params=params,
        audiences=[*granted.audiences],
        above=above,
        status="open",
        started_at=now,
        incarnation=born.incarnation,
        born=born.seq,
        subject_target=next(iter(subject_targets(subject)), None),
    )
    facts |= {"task": birth.task, "params": params, "audiences": granted.audiences}
    facts |= {"above": above} if above else {}
    facts |= {"holder": holder} if holder is not None else {}
    unit.recipe = grant_recipe(mint, birth, granted)
    what = Event.of("task.started", caller.actor, **facts)
    # Before the task is in the database: no retry can get its tokens earlier, so nothing was drawn from its pools.
    if grant.budgets:
        _register_pools(mint, granted.pools(birth.task or ""), birth.session)
    mint.db.grants.start(unit, row, HighWater(*born), mint.realm.name, what, grant_row(birth, granted), request.parent)
    return Started(row, bundle)


def _register_pools(mint: HasLedger, pools: Mapping[str, PoolDraw], session: str) -> None:
    # Without the ledger the task begins all the same: its pools are lost until a minute after the ledger's beginning.
    with contextlib.suppress(StoreError):
        if mint.ledger is not None:
            mint.ledger.register([pool._replace(session=session) for pool in pools.values()])


def holder_for(grant: TaskGrant, wanted: str | None, caller: AuthenticatedCaller) -> str | None:
    """Return the key of a grant's first holder; None for a bearer grant.

    Args:
        grant: The policy's grant.
        wanted: The key that the agent asks for, or None for the one that its session is bound to.
        caller: The authenticated agent.

    Raises:
        GrantError: ``bad_parameters``: it is no key, or the session is bound to none.
    """
    if not grant.is_bound:
        return None
    try:
        public = check_public(caller.public if wanted is None else wanted)
    except AttenuationError as error:
        raise GrantError(f"holder: {error}", code="bad_parameters") from error
    if not is_point(public):  # every verifier would refuse each call
        raise GrantError("holder: no private key can belong to this public key", code="bad_parameters")
    return public


def sign_grant(mint: IssuingParts, birth: Birth, granted: StoredGrant) -> str:
    """Sign the tokens of a grant, and return their bundle, a secret.

    Raises:
        GrantError: ``bad_parameters``: the grant does not fit into a token.
        RevokedError: An audience's key is frozen.
    """
    keys = keys_for(mint.key_schedule, granted.audiences)
    mint.kills.require(birth.born, sorted({f"key:{kid}" for kid, _ in keys.values()}))
    tokens = sign_tokens(mint.realm, birth, granted.all_caveats(), keys, granted.approvals)
    return write_bundle(mint.realm, birth, origins_of(mint, granted), tokens)


def origins_of(mint: HasPolicy, granted: StoredGrant) -> dict[str, tuple[str, ...]]:
    """Return the origins of a grant's audiences, by the policy in force."""
    return {audience: mint.policy.audiences.get(audience, ()) for audience in granted.audiences}


def grant_recipe(mint: IssuingParts, birth: Birth, granted: StoredGrant) -> dict[str, Any]:
    """Return what a repeat of the call makes the tokens of a grant from."""
    kids = (kid for kid, _ in keys_for(mint.key_schedule, granted.audiences).values())
    return recipe_of(birth, kids, granted.all_caveats(), origins_of(mint, granted), granted.approvals)


def grant_row(birth: Birth, granted: StoredGrant) -> GrantRow:
    """Return the row of a grant."""
    return GrantRow(birth.link, str(birth.task), granted.write(), birth.policy, birth.at, birth.expires_at)


def task_end(mint: HasRealm, now: int, ttl_ms: int, session: SessionRow, parent: TaskRow | None) -> int:
    """Return when a task's tokens expire that are signed now, in ms since the Unix epoch.

    Args:
        mint: The mint.
        now: The time, in ms since the Unix epoch.
        ttl_ms: The granted lifetime.
        session: The session's row.
        parent: The row of the task that it is a part of, or None.
    """
    # Not beyond the session's token, or a renewal that is refused would end nothing; nor beyond the time for which the
    # store keeps kills.
    ends = [now + ttl_ms, now + mint.realm.max_ttl_ms, session.expires_at]
    return min([*ends, parent.expires_at] if parent is not None else ends)


def above_of(parent: TaskRow | None) -> list[str]:
    """Return the ids of the tasks above a subtask, the outermost first."""
    return [] if parent is None else [*parent.above, parent.id]


def _parent(mint: BudgetParts, session: SessionRow, name: str) -> TaskRow:
    parent = mint.db.tasks.find(name)
    if parent is None or parent.session != session.id:
        raise GrantError("this session has no such task to be a part of", code="not_found")
    if task_state(mint.kills, parent) != "open":
        raise GrantError("the task that this would be a part of is over", code="session_ended")
    if len(above_of(parent)) > MAX_ABOVE:
        raise GrantError(
            f"too many tasks above this one: expected at most {MAX_ABOVE}, got {len(above_of(parent))}",
            code="bad_parameters",
        )
    return parent
