# SPDX-License-Identifier: Apache-2.0
"""What must be banned, as the database knows it, against what the store has: a store that lost a ban gets it again.

Deactivated agents get nothing more from a mint, but somebody could hand over to them offline; a retired key is worth
nothing because it is banned.  A store that lost *kills* is another matter: it gets a new history (``core``).
"""

from typing import TYPE_CHECKING, Final

from arx_caps.mint.events import Event
from arx_caps.mint.keybook import retired_scopes
from arx_caps.mint.state import State

if TYPE_CHECKING:
    from arx_caps.mint.core import Mint

AT_ONCE: Final = 1000  # scopes that one step of the store takes
EVERY_S: Final = 60.0
WHY: Final = "the store had lost it"


def expected_bans(mint: "Mint") -> set[str]:
    """Return every scope that must be banned: of agents, operators, keys and approvals that were taken back."""
    return bans_of(mint.state)


def bans_of(state: State) -> set[str]:
    """Return the same from the database alone, also while no mint runs."""
    return state.ended_scopes() | state.withdrawn_scopes() | retired_scopes(state.key_rows())


def restore_bans(mint: "Mint") -> list[str]:
    """Compare the store with the database, and ban again what the store has lost.

    Returns:
        What was lost.

    Raises:
        UnavailableError: Store or database do not answer, or it could not be recorded.
    """
    expected = expected_bans(mint)
    lost = sorted(expected - set(mint.store.bans())) if expected else []
    for first in range(0, len(lost), AT_ONCE):
        part = lost[first : first + AT_ONCE]
        bump = mint.store.ban(part, WHY, "mint")
        told = {"scopes": list(bump.scopes), "seq": bump.header.seq, "reason": WHY, "durable": bump.durable}
        mint.state.record(Event.of("scopes.banned", "mint", **told))
        mint.noted(bump.header.place)
    return lost
