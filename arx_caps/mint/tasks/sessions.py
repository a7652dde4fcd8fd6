# SPDX-License-Identifier: Apache-2.0
"""Open and renew sessions of agents, and sign operators in. SPEC 4, CONTROL 1, 2.

Credentials are verified in ``arx_caps.mint.identity``; tasks are in ``issue``.
"""

# The order protects: the kill epoch is read first, then authority, then the token is signed with the epoch that was
# read. A kill in between revokes the token. A renewal requires what opened the session, under the policy in force. Its
# token is valid, so none of its targets was killed since its birth, and the new birth is read before any authority.

import secrets
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from arx_caps.credentials.jose import Proof, check_assertion
from arx_caps.mint.context import (
    Born,
    HasDatabase,
    HasRealm,
    IssuingParts,
    MintContext,
    OAuthParts,
    StoreParts,
    TaskParts,
)
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater
from arx_caps.mint.db.repositories.work.proofs import Used, replayed, used_id
from arx_caps.mint.db.repositories.work.sessions import Room
from arx_caps.mint.db.tables import SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import LOGIN, PROVEN, AuthenticatedCaller, record_decision
from arx_caps.mint.identity.operator_role import active_operator, role_of
from arx_caps.mint.identity.operator_token import mint_operator_token
from arx_caps.mint.identity.session_login import (
    LoginCredentials,
    Opener,
    authenticate_opener,
    subject_of,
    subject_targets,
)
from arx_caps.mint.policy.claims import keeps
from arx_caps.mint.policy.model import Policy, SessionTerms
from arx_caps.mint.tasks.carried_marks import begin_marks
from arx_caps.mint.tasks.liveness import is_usable
from arx_caps.mint.tasks.reissue import recipe_of
from arx_caps.mint.tasks.token_factory import Birth, new_link, new_name, sign_session
from arx_caps.revocation.wire import ProofUsedError, UsedProof
from arx_caps.settings.durations import duration_within, format_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import AuditError, Failure, GrantError, StoreError, shorten
from arx_verifier.journal.record import ChainFacts
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import MINT_AUDIENCE
from arx_verifier.token.targets import agent_targets

LOGIN_ACTION: Final = "arx.login"  # of the decision that a sign-in leaves


class OpenedSession(NamedTuple):
    """A session's row, its new token (a secret), and its expiry in ms since the Unix epoch."""

    row: SessionRow
    token: str
    expires_at: int


def grant_operator(
    mint: MintContext, unit: UnitOfWork, assertion: str, proof: Proof, peer: str | None
) -> tuple[str, int]:
    """Return an operator token that lives ten minutes, for an assertion.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        assertion: The operator's signed assertion.
        proof: The call's proof.
        peer: The peer's address, or None.

    Returns:
        The token, a secret, and when it expires, in ms since the Unix epoch.

    Raises:
        GrantError: The assertion is invalid or used, or the proof is by another key.
        RevokedError: ``frozen``: the operator was removed.
    """
    checked = check_assertion(assertion, mint.db.holder_keys.key_of, audience=mint.realm.issuer, now=now_ms())
    name = checked.subject.removeprefix("operator:")
    if name == checked.subject:
        raise GrantError("this key is an agent's; operators have keys of their own", code="wrong_caller")
    # An assertion that was stolen is of no use without its key.
    if proof.key.kid != checked.kid:
        raise GrantError("the proof is not by the key that signed the assertion", code="bad_proof")
    used = [
        used_id("proof", proof.key.kid, proof.jti, proof.until),
        used_id("assertion", checked.kid, checked.jti, checked.until),
    ]
    # In the store as well: a database that takes no changes must keep no operator from a kill.
    in_store, spent = _use_in_store(mint, used), False
    try:
        unit.spend_all(used)
        spent = True
        token, expires_at = token_for(mint, name)
        mint.db.holder_keys.note_use(checked.kid)
        unit.record(Event.of("operator.signed_in", f"operator:{name}", key=checked.kid, expires_at=expires_at))
    except (StoreError, AuditError):
        if not in_store:
            raise
        if not spent:  # else this call is the one that used them
            _require_unused(mint, used)
        row = mint.db.holder_keys.row_of(f"operator:{name}", checked.kid)
        assurance = PROVEN if row is None or row.until is None else LOGIN
        token, expires_at = token_for(mint, name)
        # In the mint's journal in place of the event: no operator has a token that is not recorded.
        facts = ChainFacts(agent=f"operator:{name}", audience=MINT_AUDIENCE, kid=checked.kid, assurance=assurance)
        record_decision(mint, facts, AccessRequest(LOGIN_ACTION, {}, now_ms(), peer), None)
    return token, expires_at


def _use_in_store(mint: StoreParts, used: Sequence[Used]) -> bool:
    """Use up proof and assertion in the revocation store, and return whether it has done so.

    Raises:
        GrantError: ``replayed``: one was used before.
    """
    # A store that is known to be silent is not waited for; without it, the database alone decides.
    if mint.epochs.check(None, 0, ()) is not None:
        return False
    call = secrets.token_hex(8)
    for each in used:
        try:
            mint.store.use_proof(UsedProof(each.digest, call, each.until))
        except ProofUsedError as error:
            raise replayed(each) from error
        except StoreError:
            return False
    return True


def _require_unused(mint: HasDatabase, used: Sequence[Used]) -> None:
    for each in used:
        if mint.db.proofs.is_used(each):
            raise replayed(each)


def token_for(mint: IssuingParts, name: str) -> tuple[str, int]:
    """Return a token of an authenticated operator, a secret, and when it expires, in ms since the Unix epoch.

    Raises:
        RevokedError: ``frozen``: the operator was removed.
    """
    row = active_operator(mint, name)
    kid, key = mint.key_schedule.mint_key()
    rules = role_of(mint, row).rules
    token, expires_at = mint_operator_token(name, rules, kid=kid, key=key, realm=mint.realm.name, now=now_ms())
    return token.encode(), expires_at


def open_session(
    mint: OAuthParts, unit: UnitOfWork, shown: LoginCredentials, proof: Proof, *, ttl: str | None, purpose: str | None
) -> OpenedSession:
    """Open a session for an agent, bound to the key of the proof.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        shown: The agent's assertion or the workload's and subject's ID tokens.
        proof: The call's proof.
        ttl: The wanted lifetime of the session, as ``8h``; None for the policy's.
        purpose: The purpose, for the audit log, or None.

    Raises:
        RequestError: A credential is malformed.
        GrantError: A credential is invalid or used, or the policy refuses.
        RevokedError: The agent, one above it, the subject, the policy or the mint's key is frozen.
        UnavailableError: The kill epoch, or an issuer's keys, are unknown now.
    """
    born, policy, now = mint.kills.born(), mint.policy, now_ms()
    opener = authenticate_opener(mint, unit, policy, shown, proof, now)
    return open_for(mint, unit, born, opener, proof.key.kid, ttl=ttl, purpose=purpose)


def open_for(
    mint: TaskParts, unit: UnitOfWork, born: Born, opener: Opener, jkt: str, *, ttl: str | None, purpose: str | None
) -> OpenedSession:
    """Open a session for an authenticated agent.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        born: The position in the kill epoch that was read before the agent was authenticated.
        opener: The agent and its subject.
        jkt: Thumbprint of the session's key, or a text that is none, for a session whose token no caller gets.
        ttl: The wanted lifetime of the session; None for the policy's.
        purpose: The purpose, for the audit log, or None.

    Raises:
        GrantError: The policy refuses.
        RevokedError: The agent, one above it, the subject, the policy or the mint's key is frozen.
        UnavailableError: The kill epoch is unknown now, or the ledger has marks to carry and does not answer.
    """
    policy, now = mint.policy, now_ms()
    path, subject = opener.agent.path, opener.subject
    terms = policy.may_open(path, subject)
    ends_at = within_login(terms, opener.until, now + _session_ttl(terms, ttl))
    if opener.ends_at is not None:
        ends_at = min(ends_at, opener.ends_at)
    expires_at = next_end(mint, terms, now, ends_at)
    kid, _ = mint.key_schedule.mint_key()
    mint.kills.require(
        born, ("realm", f"key:{kid}", f"policy:{policy.digest}", *agent_targets(path), *subject_targets(subject))
    )
    birth = Birth(opener.agent, born, new_name("s-"), None, policy.digest, now, expires_at, 0, new_link(), subject)
    facts: dict[str, Any] = {"agent": path, "expires_at": expires_at, "ends_at": ends_at, "policy": policy.digest}
    facts |= {"purpose": purpose}
    row = SessionRow(
        id=birth.session,
        **facts,
        jkt=jkt,
        status="open",
        opened_at=now,
        incarnation=born.incarnation,
        born=born.seq,
        opened_with={**opener.by},
        subject_issuer=subject and subject.issuer,
        subject=subject and subject.name,
        subject_claims=subject and {**subject.claims},
        subject_until=opener.until,
    )
    facts |= {"opened_with": opener.by, "subject": subject and (subject.issuer, subject.name)}
    if carried := begin_marks(mint, policy, birth.session, path, subject, now):
        facts |= {"carried": carried}
    what = Event.of("session.opened", f"agent:{path}", session=birth.session, key=jkt, **facts)
    most = policy.most_open(path)
    room = Room(most, lambda other: is_usable(mint.kills, other)) if most is not None else None
    unit.recipe = recipe_of(birth, (kid,))
    mint.db.sessions.add(unit, row, HighWater(*born), mint.realm.name, what, room)
    return OpenedSession(row, sign_session(mint.realm, mint.key_schedule, birth), expires_at)


def renew_session(mint: IssuingParts, unit: UnitOfWork, caller: AuthenticatedCaller) -> OpenedSession:
    """Give the caller's session a new token, at most until the session's absolute end.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        caller: The authenticated agent.

    Raises:
        GrantError: The policy in force refuses, the key or workload that opened the session is gone, or it has ended.
        RevokedError: The policy or the mint's key is frozen.
        UnavailableError: The kill epoch is unknown now.
    """
    (session, born, agent), policy, now = caller.in_session(), mint.policy, now_ms()
    _require_opener(mint, policy, session)
    subject = subject_of(session)
    terms = policy.may_open(caller.name, subject)
    # A stricter policy shortens the session. A laxer one does not extend it beyond the end that it was opened with.
    ends_at = min(session.ends_at, session.opened_at + terms.ttl_ms)
    ends_at = within_login(terms, session.subject_until, ends_at)
    if ends_at <= now:
        raise GrantError(
            "the session has reached the lifetime that the policy allows; open another", code="session_ended"
        )
    expires_at = next_end(mint, terms, now, ends_at)
    kid, _ = mint.key_schedule.mint_key()
    mint.kills.require(born, (f"key:{kid}", f"policy:{policy.digest}"))
    birth = Birth(agent, born, session.id, None, policy.digest, now, expires_at, 0, new_link(), subject)
    changes = {"expires_at": expires_at, "ends_at": ends_at, "policy": policy.digest}
    what = Event.of("session.renewed", caller.actor, session=birth.session, **changes)
    row = mint.db.sessions.renew(unit, birth.session, changes, HighWater(*born), mint.realm.name, what)
    return OpenedSession(row, sign_session(mint.realm, mint.key_schedule, birth), expires_at)


def within_login(terms: SessionTerms, until: int | None, ends_at: int) -> int:
    """Return the session's end, at most ``outlives`` after its subject's login.

    Args:
        terms: The policy's terms for the session.
        until: When the subject's ID token expires, in ms since the Unix epoch; None without a subject.
        ends_at: The session's end without that bound, in ms since the Unix epoch.
    """
    # No agent may act on behalf of a person whose own login has long expired.
    return ends_at if until is None else min(ends_at, until + terms.outlives_ms)


def next_end(mint: HasRealm, terms: SessionTerms, now: int, ends_at: int) -> int:
    """Return when a session's token expires that is signed now, in ms since the Unix epoch.

    Args:
        mint: The mint.
        terms: The policy's terms for the session.
        now: The time, in ms since the Unix epoch.
        ends_at: The session's absolute end, in ms since the Unix epoch.
    """
    longest = mint.realm.max_ttl_ms  # the store forgets a kill after that time
    # The idle limit is the token's lifetime, because the mint sees no calls: an idle session renews no token.
    return min(now + longest, now + (terms.idle_ms or longest), ends_at)


def _session_ttl(terms: SessionTerms, ttl: str | None) -> int:
    asked = duration_within(ttl, terms.ttl_ms)
    if asked is None:
        wanted = f"a duration of at most {format_duration(terms.ttl_ms)}"
        failure = Failure(f"session {terms.name}", "ttl", wanted, shorten(ttl))
        raise GrantError(f"session {terms.name}: ttl: expected {wanted}", code="bad_parameters", failures=(failure,))
    return asked


def _require_opener(mint: HasDatabase, policy: Policy, session: SessionRow) -> None:
    """Require that the key or workload that opened the session could open one now."""
    opened_with = session.opened_with
    if opened_with is None:
        return
    if "key" in opened_with:
        if mint.db.holder_keys.key_of(session.agent, opened_with["key"]) is None:
            raise GrantError(
                "the key that opened this session is no longer enrolled: open another with one that is",
                code="session_not_allowed",
            )
        return
    if "consent" in opened_with:
        client = mint.db.oauth_clients.find(opened_with["client"])
        if client is None or client.ended_at is not None:
            raise GrantError("the OAuth client that opened this session was removed", code="session_not_allowed")
        return
    if "client" in opened_with:
        # No holder has the key of such a session: only the client's own request for a token goes on with it.
        raise GrantError("an OAuth client opened this session, which nothing renews", code="session_not_allowed")
    trusted = {issuer.name for issuer in policy.issuers.values() if issuer.url == opened_with["issuer"]}
    sub = {"sub": opened_with["sub"]}  # other claims of its ID token are not stored
    workloads = (rule for rule in policy.workloads if rule.agent == session.agent and rule.issuer in trusted)
    if not any(keeps({"sub": rule.claims["sub"]}, sub) for rule in workloads):
        raise GrantError(
            "the policy no longer maps the workload that opened this session to its agent: open another",
            code="session_not_allowed",
        )
