# SPDX-License-Identifier: Apache-2.0
"""Tool services: which are enrolled, and who may enrol a key of theirs.  SPEC 21."""

import contextlib
from typing import Any, Final

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text, behind
from arx_caps.mint.db.database import PAGE, Database, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.holder_keys import add_key
from arx_caps.mint.db.tables import ENROLMENTS, HOLDER_KEYS, KEY_FETCHES, SERVICES
from arx_verifier.errors import GrantError

SERVICES_ORDER: Final = Order((SERVICES.c.audience,), tuple[Text])


class ServiceState(Database):
    """The enrolled services."""

    def enrol_service(self, audience: str, by: str, what: Event) -> None:
        """Enrol a tool service, or find it."""
        with self.write(what) as c:
            _enrol(c, audience, by)

    def invite(self, audience: str, digest: str, until: int, by: str, what: Event) -> None:
        """Remember an enrolment token, by its digest, and forget those whose time is over.

        Args:
            audience: The one service that it is for.
            digest: SHA-256 of its text, in hex.
            until: When it is worth nothing any more, ms.
            by: Who makes it.
            what: The event.
        """
        with self.write(what) as c:
            c.execute(delete(ENROLMENTS).where(ENROLMENTS.c.until <= now_ms()))
            c.execute(insert(ENROLMENTS).values(digest=digest, audience=audience, by=by, until=until))

    def invited_by(self, digest: str) -> tuple[str, str] | None:
        """Return for which audience an enrolment token is and who made it, or None where there is none, or no more."""
        row = self.row(select(ENROLMENTS).where(ENROLMENTS.c.digest == digest, ENROLMENTS.c.until > now_ms()))
        return (str(row["audience"]), str(row["by"])) if row is not None else None

    def join(self, digest: str, key: PublicKey) -> str:
        """Use up an enrolment token: enrol its service with one more key of its own.

        Returns:
            The audience.

        Raises:
            GrantError: ``bad_enrolment``: there is no such token, or no more; ``key_enrolled``.
        """
        with self.write() as c:
            which = (ENROLMENTS.c.digest == digest, ENROLMENTS.c.until > now_ms())
            found = c.execute(select(ENROLMENTS).where(*which).with_for_update()).first()
            # Of two who bring the same token, one deletes it.
            if found is None or c.execute(delete(ENROLMENTS).where(*which)).rowcount == 0:
                raise bad_enrolment()
            _enrol(c, found.audience, found.by)
            add_key(c, f"service:{found.audience}", key)
            told = {"audience": found.audience, "key": key.kid, "invited_by": found.by}
            self.record_in(c, Event.of("service.joined", f"service:{found.audience}", **told))
            return str(found.audience)

    def service(self, audience: str) -> dict[str, Any] | None:
        """Return a service's row, or None."""
        return self.row(select(SERVICES).where(SERVICES.c.audience == audience))

    def services(self, *, after: str | None = None, limit: int = PAGE) -> list[dict[str, Any]]:
        """Return services by audience, those behind a place of the list, at most so many."""
        return self.rows(behind(select(SERVICES), SERVICES_ORDER, after), limit)

    def remove_service(self, audience: str, what: Event) -> None:
        """Forget a service, its own keys, what it fetched, and enrolment tokens for it."""
        with self.write(what) as c:
            c.execute(delete(ENROLMENTS).where(ENROLMENTS.c.audience == audience))
            c.execute(delete(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == f"service:{audience}"))
            c.execute(delete(KEY_FETCHES).where(KEY_FETCHES.c.audience == audience))
            c.execute(delete(SERVICES).where(SERVICES.c.audience == audience))


def bad_enrolment() -> GrantError:
    """Make the one refusal of an enrolment token, whatever is wrong with it."""
    return GrantError("the enrolment token is unknown, used or over; ask for another", code="bad_enrolment")


def _enrol(c: Connection, audience: str, by: str) -> None:
    if c.execute(select(SERVICES.c.audience).where(SERVICES.c.audience == audience)).first() is None:
        row = {"audience": audience, "enrolled_at": now_ms(), "enrolled_by": by}
        with contextlib.suppress(IntegrityError), c.begin_nested():  # somebody else may have been first
            c.execute(insert(SERVICES).values(**row))
