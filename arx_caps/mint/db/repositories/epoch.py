# SPDX-License-Identifier: Apache-2.0
"""How far the kill epoch had come, and which freezes stand: what a store that lost either is held to.  SPEC 10."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.mint.db.database import Database, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import FOLLOWED, FREEZES, HIGH_WATER
from arx_verifier.revocation import HistoryPlace

_ITS_MARK: Final = HIGH_WATER.c.realm == bindparam("which")
_MARK: Final = select(HIGH_WATER).where(_ITS_MARK)
_LOCK_MARK: Final = _MARK.with_for_update()
_ADD_MARK, _CHANGE_MARK = insert(HIGH_WATER), update(HIGH_WATER).where(_ITS_MARK)
_FOLLOWED: Final = select(FOLLOWED).where(FOLLOWED.c.realm == bindparam("which"))
_LOCK_FOLLOWED: Final = _FOLLOWED.with_for_update()
_ADD_FOLLOWED: Final = insert(FOLLOWED)
_CHANGE_FOLLOWED: Final = update(FOLLOWED).where(FOLLOWED.c.realm == bindparam("which"))
_FREEZES: Final = select(FREEZES.c.target)
_FREEZE: Final = _FREEZES.where(FREEZES.c.target == bindparam("which"))
_ADD_FREEZE, _THAW = insert(FREEZES), delete(FREEZES).where(FREEZES.c.target == bindparam("which"))


class HighWater(NamedTuple):
    """The furthest place in the kill sequence that was acted on.

    Attributes:
        incarnation: The history.
        seq: The place in it.
        chain: What led to it, so that another past of the same length is noticed; empty where that is not known.
        max_ttl_ms: How long tokens may live for the store to remember their kills; 0 leaves it as it is.
    """

    incarnation: str
    seq: int
    chain: str = ""
    max_ttl_ms: int = 0


class Freeze(NamedTuple):
    """A freeze that stands: since when (ms), by whom, why."""

    target: str
    at_ms: int
    by: str
    why: str


class Epoch:
    """The high-water mark of each realm, and its freezes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def high_water(self, realm: str) -> HighWater | None:
        """Return the furthest place in the kill sequence that was acted on, or None."""
        row = self._database.row(_MARK, which=realm)
        return _mark(row) if row is not None else None

    def raise_high_water(self, realm: str, mark: HighWater, what: Event | None = None, *, begins: bool = False) -> None:
        """Remember a place in the kill sequence; it only rises, but where a history ``begins``."""
        with self._database.write(what) as c:
            raise_high_water(c, realm, mark, begins=begins)

    def followed(self, realm: str) -> HistoryPlace | None:
        """Return the entry of the store's log up to which the freezes are known, or None."""
        row = self._database.row(_FOLLOWED, which=realm)
        return None if row is None else _place(row)

    def freezes(self) -> set[str]:
        """Return the target of every freeze that stands."""
        return {row["target"] for row in self._database.rows(_FREEZES)}

    def follow(
        self,
        realm: str,
        since: HistoryPlace | None,
        to: HistoryPlace,
        frozen: Collection[Freeze],
        thawed: Collection[str],
    ) -> bool:
        """Change which freezes stand, as the store's log says, and raise the mark to the last entry.

        Args:
            realm: The realm.
            since: Up to where they were known.
            to: Up to where they are known then.
            frozen: The freezes that were made; of one that stands already nothing is changed.
            thawed: The targets of those that were thawed.

        Returns:
            Whether it was done; not where another mint has followed meanwhile.
        """
        with self._database.write() as c:
            row = c.execute(_LOCK_FOLLOWED, {"which": realm}).first()
            if (None if row is None else _place(plain(row))) != since:
                return False
            if row is None:
                try:
                    with c.begin_nested():
                        c.execute(_ADD_FOLLOWED, {"realm": realm, **to._asdict()})
                except IntegrityError:  # another mint was first
                    return False
            else:
                c.execute(_CHANGE_FOLLOWED, {"which": realm, **to._asdict()})
            for target in thawed:
                c.execute(_THAW, {"which": target})
            for freeze in frozen:
                if c.execute(_FREEZE, {"which": freeze.target}).first() is None:
                    c.execute(_ADD_FREEZE, freeze._asdict())
            raise_high_water(c, realm, HighWater(*to))
        return True


def raise_high_water(c: Connection, realm: str, mark: HighWater, *, begins: bool = False) -> None:
    """Raise a realm's mark in a transaction that is open.

    Args:
        c: The transaction.
        realm: The realm.
        mark: The place that was acted on.
        begins: A history begins with it, so it may also be another history's.
    """
    row = c.execute(_MARK, {"which": realm}).first()
    if row is None:
        try:
            with c.begin_nested():
                c.execute(_ADD_MARK, {"realm": realm, **mark._asdict()})
        except IntegrityError:  # another mint was first
            raise_high_water(c, realm, mark, begins=begins)
        return
    if not _raised(plain(row), mark, begins):
        return
    # Looked at again once nobody else can change it: of two writers the one that is behind must not come last.
    values = _raised(plain(c.execute(_LOCK_MARK, {"which": realm}).one()), mark, begins)
    if values:
        c.execute(_CHANGE_MARK, {"which": realm, **values})


def _raised(row: dict[str, Any], mark: HighWater, begins: bool) -> dict[str, Any]:
    """Return what a mark changes in the row."""
    before = _mark(row)
    if not begins and mark.incarnation != before.incarnation and mark.seq <= before.seq:
        return {}  # a history goes on where the one before it ended: this is a late word of one that is over
    seq = max(before.seq, mark.seq)
    chains = [
        one.chain for one in (mark, before) if (one.incarnation, one.seq) == (mark.incarnation, seq) and one.chain
    ]
    after = HighWater(mark.incarnation, seq, chains[0] if chains else "", mark.max_ttl_ms or before.max_ttl_ms)
    return after._asdict() if after != before else {}


def _mark(row: Mapping[str, Any]) -> HighWater:
    return HighWater(*(row[name] for name in HighWater._fields))


def _place(row: Mapping[str, Any]) -> HistoryPlace:
    return HistoryPlace(*(row[name] for name in HistoryPlace._fields))
