# SPDX-License-Identifier: Apache-2.0
"""Enrolled tool services and their enrolment tokens. CONTROL 3.

Their own keys are in ``holder_keys``, and what they fetched in ``keys``.
"""

from typing import Final

import msgspec
from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine import Connection

from arx_caps.credentials.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.identity.holder_keys import add_key, forget_versions
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement, insert_new
from arx_caps.mint.db.tables import ENROLMENTS, HOLDER_KEYS, KEY_FETCHES, SERVICES, ServiceRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError


class InvitationRow(msgspec.Struct, frozen=True):
    """An enrolment token: the service that it enrols, and who made it."""

    audience: str
    by: str


SERVICE_ROWS: Final = RowReader(ServiceRow, SERVICES)
INVITATION_ROWS: Final = RowReader(InvitationRow, ENROLMENTS)
SERVICES_ORDER: Final = Order((SERVICES.c.audience,), tuple[Text])
_ADD: Final = CompiledStatement(insert(SERVICES))
_GOOD: Final = (ENROLMENTS.c.digest == bindparam("which"), ENROLMENTS.c.until > bindparam("now"))
_SELECT_INVITED: Final = INVITATION_ROWS.select().where(*_GOOD)
_INVITED, _LOCK_INVITED = CompiledStatement(_SELECT_INVITED), CompiledStatement(_SELECT_INVITED.with_for_update())
_USE_UP: Final = delete(ENROLMENTS).where(*_GOOD)
_INVITE, _FORGET = insert(ENROLMENTS), delete(ENROLMENTS).where(ENROLMENTS.c.until <= bindparam("now"))


class ServiceRepository(StructRepository[ServiceRow], reader=SERVICE_ROWS, key=SERVICES.c.audience):
    """The enrolled services."""

    def ensure(self, audience: str, by: str, what: Event) -> None:
        """Enrol a tool service and record it, or find it and record nothing."""
        with self._database.write() as c:
            if self._enrol(c, audience, by):
                self._database.record_in(c, what)

    def invite(self, unit: UnitOfWork, audience: str, digest: str, until: int, by: str, what: Event) -> None:
        """Store an enrolment token by its digest, and delete expired ones.

        Args:
            unit: The call's unit of work.
            audience: The service that it enrols a key for.
            digest: SHA-256 of the token's text, in hex.
            until: When it expires, in ms since the Unix epoch.
            by: The operator who makes it.
            what: The event.
        """
        with unit.change(what) as c:
            c.execute(_FORGET, {"now": now_ms()})
            c.execute(_INVITE, {"digest": digest, "audience": audience, "by": by, "until": until})

    def invitation(self, digest: str) -> InvitationRow | None:
        """Return a valid enrolment token by its digest, or None."""
        return self._database.first(INVITATION_ROWS, _INVITED, which=digest, now=now_ms())

    def join(self, unit: UnitOfWork, digest: str, key: PublicKey) -> str:
        """Use an enrolment token: enrol its service with one more key of its own.

        Returns:
            The audience.

        Raises:
            GrantError: ``bad_enrolment``: the token is unknown, used or expired; ``key_enrolled``.
        """
        with unit.change() as c:
            which = {"which": digest, "now": now_ms()}
            invitation = INVITATION_ROWS.first(c, _LOCK_INVITED, which)
            # Of two callers with the same token, one deletes it: the row count decides, also without a row lock.
            if invitation is None or c.execute(_USE_UP, which).rowcount == 0:
                raise bad_enrolment()
            self._enrol(c, invitation.audience, invitation.by)
            own = f"service:{invitation.audience}"
            add_key(c, own, key)
            facts = {"audience": invitation.audience, "key": key.kid, "invited_by": invitation.by}
            unit.note(Event.of("service.joined", own, **facts))
            return invitation.audience

    def list(self, *, after: str | None = None, limit: int = PAGE) -> list[ServiceRow]:
        """Return services, ordered by audience.

        Args:
            after: A page's ``next``: only services after it.
            limit: At most this number.
        """
        return self._listed(SERVICE_ROWS.select(), SERVICES_ORDER, after, limit)

    def remove(self, audience: str, what: Event) -> None:
        """Delete a service, its own keys, its fetches and its enrolment tokens."""
        with self._database.write(what) as c:
            c.execute(delete(ENROLMENTS).where(ENROLMENTS.c.audience == audience))
            own = HOLDER_KEYS.c.holder == f"service:{audience}"
            forget_versions(c, c.execute(select(HOLDER_KEYS.c.kid).where(own)).scalars().all())
            c.execute(delete(HOLDER_KEYS).where(own))
            c.execute(delete(KEY_FETCHES).where(KEY_FETCHES.c.audience == audience))
            c.execute(delete(SERVICES).where(SERVICES.c.audience == audience))

    def _enrol(self, c: Connection, audience: str, by: str) -> bool:
        """Add a service's row, unless it is there; return whether this call added it."""
        row = SERVICE_ROWS.values(ServiceRow(audience, now_ms(), by))
        return self._find.first(c, {"which": audience}) is None and insert_new(c, _ADD, row)


def bad_enrolment() -> GrantError:
    """Return the refusal of an enrolment token, one for all causes."""
    # One text: a caller who guesses must not find out which tokens existed.
    return GrantError("the enrolment token is unknown, used or over; ask for another", code="bad_enrolment")
