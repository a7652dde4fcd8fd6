# SPDX-License-Identifier: Apache-2.0
"""Tasks: their rows, from start to end. What a task may do is in ``grants``."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import and_, bindparam, func, or_, select, update

from arx_caps.mint.db.cursor import Order, Text, Time
from arx_caps.mint.db.database import PAGE, StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater, raise_from
from arx_caps.mint.db.repositories.work.grants import GRANT_ROWS, TASK_ROWS, GrantRow, TaskRow
from arx_caps.mint.db.repositories.work.sessions import Which, of_state
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import HIGH_WATER, SESSIONS, TASK_GRANTS, TASKS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

TASKS_ORDER: Final = Order((TASKS.c.started_at, TASKS.c.id), tuple[Time, Text], newest_first=True)
_ITS: Final = TASKS.c.id == bindparam("which")
_LOCK: Final = CompiledStatement(select(TASKS.c.status).where(_ITS).with_for_update())
# With the realm's high-water mark, which is not locked: one round trip instead of two.
_LOCK_SESSION: Final = CompiledStatement(
    select(SESSIONS.c.status, *(HIGH_WATER.c[name] for name in HighWater._fields))
    .outerjoin(HIGH_WATER, HIGH_WATER.c.realm == bindparam("its_realm"))
    .where(SESSIONS.c.id == bindparam("which"))
    .with_for_update(of=SESSIONS)
)
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


# A transaction that starts a task locks its session's row and reads its status; one that ends a session changes the
# status first. So once an end is answered, no task that started at the same time is left.
class TaskRepository(StructRepository[TaskRow], reader=TASK_ROWS, key=TASKS.c.id):
    """The tasks."""

    def add(
        self,
        unit: UnitOfWork,
        row: TaskRow,
        high_water: HighWater,
        realm: str,
        what: Event,
        grant: GrantRow,
        parent: str | None = None,
    ) -> None:
        """Store a new task with its first grant.

        Args:
            unit: The call's unit of work.
            row: The task's row.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.
            grant: The row of its first grant.
            parent: The task that it is a part of, or None.

        Raises:
            GrantError: ``session_ended``: its session or parent is over.
        """
        with unit.change(what) as c:
            # The row stays locked until the commit: an end of the session waits, and then ends this task too.
            status, *place = _LOCK_SESSION.first(c, {"which": row.session, "its_realm": realm}) or (None,)
            if status != "open":
                raise GrantError("the session is over", code="session_ended")
            if parent is not None and _LOCK.scalar(c, {"which": parent}) != "open":
                raise GrantError("the task that this would be a part of is over", code="session_ended")
            raise_from(c, realm, HighWater(*place) if place[0] is not None else None, high_water)
            unit.insert(TASKS, TASK_ROWS.values(row))
            unit.insert(TASK_GRANTS, GRANT_ROWS.values(grant))

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
