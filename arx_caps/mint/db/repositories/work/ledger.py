# SPDX-License-Identifier: Apache-2.0
"""The newest beginning of the realm's ledger that a mint saw. SPEC 17.5."""

from typing import Final

from sqlalchemy import delete, insert, select

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.tables import META
from arx_verifier.errors import GrantError, StoreError
from arx_verifier.ledger import NEW, number_of

_ROW: Final = META.c.name == "ledger"


class LedgerRepository(Repository):
    """What is known of the realm's ledger."""

    def beginning(self) -> str:
        """Return the newest beginning that was noted; ``NEW`` if no ledger has kept a pool of this realm."""
        found = self._database.scalar(select(META.c.value).where(_ROW))
        return NEW if found is None else str(found)

    def note(self, beginning: str) -> str:
        """Note a beginning, unless another mint has noted a newer one; return the newest.

        Args:
            beginning: Its number and run.

        Raises:
            StoreError: The database did not answer, or another mint noted one at the same time; do it again.
        """
        try:
            with self._database.write() as c:
                found = c.execute(select(META.c.value).where(_ROW)).scalar()
                if found is not None and number_of(found) >= number_of(beginning):
                    return str(found)
                c.execute(delete(META).where(_ROW))
                c.execute(insert(META).values(name="ledger", value=beginning))
        except GrantError as error:
            raise StoreError("another mint noted the ledger's beginning at the same time") from error
        return beginning
