# SPDX-License-Identifier: Apache-2.0
"""What each task may do: added by an extension, replaced by an attenuation. CONTROL 2.

What a task may be granted is decided in ``arx_caps.mint.tasks``.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import RowRepository, Rows
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater, raise_high_water
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import SESSIONS, TASK_GRANTS, TASKS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

_OF_TASK: Final = TASK_GRANTS.c.task == bindparam("its_task")
_LIST: Final = select(TASK_GRANTS).where(_OF_TASK).order_by(TASK_GRANTS.c.granted_at.desc(), TASK_GRANTS.c.link)
_LIVE: Final = (
    select(TASK_GRANTS)
    .where(_OF_TASK, TASK_GRANTS.c.ended_at.is_(None), TASK_GRANTS.c.expires_at > bindparam("now"))
    .order_by(TASK_GRANTS.c.granted_at.desc())
)
_ADD: Final = CompiledStatement(insert(TASK_GRANTS))
_END: Final = CompiledStatement(update(TASK_GRANTS).where(_OF_TASK, TASK_GRANTS.c.ended_at.is_(None)))
_REPLACE: Final = CompiledStatement(update(TASK_GRANTS).where(TASK_GRANTS.c.link == bindparam("which")))
_CHANGE_TASK: Final = CompiledStatement(update(TASKS).where(TASKS.c.id == bindparam("which")))
_TASK: Final = CompiledStatement(select(TASKS).where(TASKS.c.id == bindparam("which")).with_for_update())
_SESSION_STATUS: Final = CompiledStatement(
    select(SESSIONS.c.status)
    .where(SESSIONS.c.id == select(TASKS.c.session).where(TASKS.c.id == bindparam("which")).scalar_subquery())
    .with_for_update()
)


class TaskGrantRepository(RowRepository, key=TASK_GRANTS.c.link):
    """The grants of tasks."""

    def list(self, task: str) -> Rows:
        """Return the grants of a task, the newest first."""
        return self._database.rows(_LIST, its_task=task)

    def of_tasks(self, tasks: Sequence[str]) -> Rows:
        """Return the grants of at most ``PAGE`` tasks, with those that ended."""
        return self._database.rows(select(TASK_GRANTS).where(TASK_GRANTS.c.task.in_(tasks)))

    def live(self, task: str) -> Rows:
        """Return the grants of a task that have neither ended nor expired, the newest first."""
        return self._database.rows(_LIVE, its_task=task, now=now_ms())

    def add(
        self, unit: UnitOfWork, task: str, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event
    ) -> dict[str, Any]:
        """Add a grant to a running task.

        Args:
            unit: The call's unit of work.
            task: The task's id.
            values: The row of the grant.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.

        Returns:
            The task's row.

        Raises:
            GrantError: ``session_ended``: the task or its session is over.
        """
        with unit.change(what) as c:
            row = lock_task(c, task)
            _ADD.run(c, {"task": task, **values})
            changes = {"expires_at": max(row["expires_at"], values["expires_at"]), "link": values["link"]}
            _CHANGE_TASK.run(c, {"which": task, **changes})
            raise_high_water(c, realm, high_water)
            return row | changes

    def replace(
        self,
        unit: UnitOfWork,
        task: str,
        killed: Collection[str],
        values: Mapping[str, Any],
        audiences: str,
        high_water: HighWater,
        realm: str,
        what: Event,
    ) -> dict[str, Any] | None:
        """Replace the grants of a task that were killed by one.

        Args:
            unit: The call's unit of work.
            task: The task's id.
            killed: Links of its grants, all of which were killed.
            values: The row of the new grant; ``before`` is the link that it came from.
            audiences: The audiences of the task from now on, as JSON.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.

        Returns:
            The task's row; None if the task has other grants by now, so that nothing was changed.

        Raises:
            GrantError: ``session_ended``: the task or its session is over.
        """
        with unit.change() as c:
            row = lock_task(c, task)
            live = {grant.link for grant in c.execute(_LIVE, {"its_task": task, "now": now_ms()})}
            # An extension at the same time has added a grant that was not killed: it would stay valid beside its
            # replacement.
            if not live <= set(killed):
                return None
            _END.run(c, {"its_task": task, "ended_at": now_ms()})
            _REPLACE.run(c, {"which": values["before"], "replaced_by": values["link"]})
            own = {name: value for name, value in values.items() if name != "before"}
            _ADD.run(c, {"task": task, **own})
            changes = {"link": values["link"], "expires_at": values["expires_at"], "audiences": audiences}
            _CHANGE_TASK.run(c, {"which": task, **changes})
            raise_high_water(c, realm, high_water)
            unit.note(what)
            return row | changes


def lock_task(c: Connection, task: str) -> dict[str, Any]:
    """Lock a task's row and return it.

    Raises:
        GrantError: ``session_ended``: the task or its session is over.
    """
    # The session's row first and the task's next, as the end of either does: nothing is granted below what is over, and
    # the same order everywhere prevents a deadlock.
    status = _SESSION_STATUS.scalar(c, {"which": task})
    row = _TASK.one(c, {"which": task})
    if status != "open" or row["status"] != "open" or row["expires_at"] <= now_ms():
        raise GrantError("the task is over", code="session_ended")
    return row
