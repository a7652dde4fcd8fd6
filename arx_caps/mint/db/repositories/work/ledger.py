# SPDX-License-Identifier: Apache-2.0
"""The newest beginning of the realm's ledger that a mint saw. SPEC 17.5."""

from typing import Final

from sqlalchemy import delete, insert, select

from arx_caps.mint.db.database import Repository
from arx_caps.mint.db.tables import META
from arx_verifier.errors import GrantError, StoreError
from arx_verifier.ledger.pools import NEW, number_of

_ROW: Final = "ledger"


def _name_of(bucket: str) -> str:
    return f"{_ROW}.{bucket}" if bucket else _ROW


class LedgerRepository(Repository):
    """What is known of the realm's ledger, and of each bucket of one in a cluster."""

    def beginning(self, bucket: str = "") -> str:
        """Return the newest beginning that was noted; ``NEW`` if no ledger has kept a pool of this realm.

        A realm whose ledger moves to a cluster, or back, has the newest one of both: what is opened at one was not seen
        by the other.

        Args:
            bucket: A bucket of a cluster; empty for a ledger that is one server.
        """
        known = self._database.pairs(select(META.c.name, META.c.value).where(META.c.name.like(f"{_ROW}%")))
        if not known:
            return NEW
        looked_at = [known.get(_ROW, ""), known.get(_name_of(bucket), "")] if bucket else [*known.values()]
        return max(looked_at, key=number_of)

    def note(self, bucket: str, beginning: str) -> str:
        """Note a beginning, unless another mint has noted a newer one; return the newest.

        Args:
            bucket: The bucket; empty for a ledger that is one server.
            beginning: Its number and run.

        Raises:
            StoreError: The database did not answer, or another mint noted one at the same time; do it again.
        """
        its_row = META.c.name == _name_of(bucket)
        try:
            with self._database.write() as c:
                found = c.execute(select(META.c.value).where(its_row)).scalar()
                if found is not None and number_of(found) >= number_of(beginning):
                    return str(found)
                c.execute(delete(META).where(its_row))
                c.execute(insert(META).values(name=_name_of(bucket), value=beginning))
        except GrantError as error:
            raise StoreError("another mint noted the ledger's beginning at the same time") from error
        return beginning
