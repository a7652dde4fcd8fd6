# SPDX-License-Identifier: Apache-2.0
"""When the last backup of the realm was made, and when one was tried last.  CONTROL 8.3."""

from typing import Final, NamedTuple

from sqlalchemy import delete, insert, select

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import META
from arx_verifier.clock import now_ms

BACKUP: Final = "backup"
DRILL: Final = "drill"
_ROW: Final = "last_"  # what the names of their rows in META begin with


class BackupAges(NamedTuple):
    """How long ago it was, s; None for never.

    Attributes:
        backup: That the last backup was made.
        drill: That a backup was restored to try it, and was whole.
    """

    backup: float | None
    drill: float | None


class BackupRepository(Repository):
    """What is known of the realm's backups."""

    def note(self, which: str, at_ms: int, what: Event) -> None:
        """Note a backup or a drill.

        Args:
            which: ``BACKUP`` or ``DRILL``.
            at_ms: When it was, ms since the Unix epoch.
            what: The event.

        Raises:
            StoreError: The database did not answer.
        """
        with self._database.write(what) as c:
            c.execute(delete(META).where(META.c.name == _ROW + which))
            c.execute(insert(META).values(name=_ROW + which, value=str(at_ms)))

    def ages(self) -> BackupAges:
        """Return how long ago the last backup and the last drill were.

        Raises:
            StoreError: The database did not answer.
        """
        names = (_ROW + BACKUP, _ROW + DRILL)
        at_ms, now = self._database.pairs(select(META.c.name, META.c.value).where(META.c.name.in_(names))), now_ms()
        ages = {name: max(0, now - int(at)) / 1000 for name, at in at_ms.items()}
        return BackupAges(ages.get(_ROW + BACKUP), ages.get(_ROW + DRILL))
