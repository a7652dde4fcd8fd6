# SPDX-License-Identifier: Apache-2.0
"""The freezes that stand, as the database knows them, and a store that lost some: it gets them again.  SPEC 10.12.

The database follows the store's log, so that it also has what was frozen or killed past the mint; what it has ended
itself (agents, operators, keys, approvals) must be frozen as well.  In a new history nothing is granted before the
store has all of these: a frozen agent could otherwise begin anew in it.  Kills need nothing of the kind, because no
token of before lives on in a new history.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.repositories.epoch import Freeze
from arx_caps.mint.db.repositories.keys import retired_targets
from arx_caps.revocation import Entry, RevocationStore, StoreHistoryError
from arx_verifier.errors import UnavailableError
from arx_verifier.revocation import FREEZING, NOWHERE, HistoryPlace

AT_ONCE: Final = 1000  # targets that one step of the store takes, and entries of one page
EVERY_S: Final = 60.0
TRIES: Final = 3  # another mint may follow at the same time
NOT_BACK: Final = "the freezes of this realm are not back in the revocation store yet"
WHY: Final = "the store had lost it"
FOUND: Final = "found in the store"

_log = logging.getLogger(__name__)


class Changes(NamedTuple):
    """What the store's log says of freezes, behind a place.

    Attributes:
        to: The last entry that was read.
        frozen: The freezes that stand by it.
        thawed: The targets whose last entry is a thaw.
    """

    to: HistoryPlace
    frozen: tuple[Freeze, ...]
    thawed: frozenset[str]


class FreezeKeeper:
    """Keeps the database's freezes up with the store, and the store's with the database.

    Args:
        realm: The realm's name.
        db: The mint's database.
        store: The store.
        noted: Remembers a change of the kill epoch and waits until the mint's own view has it.

    Attributes:
        missing: What the store lacked when it was compared last, and could not be given again yet.
        followed: Up to where the database has the freezes, as far as this mint knows.
    """

    def __init__(
        self, realm: str, db: MintDatabase, store: RevocationStore, noted: Callable[[HistoryPlace], None]
    ) -> None:
        self._realm, self._db, self._store, self._noted = realm, db, store, noted
        self._whole: HistoryPlace | None = None  # from here on all freezes are in the store
        self._compared = float("-inf")
        self.missing: tuple[str, ...] = ()
        self.followed = NOWHERE

    def require(self, incarnation: str, seq: int) -> None:
        """Require that a view of the kill epoch has every freeze that stands.

        Raises:
            UnavailableError: ``syncing``: the store has not got them again yet, or that is not known.
        """
        if self.why_not(incarnation, seq):
            raise UnavailableError(NOT_BACK, code="syncing")

    def why_not(self, incarnation: str, seq: int) -> list[str]:
        """Return why nothing can be granted on a view of the kill epoch; empty when it has every freeze."""
        whole = self._whole
        if whole is not None and incarnation == whole.incarnation and seq >= whole.seq:
            return []
        return [NOT_BACK + (f": {', '.join(self.missing[:8])}" if self.missing else "")]

    def trust(self, place: HistoryPlace) -> None:
        """Take a history for one that has every freeze from a place on."""
        self._whole = place

    def follow(self) -> None:
        """Take over what the store's log says of freezes.

        Raises:
            StoreError: Store or database do not answer, or the store is in another history than the mint's.
        """
        for _ in range(TRIES):
            since, mark = self._db.epoch.followed(self._realm), self._db.epoch.high_water(self._realm)
            changes = changes_since(self._store, since)
            if mark is None or mark.incarnation != changes.to.incarnation:
                raise StoreHistoryError("INCARNATION", "the store is in a history that this mint has not looked at")
            if changes.to == since or self._db.epoch.follow(
                self._realm, since, changes.to, changes.frozen, changes.thawed
            ):
                self.followed = changes.to
                return

    def keep(self, incarnation: str) -> None:
        """Compare where that is due: in a history that was not compared yet at once, else once a minute.

        Args:
            incarnation: The history.

        Raises:
            UnavailableError: Store or database do not answer, or it could not be recorded.
        """
        if (
            self._whole is None
            or self._whole.incarnation != incarnation
            or time.monotonic() - self._compared >= EVERY_S
        ):
            self.restore()

    def restore(self) -> list[str]:
        """Compare the store with the database, and freeze again what the store has lost.

        Returns:
            What was lost.

        Raises:
            UnavailableError: Store or database do not answer, or it could not be recorded.
        """
        incarnation = self._store.header().incarnation
        lost = self._lost()
        self.missing = tuple(lost)
        for first in range(0, len(lost), AT_ONCE):
            self._freeze(lost[first : first + AT_ONCE])
        if lost:
            self.follow()
            named = ", ".join(lost[:8]) + (", …" if len(lost) > 8 else "")
            _log.warning("realm %s: the store had lost %d freezes: %s", self._realm, len(lost), named)
        self.missing = ()
        self._compared = time.monotonic()
        # A history that began meanwhile was not compared.
        if self.followed.incarnation == incarnation and (
            lost or self._whole is None or self._whole.incarnation != incarnation
        ):
            self._whole = self.followed
        return lost

    def _lost(self) -> list[str]:
        """Return the targets that are not frozen and must be, looked at twice: a freeze or a thaw may be on its way."""
        lost: set[str] | None = None
        for _ in range(2):
            there = set(self._store.freezes())
            self.follow()  # behind the look: a thaw that it met is known by now
            missing = freezes_of(self._db) - there
            lost = missing if lost is None else lost & missing
            if not lost:
                break
        return sorted(lost or ())

    def _freeze(self, targets: list[str]) -> None:
        bump = self._store.freeze(targets, WHY, "mint")
        told = {"targets": list(bump.targets), "seq": bump.header.seq, "reason": WHY, "durable": bump.durable}
        self._db.record(Event.of("targets.frozen", "mint", **told))
        self._noted(bump.header.place)


def changes_since(store: RevocationStore, since: HistoryPlace | None) -> Changes:
    """Read what the store's log says of freezes behind a place.

    Where the store has forgotten the entries in between, or is in another history, each freeze that it has stands: a
    thaw among what is not known is asked for again by a person, an unknown freeze by nobody.

    Raises:
        StoreHistoryError: The store is not behind that place, or the realm has no history in it.
        StoreError: It did not answer.
    """
    header = store.header()
    same = since is not None and since.incarnation == header.incarnation
    if since is not None and same:
        if since == header.place:
            return Changes(since, (), frozenset())
        if since.seq > header.seq or (store.chain_at(since.seq) or since.chain) != since.chain:
            raise StoreHistoryError("REGRESSED", f"number {since.seq} is not what this mint has seen")
    after = since.seq if since is not None and same else 0
    entries = list(_entries(store, after, header.seq))
    frozen: dict[str, Freeze] = {}
    if not same or len(entries) < header.seq - after:
        frozen = {target: Freeze(target, header.at_ms, "", FOUND) for target in store.freezes()}
    thawed: set[str] = set()
    for entry in entries:
        if entry.op in FREEZING:
            frozen[entry.target] = Freeze(entry.target, entry.at_ms, _clean(entry.by), _clean(entry.why))
            thawed.discard(entry.target)
        elif entry.op == "thaw":
            frozen.pop(entry.target, None)
            thawed.add(entry.target)
    return Changes(header.place, tuple(frozen.values()), frozenset(thawed))


def _entries(store: RevocationStore, after: int, last: int) -> Iterator[Entry]:
    while after < last and (page := store.log(after, AT_ONCE)):
        yield from (entry for entry in page if entry.seq <= last)
        after = page[-1].seq


def _clean(said: str) -> str:
    return said.replace("\0", "")  # PostgreSQL keeps none


def wanted_freezes(db: MintDatabase, store: RevocationStore, realm: str) -> set[str]:
    """Return what must be frozen, for who looks while no mint may have followed the store's log.

    Raises:
        StoreError: Store or database do not answer.
    """
    wanted = freezes_of(db)
    try:
        changes = changes_since(store, db.epoch.followed(realm))
    except StoreHistoryError:  # emptied, or put back: what the database knows counts
        return wanted
    return (wanted | {freeze.target for freeze in changes.frozen}) - (changes.thawed - ended_of(db))


def freezes_of(db: MintDatabase) -> set[str]:
    """Return every target that must be frozen, as the database alone knows."""
    return db.epoch.freezes() | ended_of(db)


def ended_of(db: MintDatabase) -> set[str]:
    """Return the targets of what the mint itself has ended: whoever thaws one past it finds it frozen again."""
    return (
        db.agents.ended_targets()
        | db.operators.ended_targets()
        | db.approvals.withdrawn_targets()
        | retired_targets(db.keys.rows())
    )
