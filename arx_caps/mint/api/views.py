# SPDX-License-Identifier: Apache-2.0
"""Rows as the API shows them: ids, times, and the state that clock and kill epoch give a row.  CONTROL 1.

A row records what the mint did.  Whether the thing is alive is in the kill epoch, so a session that was killed in the
store is shown as killed.  No token, key or proof is ever shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from arx_caps.mint.api.endpoint import RouteAnswer
from arx_caps.mint.context import MintContext
from arx_caps.mint.identity.session_login import subject_of, subject_targets
from arx_caps.mint.tasks.liveness import State, session_state, task_state
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.revocation import KillReport
from arx_verifier.token import agent_targets


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


class OperatorShown(RouteAnswer, frozen=True, kw_only=True):
    """An operator; ``rules`` are told where the role has no name."""

    name: str
    state: Literal["active", "frozen", "removed"]
    role: str
    rules: list[dict[str, Any]] | UnsetType = UNSET
    keys: list[str]
    created_at: int
    ended_at: int | None


class SubjectShown(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf, and the target by which that is ended."""

    issuer: str
    subject: str
    target: str


class SessionShown(RouteAnswer, frozen=True):
    """A session; times are ms since the Unix epoch.

    ``expires_at`` is when it is over unless it is renewed, ``ends_at`` when no renewal helps any more.
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
    """A grant of a task; ``attenuated`` are the caveats that were added since.  Times are ms since the Unix epoch."""

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


class KillShown(RouteAnswer, frozen=True):
    """What is known about a kill, freeze or thaw: in force where, and who has not confirmed it."""

    targets: tuple[str, ...]
    seq: int
    incarnation: str
    durable: bool
    status: Literal["confirmed", "partial", "unconfirmed", "unknown"]
    verifiers: int
    confirmed: int
    unreachable: tuple[str, ...]
    fenced_in_ms: int | None
    took_ms: float
    at_ms: int
    summary: str
    lag_ms: int


def show_agent(
    mint: MintContext, row: Mapping[str, Any], keys: Sequence[Mapping[str, Any]] | None = None
) -> AgentShown:
    """Show an agent.

    Args:
        mint: The mint.
        row: The agent's row.
        keys: The rows of its keys, where they are known already.
    """
    keys = mint.db.holder_keys.list(row["path"]) if keys is None else keys
    state = row["status"]
    if state == "active" and _frozen(mint, agent_targets(row["path"])):
        state = "frozen"
    return AgentShown(
        path=row["path"],
        state=state,
        owner=row["owner"],
        metadata=msgspec.json.decode(row["metadata"]),
        keys=[KeyShown(kid=key["kid"], added_at=key["added_at"]) for key in keys],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )


def show_operator(mint: MintContext, row: Mapping[str, Any]) -> OperatorShown:
    """Show an operator."""
    state = row["status"]
    if state == "active" and _frozen(mint, (f"operator:{row['id']}",)):
        state = "frozen"
    return OperatorShown(
        name=row["id"],
        state=state,
        role=row["role"],
        rules=msgspec.json.decode(row["rules"]) if row["rules"] is not None else UNSET,
        keys=[*mint.db.holder_keys.kids(f"operator:{row['id']}")],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )


def show_session(mint: MintContext, row: Mapping[str, Any]) -> SessionShown:
    """Show a session."""
    names = ("id", "agent", "purpose", "policy", "opened_at", "expires_at", "ends_at", "ended_at")
    subject, opened_with = subject_of(row), row["opened_with"]
    shown = None
    if subject is not None:
        (target,) = subject_targets(subject)
        shown = SubjectShown(issuer=subject.issuer, subject=subject.name, target=target)
    return SessionShown(
        **{name: row[name] for name in names},
        subject=shown,
        opened_with=msgspec.json.decode(opened_with) if opened_with is not None else None,
        state=session_state(mint, row),
    )


def show_task(mint: MintContext, row: Mapping[str, Any]) -> TaskShown:
    """Show a task."""
    names = ("id", "session", "agent", "template", "policy", "link", "started_at", "expires_at", "ended_at")
    return TaskShown(
        **{name: row[name] for name in names},
        params=msgspec.json.decode(row["params"]),
        audiences=msgspec.json.decode(row["audiences"]),
        above=msgspec.json.decode(row["above"]),
        state=task_state(mint, row),
    )


def show_grant(row: Mapping[str, Any]) -> GrantShown:
    """Show a grant."""
    granted = StoredGrant.read(row["content"])
    names = ("link", "policy", "granted_at", "expires_at", "ended_at", "replaced_by")
    attenuated = {
        audience: [msgspec.json.decode(text) for text in more] for audience, more in granted.attenuated.items()
    }
    return GrantShown(
        **{name: row[name] for name in names},
        template=granted.template,
        params=granted.params,
        audiences=list(granted.audiences),
        attenuated=attenuated,
    )


def show_kill(report: KillReport) -> KillShown:
    """Show what is known about a kill."""
    return KillShown(**report.to_dict())


def _frozen(mint: MintContext, targets: Sequence[str]) -> bool:
    """Tell whether there is a freeze on one of these, as far as the view goes."""
    _, applied, _ = mint.epochs.view()
    refused = mint.epochs.check(None, max(applied, 0), targets)
    return refused is not None and refused.code == "frozen"
