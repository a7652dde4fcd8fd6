# SPDX-License-Identifier: Apache-2.0
"""What each task may do: added by an extension, replaced by an attenuation. CONTROL 2.

What a task may be granted is decided in ``arx_caps.mint.tasks``.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater, raise_high_water
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import SESSIONS, TASK_GRANTS, TASKS
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError


class TaskRow(msgspec.Struct, frozen=True):
    """A task; ``above`` has the ids of the tasks that it is a part of, the outermost first."""

    id: str
    session: str
    agent: str
    template: str
    params: dict[str, Any]
    audiences: list[str]
    link: str
    status: str
    policy: str
    started_at: int
    expires_at: int
    incarnation: str
    born: int
    above: list[str] = []
    subject_target: str | None = None
    ended_at: int | None = None


class GrantRow(msgspec.Struct, frozen=True):
    """A grant of a task; ``content`` is the text of a ``StoredGrant``."""

    link: str
    task: str
    content: str
    policy: str
    granted_at: int
    expires_at: int
    ended_at: int | None = None
    replaced_by: str | None = None


TASK_ROWS: Final = RowReader(TaskRow, TASKS)
GRANT_ROWS: Final = RowReader(GrantRow, TASK_GRANTS)
_OF_TASK: Final = TASK_GRANTS.c.task == bindparam("its_task")
_LIST: Final = GRANT_ROWS.select().where(_OF_TASK).order_by(TASK_GRANTS.c.granted_at.desc(), TASK_GRANTS.c.link)
_LIVE: Final = (
    GRANT_ROWS.select()
    .where(_OF_TASK, TASK_GRANTS.c.ended_at.is_(None), TASK_GRANTS.c.expires_at > bindparam("now"))
    .order_by(TASK_GRANTS.c.granted_at.desc())
)
_ADD: Final = CompiledStatement(insert(TASK_GRANTS))
_END: Final = CompiledStatement(update(TASK_GRANTS).where(_OF_TASK, TASK_GRANTS.c.ended_at.is_(None)))
_REPLACE: Final = CompiledStatement(update(TASK_GRANTS).where(TASK_GRANTS.c.link == bindparam("which")))
_CHANGE_TASK: Final = CompiledStatement(update(TASKS).where(TASKS.c.id == bindparam("which")))
_TASK: Final = CompiledStatement(TASK_ROWS.select().where(TASKS.c.id == bindparam("which")).with_for_update())
_SESSION_STATUS: Final = CompiledStatement(
    select(SESSIONS.c.status)
    .where(SESSIONS.c.id == select(TASKS.c.session).where(TASKS.c.id == bindparam("which")).scalar_subquery())
    .with_for_update()
)


class TaskGrantRepository(StructRepository[GrantRow], reader=GRANT_ROWS, key=TASK_GRANTS.c.link):
    """The grants of tasks."""

    def list(self, task: str) -> list[GrantRow]:
        """Return the grants of a task, the newest first."""
        return self._all(_LIST, its_task=task)

    def of_tasks(self, tasks: Sequence[str]) -> Sequence[GrantRow]:
        """Return the grants of at most ``PAGE`` tasks, with those that ended."""
        return self._all(GRANT_ROWS.select().where(TASK_GRANTS.c.task.in_(tasks)))

    def live(self, task: str) -> Sequence[GrantRow]:
        """Return the grants of a task that have neither ended nor expired, the newest first."""
        return self._all(_LIVE, its_task=task, now=now_ms())

    def add(self, unit: UnitOfWork, grant: GrantRow, high_water: HighWater, realm: str, what: Event) -> TaskRow:
        """Add a grant to a running task.

        Args:
            unit: The call's unit of work.
            grant: The row of the grant.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.

        Returns:
            The task's row.

        Raises:
            GrantError: ``session_ended``: the task or its session is over.
        """
        with unit.change(what) as c:
            row = lock_task(c, grant.task)
            _ADD.run(c, GRANT_ROWS.values(grant))
            changes = {"expires_at": max(row.expires_at, grant.expires_at), "link": grant.link}
            _CHANGE_TASK.run(c, {"which": grant.task, **changes})
            raise_high_water(c, realm, high_water)
            return msgspec.structs.replace(row, **changes)

    def replace(
        self,
        unit: UnitOfWork,
        killed: Collection[str],
        grant: GrantRow,
        before: str,
        audiences: Sequence[str],
        high_water: HighWater,
        realm: str,
        what: Event,
    ) -> TaskRow | None:
        """Replace the grants of a task that were killed by one.

        Args:
            unit: The call's unit of work.
            killed: Links of its grants, all of which were killed.
            grant: The row of the new grant.
            before: The link of the grant that it came from.
            audiences: The audiences of the task from now on.
            high_water: The position of the kill epoch with which it was decided.
            realm: The realm.
            what: The event.

        Returns:
            The task's row; None if the task has other grants by now, so that nothing was changed.

        Raises:
            GrantError: ``session_ended``: the task or its session is over.
        """
        with unit.change() as c:
            task = grant.task
            row = lock_task(c, task)
            live = {GRANT_ROWS.read(each).link for each in c.execute(_LIVE, {"its_task": task, "now": now_ms()})}
            # An extension at the same time has added a grant that was not killed: it would stay valid beside its
            # replacement.
            if not live <= set(killed):
                return None
            _END.run(c, {"its_task": task, "ended_at": now_ms()})
            _REPLACE.run(c, {"which": before, "replaced_by": grant.link})
            _ADD.run(c, GRANT_ROWS.values(grant))
            changes = {"link": grant.link, "expires_at": grant.expires_at}
            _CHANGE_TASK.run(c, {"which": task, **changes, "audiences": as_json(audiences)})
            raise_high_water(c, realm, high_water)
            unit.note(what)
            return msgspec.structs.replace(row, **changes, audiences=[*audiences])


def lock_task(c: Connection, task: str) -> TaskRow:
    """Lock a task's row and return it.

    Raises:
        GrantError: ``session_ended``: the task or its session is over.
    """
    # The session's row first and the task's next, as the end of either does: nothing is granted below what is over, and
    # the same order everywhere prevents a deadlock.
    status = _SESSION_STATUS.scalar(c, {"which": task})
    row = TASK_ROWS.one(c, _TASK, {"which": task})
    if status != "open" or row.status != "open" or row.expires_at <= now_ms():
        raise GrantError("the task is over", code="session_ended")
    return row
