# SPDX-License-Identifier: Apache-2.0
"""How long a verifier may be silent, and how many are live.  SPEC 10."""

from collections.abc import Iterable
from typing import Final, Literal

VerifierState = Literal["live", "late", "gone"]
GONE_MS: Final = 60_000  # without a probe: a restart is over by then
_LATE_LEASES: Final = 10  # without a probe: a paused process or a broken network is back within these


def state_of(age_ms: int, lease_ms: int) -> VerifierState:
    """Return whether a verifier is live, late or gone; a late or gone one refuses every call.

    Args:
        age_ms: Time since its last probe, ms.
        lease_ms: The longest lease in force, ms.
    """
    if age_ms < lease_ms:
        return "live"
    return "late" if age_ms < _LATE_LEASES * lease_ms else "gone"


def count_states(seen: Iterable[tuple[VerifierState, int | None]]) -> dict[VerifierState, int]:
    """Return by state the number of verifiers; a relay counts as those behind it.

    Args:
        seen: State of each verifier or relay, and the number of verifiers behind a relay or None.
    """
    counts: dict[VerifierState, int] = {"live": 0, "late": 0, "gone": 0}
    for state, behind in seen:
        counts[state] += 1 if behind is None else behind
    return counts
