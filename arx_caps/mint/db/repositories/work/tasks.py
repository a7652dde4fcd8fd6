# SPDX-License-Identifier: Apache-2.0
"""Tasks: their rows, until their end. What a task may do, and its start, is in ``grants``."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import and_, bindparam, func, or_, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.sessions import Which, of_state
from arx_caps.mint.db.rows import RowReader
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import SESSIONS, TASKS, TaskRow
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

TASK_ROWS: Final = RowReader(TaskRow, TASKS)
TASKS_ORDER: Final = Order((TASKS.c.started_at, TASKS.c.id), tuple[Time, Text], newest_first=True)
_ITS: Final = TASKS.c.id == bindparam("which")
# A task and its subtasks, which have its id among the tasks above them.
_WITH_PARTS: Final = or_(
    _ITS,
    and_(
        TASKS.c.session == select(TASKS.c.session).where(_ITS).scalar_subquery(),
        TASKS.c.above.like(bindparam("named"), escape="/"),
    ),
)
_LATEST: Final = CompiledStatement(select(func.max(TASKS.c.expires_at)).where(_WITH_PARTS))
_END: Final = CompiledStatement(update(TASKS).where(_WITH_PARTS, TASKS.c.status == "open"))
_LOCK: Final = CompiledStatement(TASK_ROWS.select().where(_ITS).with_for_update())
_SESSION_STATUS: Final = CompiledStatement(
    select(SESSIONS.c.status)
    .where(SESSIONS.c.id == select(TASKS.c.session).where(_ITS).scalar_subquery())
    .with_for_update()
)


class TaskRepository(StructRepository[TaskRow], reader=TASK_ROWS, key=TASKS.c.id):
    """The tasks."""

    def by_id(self, tasks: Collection[str], session: str | None = None) -> dict[str, TaskRow]:
        """Return those of some tasks that exist, or those of a session, each row by its id."""
        theirs = () if session is None else (TASKS.c.session == session,)
        return {row.id: row for row in self.find_all(tasks, *theirs)}

    def list(
        self,
        *,
        session: str | None = None,
        agent: str | None = None,
        template: str | None = None,
        which: Which | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[TaskRow]:
        """Return tasks, the newest first.

        Args:
            session: Only tasks of this session.
            agent: Only tasks of this agent.
            template: Only tasks of this template.
            which: Only tasks in this state.
            after: A page's ``next``: only tasks after it.
            limit: At most this number.
        """
        statement = of_state(TASK_ROWS.select(), TASKS, which)
        wanted = ((TASKS.c.session, session), (TASKS.c.agent, agent), (TASKS.c.template, template))
        statement = statement.where(*(column == value for column, value in wanted if value is not None))
        return self._listed(statement, TASKS_ORDER, after, limit)

    def end(self, task: str, what: Event) -> int:
        """End a task and its subtasks in the database.

        Returns:
            When the last of their tokens expires, in ms since the Unix epoch.
        """
        with self._database.write(what) as c:
            own = _own(task)
            latest = int(_LATEST.scalar(c, own))
            _END.run(c, {**own, "status": "ended", "ended_at": now_ms()})
            return latest

    def count_alive(self) -> int:
        """Return the number of tasks that have neither ended nor expired, killed ones included."""
        return int(self._database.scalar(of_state(select(func.count()).select_from(TASKS), TASKS, "alive")))

    def over_at(self, task: str) -> int:
        """Return when the last token of a task and its subtasks expires, in ms since the Unix epoch."""
        with self._database.read() as c:
            # Of all: a subtask may outlive a task whose expiry an attenuation has brought forward.
            return int(_LATEST.scalar(c, _own(task)))


def _own(task: str) -> dict[str, str]:
    """Return the parameters of ``_WITH_PARTS``."""
    # The id is part of a LIKE pattern, in which % and _ match anything.
    escaped = task.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return {"which": task, "named": f'%"{escaped}"%'}


def lock_task(c: Connection, task: str) -> TaskRow:
    """Lock a task's row and return it.

    Raises:
        GrantError: ``session_ended``: the task or its session is over.
    """
    # The session's row first and the task's next, as the end of either does: nothing is granted below what is over, and
    # the same order everywhere prevents a deadlock.
    status = _SESSION_STATUS.scalar(c, {"which": task})
    row = TASK_ROWS.one(c, _LOCK, {"which": task})
    if status != "open" or row.status != "open" or row.expires_at <= now_ms():
        raise GrantError("the task is over", code="session_ended")
    return row
