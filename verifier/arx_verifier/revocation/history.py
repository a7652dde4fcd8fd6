# SPDX-License-Identifier: Apache-2.0
"""Places in a realm's kill sequence, with a hash chain that distinguishes two histories.  SPEC 10.9."""

import os
import re
from hashlib import sha1
from typing import Final, NamedTuple

from arx_verifier.clock import now_ms
from arx_verifier.token.wire import text_of

_DATED: Final = re.compile("0[0-9a-f]{11}")  # the begin of a name that has an order; random names had none
UNKNOWN: Final = ""  # no store has this chain hash: a verifier that sends it must copy the kills


# A store that lost its last entries gives their numbers again, to other kills.  Without the chain, a verifier that has
# applied the lost ones would never notice.
class HistoryPlace(NamedTuple):
    """A sequence in a history, with the chain hash that led there.

    Attributes:
        incarnation: The history's name.
        seq: The sequence of the last entry.
        chain: Chain hash of all entries up to it, 40 hex digits.
    """

    incarnation: str
    seq: int
    chain: str

    @classmethod
    def begin(cls, incarnation: str, seq: int) -> "HistoryPlace":
        """Return the first place of a history."""
        return cls(incarnation, seq, chain_after(incarnation, seq, "rotate", "realm"))

    def after(self, incarnation: str, seq: int, op: str, target: str) -> "HistoryPlace":
        """Return the place after an entry; this place if the entry is not the next one.

        Args:
            incarnation: The entry's history.
            seq: Its sequence.
            op: Its operation: ``kill``, ``freeze``, ``kill+freeze``, ``thaw`` or ``rotate``.
            target: Its target.
        """
        if incarnation != self.incarnation or seq != self.seq + 1:
            return self
        return HistoryPlace(incarnation, seq, chain_after(self.chain, seq, op, target))

    def chain_at(self, incarnation: str, seq: int) -> str:
        """Return the chain hash if this is that place, else ``UNKNOWN``."""
        return self.chain if incarnation == self.incarnation and seq == self.seq else UNKNOWN


NOWHERE: Final = HistoryPlace("", -1, UNKNOWN)


def new_incarnation(last: str = "") -> str:
    """Return the name of a new history: the time, ms in 12 hex digits, and 56 random bits.

    Args:
        last: The name of the history before, which the new name is above even if the clock went back.
    """
    after = int(last[:12], 16) + 1 if _DATED.match(last) else 0
    return f"{max(now_ms(), after):012x}{text_of(os.urandom(7))}"


def precedes(one: str, other: str) -> bool:
    """Return whether two names show that the first history ended before the second one began."""
    return bool(_DATED.match(one) and _DATED.match(other)) and one[:12] < other[:12]


def chain_after(chain: str, seq: int, op: str, target: str) -> str:
    """Return the chain hash after an entry: a hash of the previous one and of the entry as it is pushed.  SPEC 10.9.

    Args:
        chain: The chain hash before the entry, 40 hex digits.
        seq: The entry's sequence.
        op: Its operation.
        target: Its target.
    """
    # SHA-1 is the hash that a store's functions have.  It guards against accidents; an attacker who can choose what a
    # store holds needs no collision to hold kills back.
    return sha1(f"{chain} {seq} {op} {target}".encode(), usedforsecurity=False).hexdigest()
