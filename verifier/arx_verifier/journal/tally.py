# SPDX-License-Identifier: Apache-2.0
"""Count what cannot be recorded singly: refusals that nobody proved, denials without room.  SPEC 12.2.

A flood of junk tokens must neither fill the journal nor go unseen: it is counted by reason and peer, the number of
peers is bounded, and at most once a second the counts become one record.  Making that record is the sink's work.
"""

from typing import Final, NamedTuple

from arx_verifier.errors import AuditError

_KEYS: Final = 64  # further peers are counted together, as ``*``
_EVERY_S: Final = 1.0


class RefusalCount(NamedTuple):
    """How many refusals of one kind came from one peer since the last such record.

    Attributes:
        code: The refusal's code.
        peer: The network address, ``*`` for many, empty where unknown.
        times: How many.
    """

    code: str
    peer: str
    times: int


class CountedError(AuditError):
    """An allow has no record, and the refusal in its place is counted already."""

    counted = True
    __init__ = Exception.__init__  # half of what it takes to raise one: it tells no facts


class Tally:
    """Counts until they are recorded.  Has no lock: its owner has one."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._last_s = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, code: str, peer: str | None, times: int = 1) -> None:
        """Count refusals."""
        counts, key = self._counts, (code, peer or "")
        known = counts.get(key)
        if known is None:
            if len(counts) >= _KEYS:
                key = (code, "*")
            known = counts.get(key, 0)
        counts[key] = known + times

    def due(self, now_s: float) -> bool:
        """Whether there is something to record and a second has passed since the last time (any steady clock)."""
        return bool(self._counts) and now_s - self._last_s >= _EVERY_S

    def counts(self) -> tuple[RefusalCount, ...]:
        """Return the counts, which stay until ``clear``."""
        return tuple(RefusalCount(code, peer, times) for (code, peer), times in self._counts.items())

    def clear(self, now_s: float) -> None:
        """Forget the counts, recorded at ``now_s``."""
        self._counts.clear()
        self._last_s = now_s

    def postpone(self, now_s: float) -> None:
        """Keep the counts, which could not be recorded at ``now_s``, for a second at least."""
        self._last_s = now_s
