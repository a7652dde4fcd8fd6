# SPDX-License-Identifier: Apache-2.0
"""Authenticate the opener of a session and its subject, before anything is granted.  CONTROL 1.

An agent presents an assertion by an enrolled key, or a workload's token of an issuer that the policy trusts.  A token
of its own proves the subject, so that no agent can name one at will.  Both stay apart: an agent acts on a subject's
behalf and never becomes the subject.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.jose import Assertion, Proof, check_assertion
from arx_caps.mint.context import MintContext
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.id_token import Foreign, check_foreign
from arx_caps.mint.policy.issuers import Subject, agents_of
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import GrantError, RequestError, refusal
from arx_verifier.token import subject_target

TOKEN_TYPES: Final = {
    "urn:ietf:params:oauth:token-type:id_token": "id_token",
    "urn:ietf:params:oauth:token-type:access_token": "access_token",
}


class Shown(NamedTuple):
    """What a caller shows to open a session.  Secrets: it has no ``repr`` of its own, and none is needed.

    Attributes:
        assertion: Signed by an enrolled key.
        workload_token: In its place: a workload's token.
        subject_token: A token of whoever the session is to run on behalf of.
        subject_token_type: What kind of token that is (RFC 8693 3).
    """

    assertion: str | None = None
    workload_token: str | None = None
    subject_token: str | None = None
    subject_token_type: str | None = None

    def __repr__(self) -> str:
        return f"<Shown: {', '.join(name for name in self._fields if getattr(self, name) is not None)}>"


class Opener(NamedTuple):
    """Who opens a session, proven.

    Attributes:
        agent: The agent's row.
        by: By what it is known, for the record: ``key``, or ``issuer`` and ``sub``.
        subject: On whose behalf, or None.
        until: When the token that proved the subject ends, ms; None without a subject.
    """

    agent: Mapping[str, Any]
    by: Mapping[str, str]
    subject: Subject | None
    until: int | None


def who_opens(mint: MintContext, unit: UnitOfWork, policy: Policy, shown: Shown, proof: Proof, now: int) -> Opener:
    """Find out who opens a session, and use up what is good once.

    Args:
        mint: The mint.
        unit: The call's.
        policy: The policy to go by.
        shown: What the caller shows.
        proof: By the session's key.
        now: ms since the Unix epoch.

    Raises:
        RequestError: Not one of ``assertion`` and ``workload_token``, or a subject of an unknown kind.
        GrantError: What was shown is wrong or used, or stands for no agent.
        RevokedError: The agent is deactivated.
        UnavailableError: An issuer's keys cannot be had now.
    """
    if (shown.assertion is None) == (shown.workload_token is None):
        raise RequestError("say assertion or workload_token, one of them")
    checked: Assertion | None = None
    if shown.assertion is not None:
        checked = _by_key(mint, shown.assertion, proof, now)
        path, by = checked.subject, {"key": checked.kid}
    else:
        path, by = _by_workload(mint, policy, str(shown.workload_token), proof, now)
    subject, until = _subject(mint, policy, shown, proof, now)
    # Only now, when their owner is proven, is room taken in the memory of used ones.
    unit.spend("proof", proof.key.kid, proof.jti, proof.until)
    if checked is not None:
        unit.spend("assertion", checked.kid, checked.jti, checked.until)
    mint.limits.count_agent(path)
    agent = mint.db.agents.find(path)
    if agent is None:
        raise GrantError(f"the policy takes this token for {path}, which is not enrolled", code="bad_workload_token")
    if agent["status"] != "active":
        raise refusal("frozen")
    return Opener(agent, by, subject, until)


def subject_of(session: Mapping[str, Any]) -> Subject | None:
    """Return the subject of a session's row, or None."""
    if session["subject"] is None:
        return None
    claims = msgspec.json.decode(session["subject_claims"], type=dict[str, Any])
    return Subject(session["subject_issuer"], session["subject"], claims)


def targets_of(subject: Subject | None) -> tuple[str, ...]:
    """Return the target by which a subject is killed; none for nobody."""
    return () if subject is None else (subject_target(subject.issuer, subject.name),)


def subject_row(opener: Opener) -> dict[str, Any]:
    """Return what a session's row says of who opened it and on whose behalf."""
    subject, opened_with = opener.subject, msgspec.json.encode(opener.by).decode()
    if subject is None:
        nobody = dict.fromkeys(("subject_issuer", "subject", "subject_claims", "subject_until"))
        return nobody | {"opened_with": opened_with}
    claims = msgspec.json.encode(subject.claims).decode()
    row = {"subject_issuer": subject.issuer, "subject": subject.name, "subject_claims": claims}
    return row | {"subject_until": opener.until, "opened_with": opened_with}


def _by_key(mint: MintContext, assertion: str, proof: Proof, now: int) -> Assertion:
    checked = check_assertion(assertion, mint.db.holder_keys.find, audience=mint.realm.issuer, now=now)
    if checked.subject.startswith("operator:"):
        raise GrantError("this key is an operator's; sessions are for agents", code="wrong_caller")
    # Else whoever saw the assertion on its way could be first, with a key of his own.
    if checked.bound_to != proof.key.kid:
        raise GrantError("the assertion names (cnf, jkt) another session's key than the proof's", code="bad_assertion")
    return checked


def _by_workload(mint: MintContext, policy: Policy, token: str, proof: Proof, now: int) -> tuple[str, dict[str, str]]:
    checked = check_foreign(token, policy.issuers, mint.key_sets, kind="workload", now=now, session_kid=proof.key.kid)
    agents = agents_of(checked.issuer.name, checked.claims, policy.workloads)
    if len(agents) != 1:
        why = "several agents" if agents else "no agent"
        raise GrantError(f"its claims fit {why} of the policy ([[workload]])", code="bad_workload_token")
    return agents[0], {"issuer": checked.issuer.url, "sub": checked.subject}


def _subject(
    mint: MintContext, policy: Policy, shown: Shown, proof: Proof, now: int
) -> tuple[Subject | None, int | None]:
    if shown.subject_token is None:
        if shown.subject_token_type is not None:
            raise RequestError("subject_token_type goes with subject_token")
        return None, None
    kind = TOKEN_TYPES.get(shown.subject_token_type or "")
    if kind is None:
        raise RequestError(f"subject_token_type is one of {', '.join(TOKEN_TYPES)}")
    checked = check_foreign(
        shown.subject_token,
        policy.issuers,
        mint.key_sets,
        kind="id_token" if kind == "id_token" else "access_token",
        now=now,
        session_kid=proof.key.kid,
    )
    return _kept(policy, checked), checked.expires_at


def _kept(policy: Policy, checked: Foreign) -> Subject:
    """Keep of a subject what the policy may ask for, and nothing else that their token tells of them."""
    claims = {name: checked.claims[name] for name in sorted(policy.subject_claims) if name in checked.claims}
    return Subject(checked.issuer.url, checked.subject, claims)
