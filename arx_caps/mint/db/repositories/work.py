# SPDX-License-Identifier: Apache-2.0
"""Sessions and tasks: their rows, from start to end.

A transaction that begins something below a row locks that row and reads it; one that ends a thing changes its row
first.  So an end that was answered leaves nothing behind that began at the same time.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Select, and_, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time, behind
from arx_caps.mint.db.database import PAGE, Database, now_ms, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.epoch import HighWater, raise_high_water
from arx_caps.mint.db.tables import AGENTS, SESSIONS, TASK_GRANTS, TASKS
from arx_verifier.errors import GrantError, refusal

# What the database can tell of a state; what was killed or frozen is alive in it.
Which = Literal["alive", "expired", "ended"]
SESSIONS_ORDER: Final = Order((SESSIONS.c.opened_at, SESSIONS.c.id), tuple[Time, Text], newest_first=True)
TASKS_ORDER: Final = Order((TASKS.c.started_at, TASKS.c.id), tuple[Time, Text], newest_first=True)


class Room(NamedTuple):
    """How many sessions an agent may have at once.

    Attributes:
        most: As many.
        stands: Tells whether a session's row still counts.
    """

    most: int
    stands: Callable[[Mapping[str, Any]], bool]


class WorkState(Database):
    """The sessions and tasks."""

    def add_session(
        self, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event, room: Room | None = None
    ) -> None:
        """Open a session, unless its agent was deactivated meanwhile or has as many as it may.

        Raises:
            RevokedError: ``frozen``.
            GrantError: ``too_many_sessions``.
        """
        with self.write(what) as c:
            which = select(AGENTS.c.status).where(AGENTS.c.path == values["agent"])
            if c.execute(which.with_for_update()).scalar() != "active":
                raise refusal("frozen")
            if room is not None:
                _require_room(c, values["agent"], room)  # counted while the agent's row is locked
            c.execute(insert(SESSIONS).values(**values))
            raise_high_water(c, realm, high_water)

    def session(self, session: str) -> dict[str, Any] | None:
        """Return a session's row, or None."""
        return self.row(select(SESSIONS).where(SESSIONS.c.id == session))

    def sessions(
        self,
        *,
        agent: str | None = None,
        subject: str | None = None,
        template: str | None = None,
        which: Which | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[dict[str, Any]]:
        """Return sessions, the newest first.

        Args:
            agent: Only this agent's.
            subject: Only those for whom some issuer calls this.
            template: Only those in which a task of this template was started.
            which: Only those that are like this.
            after: Only those behind this place of the list.
            limit: At most so many.
        """
        statement = _like(select(SESSIONS), SESSIONS, which)
        wanted = ((SESSIONS.c.agent, agent), (SESSIONS.c.subject, subject))
        statement = statement.where(*(column == value for column, value in wanted if value is not None))
        if template is not None:
            theirs = (TASKS.c.session == SESSIONS.c.id, TASKS.c.template == template)
            statement = statement.where(select(TASKS.c.id).where(*theirs).exists())
        return self.rows(behind(statement, SESSIONS_ORDER, after), limit)

    def renew_session(
        self, session: str, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event
    ) -> dict[str, Any]:
        """Prolong a session, unless it ended meanwhile; of two who do it at once, the longer one counts.

        Returns:
            Its row.

        Raises:
            GrantError: ``session_ended``.
        """
        with self.write(what) as c:
            which = select(SESSIONS).where(SESSIONS.c.id == session)
            row = plain(c.execute(which.with_for_update()).one())
            # Also of time: whoever ends a session that is over is told so, and it must not go on after that.
            if row["status"] != "open" or row["expires_at"] <= now_ms():
                raise GrantError("the session is over", code="session_ended")
            changes = {**values, "expires_at": max(row["expires_at"], values["expires_at"])}
            c.execute(update(SESSIONS).where(SESSIONS.c.id == session).values(**changes))
            raise_high_water(c, realm, high_water)
            return row | changes

    def count_alive(self) -> tuple[int, int]:
        """Count the sessions and the tasks that are neither ended nor expired; of kills this knows nothing."""
        with self.read() as c:
            sessions, tasks = (
                int(c.execute(_like(select(func.count()).select_from(table), table, "alive")).scalar_one())
                for table in (SESSIONS, TASKS)
            )
            return sessions, tasks

    def end_session(self, session: str, what: Event) -> int:
        """Note that a session and its tasks are over, and return when the last token of it is over by itself, ms."""
        at = now_ms()
        with self.write(what) as c:
            _end(c, SESSIONS, SESSIONS.c.id == session, at)
            _end(c, TASKS, TASKS.c.session == session, at)
            return int(c.execute(select(SESSIONS.c.expires_at).where(SESSIONS.c.id == session)).scalar_one())

    def end_sessions_of(self, path: str) -> None:
        """Note that the sessions and tasks of an agent are over; its deactivation is the event."""
        at, theirs = now_ms(), select(SESSIONS.c.id).where(SESSIONS.c.agent == path)
        with self.write() as c:
            _end(c, SESSIONS, SESSIONS.c.agent == path, at)
            _end(c, TASKS, TASKS.c.session.in_(theirs), at)

    def add_task(
        self,
        values: Mapping[str, Any],
        high_water: HighWater,
        realm: str,
        what: Event,
        grant: Mapping[str, Any],
        parent: str | None = None,
    ) -> None:
        """Start a task with its first grant, unless its session, or the task it is a part of, ended meanwhile.

        Raises:
            GrantError: ``session_ended``.
        """
        with self.write(what) as c:
            # The row stays locked until the task is there: an end that was answered before leaves no task behind it.
            which = select(SESSIONS.c.status).where(SESSIONS.c.id == values["session"])
            if c.execute(which.with_for_update()).scalar() != "open":
                raise GrantError("the session is over", code="session_ended")
            if parent is not None:
                above = select(TASKS.c.status).where(TASKS.c.id == parent)
                if c.execute(above.with_for_update()).scalar() != "open":
                    raise GrantError("the task that this would be a part of is over", code="session_ended")
            c.execute(insert(TASKS).values(**values))
            c.execute(insert(TASK_GRANTS).values(task=values["id"], **grant))
            raise_high_water(c, realm, high_water)

    def task(self, task: str) -> dict[str, Any] | None:
        """Return a task's row, or None."""
        return self.row(select(TASKS).where(TASKS.c.id == task))

    def tasks(
        self,
        *,
        session: str | None = None,
        agent: str | None = None,
        template: str | None = None,
        which: Which | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[dict[str, Any]]:
        """Return tasks, the newest first.

        Args:
            session: Only this session's.
            agent: Only this agent's.
            template: Only those of this template.
            which: Only those that are like this.
            after: Only those behind this place of the list.
            limit: At most so many.
        """
        statement = _like(select(TASKS), TASKS, which)
        wanted = ((TASKS.c.session, session), (TASKS.c.agent, agent), (TASKS.c.template, template))
        statement = statement.where(*(column == value for column, value in wanted if value is not None))
        return self.rows(behind(statement, TASKS_ORDER, after), limit)

    def end_task(self, task: str, what: Event) -> int:
        """Note that a task and its parts are over, and return when the last of their tokens is over by itself, ms."""
        with self.write(what) as c:
            latest = int(c.execute(select(func.max(TASKS.c.expires_at)).where(_with_parts(task))).scalar_one())
            _end(c, TASKS, _with_parts(task), now_ms())
            return latest

    def task_over_at(self, task: str) -> int:
        """Return when the last token of a task and its parts is over by itself, ms.

        A part ends no later than its task did when it began; an attenuation may have made the task's end an earlier
        one.
        """
        with self.read() as c:
            return int(c.execute(select(func.max(TASKS.c.expires_at)).where(_with_parts(task))).scalar_one())


def _with_parts(task: str) -> Any:
    """Say which rows are a task's and its parts'."""
    session = select(TASKS.c.session).where(TASKS.c.id == task).scalar_subquery()
    parts = TASKS.c.above.contains(f'"{task}"', autoescape=True)
    return or_(TASKS.c.id == task, and_(TASKS.c.session == session, parts))


def _require_room(c: Connection, agent: str, room: Room) -> None:
    theirs = select(SESSIONS).where(SESSIONS.c.agent == agent, SESSIONS.c.status == "open")
    rows = c.execute(theirs.where(SESSIONS.c.expires_at > now_ms()).order_by(SESSIONS.c.opened_at))
    open_ones = [row.id for row in rows if room.stands(plain(row))]
    if len(open_ones) >= room.most:
        raise GrantError(
            f"{agent} has {len(open_ones)} sessions open and may have {room.most} at once: end one, such as "
            f"{open_ones[0]}, or wait until one is over",
            code="too_many_sessions",
        )


def _like(statement: Select[Any], table: Any, which: Which | None) -> Select[Any]:
    if which is None:
        return statement
    if which == "ended":
        return statement.where(table.c.status != "open")
    time = table.c.expires_at
    return statement.where(table.c.status == "open", time <= now_ms() if which == "expired" else time > now_ms())


def _end(c: Connection, table: Any, which: Any, at: int) -> None:
    c.execute(update(table).where(which, table.c.status == "open").values(status="ended", ended_at=at))
