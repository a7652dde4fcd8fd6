# SPDX-License-Identifier: Apache-2.0
"""Tool services: which audiences are enrolled, and which of their keys is in use.  SPEC 9."""

from sqlalchemy import insert, select

from arx_caps.mint.database import Database, now_ms
from arx_caps.mint.events import Event
from arx_caps.mint.tables import SERVICES


class ServiceState(Database):
    """The enrolled services."""

    def enrol_service(self, audience: str, by: str, what: Event) -> int:
        """Enrol a tool service, or find it, and return the number of its audience key."""
        with self.write(what) as c:
            n = c.execute(select(SERVICES.c.n).where(SERVICES.c.audience == audience)).scalar()
            if n is None:
                n = 0
                c.execute(insert(SERVICES).values(audience=audience, n=n, enrolled_at=now_ms(), enrolled_by=by))
            return int(n)

    def key_numbers(self) -> dict[str, int]:
        """Return the number of each enrolled audience's key."""
        return {row["audience"]: row["n"] for row in self.rows(select(SERVICES))}
