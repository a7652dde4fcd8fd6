# SPDX-License-Identifier: Apache-2.0
"""Tasks: their rows, from start to end.

A transaction that starts a task locks the row of its session and reads it; one that ends a thing changes its row first.
So an end that was answered leaves nothing behind that began at the same time.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import and_, bindparam, func, insert, or_, select, update

from arx_caps.mint.db.cursor import Order, Text, Time, behind
from arx_caps.mint.db.database import PAGE, Database, Rows, now_ms
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.epoch import HighWater, raise_high_water
from arx_caps.mint.db.repositories.sessions import Which, of_state
from arx_caps.mint.db.tables import SESSIONS, TASK_GRANTS, TASKS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.errors import GrantError

TASKS_ORDER: Final = Order((TASKS.c.started_at, TASKS.c.id), tuple[Time, Text], newest_first=True)
_ITS: Final = TASKS.c.id == bindparam("which")
_FIND: Final = select(TASKS).where(_ITS)
_LOCK: Final = select(TASKS.c.status).where(_ITS).with_for_update()
_LOCK_SESSION: Final = select(SESSIONS.c.status).where(SESSIONS.c.id == bindparam("which")).with_for_update()
_ADD, _ADD_GRANT = insert(TASKS), insert(TASK_GRANTS)
# A task and its parts, which name it among the tasks above them.
_WITH_PARTS: Final = or_(
    _ITS,
    and_(
        TASKS.c.session == select(TASKS.c.session).where(_ITS).scalar_subquery(),
        TASKS.c.above.like(bindparam("named"), escape="/"),
    ),
)
_LATEST: Final = select(func.max(TASKS.c.expires_at)).where(_WITH_PARTS)
_END: Final = update(TASKS).where(_WITH_PARTS, TASKS.c.status == "open")


class Tasks:
    """The tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        unit: UnitOfWork,
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
        with unit.change(what) as c:
            # The row stays locked until the task is there: an end that was answered before leaves no task behind it.
            if c.execute(_LOCK_SESSION, {"which": values["session"]}).scalar() != "open":
                raise GrantError("the session is over", code="session_ended")
            if parent is not None and c.execute(_LOCK, {"which": parent}).scalar() != "open":
                raise GrantError("the task that this would be a part of is over", code="session_ended")
            c.execute(_ADD, values)
            c.execute(_ADD_GRANT, {"task": values["id"], **grant})
            raise_high_water(c, realm, high_water)

    def find(self, task: str) -> dict[str, Any] | None:
        """Return a task's row, or None."""
        return self._database.row(_FIND, which=task)

    def list(
        self,
        *,
        session: str | None = None,
        agent: str | None = None,
        template: str | None = None,
        which: Which | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Rows:
        """Return tasks, the newest first.

        Args:
            session: Only this session's.
            agent: Only this agent's.
            template: Only those of this template.
            which: Only those that are like this.
            after: Only those behind this place of the list.
            limit: At most so many.
        """
        statement = of_state(select(TASKS), TASKS, which)
        wanted = ((TASKS.c.session, session), (TASKS.c.agent, agent), (TASKS.c.template, template))
        statement = statement.where(*(column == value for column, value in wanted if value is not None))
        return self._database.page(behind(statement, TASKS_ORDER, after), limit)

    def end(self, task: str, what: Event) -> int:
        """Note that a task and its parts are over, and return when the last of their tokens is over by itself, ms."""
        with self._database.write(what) as c:
            own = _own(task)
            latest = int(c.execute(_LATEST, own).scalar_one())
            c.execute(_END, {**own, "status": "ended", "ended_at": now_ms()})
            return latest

    def count_alive(self) -> int:
        """Count the tasks that are neither ended nor expired; of kills this knows nothing."""
        with self._database.read() as c:
            return int(c.execute(of_state(select(func.count()).select_from(TASKS), TASKS, "alive")).scalar_one())

    def over_at(self, task: str) -> int:
        """Return when the last token of a task and its parts is over by itself, ms.

        A part ends no later than its task did when it began; an attenuation may have made the task's end an earlier
        one.
        """
        with self._database.read() as c:
            return int(c.execute(_LATEST, _own(task)).scalar_one())


def _own(task: str) -> dict[str, str]:
    """Name a task and its parts, for ``_WITH_PARTS``."""
    escaped = task.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return {"which": task, "named": f'%"{escaped}"%'}
