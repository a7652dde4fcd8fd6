# SPDX-License-Identifier: Apache-2.0
"""Events that wait for the audit log: read in order, each once.

A change writes them in its own transaction.  PostgreSQL gives numbers before transactions end, so that a later
number can be visible first; a reader waits until no writer is in between.
"""

import contextlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import PAGE, Database
from arx_caps.mint.db.events import Event, Recorded
from arx_caps.mint.db.tables import META, OUTBOX, SESSIONS, TASKS
from arx_verifier.errors import GrantError

RUN: Final = "outbox"  # in META
_OWNERS: Final = select(SESSIONS.c.id, SESSIONS.c.agent, SESSIONS.c.subject_issuer, SESSIONS.c.subject)


class Outbox:
    """The recorded events of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(self) -> str:
        """Return the name of this run of numbers: a database that is made anew has another one.

        Raises:
            StoreError: The database did not answer.
        """
        which = select(META.c.value).where(META.c.name == RUN)
        with self._database.read() as c:
            found = c.execute(which).scalar()
        if found is None:
            # Another mint may be first, and its run stays: two names would put each event into the log twice.
            with contextlib.suppress(GrantError), self._database.write() as c:
                c.execute(insert(META).values(name=RUN, value=secrets.token_hex(6)))
            with self._database.read() as c:
                found = c.execute(which).scalar_one()
        return str(found)

    def begin_run(self) -> None:
        """Begin another run of numbers: this database is older than what was read of it."""
        with self._database.write() as c:
            c.execute(delete(META).where(META.c.name == RUN))
            c.execute(insert(META).values(name=RUN, value=secrets.token_hex(6)))

    def last(self) -> int:
        """Return the highest number that was ever given, 0 before the first."""
        with self._database.read() as c:
            if self._database.system == "sqlite":
                found = c.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").scalar()
            else:
                found = c.exec_driver_sql("SELECT CASE WHEN is_called THEN last_value END FROM outbox_id_seq").scalar()
            return int(found or 0)

    def after(self, number: int, limit: int = PAGE) -> list[Recorded]:
        """Return what was recorded after an event, in order, each with its owner as both stood at one moment.

        What is returned is never joined later by something with a lower number: a reader may go on from the last one.

        Args:
            number: The event's number; 0 for the beginning.
            limit: At most so many.

        Raises:
            StoreError: The database did not answer.
        """
        database = self._database
        with database.write() if database.system == "postgresql" else database.read() as c:
            if database.system == "postgresql":
                # Every writer holds this table until it commits: who gets the lock sees all that was numbered before.
                c.exec_driver_sql("LOCK TABLE outbox IN SHARE MODE")
            found = c.execute(select(OUTBOX).where(OUTBOX.c.id > number).order_by(OUTBOX.c.id).limit(limit))
            return _with_owners(c, [Recorded(*row) for row in found])

    def since(self, at_ms: int, kinds: Collection[str] = (), limit: int = PAGE) -> list[Recorded]:
        """Return the last events that were recorded at a time or later, the oldest first; for people to look at.

        Args:
            at_ms: The time, ms.
            kinds: Only these kinds; every kind when empty.
            limit: At most so many.
        """
        wanted = select(OUTBOX).where(OUTBOX.c.at_ms >= at_ms).order_by(OUTBOX.c.id.desc()).limit(limit)
        if kinds:
            wanted = wanted.where(OUTBOX.c.kind.in_(kinds))
        with self._database.read() as c:
            return [Recorded(*row) for row in c.execute(wanted)][::-1]

    def forget(self, up_to: int, before_ms: int | None = None) -> None:
        """Drop events that are kept elsewhere by now.

        Args:
            up_to: The last one's number.
            before_ms: Only what was recorded before this time, ms; whatever its age when left out.
        """
        which = delete(OUTBOX).where(OUTBOX.c.id <= up_to)
        with self._database.write() as c:
            c.execute(which if before_ms is None else which.where(OUTBOX.c.at_ms < before_ms))

    def waiting(self) -> int:
        """Count the events that are here."""
        with self._database.read() as c:
            return int(c.execute(select(func.count()).select_from(OUTBOX)).scalar_one())

    def check(self) -> None:
        """Find out whether an event could be recorded, by recording one and undoing it.

        Raises:
            StoreError: The database did not answer.
            AuditError: It could not.
        """
        with self._database.write() as c:
            self._database.record_in(c, Event.of("mint.checked", "mint"))
            c.rollback()


# An owner is read in the transaction that reads the event.  An erasure between the two would take the subject from the
# session and leave the event as it was: the log would then have it under nobody, where the erasure does not find it.
def _with_owners(c: Connection, events: Sequence[Recorded]) -> list[Recorded]:
    told = [event.facts for event in events]
    by_task = {str(facts["task"]) for facts in told if facts.get("session") is None and facts.get("task") is not None}
    sessions: dict[str, str] = {}
    if by_task:
        sessions = dict(map(tuple, c.execute(select(TASKS.c.id, TASKS.c.session).where(TASKS.c.id.in_(by_task)))))
    about = [facts.get("session") or sessions.get(str(facts.get("task"))) for facts in told]
    owners: dict[str, Mapping[str, Any]] = {}
    if any(about):
        for row in c.execute(_OWNERS.where(SESSIONS.c.id.in_({str(session) for session in about if session}))):
            subject = None if row.subject is None else (row.subject_issuer, row.subject)
            owners[row.id] = {"session": row.id, "agent": row.agent, "subject": subject}
    return [
        event._replace(owner=owners.get(str(session), event.owner))
        for event, session in zip(events, about, strict=True)
    ]
