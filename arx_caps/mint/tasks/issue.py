# SPDX-License-Identifier: Apache-2.0
"""Open and renew sessions, and start tasks: what the policy grants becomes tokens.  SPEC 4, 15.1, CONTROL 1, 2.

The order is the point: the kill epoch is read, then authority is looked at, then a token is signed with what was read.
A session's token is good for the mint alone; a task's bundle is what services accept.

A renewal requires what opened the session: the policy in force, the subject, and the key or the workload.  The token
that asks is alive, so nothing in its targets was killed since it was born; the new one is born before anything is
looked at.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.durations import duration_within, format_duration
from arx_caps.jose import Proof, check_assertion
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.epoch import HighWater
from arx_caps.mint.db.repositories.sessions import Room
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.identity.operator_token import mint_operator_token
from arx_caps.mint.identity.session_login import (
    LoginCredentials,
    authenticate_opener,
    subject_columns,
    subject_of,
    subject_targets,
)
from arx_caps.mint.policy.claims import keeps
from arx_caps.mint.policy.model import Policy, SessionTerms
from arx_caps.mint.policy.roles import rules_of
from arx_caps.mint.tasks.liveness import stands, task_state
from arx_caps.mint.tasks.reissue import recipe_of
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import (
    Birth,
    as_json,
    keys_for,
    new_link,
    new_name,
    sign_session,
    sign_tokens,
    write_bundle,
)
from arx_verifier.errors import Failure, GrantError, refusal, shorten
from arx_verifier.token import agent_targets

MAX_ABOVE: Final = 8  # each is a caveat in every token


class TaskRequest(NamedTuple):
    """What an agent asks for when it starts a task; ``parent`` is a task that this one is to be a part of."""

    template: str
    params: Mapping[str, Any]
    ttl: str | None
    tools: Sequence[str] | None
    depth: int | None
    parent: str | None = None


class OpenedSession(NamedTuple):
    """A session's row, its new token, a secret, and when that ends, ms."""

    row: dict[str, Any]
    token: str
    expires_at: int


class Started(NamedTuple):
    """A new task's row and its bundle, a secret."""

    row: dict[str, Any]
    bundle: str


def grant_operator(mint: MintContext, unit: UnitOfWork, assertion: str, proof: Proof) -> tuple[str, int]:
    """Give an operator a token for ten minutes.

    Returns:
        The token, a secret, and when it ends, ms.

    Raises:
        GrantError: The assertion is wrong or used, or the proof is by another key.
    """
    checked = check_assertion(assertion, mint.db.holder_keys.find, audience=mint.realm.issuer, now=now_ms())
    name = checked.subject.removeprefix("operator:")
    if name == checked.subject:
        raise GrantError("this key is an agent's; operators have keys of their own", code="wrong_caller")
    if proof.key.kid != checked.kid:
        raise GrantError("the proof is not by the key that signed the assertion", code="bad_proof")
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    unit.spend("assertion", checked.kid, checked.jti, checked.until)
    row = mint.db.operators.find(name)
    if row is None or row["status"] != "active":
        raise refusal("frozen")
    kid, key = mint.key_schedule.mint_key()
    rules = rules_of(row["role"], row["rules"])
    token, expires_at = mint_operator_token(name, rules, kid=kid, key=key, realm=mint.realm.name, now=now_ms())
    unit.record(Event.of("operator.signed_in", f"operator:{name}", key=checked.kid, expires_at=expires_at))
    return token.encode(), expires_at


def open_session(
    mint: MintContext, unit: UnitOfWork, shown: LoginCredentials, proof: Proof, *, ttl: str | None, purpose: str | None
) -> OpenedSession:
    """Open a session for an agent, bound to the key of the proof.

    Raises:
        RequestError: What is shown cannot be read.
        GrantError: What is shown is wrong or used, or the policy refuses.
        RevokedError: The agent, one above it, the subject, the policy or the mint's key is frozen.
        UnavailableError: The kill epoch, or an issuer's keys, are not known now.
    """
    born, policy, now = mint.born(), mint.policy, now_ms()
    opener = authenticate_opener(mint, unit, policy, shown, proof, now)
    path, subject = str(opener.agent["path"]), opener.subject
    terms = policy.may_open(path, subject)
    ends_at = within_login(terms, opener.until, now + _session_ttl(terms, ttl))
    expires_at = next_end(mint, terms, now, ends_at)
    kid, _ = mint.key_schedule.mint_key()
    mint.require(
        born, ("realm", f"key:{kid}", f"policy:{policy.digest}", *agent_targets(path), *subject_targets(subject))
    )
    birth = Birth(opener.agent, born, new_name("s-"), None, policy.digest, now, expires_at, 0, new_link(), subject)
    told = {"agent": path, "expires_at": expires_at, "ends_at": ends_at, "policy": policy.digest, "purpose": purpose}
    row = birth.row("opened_at") | told | {"id": birth.session, "jkt": proof.key.kid} | subject_columns(opener)
    told |= {"opened_with": opener.by, "subject": subject and (subject.issuer, subject.name)}
    what = Event.of("session.opened", f"agent:{path}", session=birth.session, key=proof.key.kid, **told)
    most = policy.most_open(path)
    room = Room(most, lambda other: stands(mint, other)) if most is not None else None
    unit.recipe = recipe_of(birth, (kid,))
    mint.db.sessions.add(unit, row, HighWater(*born), mint.realm.name, what, room)
    return OpenedSession(row, sign_session(mint, birth), expires_at)


def within_login(terms: SessionTerms, until: int | None, ends_at: int) -> int:
    """Return an end that is no later than the terms let a session outlive the token that proved its subject.

    Nobody acts on behalf of somebody whose own login is long over.

    Args:
        terms: What the policy says of the session.
        until: When the subject's token ends, ms; None without a subject.
        ends_at: When the session would end otherwise, ms.
    """
    return ends_at if until is None else min(ends_at, until + terms.outlives_ms)


def next_end(mint: MintContext, terms: SessionTerms, now: int, ends_at: int) -> int:
    """Return when a session's token signed now is over: the idle limit lives in it, as nobody tells the mint of calls.

    Args:
        mint: The mint.
        terms: What the policy says of the session.
        now: ms since the Unix epoch.
        ends_at: The session's absolute limit, ms.
    """
    longest = mint.realm.max_ttl_ms  # a token lives at most as long as its realm remembers kills
    return min(now + longest, now + (terms.idle_ms or longest), ends_at)


def start_task(mint: MintContext, unit: UnitOfWork, caller: AuthenticatedCaller, asked: TaskRequest) -> Started:
    """Start a task in the caller's session.

    Raises:
        GrantError: The policy refuses, or what it grants does not fit into a token.
        RevokedError: The policy or a key is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born, policy, now = caller.session, caller.born, mint.policy, now_ms()
    agent = caller.agent
    if session is None or born is None or agent is None:
        raise GrantError("tasks are started by agents, in a session", code="wrong_caller")
    subject, params = subject_of(session), dict(asked.params)
    grant = policy.grant(
        asked.template, caller.name, params, ttl=asked.ttl, tools=asked.tools, depth=asked.depth, subject=subject
    )
    parent = _parent(mint, session, asked.parent) if asked.parent is not None else None
    above = above_of(parent)
    # The session, its agent and everyone above were held to their own birth when the session's token was verified.
    mint.require(born, (f"policy:{policy.digest}",))
    birth = Birth(
        agent=agent,
        born=born,
        session=session["id"],
        task=new_name("t-"),
        policy=policy.digest,
        at=now,
        expires_at=task_end(mint, now, grant.ttl_ms, session, parent),
        depth=grant.depth,
        link=new_link(),
        subject=subject,
    )
    granted = StoredGrant.of(grant, params, asked.tools, above)
    bundle = sign_grant(mint, birth, granted)
    told: dict[str, Any] = {"session": birth.session, "template": grant.template, "link": birth.link}
    told |= {"policy": policy.digest, "expires_at": birth.expires_at}
    row = birth.row("started_at") | told | {"id": birth.task, "agent": birth.path, "above": as_json(above)}
    row |= {"params": as_json(params), "audiences": as_json(granted.audiences)}
    row["subject_target"] = next(iter(subject_targets(subject)), None)
    told |= {"task": birth.task, "params": params, "audiences": granted.audiences}
    told |= {"above": above} if above else {}
    origins = origins_of(mint, granted)
    kids = (kid for kid, _ in keys_for(mint, granted.audiences).values())
    unit.recipe = recipe_of(birth, kids, granted.all_caveats(), origins, granted.needs())
    what = Event.of("task.started", caller.by, **told)
    mint.db.tasks.add(unit, row, HighWater(*born), mint.realm.name, what, grant_row(birth, granted), asked.parent)
    return Started(row, bundle)


def sign_grant(mint: MintContext, birth: Birth, granted: StoredGrant) -> str:
    """Sign the tokens of a grant and return their bundle, a secret.

    Raises:
        GrantError: ``bad_parameters``: it does not fit into a token.
        RevokedError: An audience's key is frozen.
    """
    keys = keys_for(mint, granted.audiences)
    mint.require(birth.born, sorted({f"key:{kid}" for kid, _ in keys.values()}))
    tokens = sign_tokens(mint, birth, granted.all_caveats(), keys, granted.needs())
    return write_bundle(mint, birth, origins_of(mint, granted), tokens)


def origins_of(mint: MintContext, granted: StoredGrant) -> dict[str, tuple[str, ...]]:
    """Return where the audiences of a grant live by the policy in force."""
    return {audience: mint.policy.audiences.get(audience, ()) for audience in granted.audiences}


def grant_row(birth: Birth, granted: StoredGrant) -> dict[str, Any]:
    """Return what is kept of a grant."""
    row = {"link": birth.link, "content": granted.write(), "policy": birth.policy}
    return row | {"granted_at": birth.at, "expires_at": birth.expires_at, "ended_at": None, "replaced_by": None}


def task_end(
    mint: MintContext, now: int, ttl_ms: int, session: Mapping[str, Any], parent: Mapping[str, Any] | None
) -> int:
    """Return when tokens of a task signed now are over.

    No token lives longer than its session can without a renewal, than the task it is a part of, or than its realm
    remembers kills.
    """
    ends = [now + ttl_ms, now + mint.realm.max_ttl_ms, int(session["expires_at"])]
    return min([*ends, int(parent["expires_at"])] if parent is not None else ends)


def above_of(parent: Mapping[str, Any] | None) -> list[str]:
    """Return the tasks that a part of a task is below, the outermost first."""
    return [] if parent is None else [*msgspec.json.decode(parent["above"], type=list[str]), str(parent["id"])]


def _parent(mint: MintContext, session: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parent = mint.db.tasks.find(name)
    if parent is None or parent["session"] != session["id"]:
        raise GrantError("there is no such task in this session to be a part of", code="not_found")
    if task_state(mint, parent) != "open":
        raise GrantError("the task that this would be a part of is over", code="session_ended")
    if len(above_of(parent)) > MAX_ABOVE:
        raise GrantError(f"tasks are parts of tasks {MAX_ABOVE} deep at most", code="bad_parameters")
    return parent


def _session_ttl(terms: SessionTerms, ttl: str | None) -> int:
    asked = duration_within(ttl, terms.ttl_ms)
    if asked is None:
        wanted = f"a duration of at most {format_duration(terms.ttl_ms)}"
        failure = Failure(f"session {terms.name}", "ttl", wanted, shorten(ttl))
        raise GrantError(f"session {terms.name}: ttl: expected {wanted}", code="bad_parameters", failures=(failure,))
    return asked


def renew_session(mint: MintContext, unit: UnitOfWork, caller: AuthenticatedCaller) -> OpenedSession:
    """Give the caller's session a new token that ends later, never after the session's absolute limit.

    Raises:
        GrantError: The policy in force refuses, what the session was opened with is gone, or its time is over.
        RevokedError: The policy or the mint's key is frozen.
        UnavailableError: The kill epoch is not known now.
    """
    session, born, policy, now = caller.session, caller.born, mint.policy, now_ms()
    agent = caller.agent
    if session is None or born is None or agent is None:
        raise GrantError("sessions are renewed by their agents", code="wrong_caller")
    _require_opener(mint, policy, session)
    subject = subject_of(session)
    terms = policy.may_open(caller.name, subject)
    # The policy may have become stricter; that it became laxer does not prolong what was opened before.
    ends_at = min(int(session["ends_at"]), int(session["opened_at"]) + terms.ttl_ms)
    ends_at = within_login(terms, session["subject_until"], ends_at)
    if ends_at <= now:
        raise GrantError("the session has lived as long as the policy lets it; open another", code="session_ended")
    expires_at = next_end(mint, terms, now, ends_at)
    kid, _ = mint.key_schedule.mint_key()
    mint.require(born, (f"key:{kid}", f"policy:{policy.digest}"))
    birth = Birth(agent, born, session["id"], None, policy.digest, now, expires_at, 0, new_link(), subject)
    changes = {"expires_at": expires_at, "ends_at": ends_at, "policy": policy.digest}
    what = Event.of("session.renewed", caller.by, session=birth.session, **changes)
    row = mint.db.sessions.renew(unit, birth.session, changes, HighWater(*born), mint.realm.name, what)
    return OpenedSession(row, sign_session(mint, birth), expires_at)


def _require_opener(mint: MintContext, policy: Policy, session: Mapping[str, Any]) -> None:
    """Require that what the session was opened with would still open one."""
    if session["opened_with"] is None:
        return  # opened before this was kept
    opened_with = msgspec.json.decode(session["opened_with"], type=dict[str, str])
    if "key" in opened_with:
        if mint.db.holder_keys.find(session["agent"], opened_with["key"]) is None:
            raise GrantError(
                "the key that opened this session is no longer enrolled; open another with one that is",
                code="session_not_allowed",
            )
        return
    trusted = {issuer.name for issuer in policy.issuers.values() if issuer.url == opened_with["issuer"]}
    sub = {"sub": opened_with["sub"]}  # what else its token said is not kept
    known = (each for each in policy.workloads if each.agent == session["agent"] and each.issuer in trusted)
    if not any(keeps({"sub": each.claims["sub"]}, sub) for each in known):
        raise GrantError(
            "the policy no longer takes the workload that opened this session for its agent; open another",
            code="session_not_allowed",
        )
