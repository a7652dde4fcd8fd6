# SPDX-License-Identifier: Apache-2.0
"""Count refusals without records of their own: unauthenticated ones, and denials without room.  SPEC 12.2.

The sink makes records of the counts.
"""

from typing import Final, NamedTuple

from arx_verifier.errors import AuditError

# A flood of junk tokens must neither fill the journal nor go unnoticed.
_KEYS: Final = 64  # counts by reason and peer; further peers are counted together, as ``*``
_EVERY_S: Final = 1.0  # shortest time between two records of counts


class RefusalCount(NamedTuple):
    """Number of refusals of one kind from one peer since the last such record.

    Attributes:
        code: The refusal's code.
        peer: The network address, ``*`` for many, empty if unknown.
        times: The number.
    """

    code: str
    peer: str
    times: int


class CountedError(AuditError):
    """An allow could not be recorded, and the refusal that replaces it was counted already."""

    counted = True
    __init__ = Exception.__init__  # halves the time to raise it: it carries no failures


class Tally:
    """Counts until they are recorded, without a lock: its owner has one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._last_s = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, code: str, peer: str | None, times: int = 1) -> None:
        """Count refusals.

        Args:
            code: Their reason code.
            peer: The caller's network address, or None.
            times: Their number.
        """
        counts, key = self._counts, (code, peer or "")
        known = counts.get(key)
        if known is None:
            if len(counts) >= _KEYS:
                key = (code, "*")
            known = counts.get(key, 0)
        counts[key] = known + times

    def due(self, now_s: float) -> bool:
        """Return whether there are counts and a second has passed since the last record (any steady clock, s)."""
        return bool(self._counts) and now_s - self._last_s >= _EVERY_S

    def counts(self) -> tuple[RefusalCount, ...]:
        """Return the counts, which stay until ``clear``."""
        return tuple(RefusalCount(code, peer, times) for (code, peer), times in self._counts.items())

    def clear(self, now_s: float) -> None:
        """Remove the counts, which were recorded at ``now_s``."""
        self._counts.clear()
        self._last_s = now_s

    def postpone(self, now_s: float) -> None:
        """Keep the counts, which could not be recorded at ``now_s``, for at least a second."""
        self._last_s = now_s
