# SPDX-License-Identifier: Apache-2.0
"""The enrolled keys of agents, operators and services.

A key belongs to one holder, so who signs is never ambiguous.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Column, bindparam, delete, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.database import Database, Rows, now_ms, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import AGENTS, HOLDER_KEYS, OPERATORS, SERVICES
from arx_verifier.errors import GrantError

_OWNERS: Final[dict[str, Column[Any]]] = {
    "agent": AGENTS.c.path,
    "operator": OPERATORS.c.id,
    "service": SERVICES.c.audience,
}
_ITS: Final = HOLDER_KEYS.c.kid == bindparam("which")
_THEIRS: Final = HOLDER_KEYS.c.holder == bindparam("whose")
_FIND: Final = select(HOLDER_KEYS).where(_ITS, _THEIRS)
_HOLDER: Final = select(HOLDER_KEYS.c.holder).where(_ITS)
_LIST: Final = select(HOLDER_KEYS).where(_THEIRS).order_by(HOLDER_KEYS.c.added_at)
_ADD, _REMOVE = insert(HOLDER_KEYS), delete(HOLDER_KEYS).where(_ITS, _THEIRS)


class HolderKeys:
    """The keys of all who have one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def change(
        self, holder: str, add: PublicKey | None, remove: str | None, what: Event, *, keep_one: bool = True
    ) -> None:
        """Enrol another key of a holder, take one away, or both in one step; adding one that it has changes nothing.

        Args:
            holder: Whose.
            add: The key to enrol, or None.
            remove: Thumbprint of the key to take away, or None.
            what: The event.
            keep_one: Whether one must be left.

        Raises:
            GrantError: ``key_enrolled``; ``not_found``; ``conflict``: it would be left without a key.
        """
        with self._database.write(what) as c:
            _lock(c, holder)
            # Whoever repeats a call whose answer was lost finds it done.
            if add is not None and c.execute(_FIND, {"which": add.kid, "whose": holder}).first() is None:
                add_key(c, holder, add)
            if remove is not None and c.execute(_REMOVE, {"which": remove, "whose": holder}).rowcount == 0:
                raise GrantError(f"{holder} has no key {remove!r:.60}", code="not_found")
            if keep_one and c.execute(_LIST, {"whose": holder}).first() is None:
                raise GrantError("a holder keeps one key; add another first", code="conflict")

    def find(self, holder: str, kid: str) -> PublicKey | None:
        """Return a holder's enrolled key by its thumbprint, or None."""
        row = self._database.row(_FIND, which=kid, whose=holder)
        return PublicKey({"kty": "OKP", "crv": "Ed25519", "x": row["x"]}) if row is not None else None

    def holder_of(self, kid: str) -> str | None:
        """Return whose key this is, or None."""
        row = self._database.row(_HOLDER, which=kid)
        return str(row["holder"]) if row is not None else None

    def list(self, holder: str) -> Rows:
        """Return a holder's enrolled keys, the oldest first."""
        return self._database.rows(_LIST, whose=holder)

    def kids(self, holder: str) -> Sequence[str]:
        """Return the thumbprints of a holder's enrolled keys."""
        return [row["kid"] for row in self.list(holder)]

    def by_holder(self, holders: Iterable[str]) -> dict[str, Rows]:
        """Return the enrolled keys of several holders, the oldest first."""
        found: dict[str, Rows] = {holder: [] for holder in holders}
        wanted = select(HOLDER_KEYS).where(HOLDER_KEYS.c.holder.in_(found)).order_by(HOLDER_KEYS.c.added_at)
        with self._database.read() as c:
            for row in c.execute(wanted):
                found[row.holder].append(plain(row))
        return found


def add_key(c: Connection, holder: str, key: PublicKey) -> None:
    """Enrol a key.

    Raises:
        GrantError: ``key_enrolled``: somebody has this key already.
    """
    try:
        with c.begin_nested():
            c.execute(_ADD, {"kid": key.kid, "holder": holder, "x": key.x, "added_at": now_ms()})
    except IntegrityError:
        raise GrantError("this key is enrolled already; make a fresh one", code="key_enrolled") from None


def _lock(c: Connection, holder: str) -> None:
    """Be alone with a holder: of two who take away its last two keys, one must see what the other left."""
    kind, colon, name = holder.partition(":")
    column = _OWNERS[kind if colon else "agent"]
    c.execute(select(column).where(column == (name if colon else holder)).with_for_update())
