# SPDX-License-Identifier: Apache-2.0
"""Name what happened in a realm's kill sequence up to a number, lest another past be taken for it.  SPEC 10.9.

A store that lost its last entries gives their numbers again, to other kills; whoever had the lost ones would never
notice.  The chain tells such pasts apart: each entry's is a hash of the one before and of the entry.  It is there
against accidents, not against whoever can choose what a store holds, who needs no collision to hold kills back; so the
hash is SHA-1, the one that a store's functions have.
"""

import os
from hashlib import sha1
from typing import Final, NamedTuple

from arx_verifier.token import text_of

UNKNOWN: Final = ""  # never what a store holds: whoever says it has to begin anew


class HistoryPlace(NamedTuple):
    """A number in a history, and by which way it was reached.

    Attributes:
        incarnation: The history's name.
        seq: The number of the last entry.
        chain: Hash of all entries up to it, 40 hex digits.
    """

    incarnation: str
    seq: int
    chain: str

    @classmethod
    def begin(cls, incarnation: str, seq: int) -> "HistoryPlace":
        """Return where a history begins."""
        return cls(incarnation, seq, chain_after(incarnation, seq, "rotate", "realm"))

    def after(self, incarnation: str, seq: int, op: str, target: str) -> "HistoryPlace":
        """Return the place after an entry, or this one where that is not the next."""
        if incarnation != self.incarnation or seq != self.seq + 1:
            return self
        return HistoryPlace(incarnation, seq, chain_after(self.chain, seq, op, target))

    def chain_at(self, incarnation: str, seq: int) -> str:
        """Return the chain if this is that place, else ``UNKNOWN``."""
        return self.chain if incarnation == self.incarnation and seq == self.seq else UNKNOWN


NOWHERE: Final = HistoryPlace("", -1, UNKNOWN)


def new_incarnation() -> str:
    """Draw the name of a new history: 128 random bits, base64url."""
    return text_of(os.urandom(16))


def chain_after(chain: str, seq: int, op: str, target: str) -> str:
    """Return an entry's chain: a hash of the one before, and of the entry as it is pushed."""
    return sha1(f"{chain} {seq} {op} {target}".encode(), usedforsecurity=False).hexdigest()
