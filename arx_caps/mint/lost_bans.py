# SPDX-License-Identifier: Apache-2.0
"""The bans that stand, as the database knows them, and a store that lost some: it gets them again.  SPEC 10.12.

The database follows the store's log, so that it also has what was frozen or killed past the mint; what it has ended
itself (agents, operators, keys, approvals) must be banned as well.  In a new history nothing is granted before the
store has all of these: a frozen agent could otherwise begin anew in it.  Kills need nothing of the kind, because no
token of before lives on in a new history.
"""

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from arx_caps.mint.events import Event
from arx_caps.mint.keybook import retired_scopes
from arx_caps.mint.state import State
from arx_caps.mint.state_epoch import Ban
from arx_caps.revocation import Entry, RevocationStore, StoreHistoryError
from arx_verifier.errors import UnavailableError
from arx_verifier.revocation.epoch import BANNING
from arx_verifier.revocation.history import NOWHERE, Place

if TYPE_CHECKING:
    from arx_caps.mint.core import Mint

AT_ONCE: Final = 1000  # scopes that one step of the store takes, and entries of one page
EVERY_S: Final = 60.0
TRIES: Final = 3  # another mint may follow at the same time
NOT_BACK: Final = "the bans of this realm are not back in the revocation store yet"
WHY: Final = "the store had lost it"
FOUND: Final = "found in the store"

_log = logging.getLogger(__name__)


class Changes(NamedTuple):
    """What the store's log says of bans, behind a place.

    Attributes:
        to: The last entry that was read.
        banned: The bans that stand by it.
        lifted: The scopes whose last entry is a lift.
    """

    to: Place
    banned: tuple[Ban, ...]
    lifted: frozenset[str]


class StandingBans:
    """Keeps the database's bans up with the store, and the store's with the database.

    Args:
        mint: The mint.

    Attributes:
        missing: What the store lacked when it was compared last, and could not be given again yet.
        followed: Up to where the database has the bans, as far as this mint knows.
    """

    def __init__(self, mint: "Mint") -> None:
        self._mint = mint
        self._whole: Place | None = None  # from here on all bans are in the store
        self._compared = float("-inf")
        self.missing: tuple[str, ...] = ()
        self.followed = NOWHERE

    def require(self, inc: str, seq: int) -> None:
        """Demand that a view of the kill epoch has every ban that stands.

        Raises:
            UnavailableError: ``syncing``: the store has not got them again yet, or that is not known.
        """
        if self.why_not(inc, seq):
            raise UnavailableError(NOT_BACK, code="syncing")

    def why_not(self, inc: str, seq: int) -> list[str]:
        """Return why nothing can be granted on a view of the kill epoch; empty when it has every ban."""
        whole = self._whole
        if whole is not None and inc == whole.inc and seq >= whole.seq:
            return []
        return [NOT_BACK + (f": {', '.join(self.missing[:8])}" if self.missing else "")]

    def trust(self, place: Place) -> None:
        """Take a history for one that has every ban from a place on."""
        self._whole = place

    def follow(self) -> None:
        """Take over what the store's log says of bans.

        Raises:
            StoreError: Store or database do not answer, or the store is in another history than the mint's.
        """
        mint = self._mint
        for _ in range(TRIES):
            since, mark = mint.state.followed(mint.realm.name), mint.state.high_water(mint.realm.name)
            changes = changes_since(mint.store, since)
            if mark is None or mark.inc != changes.to.inc:
                raise StoreHistoryError("INCARNATION", "the store is in a history that this mint has not looked at")
            if changes.to == since or mint.state.follow_bans(
                mint.realm.name, since, changes.to, changes.banned, changes.lifted
            ):
                self.followed = changes.to
                return

    def keep(self, inc: str) -> None:
        """Compare where that is due: in a history that was not compared yet at once, else once a minute.

        Args:
            inc: The history.

        Raises:
            UnavailableError: Store or database do not answer, or it could not be recorded.
        """
        if self._whole is None or self._whole.inc != inc or time.monotonic() - self._compared >= EVERY_S:
            self.restore()

    def restore(self) -> list[str]:
        """Compare the store with the database, and ban again what the store has lost.

        Returns:
            What was lost.

        Raises:
            UnavailableError: Store or database do not answer, or it could not be recorded.
        """
        inc = self._mint.store.header().inc
        lost = self._lost()
        self.missing = tuple(lost)
        for first in range(0, len(lost), AT_ONCE):
            self._ban(lost[first : first + AT_ONCE])
        if lost:
            self.follow()
            named = ", ".join(lost[:8]) + (", …" if len(lost) > 8 else "")
            _log.warning("realm %s: the store had lost %d bans: %s", self._mint.realm.name, len(lost), named)
        self.missing = ()
        self._compared = time.monotonic()
        # A history that began meanwhile was not compared.
        if self.followed.inc == inc and (lost or self._whole is None or self._whole.inc != inc):
            self._whole = self.followed
        return lost

    def _lost(self) -> list[str]:
        """Return the scopes that are not banned and must be, looked at twice: a ban or a lift may be on its way."""
        lost: set[str] | None = None
        for _ in range(2):
            there = set(self._mint.store.bans())
            self.follow()  # behind the look: a lift that it met is known by now
            missing = expected_bans(self._mint) - there
            lost = missing if lost is None else lost & missing
            if not lost:
                break
        return sorted(lost or ())

    def _ban(self, scopes: list[str]) -> None:
        mint = self._mint
        bump = mint.store.ban(scopes, WHY, "mint")
        told = {"scopes": list(bump.scopes), "seq": bump.header.seq, "reason": WHY, "durable": bump.durable}
        mint.state.record(Event.of("scopes.banned", "mint", **told))
        mint.noted(bump.header.place)


def changes_since(store: RevocationStore, since: Place | None) -> Changes:
    """Read what the store's log says of bans behind a place.

    Where the store has forgotten the entries in between, or is in another history, each ban that it has stands: a lift
    among what is not known is asked for again by a person, an unknown ban by nobody.

    Raises:
        StoreHistoryError: The store is not behind that place, or the realm has no history in it.
        StoreError: It did not answer.
    """
    header = store.header()
    same = since is not None and since.inc == header.inc
    if since is not None and same:
        if since == header.place:
            return Changes(since, (), frozenset())
        if since.seq > header.seq or (store.chain_at(since.seq) or since.chain) != since.chain:
            raise StoreHistoryError("REGRESSED", f"number {since.seq} is not what this mint has seen")
    after = since.seq if since is not None and same else 0
    entries = list(_entries(store, after, header.seq))
    banned: dict[str, Ban] = {}
    if not same or len(entries) < header.seq - after:
        banned = {scope: Ban(scope, header.at_ms, "", FOUND) for scope in store.bans()}
    lifted: set[str] = set()
    for entry in entries:
        if entry.op in BANNING:
            banned[entry.scope] = Ban(entry.scope, entry.at_ms, _clean(entry.by), _clean(entry.why))
            lifted.discard(entry.scope)
        elif entry.op == "lift":
            banned.pop(entry.scope, None)
            lifted.add(entry.scope)
    return Changes(header.place, tuple(banned.values()), frozenset(lifted))


def _entries(store: RevocationStore, after: int, last: int) -> Iterator[Entry]:
    while after < last and (page := store.log(after, AT_ONCE)):
        yield from (entry for entry in page if entry.seq <= last)
        after = page[-1].seq


def _clean(said: str) -> str:
    return said.replace("\0", "")  # PostgreSQL keeps none


def expected_bans(mint: "Mint") -> set[str]:
    """Return every scope that must be banned, as the database knows."""
    return bans_of(mint.state)


def wanted_bans(state: State, store: RevocationStore, realm: str) -> set[str]:
    """Return what must be banned, for who looks while no mint may have followed the store's log.

    Raises:
        StoreError: Store or database do not answer.
    """
    wanted = bans_of(state)
    try:
        changes = changes_since(store, state.followed(realm))
    except StoreHistoryError:  # emptied, or put back: what the database knows counts
        return wanted
    return (wanted | {ban.scope for ban in changes.banned}) - (changes.lifted - ended_of(state))


def bans_of(state: State) -> set[str]:
    """Return the same from the database alone, also while no mint runs."""
    return state.standing_bans() | ended_of(state)


def ended_of(state: State) -> set[str]:
    """Return the scopes of what the mint itself has ended: whoever lifts one past it finds it banned again."""
    return state.ended_scopes() | state.withdrawn_scopes() | retired_scopes(state.key_rows())
