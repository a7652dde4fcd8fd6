# SPDX-License-Identifier: Apache-2.0
"""The grants of tasks: added while a task runs, or replaced by less.  SPEC 20.

Both lock the session's row first and the task's next, as the end of either does, so that nothing is granted below what
is over.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from arx_caps.mint.db.database import Database, now_ms, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.epoch import HighWater, raise_high_water
from arx_caps.mint.db.tables import SESSIONS, TASK_GRANTS, TASKS
from arx_verifier.errors import GrantError


class GrantState(Database):
    """The grants of tasks."""

    def grant(self, link: str) -> dict[str, Any] | None:
        """Return a grant by the first link of its tokens, or None."""
        return self.row(select(TASK_GRANTS).where(TASK_GRANTS.c.link == link))

    def grants(self, task: str) -> list[dict[str, Any]]:
        """Return the grants of a task, the newest first."""
        these = select(TASK_GRANTS).where(TASK_GRANTS.c.task == task)
        return self.rows(these.order_by(TASK_GRANTS.c.granted_at.desc(), TASK_GRANTS.c.link))

    def live_grants(self, task: str) -> list[dict[str, Any]]:
        """Return the grants of a task that are not over, the newest first."""
        return self.rows(_live(task))

    def add_grant(
        self, task: str, values: Mapping[str, Any], high_water: HighWater, realm: str, what: Event
    ) -> dict[str, Any]:
        """Add a grant to a task that runs.

        Returns:
            The task's row.

        Raises:
            GrantError: ``session_ended``: it, or its session, is over.
        """
        with self.write(what) as c:
            row = lock_task(c, task)
            c.execute(insert(TASK_GRANTS).values(task=task, **values))
            changes = {"expires_at": max(row["expires_at"], values["expires_at"]), "link": values["link"]}
            c.execute(update(TASKS).where(TASKS.c.id == task).values(**changes))
            raise_high_water(c, realm, high_water)
            return row | changes

    def replace_grants(
        self,
        task: str,
        killed: Collection[str],
        values: Mapping[str, Any],
        audiences: str,
        high_water: HighWater,
        realm: str,
        what: Event,
    ) -> dict[str, Any] | None:
        """Put one grant in the place of those that were killed.

        Args:
            task: The task.
            killed: The links of its grants, all of which were killed.
            values: The new grant; ``before`` is the link that it came from.
            audiences: What the task's row says of its audiences from now on.
            high_water: How far the kill epoch was.
            realm: The realm.
            what: The event.

        Returns:
            The task's row; None where it has other grants by now, and so nothing was changed.

        Raises:
            GrantError: ``session_ended``: it, or its session, is over.
        """
        with self.write() as c:
            row = lock_task(c, task)
            live = {each.link for each in c.execute(_live(task))}
            if not live <= set(killed):
                return None
            ends = update(TASK_GRANTS).where(TASK_GRANTS.c.task == task, TASK_GRANTS.c.ended_at.is_(None))
            c.execute(ends.values(ended_at=now_ms()))
            c.execute(
                update(TASK_GRANTS).where(TASK_GRANTS.c.link == values["before"]).values(replaced_by=values["link"])
            )
            own = {name: value for name, value in values.items() if name != "before"}
            c.execute(insert(TASK_GRANTS).values(task=task, **own))
            changes = {"link": values["link"], "expires_at": values["expires_at"], "audiences": audiences}
            c.execute(update(TASKS).where(TASKS.c.id == task).values(**changes))
            raise_high_water(c, realm, high_water)
            self.record_in(c, what)
            return row | changes


def _live(task: str) -> Any:
    those = select(TASK_GRANTS).where(TASK_GRANTS.c.task == task, TASK_GRANTS.c.ended_at.is_(None))
    return those.where(TASK_GRANTS.c.expires_at > now_ms()).order_by(TASK_GRANTS.c.granted_at.desc())


def lock_task(c: Connection, task: str) -> dict[str, Any]:
    """Lock a task's row, its session's first, and return it.

    Raises:
        GrantError: ``session_ended``: it, or its session, is over.
    """
    session = select(TASKS.c.session).where(TASKS.c.id == task).scalar_subquery()
    which = select(SESSIONS.c.status).where(SESSIONS.c.id == session)
    status = c.execute(which.with_for_update()).scalar()
    row = plain(c.execute(select(TASKS).where(TASKS.c.id == task).with_for_update()).one())
    if status != "open" or row["status"] != "open" or row["expires_at"] <= now_ms():
        raise GrantError("the task is over", code="session_ended")
    return row
