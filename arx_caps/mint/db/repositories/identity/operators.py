# SPDX-License-Identifier: Apache-2.0
"""Operators: name, status, role and rules.

What a role allows is in ``arx_caps.mint.policy.roles``.
"""

from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.holder_keys import add_key
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import HOLDER_KEYS, OPERATORS, OperatorRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

OPERATOR_ROWS: Final = RowReader(OperatorRow, OPERATORS)
ADMIN: Final = "admin"  # may do everything; at least one operator must have it
BY_LOGIN: Final = "login"  # of a person whose roles the policy finds by the claims of the last login
OPERATORS_ORDER: Final = Order((OPERATORS.c.id,), tuple[Text])
_ITS: Final = OPERATORS.c.id == bindparam("which")
_ANY: Final = CompiledStatement(select(OPERATORS.c.id).limit(1))
_REMOVED: Final = select(OPERATORS.c.id).where(OPERATORS.c.status == "removed")
_LOCK_ALL: Final = select(OPERATORS.c.id).order_by(OPERATORS.c.id).with_for_update()
_COUNT_ADMINS: Final = (
    select(func.count()).select_from(OPERATORS).where(OPERATORS.c.role == ADMIN, OPERATORS.c.status == "active")
)
_ADD, _CHANGE = insert(OPERATORS), update(OPERATORS).where(_ITS)
_CHANGE_PERSON: Final = _CHANGE.where(OPERATORS.c.issuer == bindparam("at"), OPERATORS.c.subject == bindparam("person"))
_CHANGE_ACTIVE: Final = _CHANGE.where(OPERATORS.c.status == "active")
_REMOVE_KEYS: Final = delete(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == bindparam("whose"))


class OperatorRepository(StructRepository[OperatorRow], reader=OPERATOR_ROWS, key=OPERATORS.c.id):
    """Operators and their roles."""

    def add(
        self, unit: UnitOfWork, name: str, key: PublicKey, what: Event, *, role: str, rules: str | None = None
    ) -> None:
        """Enrol an operator with a first key.

        Args:
            unit: The call's unit of work.
            name: The operator's name.
            key: The first key.
            what: The event.
            role: The role.
            rules: Rules of the operator's own as JSON, or None.

        Raises:
            GrantError: ``operator_exists``, or was removed; ``key_enrolled``: a holder has this key.
        """
        row = OperatorRow(id=name, status="active", created_at=now_ms(), role=role, rules=rules)
        with unit.change(what) as c:
            # Under the lock, or the second of two calls with one name would get the database's ``conflict``.
            _lock_all(c)
            status = self._status(c, name)
            if status is not None:
                # A removed operator's name is not given again: the records name both operators alike.
                known = "exists already" if status == "active" else "was removed, and its name is not given again"
                raise GrantError(f"the operator {name} {known}", code="operator_exists")
            c.execute(_ADD, OPERATOR_ROWS.values(row))
            add_key(c, f"operator:{name}", key)

    def record_login(
        self,
        unit: UnitOfWork,
        row: OperatorRow,
        what: Event,
        *,
        key: PublicKey | None = None,
        until: int | None = None,
    ) -> None:
        """Record a login of a person, who becomes an operator with the first one.

        Args:
            unit: The call's unit of work.
            row: The row that a first login adds.
            what: The event.
            key: A key to enrol for this login, or None.
            until: When that key ends, ms since the Unix epoch.

        Raises:
            GrantError: ``operator_exists``: the name is another operator's, or that of one who was removed;
                ``key_enrolled``: a holder has this key.
        """
        with unit.change(what) as c:
            _lock_all(c)
            known = OPERATOR_ROWS.first(c, self._find, {"which": row.id})
            if known is None:
                c.execute(_ADD, OPERATOR_ROWS.values(row))
            elif (known.issuer, known.subject) != (row.issuer, row.subject):
                raise GrantError(f"the operator {row.id} is another one", code="operator_exists")
            elif known.status != "active":
                raise GrantError(f"the operator {row.id} was removed", code="operator_exists")
            else:
                c.execute(_CHANGE, {"which": row.id, "claims": as_json(row.claims)})
            if key is not None:
                add_key(c, f"operator:{row.id}", key, until)

    def set_claims(self, row: OperatorRow) -> None:
        """Store the claims of a person who logged in and has no role; nothing if the person is no operator."""
        values = {"which": row.id, "at": row.issuer, "person": row.subject, "claims": as_json(row.claims)}
        self._database.change(_CHANGE_PERSON, values)

    def recover(self, name: str, key: PublicKey, what: Event) -> None:
        """Give an operator the role ``admin`` and a new key, from the mint's own host.

        Raises:
            GrantError: ``conflict``: an operator of that name was removed; ``key_enrolled``: a holder has this key.
        """
        with self._database.write(what) as c:
            _lock_all(c)
            status = self._status(c, name)
            if status is None:
                c.execute(
                    _ADD, OPERATOR_ROWS.values(OperatorRow(id=name, status="active", created_at=now_ms(), role=ADMIN))
                )
            elif status != "active":
                raise GrantError(f"the operator {name} was removed; recover under another name", code="conflict")
            else:
                c.execute(_CHANGE, {"which": name, "role": ADMIN, "rules": None})
            add_key(c, f"operator:{name}", key)

    def exist(self) -> bool:
        """Return whether the realm has an operator."""
        return self._database.exists(_ANY)

    def list(self, *, after: str | None = None, limit: int = PAGE) -> list[OperatorRow]:
        """Return operators, ordered by name.

        Args:
            after: A page's ``next``: only operators after it.
            limit: At most this number.
        """
        return self._listed(OPERATOR_ROWS.select(), OPERATORS_ORDER, after, limit)

    def ended_targets(self) -> set[str]:
        """Return the targets of removed operators."""
        return {f"operator:{name}" for name in self._database.column(_REMOVED)}

    def set_role(self, name: str, role: str, rules: str | None, what: Event) -> None:
        """Set an operator's role.

        Raises:
            GrantError: ``conflict``: no operator would have the role ``admin``; ``not_found``.
        """
        with self._database.write(what) as c:
            _lock_all(c)
            if c.execute(_CHANGE_ACTIVE, {"which": name, "role": role, "rules": rules}).rowcount == 0:
                raise GrantError("there is no such operator", code="not_found")
            _require_admin(c)

    def remove(self, name: str, what: Event) -> None:
        """Remove an operator and its keys, for good.

        Raises:
            GrantError: ``conflict``: no operator would have the role ``admin``.
        """
        with self._database.write(what) as c:
            _lock_all(c)
            c.execute(_CHANGE_ACTIVE, {"which": name, "status": "removed", "ended_at": now_ms()})
            c.execute(_REMOVE_KEYS, {"whose": f"operator:{name}"})
            _require_admin(c)

    def _status(self, c: Connection, name: str) -> str | None:
        row = OPERATOR_ROWS.first(c, self._find, {"which": name})
        return None if row is None else row.status


def _lock_all(c: Connection) -> None:
    # All rows: of two administrators who demote each other, the second must see that it would be the last one.
    c.execute(_LOCK_ALL)


def _require_admin(c: Connection) -> None:
    if not c.execute(_COUNT_ADMINS).scalar():
        raise GrantError(f"no operator would have the role {ADMIN}; give it to another operator first", code="conflict")
