# SPDX-License-Identifier: Apache-2.0
"""Authenticate the agent that opens a session, and the session's subject.  CONTROL 1.

An agent presents an assertion by an enrolled key, or a workload's token of an issuer that the policy trusts; a second
token proves the subject.  The session's rights and its row are made in ``tasks.sessions``.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from arx_caps.credentials.jose import Assertion, Proof, check_assertion
from arx_caps.mint.context import ClientParts, HasIssuerKeys, StoredParts
from arx_caps.mint.db.tables import AgentRow, SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.issuer_token import IssuerToken, verify_issuer_token
from arx_caps.mint.policy.issuers import Subject, agents_of
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import GrantError, RequestError, refusal
from arx_verifier.token.targets import subject_target

TOKEN_TYPES: Final = {
    "urn:ietf:params:oauth:token-type:id_token": "id_token",
    "urn:ietf:params:oauth:token-type:access_token": "access_token",
}


class LoginCredentials(NamedTuple):
    """The credentials that a caller presents to open a session.

    Attributes:
        assertion: An assertion by an enrolled key (RFC 7523).
        workload_token: A workload's token, instead of an assertion.
        subject_token: A token of the subject on whose behalf the session runs.
        subject_token_type: The type of that token (RFC 8693 3).
    """

    assertion: str | None = None
    workload_token: str | None = None
    subject_token: str | None = None
    subject_token_type: str | None = None

    # The members are secrets: a log or a traceback shows only which there are.
    def __repr__(self) -> str:
        return f"<LoginCredentials: {', '.join(name for name in self._fields if getattr(self, name) is not None)}>"


class Opener(NamedTuple):
    """The authenticated agent that opens a session, and its subject.

    Attributes:
        agent: The agent's row.
        by: Its credential, for the record: ``key``, or ``issuer`` and ``sub``.
        subject: The subject on whose behalf it acts, or None.
        until: When the subject's token expires, ms since the Unix epoch; None without a subject.
        ends_at: When the credential itself ends, ms since the Unix epoch; None for no end.
    """

    agent: AgentRow
    by: Mapping[str, str]
    subject: Subject | None
    until: int | None
    ends_at: int | None = None


def authenticate_opener(
    mint: ClientParts, unit: UnitOfWork, policy: Policy, credentials: LoginCredentials, proof: Proof, now: int
) -> Opener:
    """Authenticate the opener of a session and its subject, and spend the proof.

    Args:
        mint: The mint.
        unit: The call's unit of work, in which proof and assertion are spent.
        policy: The policy in force.
        credentials: The presented credentials.
        proof: A proof by the new session's key.
        now: ms since the Unix epoch.

    Returns:
        The opener.

    Raises:
        RequestError: Not exactly one of ``assertion`` and ``workload_token``, or an unknown ``subject_token_type``.
        GrantError: A credential is wrong or was used, or identifies no enrolled agent.
        RevokedError: The agent is deactivated.
        UnavailableError: An issuer's keys cannot be fetched now.
    """
    if (credentials.assertion is None) == (credentials.workload_token is None):
        raise RequestError("invalid credentials: expected either assertion or workload_token; send exactly one")
    assertion: Assertion | None = None
    if credentials.assertion is not None:
        assertion = _verify_key(mint, credentials.assertion, proof, now)
        path, by = assertion.subject, {"key": assertion.kid}
    else:
        path, by = _verify_workload(mint, policy, str(credentials.workload_token), proof, now)
    subject, until = _verify_subject(mint, policy, credentials, proof, now)
    # Spent only now that their owner is authenticated: strangers cannot fill the memory of used proofs.
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    if assertion is not None:
        unit.spend("assertion", assertion.kid, assertion.jti, assertion.until)
    # Counted after authentication, so that a stranger cannot use up an agent's rate limit.
    mint.limits.count_agent(path)
    agent = mint.db.agents.find(path)
    if agent is None:
        # Only a workload's token gets here: the key of an assertion is enrolled for its agent.
        raise GrantError(
            f"unknown agent: [[workload]] of the policy names {path} for this token; enrol that agent",
            code="bad_workload_token",
        )
    if agent.status != "active":
        raise refusal("frozen")
    if assertion is not None:
        mint.db.holder_keys.note_use(assertion.kid)
    return Opener(agent, by, subject, until)


def agent_of_workload(policy: Policy, verified: IssuerToken) -> str:
    """Return the path of the agent that a workload is.

    Args:
        policy: The policy in force.
        verified: The workload's token.

    Raises:
        GrantError: ``bad_workload_token``: no entry of the policy fits its claims, or entries of several agents do.
    """
    agents = agents_of(verified.issuer.name, verified.claims, policy.workloads)
    # With several, the order of the policy would decide which agent's rights the workload gets.
    if len(agents) != 1:
        number = "several agents" if agents else "no agent"
        raise GrantError(
            f"invalid workload token: expected claims that fit one [[workload]] of the policy, got {number}",
            code="bad_workload_token",
        )
    return agents[0]


def subject_in(policy: Policy, token: IssuerToken) -> Subject:
    """Return the token's subject with the claims that the policy uses.

    Args:
        policy: The policy in force.
        token: The subject's token.
    """
    # The other claims are personal data that no decision needs: they never reach the database.
    claims = {name: token.claims[name] for name in sorted(policy.subject_claims) if name in token.claims}
    return Subject(token.issuer.url, token.subject, claims)


def subject_of(session: SessionRow) -> Subject | None:
    """Return the subject in a session's row, or None."""
    if session.subject is None or session.subject_issuer is None:
        return None
    return Subject(session.subject_issuer, session.subject, session.subject_claims or {})


def subject_targets(subject: Subject | None) -> tuple[str, ...]:
    """Return the target that kills or freezes a subject; empty without one."""
    return () if subject is None else (subject_target(subject.issuer, subject.name),)


def _verify_key(mint: StoredParts, assertion: str, proof: Proof, now: int) -> Assertion:
    verified = check_assertion(assertion, mint.db.holder_keys.key_of, audience=mint.realm.issuer, now=now)
    if verified.subject.startswith("operator:"):
        raise GrantError("wrong caller: expected an agent's key, got an operator's", code="wrong_caller")
    # Otherwise an attacker who intercepts the assertion could open a session with a key of its own.
    if verified.bound_to != proof.key.kid:
        raise GrantError(
            "invalid assertion: expected the session's key of the proof in cnf.jkt, got another key",
            code="bad_assertion",
        )
    return verified


def _verify_workload(
    mint: HasIssuerKeys, policy: Policy, token: str, proof: Proof, now: int
) -> tuple[str, dict[str, str]]:
    verified = verify_issuer_token(
        token, policy.issuers, mint.issuer_keys, kind="workload", now=now, session_kid=proof.key.kid
    )
    return agent_of_workload(policy, verified), {"issuer": verified.issuer.url, "sub": verified.subject}


def _verify_subject(
    mint: HasIssuerKeys, policy: Policy, credentials: LoginCredentials, proof: Proof, now: int
) -> tuple[Subject | None, int | None]:
    if credentials.subject_token is None:
        if credentials.subject_token_type is not None:
            raise RequestError("subject_token_type without subject_token: send both or neither")
        return None, None
    kind = TOKEN_TYPES.get(credentials.subject_token_type or "")
    if kind is None:
        raise RequestError(f"invalid subject_token_type: expected one of {', '.join(TOKEN_TYPES)}")
    token = verify_issuer_token(
        credentials.subject_token,
        policy.issuers,
        mint.issuer_keys,
        kind="id_token" if kind == "id_token" else "access_token",
        now=now,
        session_kid=proof.key.kid,
    )
    return subject_in(policy, token), token.expires_at
