# SPDX-License-Identifier: Apache-2.0
"""Authenticate a caller by token and proof, authorize the action, and record the decision.  SPEC 12, CONTROL 1, 3.5.

An operator's token goes with an enrolled key of that operator, a session's with the key the session was opened with: a
stolen token alone does nothing.  A tool service has no token: its proof by an enrolled key says which one it is.  The
proof is spent only once its key is known, so that strangers cannot fill the memory of used ones.  What the caller wants
is judged here as an action with arguments; what it gets, by others.

Every call of an operator or a service is a decision with a record in the mint's own journal, reads and refusals too,
as ``operator:<id>`` or ``service:<audience>``.  A call that cannot be recorded is refused; for a kill,
``arx kill --direct`` needs no mint.  A batch that is taken has no record of its own: it is in the log, with its
service's statement.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from arx_caps.durations import format_duration
from arx_caps.jose import BAD_PROOF, Proof, check_dpop
from arx_caps.mint.context import Born, MintContext
from arx_caps.mint.db.database import now_ms
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.operator_token import hold_to_rules, hold_to_token, prove_operator_token
from arx_caps.mint.policy.roles import APPROVE, WRITE_OPERATORS, rules_of
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
from arx_verifier.journal import OK, ChainFacts, Decision, digest_arguments
from arx_verifier.request import AccessRequest
from arx_verifier.token import MINT_AUDIENCE, Macaroon, OperatorIdentifier

SECOND_MS: Final = 1000
Kind = Literal["agent", "operator", "service"]
JOIN: Final = "arx.services.join"
SHIP: Final = "arx.decisions.write"
PROVEN: Final = "key"  # each call is signed with an enrolled key
REFUSALS: Final = (AccessError, GrantError, RequestError, TokenError)  # an outage is no refusal
WHOAMI: Final = "arx.whoami"  # whoever is proven may ask who that is
# What takes power away, or only looks, must not wait for a live view: with a stale one an operator still kills.  What
# gives power, or takes records out of the log for good, waits: whoever asks could be frozen by now.
GIVING: Final = (
    "arx.agents.write",
    APPROVE,
    "arx.audit.erase",
    "arx.audit.prune",
    "arx.thaw",
    "arx.policy.write",
    "arx.services.write",
    WRITE_OPERATORS,
)


class CallCredentials(NamedTuple):
    """One HTTP request, as far as it says who is calling.

    Attributes:
        method: The method.
        url: The address as clients know it: issuer and path, no query.
        authorization: The header, or None.
        proofs: Every ``DPoP`` header.
        peer: The peer's address, or None.
    """

    method: str
    url: str
    authorization: str | None
    proofs: tuple[str, ...]
    peer: str | None


class AuthenticatedCaller(NamedTuple):
    """A proven caller.

    Attributes:
        kind: ``agent``, ``operator`` or ``service``.
        name: The agent's path, the operator's id or the service's audience.
        session: The session's row, for an agent.
        born: Where the kill epoch stood before the caller was looked at; None but for an agent.
        expires_at: When the token's time is over, ms; for a service, when its proof is.
        key: Thumbprint of the key that signed the call.
        agent: The agent's row, for an agent.
    """

    kind: Kind
    name: str
    session: Mapping[str, Any] | None
    born: Born | None
    expires_at: int
    key: str
    agent: Mapping[str, Any] | None = None

    @property
    def by(self) -> str:
        """How records name the caller."""
        return f"{self.kind}:{self.name}"


def read_proof(call: CallCredentials, token: str | None) -> Proof:
    """Check the one ``DPoP`` header, except that it is new and whose key it is.

    Raises:
        GrantError: ``bad_proof``.
    """
    if len(call.proofs) != 1:
        raise GrantError("a request carries one DPoP header, signed by the caller's key for this call", code=BAD_PROOF)
    return check_dpop(call.proofs[0], method=call.method, url=call.url, now=now_ms(), token=token)


def read_token(call: CallCredentials) -> str:
    """Return the token of the ``Authorization`` header.

    Raises:
        TokenError: There is none, or it is of another scheme (``missing_token``).
    """
    scheme, _, token = (call.authorization or "").partition(" ")
    if scheme.lower() != "dpop" or not token:
        raise refusal("missing_token")
    return token


def identify(
    mint: MintContext,
    unit: UnitOfWork,
    call: CallCredentials,
    action: str,
    args: Mapping[str, Any],
    about: Callable[[MintContext, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> AuthenticatedCaller:
    """Prove who is calling, and that the token allows this action.

    Args:
        mint: The mint.
        unit: The call's.
        call: The request.
        action: What is to be done, such as ``arx.tasks.start``.
        args: With what: the body's members and the path's.
        about: Says more of what an operator's call is about; asked once it is proven who calls.

    Returns:
        The caller.

    Raises:
        TokenError: No token, or one that is not usable.
        AccessError: The token does not allow this.
        GrantError: The proof is wrong or was used.
        UnavailableError: It cannot be known now.
    """
    token = read_token(call)
    proof = read_proof(call, token)
    macaroon = Macaroon.parse(token)
    unverified = macaroon.unverified_identifier
    if not isinstance(unverified, OperatorIdentifier):
        return _agent(mint, unit, token, unverified.session, proof, call, action, args)
    identifier = _proven_operator(mint, macaroon, proof, call.peer)
    more = about(mint, args) if about is not None else {}
    request = AccessRequest(action, {**args, **more}, now_ms(), call.peer)
    try:
        caller = _operator(mint, unit, macaroon, identifier, proof, request)
    except ArxError as error:
        record_call(mint, identifier, request, error)
        raise
    record_call(mint, identifier, request, None)
    return caller


def admit_operator(mint: MintContext, call: CallCredentials, _: Mapping[str, str]) -> OperatorIdentifier:
    """Prove that an operator calls, before a body is read that only operators may send; ``identify`` judges the call.

    Raises:
        TokenError: No token, or one that is not usable.
        GrantError: The proof is wrong, or another one calls.
    """
    token = read_token(call)
    proof = read_proof(call, token)
    macaroon = Macaroon.parse(token)
    if not isinstance(macaroon.unverified_identifier, OperatorIdentifier):
        raise GrantError("this is for operators", code="wrong_caller")
    return _proven_operator(mint, macaroon, proof, call.peer)


def identify_service(
    mint: MintContext, unit: UnitOfWork, call: CallCredentials, action: str, args: Mapping[str, Any]
) -> AuthenticatedCaller:
    """Prove which tool service is calling, by nothing but an enrolled key of its own, and record it.  CONTROL 3.

    Args:
        mint: The mint.
        unit: The call's.
        call: The request.
        action: What is to be done, such as ``arx.keys.fetch``.
        args: With what.

    Raises:
        GrantError: The proof is wrong, was used, or is by no service's key.
        StoreError: It cannot be known now.
        AuditError: It cannot be recorded.
    """
    try:
        proof = read_proof(call, None)
        holder = mint.db.holder_keys.holder_of(proof.key.kid) or ""
        audience = holder.removeprefix("service:")
        if audience == holder:
            raise GrantError("the proof is not by the enrolled key of a service", code=BAD_PROOF)
    except GrantError as error:
        mint.decisions.count(error.code, call.peer)
        raise
    request = AccessRequest(action, args, now_ms(), call.peer)
    try:
        unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    except GrantError as error:
        record_service_call(mint, audience, proof.key.kid, request, error)
        raise
    record_service_call(mint, audience, proof.key.kid, request, None)
    return AuthenticatedCaller("service", audience, None, None, proof.until, proof.key.kid)


def _proven_operator(mint: MintContext, macaroon: Macaroon, proof: Proof, peer: str | None) -> OperatorIdentifier:
    """Prove the token, and that the call is signed by an enrolled key of the operator it names."""
    try:
        identifier = prove_operator_token(macaroon, mint.keys)
        if mint.db.holder_keys.find(f"operator:{identifier.operator}", proof.key.kid) is None:
            raise GrantError("the proof is not by a key of this operator", code=BAD_PROOF)
    except ArxError as error:
        mint.decisions.count(error.code, peer)  # what nobody proved is counted, or junk could fill the record
        raise
    return identifier


def _operator(
    mint: MintContext,
    unit: UnitOfWork,
    macaroon: Macaroon,
    identifier: OperatorIdentifier,
    proof: Proof,
    request: AccessRequest,
) -> AuthenticatedCaller:
    name, action = identifier.operator, request.tool
    asked = None if action == WHOAMI else action
    hold_to_token(macaroon, action=asked, args=request.args, now=request.at)
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    row = mint.db.operators.find(name)
    if row is None or row["status"] != "active":
        raise refusal("frozen")
    # A freeze counts whenever it came; a kill does not, because operators' tokens know no birth.
    _, applied, _ = mint.epochs.view()
    refused = mint.epochs.check(None, max(applied, 0), (f"operator:{name}",))
    if refused is not None and (refused.code in ("frozen", "revoked") or action in GIVING):
        raise refusal(refused.code)
    # The role as it is now: what was taken away since the token was made is gone.
    if asked is not None:
        hold_to_rules(f"role {row['role']}", rules_of(row["role"], row["rules"]), asked, request.args)
    return AuthenticatedCaller("operator", name, None, None, identifier.exp, proof.key.kid)


def _over(row: Mapping[str, Any], token: str, error: ValidityError) -> ValidityError:
    """Say of a session's token whose time is over why that is: nobody used the session, or it has lived its life."""
    identifier, now = Macaroon.parse(token).unverified_identifier, now_ms()  # proven: its time is judged after that
    if error.code != "expired" or row["status"] != "open" or now < row["expires_at"]:
        return error
    if row["expires_at"] < row["ends_at"]:
        # The token is as old as the last renewal, and a session that is used is renewed.
        idle = now - identifier.iat
        told = format_duration(idle if idle < SECOND_MS else idle // SECOND_MS * SECOND_MS)
        why = f"the session was idle for {told} and is over; open another"
    else:
        why = "the session has lived as long as the policy lets it; open another"
    return ValidityError(why, code=error.code, failures=error.failures)


def _agent(
    mint: MintContext,
    unit: UnitOfWork,
    token: str,
    session: str,
    proof: Proof,
    call: CallCredentials,
    action: str,
    args: Mapping[str, Any],
) -> AuthenticatedCaller:
    born = mint.born()  # before any authority is looked at
    found = mint.db.sessions.find_with_agent(session)
    if found is None or found[0]["jkt"] != proof.key.kid:
        raise GrantError("the proof is not by the key of this session", code=BAD_PROOF)
    row, agent = found
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    try:
        grant = mint.verifier.verify(token, AccessRequest(action, args, now_ms(), call.peer))
    except ValidityError as error:
        raise _over(row, token, error) from error
    if row["status"] != "open" or (grant.session, grant.agent) != (session, row["agent"]):
        raise refusal("revoked")
    if agent["status"] != "active":
        raise refusal("frozen")
    mint.limits.count_agent(grant.agent)
    return AuthenticatedCaller("agent", grant.agent, row, born, grant.exp, proof.key.kid, agent)


def record_call(
    mint: MintContext, identifier: OperatorIdentifier, request: AccessRequest, error: ArxError | None
) -> None:
    """Record what was decided on a proven operator's call.

    Args:
        mint: The mint.
        identifier: The proven token's.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
    """
    facts = ChainFacts(
        agent=f"operator:{identifier.operator}",
        token=identifier.id,
        audience=MINT_AUDIENCE,
        policy=mint.policies.loaded.digest,
        kid=identifier.kid,
        assurance=PROVEN,
    )
    try:
        record_decision(mint, facts, request, error)
    except AuditError as broken:
        raise AuditError(f"{broken}; `arx kill --direct` needs no mint") from broken


def record_decision(mint: MintContext, facts: ChainFacts, request: AccessRequest, error: ArxError | None) -> None:
    """Record what was decided on a call whose caller is proven by a key and has no session.

    Args:
        mint: The mint.
        facts: Who calls.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
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
            mint.decisions.append(decision)  # a refusal: there is room kept for it, and it raises nothing
        raise


def record_service_call(
    mint: MintContext, audience: str, kid: str, request: AccessRequest, error: ArxError | None
) -> None:
    """Record what was decided on a service's call.

    Args:
        mint: The mint.
        audience: The service.
        kid: The thumbprint of the key that signed the call.
        request: The action as the tool, and with what.
        error: The refusal; None when it goes ahead.

    Raises:
        AuditError: An allow cannot be recorded, and must not go ahead.
    """
    policy = mint.policies.loaded.digest
    facts = ChainFacts(agent=f"service:{audience}", audience=MINT_AUDIENCE, policy=policy, kid=kid, assurance=PROVEN)
    record_decision(mint, facts, request, error)


@contextlib.contextmanager
def refusing(mint: MintContext, audience: str, kid: str, request: AccessRequest) -> Iterator[None]:
    """Record a refusal that comes out of the block."""
    try:
        yield
    except REFUSALS as error:
        record_service_call(mint, audience, kid, request, error)
        raise


@contextlib.contextmanager
def deciding(mint: MintContext, audience: str, kid: str, request: AccessRequest) -> Iterator[None]:
    """Record a refusal that comes out of the block, or that there was none.

    Raises:
        AuditError: That cannot be recorded, and must not go ahead.
    """
    with refusing(mint, audience, kid, request):
        yield
    record_service_call(mint, audience, kid, request, None)
