# SPDX-License-Identifier: Apache-2.0
"""Authenticate callers, authorize actions, record the decisions.  SPEC 12, CONTROL 1, 3.5.

An operator presents a token and a proof by an enrolled key of that operator; an agent, its session's token and a proof
by the session's key; a tool service, only a proof by an enrolled key of its own.  Each call of an operator or a service
is a decision in the mint's own journal, as ``operator:<id>`` or ``service:<audience>``, reads and refusals included; a
call that cannot be recorded is refused.  Only a batch that is accepted has no decision: it is in the log itself.

What a call grants is decided in ``tasks`` and ``policy``.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from arx_caps.credentials.jose import BAD_PROOF, Proof, check_dpop
from arx_caps.mint.context import (
    Born,
    CallerParts,
    HasPolicies,
    IssuingParts,
    LivenessParts,
    MintContext,
    RecordingParts,
)
from arx_caps.mint.db.repositories.work.proofs import used_id
from arx_caps.mint.db.tables import AgentRow, SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.operator_role import active_operator, role_of
from arx_caps.mint.identity.operator_token import require_rules_allow, require_token_allows, verify_operator_token
from arx_caps.mint.policy.roles import APPROVE, WRITE_OPERATORS
from arx_caps.settings.durations import format_duration
from arx_verifier.clock import now_ms
from arx_verifier.errors import (
    AccessError,
    ArxError,
    AuditError,
    GrantError,
    RequestError,
    TokenError,
    ValidityError,
    refusal,
)
from arx_verifier.journal.decision import OK, Decision
from arx_verifier.journal.record import ChainFacts, digest_arguments
from arx_verifier.request import AccessRequest
from arx_verifier.token.macaroon import MINT_AUDIENCE, Macaroon, OperatorIdentifier

SECOND_MS: Final = 1000
Kind = Literal["agent", "operator", "service"]
JOIN: Final = "arx.services.join"
SHIP: Final = "arx.decisions.write"
PROVEN: Final = "key"  # assurance of a record: an enrolled key signed the call
LOGIN: Final = "login"  # the key was enrolled by a person's login, and ends soon
REFUSALS: Final = (AccessError, GrantError, RequestError, TokenError)  # an outage is not a refusal
_VERSION: Final = re.compile(r"arx-caps/([0-9][0-9A-Za-z.+]{0,31})", re.ASCII)
WHOAMI: Final = "arx.whoami"
LOGOUT: Final = "arx.logout"
NEEDS_NO_RULE: Final = (WHOAMI, LOGOUT)  # every authenticated operator may read its own name, and end its own login
# These actions grant authority or erase records, so they need a live view of kills: the operator may be frozen by now.
# All others work with a stale view, because an operator must be able to kill while the store is down.
NEEDS_LIVE_VIEW: Final = (
    "arx.agents.write",
    APPROVE,
    "arx.clients.write",
    "arx.audit.erase",
    "arx.audit.prune",
    "arx.thaw",
    "arx.policy.write",
    "arx.services.write",
    WRITE_OPERATORS,
)


class CallCredentials(NamedTuple):
    """The parts of an HTTP request that authenticate its caller.

    Attributes:
        method: The HTTP method.
        url: The URL as clients know it: issuer and path, without a query.
        authorization: The ``Authorization`` header, or None.
        proofs: Every ``DPoP`` header.
        peer: The peer's address, or None.
        program: The ``User-Agent`` header, which names the caller's version of ARx; "" without one.
    """

    method: str
    url: str
    authorization: str | None
    proofs: tuple[str, ...]
    peer: str | None
    program: str = ""

    @property
    def version(self) -> str:
        """The caller's version of ARx; "" for another program."""
        found = _VERSION.fullmatch(self.program)
        return "" if found is None else found[1]


class AuthenticatedCaller(NamedTuple):
    """An authenticated caller.

    Attributes:
        kind: ``agent``, ``operator`` or ``service``.
        name: The agent's path, the operator's id or the service's audience.
        session: The session's row, for an agent.
        born: The kill epoch, read before the agent was authenticated; None for operators and services.
        expires_at: When the token expires, ms since the Unix epoch; for a service, when its proof expires.
        key: Thumbprint (RFC 7638) of the key that signed the call.
        agent: The agent's row, for an agent.
        public: That key itself, 43 characters, where it is known.
    """

    kind: Kind
    name: str
    session: SessionRow | None
    born: Born | None
    expires_at: int
    key: str
    agent: AgentRow | None = None
    public: str = ""

    @property
    def actor(self) -> str:
        """The caller's name in records."""
        return f"{self.kind}:{self.name}"

    def in_session(self) -> tuple[SessionRow, Born, AgentRow]:
        """Return the session's row, the kill epoch and the agent's row of an agent.

        Raises:
            GrantError: ``wrong_caller``: it is no agent.
        """
        if self.session is None or self.born is None or self.agent is None:
            raise GrantError(f"wrong caller: expected an agent in its session, got {self.kind}", code="wrong_caller")
        return self.session, self.born, self.agent


def read_proof(call: CallCredentials, token: str | None) -> Proof:
    """Verify the call's one ``DPoP`` header; not that it is new, nor whose key signed it.

    Args:
        call: The request.
        token: The token that the proof must be bound to (``ath``), or None for a call without one.

    Raises:
        GrantError: ``bad_proof``: there is not exactly one header, or it is not valid for this call now.
    """
    if len(call.proofs) != 1:
        raise GrantError(f"invalid proof: expected one DPoP header, got {len(call.proofs)}", code=BAD_PROOF)
    return check_dpop(call.proofs[0], method=call.method, url=call.url, now=now_ms(), token=token)


def read_token(call: CallCredentials) -> str:
    """Return the token of the ``Authorization`` header.

    Raises:
        TokenError: ``missing_token``: there is none, or the scheme is not ``DPoP``.
    """
    scheme, _, token = (call.authorization or "").partition(" ")
    if scheme.lower() != "dpop" or not token:
        raise refusal("missing_token")
    return token


def authenticate_call(
    mint: MintContext,
    unit: UnitOfWork,
    call: CallCredentials,
    action: str,
    args: Mapping[str, Any],
    about: Callable[[MintContext, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> AuthenticatedCaller:
    """Authenticate an agent or an operator, and authorize the action by its token.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which the proof is spent.
        call: The request.
        action: The action, such as ``arx.tasks.start``.
        args: The action's arguments: members of the body, and parameters of the path.
        about: Returns further arguments of an operator's call; called once the operator is authenticated.

    Returns:
        The caller.

    Raises:
        TokenError: There is no token, or it is not valid now.
        AccessError: The token or the operator's role does not allow this action.
        GrantError: The proof is wrong or was used.
        UnavailableError: The view of kills is stale, or a store or database does not answer.
        AuditError: An operator's call cannot be recorded.
    """
    token = read_token(call)
    proof = read_proof(call, token)
    macaroon = Macaroon.parse(token)
    unverified = macaroon.unverified_identifier
    if not isinstance(unverified, OperatorIdentifier):
        return _authenticate_agent(mint, unit, token, unverified.session, proof, call, action, args)
    identifier, assurance = _verify_operator(mint, macaroon, proof, call.peer)
    # ``about`` reads the database, so strangers must not reach it.
    more = about(mint, args) if about is not None else {}
    request = AccessRequest(action, {**args, **more}, now_ms(), call.peer)
    operator = f"operator:{identifier.operator}"
    facts = describe_caller(mint, operator, kid=identifier.kid, token=identifier.id, assurance=assurance)
    try:
        with record_outcome(mint, facts, request, (ArxError,)):
            return _authorize_operator(mint, unit, macaroon, identifier, proof, request)
    except AuditError as broken:
        raise AuditError(f"{broken}; `arx kill --direct` needs no mint") from broken


def find_signer(mint: IssuingParts, call: CallCredentials) -> str | None:
    """Return the thumbprint of the enrolled key, or of the open session's key, that signed a call; else None.

    The proof is not spent and nothing is authorized: ``authenticate_call`` or ``authenticate_service`` follows.

    Raises:
        StoreError: The database did not answer.
    """
    try:
        token = None if call.authorization is None else read_token(call)
        kid = read_proof(call, token).key.kid
        if token is None:
            known = mint.db.holder_keys.holder_of(kid) is not None
        else:
            macaroon = Macaroon.parse(token)
            unverified = macaroon.unverified_identifier
            if isinstance(unverified, OperatorIdentifier):
                operator = verify_operator_token(macaroon, mint.key_schedule.ring).operator
                known = mint.db.holder_keys.row_of(f"operator:{operator}", kid) is not None
            else:
                row = mint.db.sessions.find(unverified.session)
                known = row is not None and (row.status, row.jkt) == ("open", kid)
    except REFUSALS:
        return None
    return kid if known else None


def admit_operator(mint: CallerParts, call: CallCredentials, _: Mapping[str, str]) -> OperatorIdentifier:
    """Require that an operator calls, before the body is read; ``authenticate_call`` follows.

    Raises:
        TokenError: There is no token, or it is not valid.
        GrantError: The proof is wrong (``bad_proof``), or the token is an agent's (``wrong_caller``).
    """
    token = read_token(call)
    proof = read_proof(call, token)
    macaroon = Macaroon.parse(token)
    if not isinstance(macaroon.unverified_identifier, OperatorIdentifier):
        raise GrantError("wrong caller: expected an operator's token, got a session's", code="wrong_caller")
    # A policy is large: without this check, a stranger could make the mint read and hold a body of that size.
    return _verify_operator(mint, macaroon, proof, call.peer)[0]


def authenticate_service(
    mint: CallerParts, unit: UnitOfWork, call: CallCredentials, action: str, args: Mapping[str, Any]
) -> AuthenticatedCaller:
    """Authenticate a tool service by its enrolled key, and record the call.  CONTROL 3.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which the proof is spent.
        call: The request.
        action: The action, such as ``arx.keys.fetch``.
        args: The action's arguments.

    Returns:
        The caller.

    Raises:
        GrantError: ``bad_proof``: the proof is wrong, or is by no service's key; ``replayed``: it was used before.
        StoreError: The database does not answer.
        AuditError: The call cannot be recorded.
    """
    try:
        proof = read_proof(call, None)
        holder = mint.db.holder_keys.holder_of(proof.key.kid) or ""
        audience = holder.removeprefix("service:")
        if audience == holder:
            raise GrantError("invalid proof: expected an enrolled key of a service, got another key", code=BAD_PROOF)
    except GrantError as error:
        # Only counted: a stranger who could add records would fill the journal.
        mint.decisions.count(error.code, call.peer)
        raise
    request = AccessRequest(action, args, now_ms(), call.peer)
    # Recorded here and not after the handler, so that a call the journal cannot take is refused before it runs.
    with record_outcome(mint, describe_caller(mint, holder, kid=proof.key.kid), request):
        unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    mint.db.holder_keys.note_use(proof.key.kid, call.version)
    return AuthenticatedCaller("service", audience, None, None, proof.until, proof.key.kid, public=proof.key.x)


def _verify_operator(
    mint: CallerParts, macaroon: Macaroon, proof: Proof, peer: str | None
) -> tuple[OperatorIdentifier, str]:
    """Verify an operator's token, and that an enrolled key of that operator signed the call.

    Returns:
        The identifier, and the assurance of the record.
    """
    try:
        identifier = verify_operator_token(macaroon, mint.key_schedule.ring)
        row = mint.db.holder_keys.row_of(f"operator:{identifier.operator}", proof.key.kid)
        if row is None:
            raise GrantError("invalid proof: expected an enrolled key of this operator, got another", code=BAD_PROOF)
    except ArxError as error:
        # Only counted: a stranger who could add records would fill the journal.
        mint.decisions.count(error.code, peer)
        raise
    return identifier, PROVEN if row.until is None else LOGIN


def _authorize_operator(
    mint: LivenessParts,
    unit: UnitOfWork,
    macaroon: Macaroon,
    identifier: OperatorIdentifier,
    proof: Proof,
    request: AccessRequest,
) -> AuthenticatedCaller:
    name, action = identifier.operator, request.tool
    rule_action = None if action in NEEDS_NO_RULE else action
    require_token_allows(macaroon, action=rule_action, args=request.args, now=request.at)
    # Spent only now that the key is known to be enrolled: strangers cannot fill the memory of used proofs.
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    require_active_operator(mint, name, action, request.args)
    return AuthenticatedCaller("operator", name, None, None, identifier.exp, proof.key.kid)


def require_active_operator(mint: LivenessParts, name: str, action: str, args: Mapping[str, Any]) -> None:
    """Require that an operator may do something now: active, not frozen, and allowed by its role.

    Args:
        mint: The mint.
        name: The operator's id.
        action: The action.
        args: Its arguments.

    Raises:
        RevokedError: The operator was frozen or removed.
        AccessError: The role does not allow this action.
        UnavailableError: The action needs a live view of kills, and the view is stale.
    """
    row = active_operator(mint, name)
    # As born now, because operators' tokens have no birth (SPEC 4.3) and a realm kill must not lock the operators out.
    refused = mint.kills.refusal_now((f"operator:{name}",))
    if refused is not None and (refused in ("frozen", "revoked") or action in NEEDS_LIVE_VIEW):
        raise refusal(refused)
    # The role is read anew at each call, so that a right that was taken away ends at once.
    if action not in NEEDS_NO_RULE:
        role = role_of(mint, row)
        require_rules_allow(f"role {role.name}", role.rules, action, args)


def _explain_expiry(row: SessionRow, token: str, error: ValidityError) -> ValidityError:
    """Return the error of an expired session's token with its reason: idle, or full lifetime."""
    # The identifier is authentic: ``verify`` judges a token's time only after its signature.
    identifier, now = Macaroon.parse(token).unverified_identifier, now_ms()
    if error.code != "expired" or row.status != "open" or now < row.expires_at:
        return error
    if row.expires_at < row.ends_at:
        # The token is as old as the last renewal, and a session that is used is renewed.
        idle = now - identifier.iat
        duration = format_duration(idle if idle < SECOND_MS else idle // SECOND_MS * SECOND_MS)
        why = f"the session was idle for {duration} and has expired; open another"
    else:
        why = "the session has reached the lifetime that the policy allows; open another"
    return ValidityError(why, code=error.code, failures=error.failures)


def _authenticate_agent(
    mint: MintContext,
    unit: UnitOfWork,
    token: str,
    session: str,
    proof: Proof,
    call: CallCredentials,
    action: str,
    args: Mapping[str, Any],
) -> AuthenticatedCaller:
    # Read before any authority: a kill that comes in between then revokes what this call grants.
    born = mint.kills.born()
    used = used_id("proof", proof.key.kid, proof.jti, proof.until)
    found = mint.db.sessions.find_with_agent(session, used)
    if found is None or found[0].jkt != proof.key.kid:
        raise GrantError("invalid proof: expected the key of this session, got another key", code=BAD_PROOF)
    row, agent, is_used = found
    # Spent only now that the session's key has signed: strangers cannot fill the memory of used proofs.
    unit.spend("proof", proof.key.kid, proof.jti, proof.until, is_used=is_used)
    try:
        grant = mint.verifier.verify(token, AccessRequest(action, args, now_ms(), call.peer))
    except ValidityError as error:
        raise _explain_expiry(row, token, error) from error
    # The session was chosen by the unverified identifier: the verified token must name the same.
    if row.status != "open" or (grant.session, grant.agent) != (session, row.agent):
        raise refusal("revoked")
    if agent.status != "active":
        raise refusal("frozen")
    # Counted after the proof, so that a stranger cannot use up an agent's rate limit.
    mint.limits.count_agent(grant.agent)
    return AuthenticatedCaller("agent", grant.agent, row, born, grant.exp, proof.key.kid, agent, proof.key.x)


def describe_caller(
    mint: HasPolicies, caller: str, *, kid: str = "", token: str = "", assurance: str = PROVEN
) -> ChainFacts:
    """Return who calls, for the record of a call without a session.

    Args:
        mint: The mint.
        caller: The caller, such as ``service:orders``.
        kid: The id of the key that authenticated the call, or of its token's.
        token: The id of its token, or of its sign-in to the console.
        assurance: How it was authenticated.
    """
    policy = mint.policies.loaded.digest
    return ChainFacts(agent=caller, token=token, audience=MINT_AUDIENCE, policy=policy, kid=kid, assurance=assurance)


def record_decision(mint: RecordingParts, facts: ChainFacts, request: AccessRequest, error: ArxError | None) -> None:
    """Record the decision on a call that a key authenticated and that has no session.

    Args:
        mint: The mint.
        facts: The caller and its key.
        request: The action as the tool, and its arguments.
        error: The refusal; None if the call is allowed.

    Raises:
        AuditError: An allow cannot be recorded; the call must not go ahead.
    """
    digest, salt = digest_arguments(request.args)
    incarnation, applied, age_ms = mint.epochs.view()
    code, failures = (OK, ()) if error is None else (error.code, tuple(error.failures))
    decision = Decision(
        code, request.at, facts, request.tool, digest, salt, incarnation, applied, age_ms, failures, request.peer
    )
    try:
        mint.decisions.append(decision)
    except AuditError as broken:
        decision.code = broken.code
        if not broken.counted:
            # The allow became a refusal, for which the journal keeps room; appending that raises nothing.
            mint.decisions.append(decision)
        raise


@contextlib.contextmanager
def record_refusal(
    mint: RecordingParts, facts: ChainFacts, request: AccessRequest, errors: tuple[type[ArxError], ...] = REFUSALS
) -> Iterator[None]:
    """Record a refusal that leaves the block.

    Args:
        mint: The mint.
        facts: The caller and its key.
        request: The action as the tool, and its arguments.
        errors: The errors that are recorded; no outage by default.
    """
    try:
        yield
    except errors as error:
        record_decision(mint, facts, request, error)
        raise


@contextlib.contextmanager
def record_outcome(
    mint: RecordingParts, facts: ChainFacts, request: AccessRequest, errors: tuple[type[ArxError], ...] = REFUSALS
) -> Iterator[None]:
    """Record a refusal that leaves the block, as ``record_refusal`` does, or an allow if none does.

    Raises:
        AuditError: An allow cannot be recorded; the call must not go ahead.
    """
    with record_refusal(mint, facts, request, errors):
        yield
    record_decision(mint, facts, request, None)
