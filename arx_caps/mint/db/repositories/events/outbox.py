# SPDX-License-Identifier: Apache-2.0
"""Recorded events, read in order, each once.

``arx_caps.mint.audit.feeds`` appends them to the audit log.
"""

import contextlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import delete, insert, select, text
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import PAGE, Repository
from arx_caps.mint.db.events import Event, Recorded
from arx_caps.mint.db.tables import META, OUTBOX, SESSIONS, TASKS
from arx_verifier.errors import GrantError

RUN: Final = "outbox"  # the name of the run's row in META
_OWNERS: Final = select(SESSIONS.c.id, SESSIONS.c.agent, SESSIONS.c.subject_issuer, SESSIONS.c.subject)


class OutboxRepository(Repository):
    """The recorded events of a database."""

    def run(self) -> str:
        """Return the name of this run of event numbers; a new database has another one.

        Raises:
            StoreError: The database did not answer.
        """
        which = select(META.c.value).where(META.c.name == RUN)
        run = self._database.scalar(which)
        if run is None:
            # Another mint may be first, and then its name stays: two names would put each event into the log twice.
            with contextlib.suppress(GrantError), self._database.write() as c:
                c.execute(insert(META).values(name=RUN, value=secrets.token_hex(6)))
            with self._database.read() as c:
                run = c.execute(which).scalar_one()
        return str(run)

    def begin_run(self) -> None:
        """Begin a new run of event numbers, after an older database was restored."""
        with self._database.write() as c:
            # A restored backup gives numbers again that the log has. Under the old run's name the log would drop the
            # new events as duplicates.
            c.execute(delete(META).where(META.c.name == RUN))
            c.execute(insert(META).values(name=RUN, value=secrets.token_hex(6)))

    def skip(self, c: Connection, numbers: int) -> None:
        """Leave out the next event numbers, in an open transaction.

        Args:
            c: The transaction.
            numbers: How many.
        """
        if self._database.system == "sqlite":
            c.exec_driver_sql(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'outbox', 0 "
                "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'outbox')"
            )
            c.execute(text("UPDATE sqlite_sequence SET seq = seq + :some WHERE name = 'outbox'"), {"some": numbers})
        else:
            c.execute(text("SELECT setval('outbox_id_seq', last_value + :some) FROM outbox_id_seq"), {"some": numbers})

    def last(self) -> int:
        """Return the highest event number that was ever given; 0 before the first."""
        with self._database.read() as c:
            if self._database.system == "sqlite":
                last = c.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").scalar()
            else:
                last = c.exec_driver_sql("SELECT CASE WHEN is_called THEN last_value END FROM outbox_id_seq").scalar()
            return int(last or 0)

    def after(self, number: int, limit: int = PAGE) -> list[Recorded]:
        """Return the events after a number, in order, each with its owner.

        Args:
            number: The event's number; 0 for the beginning.
            limit: At most this number of events.

        Raises:
            StoreError: The database did not answer.
        """
        database = self._database
        with database.write() if database.system == "postgresql" else database.read() as c:
            if database.system == "postgresql":
                # PostgreSQL gives numbers before transactions end, so a later number can be visible first. A reader
                # that went on after it would lose the earlier one. Every writer holds a lock on this table until it
                # commits: with this lock, all lower numbers are visible.
                c.exec_driver_sql("LOCK TABLE outbox IN SHARE MODE")
            rows = c.execute(select(OUTBOX).where(OUTBOX.c.id > number).order_by(OUTBOX.c.id).limit(limit))
            return _with_owners(c, [Recorded(*row) for row in rows])

    def since(self, at_ms: int, kinds: Collection[str] = (), limit: int = PAGE) -> list[Recorded]:
        """Return the newest events since a time, the oldest first, for people to read.

        Args:
            at_ms: The time, in ms since the Unix epoch.
            kinds: Only these kinds of event; empty for every kind.
            limit: At most this number.
        """
        wanted = select(OUTBOX).where(OUTBOX.c.at_ms >= at_ms).order_by(OUTBOX.c.id.desc()).limit(limit)
        if kinds:
            wanted = wanted.where(OUTBOX.c.kind.in_(kinds))
        with self._database.read() as c:
            return [Recorded(*row) for row in c.execute(wanted)][::-1]

    def forget(self, up_to: int, before_ms: int | None = None) -> None:
        """Delete events that the audit log has.

        Args:
            up_to: The number of the last one.
            before_ms: Only events from before this time, in ms since the Unix epoch; None for any time.
        """
        which = delete(OUTBOX).where(OUTBOX.c.id <= up_to)
        self._database.change(which if before_ms is None else which.where(OUTBOX.c.at_ms < before_ms), {})

    def waiting(self) -> int:
        """Return the number of events in the outbox."""
        return self._database.count(OUTBOX)

    def check(self) -> None:
        """Record an event and roll it back, and commit nothing but a mark, to find out whether changes can be made.

        Raises:
            StoreError: The database did not answer.
            AuditError: Events cannot be recorded.
        """
        with self._database.write() as c:
            self._database.record_in(c, Event.of("mint.checked", "mint"))
            c.rollback()
        if self._database.system == "postgresql":
            # A commit waits for the synchronous standby, a rollback does not. The mark is in PostgreSQL's log alone.
            with self._database.write() as c:
                c.exec_driver_sql("SELECT pg_logical_emit_message(true, 'arx', 'checked')")


# An owner is read in the transaction that reads the event. An erasure between the two would remove the subject from the
# session and leave the event as it was: the log would have the event without an owner, where no erasure finds it.
def _with_owners(c: Connection, events: Sequence[Recorded]) -> list[Recorded]:
    facts_of = [event.facts for event in events]
    by_task = {
        str(facts["task"]) for facts in facts_of if facts.get("session") is None and facts.get("task") is not None
    }
    sessions: dict[str, str] = {}
    if by_task:
        sessions = dict(map(tuple, c.execute(select(TASKS.c.id, TASKS.c.session).where(TASKS.c.id.in_(by_task)))))
    about = [facts.get("session") or sessions.get(str(facts.get("task"))) for facts in facts_of]
    owners: dict[str, Mapping[str, Any]] = {}
    if any(about):
        for row in c.execute(_OWNERS.where(SESSIONS.c.id.in_({str(session) for session in about if session}))):
            subject = None if row.subject is None else (row.subject_issuer, row.subject)
            owners[row.id] = {"session": row.id, "agent": row.agent, "subject": subject}
    return [
        event._replace(owner=owners.get(str(session), event.owner))
        for event, session in zip(events, about, strict=True)
    ]
