# SPDX-License-Identifier: Apache-2.0
"""Approvals for access tokens of stock clients: a gateway asks for one, and takes the discharge.  CONTROL 5.12.

The client of the access token never gets the discharge, nor the task's token that it is bound to.
"""

from typing import Any, Final

from arx_caps.credentials.secret_source import SecretStruct
from arx_caps.mint.approvals import ApprovalRequest, approval_state, ask_approval, fetch_discharge, marks_now
from arx_caps.mint.context import Born, HandleParts, HasDatabase, HasLedger, IssuingParts
from arx_caps.mint.db.repositories.work.approvals import APPROVED, WAITING, WITHDRAWN, ApprovalWithTask
from arx_caps.mint.db.repositories.work.proofs import used_id
from arx_caps.mint.db.rows import as_json
from arx_caps.mint.db.tables import HandleRow, SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_caps.mint.identity.authenticate import AuthenticatedCaller
from arx_caps.mint.oauth.client.clients import OAuthClient
from arx_caps.mint.oauth.handles import Handle, bundle_of, require_handle
from arx_caps.mint.oauth.task_grant import is_proven
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.tasks.discharge import read_third_party
from arx_caps.mint.tasks.liveness import task_state
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

MAX_SHOWN: Final = 16  # of one person and agent: of a page that is read
_TAKEN: Final = "approval"  # the kind of used id
_FOUND: Final = ("waiting", "approved", "denied")


class GatewayApproval(SecretStruct, frozen=True):
    """An approval as a gateway gets it.

    Attributes:
        row: Its row.
        taken: Whether its discharge was taken before.
        bundle: The bundle of the task that it was asked for, a secret; None unless it is taken now.
        discharge: Its discharge, a secret; None unless it is taken now.
    """

    row: ApprovalWithTask
    taken: bool = False
    bundle: str | None = None
    discharge: str | None = None


def ask_for_handle(
    mint: HandleParts, unit: UnitOfWork, token: str, audience: str, request: ApprovalRequest
) -> ApprovalWithTask:
    """Return the approval of a call with an access token: the one that the client has, or a new request.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        token: The access token, a secret.
        audience: The service that asks.
        request: The call.

    Returns:
        The row.  One that was denied stays denied while its task lives: a client that calls again, with a new
        access token perhaps, asks no operator again.  Else one that shows operators the marks that are set now.

    Raises:
        TokenError: As ``require_handle``.
        GrantError: As ``ask_approval``.
        StoreError: The ledger does not answer.
        UnavailableError: The kill epoch is unknown now.
    """
    born = mint.kills.born()
    handle = require_handle(mint, token, audience)
    args = as_json(request.args)
    rows = mint.db.approvals.list(
        audience=audience,
        agent=_agent_of(handle),
        tool=request.tool,
        subject_issuer=handle.session.subject_issuer,
        subject=handle.session.subject,
    )
    for row in rows:
        if as_json(row.args) != args or _asked_by(mint, handle, row) is None or _is_taken(mint, row):
            continue
        state = approval_state(mint, row)
        if state not in _FOUND or (state == "denied" and task_state(mint.kills, row.its) not in ("open", "frozen")):
            continue
        if state == "denied" or _shows_marks(mint, handle, row, request.caveat):
            return row
    return ask_approval(mint, unit, _caller_of(handle.session, born), request, handle=handle.claims.jti)


def take_for_handle(mint: HandleParts, unit: UnitOfWork, token: str, audience: str, name: str) -> GatewayApproval:
    """Return how an approval of a client stands and, once it is given, what the call is made with, one time.

    Args:
        mint: The mint.
        unit: The call's unit of work.
        token: An access token of the client, a secret; it may be a later one than that of the call.
        audience: The service that asks.
        name: The approval's id.

    Raises:
        TokenError: As ``require_handle``; ``revoked``: the task of the call was killed.
        GrantError: ``not_found``; ``approval_denied``, ``approval_withdrawn``, ``session_ended``; ``approval_expired``:
            it has, or its operators are not shown the marks that are set now.
        StoreError: The ledger does not answer.
        UnavailableError: The kill epoch is unknown now.
    """
    born = mint.kills.born()
    row, asked, session = _find_usable(mint, token, audience, name)
    if _is_taken(mint, row):
        return GatewayApproval(row, taken=True)
    if row.marks is not None and approval_state(mint, row) in ("waiting", "approved"):
        [marks] = marks_now(mint, session, read_third_party(row.caveat))
        if marks != row.marks:
            raise GrantError(f"marks have changed since {name} was asked for: call again", code="approval_expired")
    discharge = fetch_discharge(mint, _caller_of(session, born), row)
    if discharge is None:
        return GatewayApproval(row)
    bundle = bundle_of(mint, asked, session)
    # The id decides: of two gateways that take it at the same moment, one makes the call.
    try:
        unit.spend(*_taken_id(row))
    except GrantError as error:
        if error.code != "replayed":
            raise
        return GatewayApproval(row, taken=True)
    return GatewayApproval(row, bundle=bundle, discharge=discharge)


def withdraw_for_handle(mint: HandleParts, token: str, audience: str, name: str) -> ApprovalWithTask:
    """Withdraw a request that still waits, as its client has cancelled the call; return its row.

    Args:
        mint: The mint.
        token: An access token of the client, a secret.
        audience: The service that asks.
        name: The approval's id.

    Raises:
        TokenError: As ``require_handle``.
        GrantError: ``not_found``.
    """
    row, _, _ = _find_usable(mint, token, audience, name)
    if row.status not in (WAITING, WITHDRAWN):
        return row
    return mint.db.approvals.withdraw(row, WAITING, f"agent:{row.agent}")


def find_unmade_calls(mint: IssuingParts, client: OAuthClient, subject: Subject) -> list[tuple[ApprovalWithTask, str]]:
    """Return the calls of a client on behalf of a person that wait for an approval, or have one; with their states.

    Args:
        mint: The mint.
        client: The client.
        subject: The person.
    """
    person: dict[str, Any] = {"subject_issuer": subject.issuer, "subject": subject.name}
    rows = mint.db.approvals.list(statuses=(WAITING, APPROVED), agent=client.agent, limit=MAX_SHOWN, **person)
    found: list[tuple[ApprovalWithTask, str]] = []
    for row in rows:
        asked = None if row.handle is None else mint.db.oauth_handles.find(row.handle)
        if asked is None or asked.client != client.id:
            continue
        state = approval_state(mint, row)
        if state in _FOUND and not _is_taken(mint, row):
            found.append((row, state))
    return found


def _find_usable(
    mint: HandleParts, token: str, audience: str, name: str
) -> tuple[ApprovalWithTask, HandleRow, SessionRow]:
    """Return an approval's row that an access token may use, with the row of the handle that asked, and its session."""
    handle = require_handle(mint, token, audience)
    rows = mint.db.approvals.list(id=name, audience=audience, limit=1)
    asked = _asked_by(mint, handle, rows[0]) if rows else None
    # To another client, the approval does not exist.
    if asked is None:
        raise GrantError("no such approval", code="not_found")
    session = mint.db.sessions.find(rows[0].session)
    assert session is not None  # the foreign key of the handle
    return rows[0], asked, session


def _asked_by(mint: HasDatabase, handle: Handle, row: ApprovalWithTask) -> HandleRow | None:
    """Return the row of the access token that asked for an approval; None if a handle may not use the approval.

    Another token of the same client and person may have asked, for an earlier task.
    """
    if row.handle is None or row.audience != handle.row.audience or row.agent != _agent_of(handle):
        return None
    if (row.subject_issuer, row.subject) != (handle.session.subject_issuer, handle.session.subject):
        return None
    asked = mint.db.oauth_handles.find(row.handle)
    if asked is None or asked.client != handle.row.client:
        return None
    session = mint.db.sessions.find(asked.session)
    # A bearer token must not make the call of a bound one: an attacker who has read it lacks the key.
    if handle.claims.cnf is None and (session is None or is_proven(session)):
        return None
    # Of a delegated task, the chain is what was approved: another chain of the same client is another principal.
    return asked if asked.recipe.get("added", []) == handle.row.recipe.get("added", []) else None


def _shows_marks(mint: HasLedger, handle: Handle, row: ApprovalWithTask, caveat: str) -> bool:
    """Return whether operators are shown by a row all marks after which a call needs an approval now.

    Args:
        mint: The mint.
        handle: The access token of the call.
        row: The approval's row; its task may be an earlier one.
        caveat: The third-party caveat of the call.
    """
    asks = read_third_party(caveat)
    if row.marks is None and not asks.when:
        return True
    # The call is made with the row's task, in which what the call comes after may not be set.
    if row.session != handle.session.id:
        return False
    marks = marks_now(mint, handle.session, asks, read_third_party(row.caveat))
    return all(each == (row.marks or ()) for each in marks)


def _agent_of(handle: Handle) -> str:
    return handle.session.agent


def _caller_of(session: SessionRow, born: Born) -> AuthenticatedCaller:
    """Return the agent of a session, for which its gateway asks."""
    return AuthenticatedCaller("agent", session.agent, session, born, session.expires_at, "")


def _taken_id(row: ApprovalWithTask) -> tuple[str, str, str, int]:
    return _TAKEN, str(row.handle), row.id, now_ms() if row.expires_at is None else row.expires_at


def _is_taken(mint: HasDatabase, row: ApprovalWithTask) -> bool:
    return mint.db.proofs.is_used(used_id(*_taken_id(row)))
