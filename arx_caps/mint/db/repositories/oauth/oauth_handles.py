# SPDX-License-Identifier: Apache-2.0
"""What access tokens stand for. CONTROL 5.3."""

from typing import Final

from sqlalchemy import bindparam, delete, select, update

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.sessions import SESSION_ROWS
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.tables import OAUTH_CLIENTS, OAUTH_HANDLES, SESSIONS, HandleRow, SessionRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import refusal

HANDLE_ROWS: Final = RowReader(HandleRow, OAUTH_HANDLES)
KEEP_MS: Final = 24 * 3_600_000  # after its expiry, so that a late question finds what it was
_USE_CLIENT: Final = update(OAUTH_CLIENTS).where(
    OAUTH_CLIENTS.c.id == bindparam("which"), OAUTH_CLIENTS.c.ended_at.is_(None)
)
_OLD: Final = select(OAUTH_HANDLES.c.jti).where(OAUTH_HANDLES.c.expires_at < bindparam("before")).limit(100)
_PRUNE: Final = delete(OAUTH_HANDLES).where(OAUTH_HANDLES.c.jti.in_(_OLD))
_THEIRS: Final = (
    select(OAUTH_HANDLES.c.session).where(OAUTH_HANDLES.c.client == bindparam("whose")).distinct().scalar_subquery()
)
_SESSIONS: Final = (
    SESSION_ROWS.select()
    .where(SESSIONS.c.id.in_(_THEIRS), SESSIONS.c.status == "open", SESSIONS.c.expires_at > bindparam("now"))
    .order_by(SESSIONS.c.opened_at.desc())
)

_LIVE: Final = HANDLE_ROWS.select().where(
    OAUTH_HANDLES.c.client == bindparam("whose"), OAUTH_HANDLES.c.expires_at > bindparam("now")
)


class OAuthHandleRepository(StructRepository[HandleRow], reader=HANDLE_ROWS, key=OAUTH_HANDLES.c.jti):
    """The handles."""

    def add(self, unit: UnitOfWork, row: HandleRow, what: Event) -> None:
        """Store what an access token stands for, and delete some old rows.

        Args:
            unit: The call's unit of work.
            row: The row.
            what: The event.

        Raises:
            RevokedError: ``revoked``: the client was removed in the meantime.
        """
        with unit.change(what) as c:
            # Locked until the commit: a removal waits, and then ends this session too.
            if c.execute(_USE_CLIENT.values(used_at=now_ms()), {"which": row.client}).rowcount != 1:
                raise refusal("revoked")
            c.execute(_PRUNE, {"before": now_ms() - KEEP_MS})
            unit.insert(OAUTH_HANDLES, HANDLE_ROWS.values(row))

    def sessions(self, client: str) -> list[SessionRow]:
        """Return the open sessions of a client, the newest first."""
        return self._database.all(SESSION_ROWS, _SESSIONS, whose=client, now=now_ms())

    def live(self, client: str) -> list[HandleRow]:
        """Return the rows of a client's access tokens that have not expired."""
        return self._all(_LIVE, whose=client, now=now_ms())
