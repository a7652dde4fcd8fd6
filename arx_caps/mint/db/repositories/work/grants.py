# SPDX-License-Identifier: Apache-2.0
"""What each task may do: added by an extension, replaced by an attenuation. CONTROL 2.

What a task may be granted is decided in ``arx_caps.mint.tasks``.
"""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from sqlalchemy import bindparam, insert, select, update

from arx_caps.mint.db.database import StructRepository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.operations.epoch import HighWater, raise_from, raise_high_water
from arx_caps.mint.db.repositories.work.tasks import TASK_ROWS, lock_task
from arx_caps.mint.db.rows import RowReader, as_json
from arx_caps.mint.db.statement import CompiledStatement
from arx_caps.mint.db.tables import HIGH_WATER, SESSIONS, TASK_GRANTS, TASKS, GrantRow, TaskRow
from arx_caps.mint.db.unit_of_work import UnitOfWork
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError

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
_ITS_TASK: Final = TASKS.c.id == bindparam("which")
_LOCK_PARENT: Final = CompiledStatement(select(TASKS.c.status).where(_ITS_TASK).with_for_update())
# With the realm's high-water mark, which is not locked: one round trip instead of two.
_LOCK_SESSION: Final = CompiledStatement(
    select(SESSIONS.c.status, *(HIGH_WATER.c[name] for name in HighWater._fields))
    .outerjoin(HIGH_WATER, HIGH_WATER.c.realm == bindparam("its_realm"))
    .where(SESSIONS.c.id == bindparam("which"))
    .with_for_update(of=SESSIONS)
)
_CHANGE_TASK: Final = CompiledStatement(update(TASKS).where(_ITS_TASK))


# A transaction that starts a task locks its session's row and reads its status; one that ends a session changes the
# status first. So once an end is answered, no task that started at the same time is left.
class TaskGrantRepository(StructRepository[GrantRow], reader=GRANT_ROWS, key=TASK_GRANTS.c.link):
    """The grants of tasks."""

    def start(
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
            if parent is not None and _LOCK_PARENT.scalar(c, {"which": parent}) != "open":
                raise GrantError("the task that this would be a part of is over", code="session_ended")
            raise_from(c, realm, HighWater(*place) if place[0] is not None else None, high_water)
            unit.insert(TASKS, TASK_ROWS.values(row))
            unit.insert(TASK_GRANTS, GRANT_ROWS.values(grant))

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
            live = {each.link for each in GRANT_ROWS.all(c, _LIVE, {"its_task": task, "now": now_ms()})}
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
