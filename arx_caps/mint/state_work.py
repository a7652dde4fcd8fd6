# SPDX-License-Identifier: Apache-2.0
"""Sessions and tasks: what is being done, since when, until when.

Whoever begins something below a thing looks at that thing with its row locked, and whoever ends a thing changes its row
first: an end that was answered leaves nothing behind that began at the same time.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.database import Database, now_ms
from arx_caps.mint.events import Event
from arx_caps.mint.state_epoch import HighWater, raise_high_water
from arx_caps.mint.tables import AGENTS, SESSIONS, TASKS
from arx_verifier.errors import GrantError, refusal


class WorkState(Database):
    """The sessions and tasks."""

    def add_session(self, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event) -> None:
        """Open a session, unless its agent was deactivated meanwhile.

        Raises:
            RevokedError: ``banned``.
        """
        with self.write(what) as c:
            which = select(AGENTS.c.status).where(AGENTS.c.path == values["agent"])
            if c.execute(which.with_for_update()).scalar() != "active":
                raise refusal("banned")
            c.execute(insert(SESSIONS).values(**values))
            raise_high_water(c, realm, high_water)

    def session(self, session: str) -> dict[str, Any] | None:
        """Return a session's row, or None."""
        return self.row(select(SESSIONS).where(SESSIONS.c.id == session))

    def sessions(self, *, agent: str | None = None) -> list[dict[str, Any]]:
        """Return the newest sessions first."""
        statement = select(SESSIONS).order_by(SESSIONS.c.opened_at.desc())
        return self.rows(statement if agent is None else statement.where(SESSIONS.c.agent == agent))

    def end_session(self, session: str, what: Event) -> None:
        """Note that a session and its tasks are over."""
        at = now_ms()
        with self.write(what) as c:
            _end(c, SESSIONS, SESSIONS.c.id == session, at)
            _end(c, TASKS, TASKS.c.session == session, at)

    def end_sessions_of(self, path: str) -> None:
        """Note that the sessions and tasks of an agent are over; its deactivation is the event."""
        at, theirs = now_ms(), select(SESSIONS.c.id).where(SESSIONS.c.agent == path)
        with self.write() as c:
            _end(c, SESSIONS, SESSIONS.c.agent == path, at)
            _end(c, TASKS, TASKS.c.session.in_(theirs), at)

    def add_task(self, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event) -> None:
        """Start a task, unless its session ended meanwhile.

        Raises:
            GrantError: ``session_ended``.
        """
        with self.write(what) as c:
            # The row stays locked until the task is there: an end that was answered before leaves no task behind it.
            which = select(SESSIONS.c.status).where(SESSIONS.c.id == values["session"])
            if c.execute(which.with_for_update()).scalar() != "open":
                raise GrantError("the session is over", code="session_ended")
            c.execute(insert(TASKS).values(**values))
            raise_high_water(c, realm, high_water)

    def task(self, task: str) -> dict[str, Any] | None:
        """Return a task's row, or None."""
        return self.row(select(TASKS).where(TASKS.c.id == task))

    def tasks(self, *, session: str | None = None) -> list[dict[str, Any]]:
        """Return the newest tasks first."""
        statement = select(TASKS).order_by(TASKS.c.started_at.desc())
        return self.rows(statement if session is None else statement.where(TASKS.c.session == session))

    def end_task(self, task: str, what: Event) -> None:
        """Note that a task is over."""
        with self.write(what) as c:
            _end(c, TASKS, TASKS.c.id == task, now_ms())


def _end(c: Connection, table: Any, which: Any, at: int) -> None:
    c.execute(update(table).where(which, table.c.status == "open").values(status="ended", ended_at=at))
