# SPDX-License-Identifier: Apache-2.0
"""Refresh tokens: the chain of a session, in which the last use alone may be repeated.  CONTROL 5.9."""

from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.tables import OAUTH_REFRESHES, RefreshRow
from arx_verifier.clock import now_ms

REFRESH_ROWS: Final = RowReader(RefreshRow, OAUTH_REFRESHES)
_T: Final = OAUTH_REFRESHES.c
_ITS: Final = _T.digest == bindparam("which")
_ADD: Final = insert(OAUTH_REFRESHES)
_USE: Final = update(OAUTH_REFRESHES).where(_ITS, _T.used_at.is_(None), _T.replaced_at.is_(None))
_LOCK: Final = select(_T.replaced_at).where(_ITS).with_for_update()
_LOCK_CHILDREN: Final = select(_T.task, _T.used_at).where(_T.parent == bindparam("which")).with_for_update()
_REPLACE: Final = update(OAUTH_REFRESHES).where(_T.parent == bindparam("which"), _T.replaced_at.is_(None))
# Used ones stay until the session is over: only then is it of no use to know that one came again.
_OLD: Final = select(_T.digest).where(_T.until < bindparam("before")).limit(100)
_PRUNE: Final = delete(OAUTH_REFRESHES).where(_T.digest.in_(_OLD))


class OAuthRefreshRepository(StructRepository[RefreshRow], reader=REFRESH_ROWS, key=OAUTH_REFRESHES.c.digest):
    """The refresh tokens."""

    def add(self, row: RefreshRow) -> list[str] | None:
        """Store what a refresh token is for, in place of others with the same parent; and delete some old rows.

        Args:
            row: The row.

        Returns:
            The tasks that came with the replaced tokens; None, and nothing is stored, if one of those was used.
        """
        with self._database.write() as c:
            c.execute(_PRUNE, {"before": now_ms()})
            tasks: list[str] = []
            if row.parent is not None:
                its = {"which": row.parent}
                # Locked in this order: two requests with one token, of which each waits for the other's new one.
                replaced_at = c.execute(_LOCK, its).scalar_one()
                children = c.execute(_LOCK_CHILDREN, its).all()
                if replaced_at is not None or any(used_at is not None for _, used_at in children):
                    return None
                tasks = [task for task, _ in children]
                c.execute(_REPLACE.values(replaced_at=now_ms()), its)
            c.execute(_ADD, REFRESH_ROWS.values(row))
        return tasks

    def use(self, digest: str) -> None:
        """Store when a refresh token was first used; one that was replaced stays unused."""
        self._database.change(_USE, {"which": digest, "used_at": now_ms()})
