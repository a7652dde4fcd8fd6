# SPDX-License-Identifier: Apache-2.0
"""Every policy that was ever in force, by its digest, and the one in force: the same at all mints of a realm.

Tokens and decisions have the digest; a later reader must be able to see what it allowed.
"""

from typing import Any, Final

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from arx_caps.mint.db.cursor import Order, Time, behind
from arx_caps.mint.db.database import PAGE, Database, Rows, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import POLICIES

# No two were put in force in the same millisecond.
POLICIES_ORDER: Final = Order((POLICIES.c.in_force_at,), tuple[Time], newest_first=True)
_LATEST: Final = (POLICIES.c.in_force_at.desc(), POLICIES.c.digest)
_FIND: Final = select(POLICIES).where(POLICIES.c.digest == bindparam("which"))
_IN_FORCE: Final = select(POLICIES).order_by(*_LATEST).limit(1)
_MARK: Final = select(POLICIES.c.digest, POLICIES.c.in_force_at).order_by(*_LATEST).limit(1)
_ADD, _CHANGE = insert(POLICIES), update(POLICIES).where(POLICIES.c.digest == bindparam("which"))


class Policies:
    """The archive of policies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, digest: str, text: str, by: str, what: Event) -> None:
        """Keep a policy, and put it in force.

        Args:
            digest: What it is named by.
            text: Its TOML; it replaces another spelling of the same, which a newer version may refuse.
            by: Who.
            what: The event.
        """
        with self._database.write(what) as c:
            # Two in one millisecond, or a clock that was set back, must not leave it open which one came last.
            last = c.execute(select(func.max(POLICIES.c.in_force_at))).scalar() or 0
            now = max(now_ms(), last + 1)
            again = {"text": text, "in_force_at": now, "by": by}
            known = c.execute(_CHANGE, {"which": digest, **again})
            if known.rowcount == 0:
                try:
                    with c.begin_nested():
                        c.execute(_ADD, {"digest": digest, "first_at": now, **again})
                except IntegrityError:  # another mint kept the same policy a moment before
                    c.execute(_CHANGE, {"which": digest, **again})

    def find(self, digest: str) -> dict[str, Any] | None:
        """Return a kept policy, or None."""
        return self._database.row(_FIND, which=digest)

    def in_force(self) -> dict[str, Any] | None:
        """Return the policy that was put in force last, or None when none ever was."""
        return self._database.row(_IN_FORCE)

    def mark(self) -> tuple[str, int] | None:
        """Return the digest of the policy that was put in force last and when, ms; None when none ever was."""
        found = self._database.row(_MARK)
        return (str(found["digest"]), int(found["in_force_at"])) if found is not None else None

    def list(self, *, after: str | None = None, limit: int = PAGE) -> Rows:
        """Return kept policies, the last in force first, without their text: those behind a place, at most so many."""
        columns = [column for column in POLICIES.c if column.name != "text"]
        return self._database.page(behind(select(*columns), POLICIES_ORDER, after), limit)
