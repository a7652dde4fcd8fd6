# SPDX-License-Identifier: Apache-2.0
"""OAuth clients, which an operator has registered, or which have registered themselves. CONTROL 5.2, 5.10."""

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from arx_caps.mint.db.cursor import Order, Text
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import (
    AGENTS,
    OAUTH_CLIENTS,
    OAUTH_CONSENTS,
    OAUTH_HANDLES,
    OAUTH_REFRESHES,
    OAuthClientRow,
)
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

CLIENT_ROWS: Final = RowReader(OAuthClientRow, OAUTH_CLIENTS)
CLIENTS_ORDER: Final = Order((OAUTH_CLIENTS.c.id,), tuple[Text])
SELF: Final = "self"  # the ``by`` of a client that has registered itself
FRESH_MS: Final = 24 * 3_600_000  # for the first consent: one that registers and does no more must not fill the table
PRUNE_MS: Final = 3_600_000  # how often expired ones are deleted
_T: Final = OAUTH_CLIENTS.c
_ITS: Final = OAUTH_CLIENTS.c.id == bindparam("which")
_ADD: Final = insert(OAUTH_CLIENTS)
_END: Final = update(OAUTH_CLIENTS).where(_ITS, OAUTH_CLIENTS.c.ended_at.is_(None))
_AGENT: Final = select(AGENTS.c.status).where(AGENTS.c.path == bindparam("whose")).with_for_update()
# With ``is_not``: a comparison with NULL alone is neither true nor, negated, false.
_IS_OLD: Final = or_(
    _T.used_at.is_not(None) & (_T.used_at < bindparam("used_before")),
    _T.used_at.is_(None) & (_T.created_at < bindparam("made_before")),
)
_LIVE: Final = select(func.count()).where(_T.by == SELF, _T.url.is_(None), _T.ended_at.is_(None), ~_IS_OLD)
_REFER: Final = [
    select(table.c.client).where(table.c.client == _T.id).exists()
    for table in (OAUTH_CONSENTS, OAUTH_REFRESHES, OAUTH_HANDLES)
]
# A document that an operator has removed stays removed.
_MAY_GO: Final = (_T.by == SELF) & or_(_T.url.is_(None), _T.ended_at.is_(None))
_BY_URL: Final = CompiledStatement(
    CLIENT_ROWS.select().where(_T.url == bindparam("where"), _T.agent == bindparam("whose"))
)
_OLD: Final = select(_T.id).where(_MAY_GO, _IS_OLD, ~or_(*_REFER)).limit(1000)
_PRUNE: Final = delete(OAUTH_CLIENTS).where(_T.id.in_(_OLD))


class OAuthClientRepository(StructRepository[OAuthClientRow], reader=CLIENT_ROWS, key=OAUTH_CLIENTS.c.id):
    """The registered clients."""

    _pruned_ms = 0

    def add(self, row: OAuthClientRow, what: Event) -> None:
        """Register a client of an enrolled agent.

        Args:
            row: The row.
            what: The event.

        Raises:
            GrantError: ``not_found``: no such agent is active.
        """
        with self._database.write(what) as c:
            if c.execute(_AGENT, {"whose": row.agent}).scalar() != "active":
                raise GrantError(f"{row.agent} is no active agent: enrol it with `arx agent enrol`", code="not_found")
            c.execute(_ADD, CLIENT_ROWS.values(row))

    def register(self, row: OAuthClientRow, what: Event, *, most: int, unused_ms: int) -> bool:
        """Store a client that registers itself; return False if there are as many as there may be.

        Args:
            row: The row.
            what: The event.
            most: How many of these there may be.
            unused_ms: How long one lives that gets no access token, ms.

        Raises:
            GrantError: ``not_found``: its agent is not active.
        """
        now = now_ms()
        with self._database.write() as c:
            # The lock of the agent's row makes two that register at once count each other.
            if c.execute(_AGENT, {"whose": row.agent}).scalar() != "active":
                raise GrantError("no such agent is active: enrol it first", code="not_found")
            c.execute(_PRUNE, _bounds(now, unused_ms))
            added = c.execute(_LIVE, _bounds(now, unused_ms)).scalar_one() < most
            if added:
                c.execute(_ADD, CLIENT_ROWS.values(row))
                self._database.record_in(c, what)
        return added

    def prune(self, unused_ms: int) -> None:
        """Delete expired clients that registered themselves, at most every ``PRUNE_MS``.

        Args:
            unused_ms: How long one lives that gets no access token, ms.
        """
        now = now_ms()
        # A clock set back must not stop this until it has caught up.
        if abs(now - self._pruned_ms) > PRUNE_MS:
            self._database.change(_PRUNE, _bounds(now, unused_ms))
            self._pruned_ms = now

    def by_url(self, url: str, agent: str) -> OAuthClientRow | None:
        """Return the row of a client that a document describes, or None; one that was removed too."""
        return self._database.first(CLIENT_ROWS, _BY_URL, where=url, whose=agent)

    def list(self, *, after: str | None = None, limit: int = PAGE) -> list[OAuthClientRow]:
        """Return the clients that were not removed, by id.

        Args:
            after: A page's ``next``: only clients after it.
            limit: At most this number.
        """
        there = CLIENT_ROWS.select().where(OAUTH_CLIENTS.c.ended_at.is_(None))
        return self._listed(there, CLIENTS_ORDER, after, limit)

    def end(self, client: str, what: Event) -> None:
        """Remove a client for good; its row stays for what refers to it. It is idempotent."""
        self._database.change(_END, {"which": client, "ended_at": now_ms()}, what)


def end_of_unused(row: OAuthClientRow, unused_ms: int) -> int:
    """Return when a client expires that registered itself, ms since the Unix epoch, unless it is used before.

    Args:
        row: Its row.
        unused_ms: How long one lives that gets no access token, ms.
    """
    return row.created_at + FRESH_MS if row.used_at is None else row.used_at + unused_ms


def _bounds(now: int, unused_ms: int) -> dict[str, int]:
    return {"used_before": now - unused_ms, "made_before": now - FRESH_MS}
