# SPDX-License-Identifier: Apache-2.0
"""Enrolled agents: path, status, owner and metadata. Their keys are in ``holder_keys``."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import bindparam, insert, or_, select, update

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import AGENTS, AgentRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, RequestError

AGENT_ROWS: Final = RowReader(AgentRow, AGENTS)
AGENTS_ORDER: Final = Order((AGENTS.c.path,), tuple[Text])
_ITS: Final = AGENTS.c.path == bindparam("which")
_LOCK: Final = CompiledStatement(AGENT_ROWS.select().where(_ITS).with_for_update())
_ENDED: Final = select(AGENTS.c.path).where(AGENTS.c.status == "deactivated")
_ADD, _CHANGE = CompiledStatement(insert(AGENTS)), CompiledStatement(update(AGENTS).where(_ITS))


class AgentRepository(StructRepository[AgentRow], reader=AGENT_ROWS, key=AGENTS.c.path):
    """The enrolled agents."""

    def add(
        self,
        unit: UnitOfWork,
        path: str,
        key: PublicKey | None,
        *,
        owner: str | None,
        metadata: Mapping[str, str],
        what: Event,
    ) -> None:
        """Enrol an agent, with its first key if it has one.

        Args:
            unit: The call's unit of work.
            path: The agent's path.
            key: Its first key; None if another issuer authenticates it.
            owner: Its owner, or None.
            metadata: Its metadata.
            what: The event.

        Raises:
            GrantError: ``agent_exists`` or ``key_enrolled``.
        """
        row = AgentRow(path=path, status="active", metadata=dict(metadata), created_at=now_ms(), owner=owner)
        with unit.change(what) as c:
            if not insert_new(c, _ADD, AGENT_ROWS.values(row)):
                ended = AGENT_ROWS.one(c, self._find, {"which": path}).status != "active"
                # A name is never given to a second agent: records and kills of the first one would then be the second
                # one's.
                reason = "was deactivated, and its name is not given again" if ended else "is enrolled already"
                raise GrantError(f"the agent {path} {reason}", code="agent_exists")
            if key is not None:
                add_key(c, path, key)

    def list(
        self, *, status: str | None = None, under: str | None = None, after: str | None = None, limit: int = PAGE
    ) -> list[AgentRow]:
        """Return agents, ordered by path.

        Args:
            status: Only agents of this status.
            under: Only the agent of this path and the agents below it.
            after: A page's ``next``: only agents after it.
            limit: At most this number.
        """
        statement = AGENT_ROWS.select()
        if status is not None:
            statement = statement.where(AGENTS.c.status == status)
        if under is not None:
            # With the slash, or acme/bot would include acme/bots.
            below = AGENTS.c.path.startswith(under + "/", autoescape=True)
            statement = statement.where(or_(AGENTS.c.path == under, below))
        return self._listed(statement, AGENTS_ORDER, after, limit)

    def ended_targets(self) -> set[str]:
        """Return the targets of deactivated agents."""
        return {f"agent:{path}" for path in self._database.column(_ENDED)}

    def set_status(self, path: str, status: str, what: Event) -> None:
        """Set an agent's status. This revokes none of its tokens.

        Args:
            path: The agent's path.
            status: ``active`` or ``deactivated``.
            what: The event.
        """
        with self._database.write(what) as c:
            ended = now_ms() if status == "deactivated" else None
            _CHANGE.run(c, {"which": path, "status": status, "ended_at": ended})

    def describe(
        self, path: str, owner: Mapping[str, str | None], metadata: Mapping[str, str | None], by: str, *, most: int
    ) -> None:
        """Change an agent's owner and metadata.

        Args:
            path: The agent's path.
            owner: ``{"owner": …}``, or empty to leave the owner.
            metadata: Members to set; None or an empty text removes a member.
            by: The actor, for the event.
            most: The number of members that the agent may have afterwards.

        Raises:
            RequestError: It would have more members.
        """
        with self._database.write() as c:
            # Two callers who set different members at once must both be heard, so the row is locked before it is
            # merged.
            merged: dict[str, str | None] = {**AGENT_ROWS.one(c, _LOCK, {"which": path}).metadata, **metadata}
            kept = {name: text for name, text in merged.items() if text}
            if len(kept) > most:
                raise RequestError(f"too many metadata members: expected at most {most}, got {len(kept)}")
            _CHANGE.run(c, {"which": path, "metadata": as_json(kept), **owner})
            self._database.record_in(c, Event.of("agent.described", by, agent=path, metadata=kept, **owner))
