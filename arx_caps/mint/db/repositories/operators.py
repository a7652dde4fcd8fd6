# SPDX-License-Identifier: Apache-2.0
"""Operators: who they are, and what they may do.

Nothing leaves a realm without an operator who may do everything: of two who demote each other, one is too late.
What a role allows is for ``roles``.
"""

from typing import Any, Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text, behind
from arx_caps.mint.db.database import PAGE, Database, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.holder_keys import add_key
from arx_caps.mint.db.tables import HOLDER_KEYS, OPERATORS
from arx_verifier.errors import GrantError

ADMIN: Final = "admin"  # the role that may do everything: at least one operator has it
OPERATORS_ORDER: Final = Order((OPERATORS.c.id,), tuple[Text])


class OperatorState(Database):
    """Operators and their roles."""

    def add_operator(self, name: str, key: PublicKey, what: Event, *, role: str, rules: str | None = None) -> None:
        """Enrol an operator with a first key.

        Raises:
            GrantError: ``operator_exists``, also where one of that name was removed: records name both alike;
                ``key_enrolled``: somebody has this key already.
        """
        row = {"id": name, "status": "active", "created_at": now_ms(), "role": role, "rules": rules}
        with self.write(what) as c:
            # Alone, or the first of two with one name would be answered with a conflict of the database.
            _lock_all(c)
            status = c.execute(select(OPERATORS.c.status).where(OPERATORS.c.id == name)).scalar()
            if status is not None:
                known = "exists already" if status == "active" else "was removed, and its name is not given again"
                raise GrantError(f"the operator {name} {known}", code="operator_exists")
            c.execute(insert(OPERATORS).values(**row))
            add_key(c, f"operator:{name}", key)

    def recover_operator(self, name: str, key: PublicKey, what: Event) -> None:
        """Give somebody on the mint's own host the role that may do everything, with a new key.

        Raises:
            GrantError: ``conflict``: an operator of that name was removed.
        """
        with self.write(what) as c:
            _lock_all(c)
            status = c.execute(select(OPERATORS.c.status).where(OPERATORS.c.id == name)).scalar()
            if status is None:
                row = {"id": name, "status": "active", "created_at": now_ms(), "role": ADMIN}
                c.execute(insert(OPERATORS).values(**row))
            elif status != "active":
                raise GrantError(f"the operator {name} was removed; recover under another name", code="conflict")
            else:
                c.execute(update(OPERATORS).where(OPERATORS.c.id == name).values(role=ADMIN, rules=None))
            add_key(c, f"operator:{name}", key)

    def has_operators(self) -> bool:
        """Tell whether somebody is an operator already."""
        return self.row(select(OPERATORS.c.id)) is not None

    def operator(self, name: str) -> dict[str, Any] | None:
        """Return an operator's row, or None."""
        return self.row(select(OPERATORS).where(OPERATORS.c.id == name))

    def operators(self, *, after: str | None = None, limit: int = PAGE) -> list[dict[str, Any]]:
        """Return operators by name, those behind a place of the list, at most so many."""
        return self.rows(behind(select(OPERATORS), OPERATORS_ORDER, after), limit)

    def set_role(self, name: str, role: str, rules: str | None, what: Event) -> None:
        """Give an operator another role.

        Raises:
            GrantError: ``conflict``: nobody would be left who may do everything; ``not_found``.
        """
        with self.write(what) as c:
            _lock_all(c)
            which = (OPERATORS.c.id == name, OPERATORS.c.status == "active")
            if c.execute(update(OPERATORS).where(*which).values(role=role, rules=rules)).rowcount == 0:
                raise GrantError("there is no such operator", code="not_found")
            _require_admin(c)

    def remove_operator(self, name: str, what: Event) -> None:
        """Take an operator's power and keys away, for good.

        Raises:
            GrantError: ``conflict``: nobody would be left who may do everything.
        """
        with self.write(what) as c:
            _lock_all(c)
            which = (OPERATORS.c.id == name, OPERATORS.c.status == "active")
            c.execute(update(OPERATORS).where(*which).values(status="removed", ended_at=now_ms()))
            c.execute(delete(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == f"operator:{name}"))
            _require_admin(c)


def _lock_all(c: Connection) -> None:
    c.execute(select(OPERATORS.c.id).order_by(OPERATORS.c.id).with_for_update())


def _require_admin(c: Connection) -> None:
    which = (OPERATORS.c.role == ADMIN, OPERATORS.c.status == "active")
    if not c.execute(select(func.count()).select_from(OPERATORS).where(*which)).scalar():
        raise GrantError(f"nobody would be left with the role {ADMIN}; give it to somebody else first", code="conflict")
