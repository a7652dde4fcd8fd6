# SPDX-License-Identifier: Apache-2.0
"""OAuth clients that an operator has registered. CONTROL 5.2."""

from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update

from arx_caps.mint.db.cursor import Order, Text, behind
from arx_caps.mint.db.database import PAGE, Database, Rows, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import AGENTS, OAUTH_CLIENTS
from arx_verifier.errors import GrantError

CLIENTS_ORDER: Final = Order((OAUTH_CLIENTS.c.id,), tuple[Text])
_ITS: Final = OAUTH_CLIENTS.c.id == bindparam("which")
_FIND: Final = CompiledStatement(select(OAUTH_CLIENTS).where(_ITS))
_ADD: Final = insert(OAUTH_CLIENTS)
_END: Final = update(OAUTH_CLIENTS).where(_ITS, OAUTH_CLIENTS.c.ended_at.is_(None))
_AGENT: Final = select(AGENTS.c.status).where(AGENTS.c.path == bindparam("whose")).with_for_update()


class OAuthClientRepository:
    """The registered clients."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: dict[str, Any], what: Event) -> None:
        """Register a client of an enrolled agent.

        Args:
            row: The row.
            what: The event.

        Raises:
            GrantError: ``not_found``: no such agent is active.
        """
        with self._database.write(what) as c:
            if c.execute(_AGENT, {"whose": row["agent"]}).scalar() != "active":
                raise GrantError("no such agent is active: enrol it first", code="not_found")
            c.execute(_ADD, row)

    def find(self, client: str) -> dict[str, Any] | None:
        """Return a client's row, or None; one that was removed too."""
        return self._database.row(_FIND, which=client)

    def list(self, *, after: str | None = None, limit: int = PAGE) -> Rows:
        """Return the clients that were not removed, by id.

        Args:
            after: A page's ``next``: only clients after it.
            limit: At most this number.
        """
        there = select(OAUTH_CLIENTS).where(OAUTH_CLIENTS.c.ended_at.is_(None))
        return self._database.page(behind(there, CLIENTS_ORDER, after), limit)

    def end(self, client: str, what: Event) -> None:
        """Remove a client for good; its row stays for what refers to it. It is idempotent."""
        with self._database.write(what) as c:
            c.execute(_END, {"which": client, "ended_at": now_ms()})
