# SPDX-License-Identifier: Apache-2.0
"""Tool services: which audiences are enrolled, and which of their keys is in use.  SPEC 9."""

import contextlib

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from arx_caps.mint.database import Database, now_ms
from arx_caps.mint.events import Event
from arx_caps.mint.tables import SERVICES


class ServiceState(Database):
    """The enrolled services."""

    def enrol_service(self, audience: str, by: str, what: Event) -> int:
        """Enrol a tool service, or find it, and return the number of its audience key."""
        with self.write(what) as c:
            which = select(SERVICES.c.n).where(SERVICES.c.audience == audience)
            n = c.execute(which).scalar()
            if n is None:
                row = {"audience": audience, "n": 0, "enrolled_at": now_ms(), "enrolled_by": by}
                with contextlib.suppress(IntegrityError), c.begin_nested():  # somebody else may have been first
                    c.execute(insert(SERVICES).values(**row))
                n = c.execute(which).scalar_one()
            return int(n)

    def key_numbers(self) -> dict[str, int]:
        """Return the number of each enrolled audience's key."""
        return {row["audience"]: row["n"] for row in self.rows(select(SERVICES))}
