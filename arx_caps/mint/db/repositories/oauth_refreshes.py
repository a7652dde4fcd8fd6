# SPDX-License-Identifier: Apache-2.0
"""Refresh tokens, each used once.  CONTROL 5.9."""

from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, update

from arx_caps.mint.db.database import Database, now_ms
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import OAUTH_REFRESHES

_T: Final = OAUTH_REFRESHES.c
_ITS: Final = _T.digest == bindparam("which")
_FIND: Final = CompiledStatement(select(OAUTH_REFRESHES).where(_ITS))
_ADD: Final = insert(OAUTH_REFRESHES)
_USE: Final = update(OAUTH_REFRESHES).where(_ITS, _T.used_at.is_(None))
# Used ones stay until the session is over: only then is it of no use to know that one came again.
_OLD: Final = select(_T.digest).where(_T.until < bindparam("before")).limit(100)
_PRUNE: Final = delete(OAUTH_REFRESHES).where(_T.digest.in_(_OLD))


class OAuthRefreshRepository:
    """The refresh tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: dict[str, Any]) -> None:
        """Store what a refresh token is for, and delete some old rows."""
        with self._database.write() as c:
            c.execute(_PRUNE, {"before": now_ms()})
            c.execute(_ADD, row)

    def find(self, digest: str) -> dict[str, Any] | None:
        """Return a refresh token's row, or None."""
        return self._database.row(_FIND, which=digest)

    def use(self, digest: str) -> bool:
        """Use a refresh token; return False if it was used before."""
        with self._database.write() as c:
            # The update decides: of two requests with one token, a query before it would let both go on.
            return c.execute(_USE.values(used_at=now_ms()), {"which": digest}).rowcount == 1
