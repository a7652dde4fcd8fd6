# SPDX-License-Identifier: Apache-2.0
"""Every policy that was ever in force, by digest, and the one that is in force."""

from typing import Final

from sqlalchemy import bindparam, func, insert, select, update

from arx_caps.mint.db.cursor import Order, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import POLICIES, PolicyMark, PolicyRow
from arx_verifier.clock import now_ms

POLICY_ROWS: Final = RowReader(PolicyRow, POLICIES)
POLICY_MARKS: Final = RowReader(PolicyMark, POLICIES)
# ``put`` gives no two policies the same millisecond.
POLICIES_ORDER: Final = Order((POLICIES.c.in_force_at,), tuple[Time], newest_first=True)
_LATEST: Final = (POLICIES.c.in_force_at.desc(), POLICIES.c.digest)
_IN_FORCE: Final = CompiledStatement(POLICY_ROWS.select().order_by(*_LATEST).limit(1))
_MARK: Final = CompiledStatement(POLICY_MARKS.select().order_by(*_LATEST).limit(1))
_ADD, _CHANGE = CompiledStatement(insert(POLICIES)), update(POLICIES).where(POLICIES.c.digest == bindparam("which"))


# Tokens and decisions name the digest of their policy. Policies are kept for good, so that a reader years later can see
# what the digest allowed.
class PolicyRepository(StructRepository[PolicyRow], reader=POLICY_ROWS, key=POLICIES.c.digest):
    """The archive of policies."""

    def put(self, digest: str, text: str, by: str, what: Event) -> None:
        """Archive a policy and put it in force.

        Args:
            digest: The policy's digest.
            text: Its TOML. It replaces an archived text of the same digest, which a newer version may refuse.
            by: The actor.
            what: The event.
        """
        with self._database.write(what) as c:
            # After a clock that was set back, or in the same millisecond, the latest time must still be this policy's.
            last = c.execute(select(func.max(POLICIES.c.in_force_at))).scalar() or 0
            now = max(now_ms(), last + 1)
            again = {"text": text, "in_force_at": now, "by": by}
            known = c.execute(_CHANGE, {"which": digest, **again}).rowcount == 1
            # Another mint may have kept the same policy a moment before.
            if not known and not insert_new(c, _ADD, {"digest": digest, "first_at": now, **again}):
                c.execute(_CHANGE, {"which": digest, **again})

    def in_force(self) -> PolicyRow | None:
        """Return the policy in force, or None before the first."""
        return self._database.first(POLICY_ROWS, _IN_FORCE)

    def mark(self) -> PolicyMark | None:
        """Return the policy in force without its text, or None before the first."""
        # Mints poll this each second, so the text, which may be long, stays out of it.
        return self._database.first(POLICY_MARKS, _MARK)

    def list(self, *, after: str | None = None, limit: int = PAGE) -> list[PolicyMark]:
        """Return archived policies without their text, the latest in force first.

        Args:
            after: A page's ``next``: only policies after it.
            limit: At most this number.
        """
        return self._database.listed(POLICY_MARKS, POLICY_MARKS.select(), POLICIES_ORDER, after, limit)
