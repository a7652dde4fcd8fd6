# SPDX-License-Identifier: Apache-2.0
"""Tool services: which are enrolled, and who may enrol a key of theirs.  CONTROL 3."""

import contextlib
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text, behind
from arx_caps.mint.db.database import PAGE, Database, Rows, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.holder_keys import add_key
from arx_caps.mint.db.tables import ENROLMENTS, HOLDER_KEYS, KEY_FETCHES, SERVICES
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.errors import GrantError

SERVICES_ORDER: Final = Order((SERVICES.c.audience,), tuple[Text])
_FIND: Final = select(SERVICES).where(SERVICES.c.audience == bindparam("which"))
_ADD: Final = insert(SERVICES)
_GOOD: Final = (ENROLMENTS.c.digest == bindparam("which"), ENROLMENTS.c.until > bindparam("now"))
_INVITED: Final = select(ENROLMENTS).where(*_GOOD)
_USE_UP: Final = delete(ENROLMENTS).where(*_GOOD)
_INVITE, _FORGET = insert(ENROLMENTS), delete(ENROLMENTS).where(ENROLMENTS.c.until <= bindparam("now"))


class Services:
    """The enrolled services."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, audience: str, by: str, what: Event) -> None:
        """Enrol a tool service, or find it."""
        with self._database.write(what) as c:
            _enrol(c, audience, by)

    def invite(self, unit: UnitOfWork, audience: str, digest: str, until: int, by: str, what: Event) -> None:
        """Remember an enrolment token, by its digest, and forget those whose time is over.

        Args:
            unit: The call's.
            audience: The one service that it is for.
            digest: SHA-256 of its text, in hex.
            until: When it is worth nothing any more, ms.
            by: Who makes it.
            what: The event.
        """
        with unit.change(what) as c:
            c.execute(_FORGET, {"now": now_ms()})
            c.execute(_INVITE, {"digest": digest, "audience": audience, "by": by, "until": until})

    def invited_by(self, digest: str) -> tuple[str, str] | None:
        """Return for which audience an enrolment token is and who made it, or None where there is none, or no more."""
        row = self._database.row(_INVITED, which=digest, now=now_ms())
        return (str(row["audience"]), str(row["by"])) if row is not None else None

    def join(self, unit: UnitOfWork, digest: str, key: PublicKey) -> str:
        """Use up an enrolment token: enrol its service with one more key of its own.

        Returns:
            The audience.

        Raises:
            GrantError: ``bad_enrolment``: there is no such token, or no more; ``key_enrolled``.
        """
        with unit.change() as c:
            which = {"which": digest, "now": now_ms()}
            found = c.execute(_INVITED.with_for_update(), which).first()
            # Of two who bring the same token, one deletes it.
            if found is None or c.execute(_USE_UP, which).rowcount == 0:
                raise bad_enrolment()
            _enrol(c, found.audience, found.by)
            add_key(c, f"service:{found.audience}", key)
            told = {"audience": found.audience, "key": key.kid, "invited_by": found.by}
            unit.note(Event.of("service.joined", f"service:{found.audience}", **told))
            return str(found.audience)

    def find(self, audience: str) -> dict[str, Any] | None:
        """Return a service's row, or None."""
        return self._database.row(_FIND, which=audience)

    def list(self, *, after: str | None = None, limit: int = PAGE) -> Rows:
        """Return services by audience, those behind a place of the list, at most so many."""
        return self._database.page(behind(select(SERVICES), SERVICES_ORDER, after), limit)

    def remove(self, audience: str, what: Event) -> None:
        """Forget a service, its own keys, what it fetched, and enrolment tokens for it."""
        with self._database.write(what) as c:
            c.execute(delete(ENROLMENTS).where(ENROLMENTS.c.audience == audience))
            c.execute(delete(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == f"service:{audience}"))
            c.execute(delete(KEY_FETCHES).where(KEY_FETCHES.c.audience == audience))
            c.execute(delete(SERVICES).where(SERVICES.c.audience == audience))


def bad_enrolment() -> GrantError:
    """Make the one refusal of an enrolment token, whatever is wrong with it."""
    return GrantError("the enrolment token is unknown, used or over; ask for another", code="bad_enrolment")


def _enrol(c: Connection, audience: str, by: str) -> None:
    if c.execute(_FIND, {"which": audience}).first() is None:
        row = {"audience": audience, "enrolled_at": now_ms(), "enrolled_by": by}
        with contextlib.suppress(IntegrityError), c.begin_nested():  # somebody else may have been first
            c.execute(_ADD, row)
