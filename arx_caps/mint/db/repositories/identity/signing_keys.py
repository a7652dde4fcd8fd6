# SPDX-License-Identifier: Apache-2.0
"""The keys that sign access tokens. CONTROL 5.1."""

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import SIGNING_KEYS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms

_ROWS: Final = select(SIGNING_KEYS).order_by(SIGNING_KEYS.c.signs_from, SIGNING_KEYS.c.created_at, SIGNING_KEYS.c.kid)
_ADD: Final = insert(SIGNING_KEYS)
_RETIRE: Final = update(SIGNING_KEYS).where(
    SIGNING_KEYS.c.kid == bindparam("which"), SIGNING_KEYS.c.retired_at.is_(None)
)
_MAKING: Final = 0x617279  # of an advisory lock; no other part of ARx uses this number


class SigningKeyRow(NamedTuple):
    """A signing key's row. Times are in ms since the Unix epoch.

    Attributes:
        kid: Its thumbprint.
        algorithm: ``ES256`` or ``RS256``.
        jwk: The public half, as JSON.
        created_at: When it was made.
        signs_from: When it begins to sign.
        retired_at: When it was retired, or None.
        nonce: Of the sealed private half; None once it is retired.
        sealed: The sealed private half.
    """

    kid: str
    algorithm: str
    jwk: str
    created_at: int
    signs_from: int
    retired_at: int | None
    nonce: str | None
    sealed: str | None


class SigningKeyRepository(Repository):
    """The signing keys."""

    def rows(self) -> list[SigningKeyRow]:
        """Return all rows, in the order in which the keys sign."""
        with self._database.read() as c:
            return _rows(c)

    def add_if(self, make: Callable[[list[SigningKeyRow]], SigningKeyRow | None], by: str) -> None:
        """Add a key, if the rows of this moment call for one; of two mints, one does.

        Args:
            make: Returns the new row, of all rows; None for none.
            by: The actor.
        """
        with self._database.alone(_MAKING), self._database.write() as c:
            row = make(_rows(c))
            if row is not None:
                c.execute(_ADD, row._asdict())
                self._database.record_in(c, _created(row, by))

    def replace(self, unit: UnitOfWork, row: SigningKeyRow, by: str, *, at_once: bool) -> None:
        """Add a key that signs instead of those before.

        Args:
            unit: The call's unit of work.
            row: The new row.
            by: The actor.
            at_once: Whether to retire all others now.
        """
        with self._database.alone(_MAKING), unit.change() as c:
            for before in _rows(c) if at_once else ():
                if before.retired_at is None:
                    c.execute(_RETIRE, _retired(before.kid))
                    unit.note(Event.of("signing_key.retired", by, key=before.kid))
            c.execute(_ADD, row._asdict())
            unit.note(_created(row, by))

    def retire(self, kid: str, by: str) -> None:
        """Retire a key and delete its private half. It is idempotent."""
        self._database.change(_RETIRE, _retired(kid), Event.of("signing_key.retired", by, key=kid))


def _rows(c: Connection) -> list[SigningKeyRow]:
    return [SigningKeyRow(*row) for row in c.execute(_ROWS)]


def _retired(kid: str) -> dict[str, object]:
    return {"which": kid, "retired_at": now_ms(), "nonce": None, "sealed": None}


def _created(row: SigningKeyRow, by: str) -> Event:
    return Event.of("signing_key.created", by, key=row.kid, algorithm=row.algorithm, signs_from=row.signs_from)
