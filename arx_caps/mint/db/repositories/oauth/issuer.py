# SPDX-License-Identifier: Apache-2.0
"""The issuer of a realm, which all its mints have."""

from typing import Final

from sqlalchemy import insert, select, update

from arx_caps.mint.db.database import Database
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import META

_NAME: Final = "issuer"  # of its row in META
_ITS: Final = META.c.name == _NAME


class IssuerRepository:
    """The issuer of the realm whose database this is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self) -> str | None:
        """Return the issuer; None before the first mint."""
        rows = self._database.rows(select(META.c.value).where(_ITS))
        return str(rows[0]["value"]) if rows else None

    def begin(self, issuer: str) -> None:
        """Store the issuer of the first mint.

        Raises:
            GrantError: ``conflict``: another mint was first.
        """
        with self._database.write() as c:
            c.execute(insert(META).values(name=_NAME, value=issuer))

    def change(self, before: str, issuer: str, what: Event) -> bool:
        """Store another issuer; return False if another mint has changed it since.

        Args:
            before: The issuer that was read.
            issuer: The new one.
            what: The event.
        """
        with self._database.write() as c:
            changed = c.execute(update(META).where(_ITS, META.c.value == before).values(value=issuer)).rowcount == 1
            if changed:
                self._database.record_in(c, what)
        return changed
