# SPDX-License-Identifier: Apache-2.0
"""What a kill or freeze would end: the open sessions and tasks that targets name. SPEC 10.1."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import false, func, or_, select, true, tuple_

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.repositories.work.sessions import SESSION_ROWS, of_state
from arx_caps.mint.db.repositories.work.tasks import TASK_ROWS
from arx_caps.mint.db.rows import R, RowReader
from arx_caps.mint.db.statement import parts_of
from arx_caps.mint.db.tables import AGENTS, SESSIONS, TASKS, SessionRow, TaskRow

MOST_PATHS: Final = 20_000  # agents that are looked at


class Named(NamedTuple):
    """What targets name, by column.

    Attributes:
        everything: Whether a target is the realm.
        agents: Paths of agents, those below a target included.
        sessions: Ids of sessions.
        tasks: Ids of tasks.
        subjects: Issuer and subject of persons.
        policies: Digests of policies.
    """

    everything: bool
    agents: Collection[str]
    sessions: Collection[str]
    tasks: Collection[str]
    subjects: Collection[tuple[str, str]]
    policies: Collection[str]


class PreviewRepository(Repository):
    """Queries for the preview of a kill."""

    def paths(self) -> list[str]:
        """Return the paths of enrolled agents."""
        return self._database.column(select(AGENTS.c.path).order_by(AGENTS.c.path).limit(MOST_PATHS))

    def subjects(self, limit: int) -> list[tuple[str, str]]:
        """Return issuer and subject of the persons on whose behalf sessions are open, at most ``limit``."""
        persons = select(SESSIONS.c.subject_issuer, SESSIONS.c.subject).where(SESSIONS.c.subject.is_not(None))
        with self._database.read() as c:
            return [(row[0], row[1]) for row in c.execute(of_state(persons, SESSIONS, "alive").distinct().limit(limit))]

    def sessions(self, named: Named, limit: int) -> tuple[list[SessionRow], int]:
        """Return open sessions that are named, at most ``limit``, and the number of all of them."""
        which = or_(
            true() if named.everything else false(),
            *(SESSIONS.c.agent.in_(part) for part in parts_of(named.agents)),
            *(SESSIONS.c.id.in_(part) for part in parts_of(named.sessions)),
            *(SESSIONS.c.policy.in_(part) for part in parts_of(named.policies)),
            *(tuple_(SESSIONS.c.subject_issuer, SESSIONS.c.subject).in_(part) for part in parts_of(named.subjects)),
        )
        return self._some(SESSION_ROWS, SESSIONS, which, limit)

    def tasks(self, named: Named, sessions: Collection[str], limit: int) -> tuple[list[TaskRow], int]:
        """Return open tasks that are named or in sessions, at most ``limit``, and the number of all of them.

        Args:
            named: What the targets name.
            sessions: Ids of sessions that end.
            limit: At most this number.
        """
        # Subtasks are in the session of their task: the caller leaves out what is not below one of them.
        theirs = [select(TASKS.c.session).where(TASKS.c.id.in_(part)) for part in parts_of(named.tasks)]
        which = or_(
            true() if named.everything else false(),
            *(TASKS.c.session.in_(part) for part in parts_of(sessions)),
            *(TASKS.c.policy.in_(part) for part in parts_of(named.policies)),
            *(TASKS.c.session.in_(part) for part in theirs),
        )
        return self._some(TASK_ROWS, TASKS, which, limit)

    def _some(self, reader: RowReader[R], table: Any, which: Any, limit: int) -> tuple[list[R], int]:
        with self._database.read() as c:
            found = of_state(reader.select().where(which), table, "alive").limit(limit + 1)
            rows = reader.all(c, found)
            if len(rows) <= limit:
                return rows, len(rows)
            counted = of_state(select(func.count()).select_from(table).where(which), table, "alive")
            return rows[:limit], int(c.execute(counted).scalar_one())
