# SPDX-License-Identifier: Apache-2.0
"""Rows as the API shows them: ids, times and states.  CONTROL 1.

No token, key or proof is ever shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from arx_caps.mint.api.endpoint import RouteAnswer
from arx_caps.mint.context import BudgetParts, HasPolicy, KillView, LivenessParts
from arx_caps.mint.db.repositories.identity.operators import BY_LOGIN
from arx_caps.mint.db.rows import fields_of
from arx_caps.mint.db.tables import AgentRow, GrantRow, HolderKeyRow, OperatorRow, SessionRow, TaskRow
from arx_caps.mint.identity.operator_role import role_of
from arx_caps.mint.tasks.liveness import State, is_frozen, session_state, task_state
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.revocation.report import KillReport
from arx_verifier.errors import ArxError, GrantError
from arx_verifier.token.targets import agent_targets, subject_target

Row = TypeVar("Row")
Shown = TypeVar("Shown", bound=msgspec.Struct)


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled key, by its RFC 7638 thumbprint; times are ms since the Unix epoch."""

    kid: str
    added_at: int


class AgentShown(RouteAnswer, frozen=True):
    """An agent."""

    path: str
    state: Literal["active", "frozen", "deactivated"]
    owner: str | None
    metadata: dict[str, str]
    keys: list[KeyShown]
    created_at: int
    ended_at: int | None


class PersonShown(msgspec.Struct, frozen=True, kw_only=True):
    """A person who is an operator by login: the issuer's URL, and its name of the person."""

    issuer: str
    subject: str


class OperatorShown(RouteAnswer, frozen=True, kw_only=True):
    """An operator; ``rules`` are present if the role is a custom one, ``login`` if the role comes with a login."""

    name: str
    state: Literal["active", "frozen", "removed"]
    role: str
    rules: list[dict[str, Any]] | UnsetType = UNSET
    keys: list[str]
    created_at: int
    ended_at: int | None
    login: PersonShown | UnsetType = UNSET


class SubjectShown(msgspec.Struct, frozen=True, kw_only=True):
    """The subject of a session, and the target that kills or freezes it."""

    issuer: str
    subject: str
    target: str


class SessionShown(RouteAnswer, frozen=True):
    """A session; times are ms since the Unix epoch.

    ``expires_at`` is its end without a renewal, ``ends_at`` the end that no renewal extends.
    """

    id: str
    agent: str
    purpose: str | None
    policy: str
    opened_at: int
    expires_at: int
    ends_at: int
    ended_at: int | None
    subject: SubjectShown | None
    opened_with: dict[str, str] | None
    state: State


class TaskShown(RouteAnswer, frozen=True):
    """A task; times are ms since the Unix epoch."""

    id: str
    session: str
    agent: str
    template: str
    policy: str
    link: str
    above: list[str]
    started_at: int
    expires_at: int
    ended_at: int | None
    params: dict[str, Any]
    audiences: list[str]
    state: State


class GrantShown(msgspec.Struct, frozen=True, kw_only=True):
    """A grant of a task, with the caveats that were added later (``attenuated``).

    Times are ms since the Unix epoch.
    """

    link: str
    template: str
    params: dict[str, Any]
    policy: str
    audiences: list[str]
    attenuated: dict[str, list[dict[str, Any]]]
    granted_at: int
    expires_at: int
    ended_at: int | None
    replaced_by: str | None


class KillShown(KillReport, RouteAnswer, frozen=True):
    """A kill, freeze or thaw: where it is in force, and which verifiers have not confirmed it."""


def require_row(row: Row | None, noun: str) -> Row:
    """Return a row that was looked up.

    Args:
        row: The row, or None.
        noun: What was looked up, for the refusal.

    Raises:
        GrantError: ``not_found``: there is none.
    """
    if row is None:
        raise GrantError(f"no such {noun}", code="not_found")
    return row


def show_row(kind: type[Shown], row: msgspec.Struct | Mapping[str, Any], **members: Any) -> Shown:
    """Return a struct with the columns of a row that it has.

    Args:
        kind: The struct.
        row: The row.
        members: Members that are no column, or shown in another form.
    """
    fields = fields_of(row)
    return kind(**{name: fields[name] for name in kind.__struct_fields__ if name in fields} | members)


def show_agent(mint: BudgetParts, row: AgentRow, keys: Sequence[HolderKeyRow] | None = None) -> AgentShown:
    """Return an agent as the API shows it.

    Args:
        mint: The mint.
        row: The agent's row.
        keys: The rows of its keys; None to read them from the database.
    """
    keys = mint.db.holder_keys.list(row.path) if keys is None else keys
    state = row.status
    # An operator may have frozen it in the store alone, by `arx kill --direct`.
    if state == "active" and is_frozen(mint.kills, agent_targets(row.path)):
        state = "frozen"
    return show_row(AgentShown, row, state=state, keys=[show_row(KeyShown, key) for key in keys])


def show_operator(mint: LivenessParts, row: OperatorRow) -> OperatorShown:
    """Return an operator as the API shows it."""
    state = row.status
    if state == "active" and is_frozen(mint.kills, (f"operator:{row.id}",)):
        state = "frozen"
    is_person = row.role == BY_LOGIN
    person = PersonShown(issuer=row.issuer or "", subject=row.subject or "") if is_person else UNSET
    return show_row(
        OperatorShown,
        row,
        name=row.id,
        state=state,
        role=row.role if person is UNSET else _role_by_login(mint, row),
        rules=msgspec.json.decode(row.rules) if row.rules is not None else UNSET,
        keys=[*mint.db.holder_keys.kids(f"operator:{row.id}")],
        login=person,
    )


def _role_by_login(mint: HasPolicy, row: OperatorRow) -> str:
    try:
        return role_of(mint, row).name
    except ArxError:
        return "none"  # the policy gives the person none, or cannot be read: each call is refused


def show_subject(issuer: str | None, name: str | None) -> SubjectShown | None:
    """Return the subject of a session or an approval as the API shows it, or None."""
    if issuer is None or name is None:
        return None
    return SubjectShown(issuer=issuer, subject=name, target=subject_target(issuer, name))


def show_session(kills: KillView, row: SessionRow) -> SessionShown:
    """Return a session as the API shows it."""
    subject = show_subject(row.subject_issuer, row.subject)
    # From the kill epoch as well: a row does not know of a kill that was made in the store directly.
    return show_row(SessionShown, row, subject=subject, state=session_state(kills, row))


def show_task(kills: KillView, row: TaskRow) -> TaskShown:
    """Return a task as the API shows it."""
    return show_row(TaskShown, row, state=task_state(kills, row))


def show_grant(row: GrantRow) -> GrantShown:
    """Return a grant as the API shows it."""
    granted = StoredGrant.read(row.content)
    attenuated = {
        audience: [msgspec.json.decode(text) for text in more] for audience, more in granted.attenuated.items()
    }
    return show_row(
        GrantShown,
        row,
        template=granted.template,
        params=granted.params,
        audiences=list(granted.audiences),
        attenuated=attenuated,
    )


def show_kill(report: KillReport) -> KillShown:
    """Return a report about a kill as the API shows it."""
    return KillShown(**report.to_dict())
