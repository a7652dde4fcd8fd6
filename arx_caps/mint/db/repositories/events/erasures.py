# SPDX-License-Identifier: Apache-2.0
"""Erase a person's data from sessions, tasks, grants, approvals and events.

The audit log is erased in ``arx_caps.audit``. What may be erased is decided in ``arx_caps.mint.tasks.erase``.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import PAGE, Repository
from arx_caps.mint.db.events import Event, Recorded
from arx_caps.mint.db.repositories.oauth.connections import ACCOUNTS_LOCK, AccountRow, locked_accounts, locked_key
from arx_caps.mint.db.repositories.work.sessions import SESSION_ROWS
from arx_caps.mint.db.statement import parts_of
from arx_caps.mint.db.tables import (
    APPROVALS,
    CONNECTION_LINKS,
    CONNECTIONS,
    CONSOLE_SESSIONS,
    OAUTH_CONSENTS,
    OAUTH_HANDLES,
    OAUTH_REFRESHES,
    OPERATORS,
    OUTBOX,
    PERSON_KEYS,
    REPEATS,
    SESSIONS,
    TASK_GRANTS,
    TASKS,
    SessionRow,
    StoredKey,
)
from arx_verifier.clock import now_ms
from arx_verifier.token.targets import subject_target

ERASED: Final = "mint.erased"
_OF_PERSON: Final = ("subject_issuer", "subject", "subject_claims", "subject_until", "purpose")
_K = TypeVar("_K")
_OVER: Final = func.coalesce(SESSIONS.c.ended_at, SESSIONS.c.expires_at)


# A row stays with its ids, agent, times and policy, which name no person: records in the log refer to it. Only what is
# over may be erased, for a running task needs its subject.
class ErasureRepository(Repository):
    """Queries and changes to erase a person's data."""

    def sessions_for(self, target: str) -> list[SessionRow]:
        """Return the sessions on behalf of the person that a target names."""
        persons = select(SESSIONS.c.subject_issuer, SESSIONS.c.subject).where(SESSIONS.c.subject.is_not(None))
        with self._database.read() as c:
            # A target is a hash of issuer and subject, so it cannot be looked up: each person's is computed.
            for issuer, subject in c.execute(persons.distinct()):
                if subject_target(issuer, subject) == target:
                    is_theirs = (SESSIONS.c.subject_issuer == issuer, SESSIONS.c.subject == subject)
                    return SESSION_ROWS.all(c, SESSION_ROWS.select().where(*is_theirs))
        return []

    def sessions_over(self, before: int) -> list[str]:
        """Return the ids of sessions that were over before a time, in ms since the Unix epoch."""
        return self._database.column(select(SESSIONS.c.id).where(before > _OVER))

    def tasks_in(self, sessions: Collection[str]) -> list[str]:
        """Return the ids of the tasks in these sessions."""
        with self._database.read() as c:
            statements = (select(TASKS.c.id).where(TASKS.c.session.in_(part)) for part in parts_of(sessions))
            return [task for statement in statements for task in c.execute(statement).scalars()]

    def erase_events(self, which: Callable[[Recorded], bool], kept: Collection[str]) -> int:
        """Erase the facts of recorded events.

        Args:
            which: Decides whether an event is erased.
            kept: The names of facts that stay, which name no person.

        Returns:
            The number of events that were erased.
        """
        count, number = 0, 0
        while True:
            with self._database.read() as c:
                page = select(OUTBOX).where(OUTBOX.c.id > number).order_by(OUTBOX.c.id).limit(PAGE)
                events = [Recorded(*row) for row in c.execute(page)]
            if not events:
                return count
            number = events[-1].id
            erased = [event for event in events if not event.facts.get("erased") and which(event)]
            if erased:
                with self._database.write() as c:
                    _overwrite(c)
                    for event in erased:
                        c.execute(update(OUTBOX).where(OUTBOX.c.id == event.id).values(body=_left(event, kept)))
            count += len(erased)

    def erase_work(self, sessions: Collection[str], tasks: Collection[str], what: Event) -> None:
        """Erase the person's data in sessions and tasks; delete their grants, OAuth tokens and idempotency keys.

        Args:
            sessions: Ids of sessions.
            tasks: Ids of their tasks.
            what: The event.
        """
        gone = {*sessions, *tasks}
        with self._database.write(what) as c:
            _overwrite(c)
            # A consent that led to no session is some person's too; those that are over are of no use.
            c.execute(
                delete(OAUTH_CONSENTS).where(OAUTH_CONSENTS.c.until < now_ms(), OAUTH_CONSENTS.c.session.is_(None))
            )
            for part in parts_of(sessions):
                # Parameters of tasks are in both; no access token of a session that is over is active.
                c.execute(delete(OAUTH_REFRESHES).where(OAUTH_REFRESHES.c.session.in_(part)))
                c.execute(delete(OAUTH_HANDLES).where(OAUTH_HANDLES.c.session.in_(part)))
                c.execute(update(SESSIONS).where(SESSIONS.c.id.in_(part)).values(dict.fromkeys(_OF_PERSON)))
            for part in parts_of(tasks):
                c.execute(delete(TASK_GRANTS).where(TASK_GRANTS.c.task.in_(part)))
                c.execute(update(TASKS).where(TASKS.c.id.in_(part)).values(params="{}", subject_target=None))
                asked = update(APPROVALS).where(APPROVALS.c.task.in_(part))
                c.execute(asked.values(args="{}", **dict.fromkeys(("why", "answer_why", "subject", "subject_issuer"))))
            # Grants and idempotency keys hold parameters of tasks. They are of no use once the work is over.
            keys = [
                (row.caller, row.key)
                for row in c.execute(select(REPEATS.c.caller, REPEATS.c.key, REPEATS.c.facts))
                if gone & {str(value) for value in msgspec.json.decode(row.facts).values()}
            ]
            for pairs in parts_of(keys):
                c.execute(delete(REPEATS).where(tuple_(REPEATS.c.caller, REPEATS.c.key).in_(pairs)))

    def take_accounts(
        self, target: str, by: str, reason: str, opens: Callable[[StoredKey], _K]
    ) -> tuple[_K | None, Sequence[AccountRow]]:
        """Delete a person's key, connections and the links by which they connect, at once.

        Args:
            target: The person's target.
            by: The actor.
            reason: The reason, for the record.
            opens: Opens the person's key; if it raises, nothing is deleted.

        Returns:
            The person's key, open, and the rows that had tokens.
        """
        # Together, and alone: a row that is added between two of them would stay, or its account stay open upstream.
        with self._database.alone(ACCOUNTS_LOCK), self._database.write() as c:
            _overwrite(c)
            stored = locked_key(c, target)
            key = None if stored is None else opens(stored)
            links, accounts = locked_accounts(c, target)
            for table in (CONNECTION_LINKS, CONNECTIONS, PERSON_KEYS):
                c.execute(delete(table).where(table.c.subject == target))
            for row in accounts:
                if row.status == "open":
                    facts = {"connection": row.id, "name": row.name, "subject": target, "why": "erased"}
                    self._database.record_in(c, Event.of("connection.ended", by, **facts, reason=reason))
        rows: list[AccountRow] = [*links, *accounts]
        return key, [row for row in rows if row.sealed is not None]

    def erase_mentions(self, target: str) -> None:
        """Erase what names a person without a session of theirs.

        These are: a consent that has led to no session, a form that waits for a sign-in, and who an operator was that
        has been removed.

        Args:
            target: The person's target.
        """
        with self._database.write() as c:
            _overwrite(c)
            consents = select(OAUTH_CONSENTS.c.id, OAUTH_CONSENTS.c.subject_issuer, OAUTH_CONSENTS.c.subject)
            for part in parts_of(_of_person(c, consents.where(OAUTH_CONSENTS.c.session.is_(None)), target)):
                c.execute(delete(OAUTH_CONSENTS).where(OAUTH_CONSENTS.c.id.in_(part)))
            drafts = update(CONSOLE_SESSIONS).where(CONSOLE_SESSIONS.c.draft.contains(target, autoescape=True))
            c.execute(drafts.values(draft=None))
            operators = select(OPERATORS.c.id, OPERATORS.c.issuer, OPERATORS.c.subject)
            for part in parts_of(_of_person(c, operators.where(OPERATORS.c.status != "active"), target)):
                former = update(OPERATORS).where(OPERATORS.c.id.in_(part))
                c.execute(former.values(dict.fromkeys(("issuer", "subject", "claims"))))


def _of_person(c: Connection, rows: Any, target: str) -> list[str]:
    """Return the ids of rows of (id, issuer, subject) whose person a target names."""
    return [
        str(which)
        for which, issuer, subject in c.execute(rows)
        if subject and subject_target(issuer, subject) == target
    ]


def _left(event: Recorded, kept: Collection[str]) -> bytes:
    facts = {name: value for name, value in event.facts.items() if name in kept}
    return Event(event.kind, event.by, facts | {"erased": True}).body()


def _overwrite(c: Connection) -> None:
    """Make SQLite overwrite deleted content."""
    # SQLite would leave the bytes in free pages of its file. PostgreSQL overwrites them when it vacuums.
    if c.dialect.name == "sqlite":
        c.exec_driver_sql("PRAGMA secure_delete=ON")
