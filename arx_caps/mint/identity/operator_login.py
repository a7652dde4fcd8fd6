# SPDX-License-Identifier: Apache-2.0
"""Log people in who are operators by the realm's issuer.  CONTROL 1.7.

``login.oidc`` verifies the ID token, the policy maps its claims to roles, and ``operator_role`` has the role at a call.
"""

import hashlib
from typing import Any, Final

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.context import CallerParts, LivenessParts
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.operators import BY_LOGIN
from arx_caps.mint.db.tables import OperatorRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import LOGIN, describe_caller, record_outcome
from arx_caps.mint.identity.issuer_token import IssuerToken
from arx_caps.mint.identity.operator_role import role_of_person
from arx_caps.mint.policy.issuers import Subject
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, refusal
from arx_verifier.names import is_agent_path
from arx_verifier.request import AccessRequest

MAX_NAME_CHARS: Final = 54  # of an operator
DIGEST_CHARS: Final = 24  # 96 bits, of a person whose own name is no operator's name
LOG_IN: Final = "arx.login"


def log_operator_in(
    mint: CallerParts,
    unit: UnitOfWork,
    token: IssuerToken,
    *,
    peer: str | None,
    key: PublicKey | None = None,
    until: int | None = None,
) -> str:
    """Return the name of the operator that a person is, and record the login; a refusal is recorded as well.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        token: The person's verified ID token.
        peer: The address of the person's program, or None.
        key: A key to enrol for this login; None for a browser, which has a cookie.
        until: When that key ends, ms since the Unix epoch.

    Raises:
        GrantError: ``no_role``: the policy gives this person no role; ``operator_exists``: the person was removed, or
            another operator has the name; ``key_enrolled``.
        RevokedError: ``frozen``: the operator is frozen.
        UnavailableError: ``no_policy``.
        AuditError: The login cannot be recorded.
    """
    name, policy = name_of(token), mint.policy
    # Other claims are personal data that no decision needs: they never reach the database.
    claims = {each: token.claims[each] for each in sorted(policy.operator_claims) if each in token.claims}
    person = Subject(token.issuer.url, token.subject, claims)
    request = AccessRequest(LOG_IN, {"issuer": person.issuer, "subject": person.name}, now_ms(), peer)
    with record_outcome(mint, describe_caller(mint, f"operator:{name}", assurance=LOGIN), request):
        _log_in(mint, unit, name, person, key, until)
    return name


def _log_in(
    mint: LivenessParts, unit: UnitOfWork, name: str, person: Subject, key: PublicKey | None, until: int | None
) -> None:
    row = OperatorRow(
        id=name,
        status="active",
        created_at=now_ms(),
        role=BY_LOGIN,
        rules=None,
        issuer=person.issuer,
        subject=person.name,
        claims=dict(person.claims),
    )
    try:
        role = role_of_person(mint.policy, person).name
    except GrantError:
        # The person has left the groups: what an earlier login began ends as well.
        mint.db.operators.set_claims(row)
        raise
    # As born now: a kill of the realm must not lock the operators out.
    refused = mint.kills.refusal_now((f"operator:{name}",))
    # A stale view lets the person in: an operator must be able to kill while the store is down.
    if refused in ("frozen", "revoked"):
        raise refusal(refused)
    about: dict[str, Any] = {"operator": name, "issuer": person.issuer, "subject": person.name, "role": role}
    about |= {} if key is None else {"key": key.kid, "expires_at": until}
    what = Event.of("operator.logged_in", f"operator:{name}", **about)
    mint.db.operators.record_login(unit, row, what, key=key, until=until)


def name_of(token: IssuerToken) -> str:
    """Return the name of the operator that a person is: the issuer's in the policy, and the person's there."""
    name = f"{token.issuer.name}.{token.subject}"
    if is_agent_path(name) and "/" not in name and len(name) <= MAX_NAME_CHARS:
        return name
    # Such as a name with capitals: folded, two people could have one name.
    digest = hashlib.sha256(f"{token.issuer.url}\0{token.subject}".encode()).hexdigest()[:DIGEST_CHARS]
    return f"{token.issuer.name[: MAX_NAME_CHARS - DIGEST_CHARS - 1]}.{digest}"
