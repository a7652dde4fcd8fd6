# SPDX-License-Identifier: Apache-2.0
"""Forget kills that can end nothing any more.  SPEC 10.

A kill is of no use once every token that it ends has expired.  The store forgets it then; a verifier that runs for
months must do so too, or its memory grows with every kill.  How long that is, is told by the store.
"""

from collections import deque
from typing import Final

from arx_verifier.revocation.epoch import State

AT_ONCE: Final = 10_000  # kills that one call looks at: a copy of a million ends on one day, and no probe waits for it


class Retention:
    """The kills of one view in the order in which they were learned."""

    def __init__(self) -> None:
        self._learned: deque[tuple[int, str, int]] = deque()
        self._copied: deque[str] = deque()  # their sequences are no higher than the copy's
        self._copied_at = self._copied_seq = 0

    def __len__(self) -> int:
        return len(self._copied) + len(self._learned)

    def learn(self, at: int, target: str, seq: int) -> None:
        """Note that a kill was learned at ``at``, boot clock, ns."""
        self._learned.append((at, target, seq))

    def restart(self, at: int, state: State) -> None:
        """Note all kills of a view that was copied at ``at``; what is above its sequence comes again."""
        self._learned.clear()
        self._copied = deque(state.kills)
        self._copied_at, self._copied_seq = at, state.applied

    def forget(self, state: State, before: int) -> None:
        """Drop the kills learned before ``before`` that were not raised since, a part of them if they are many."""
        kills = state.kills
        if self._copied_at < before:
            for _ in range(min(AT_ONCE, len(self._copied))):
                target = self._copied.popleft()
                if kills.get(target, self._copied_seq + 1) <= self._copied_seq:
                    del kills[target]
        for _ in range(min(AT_ONCE, len(self._learned))):
            if self._learned[0][0] >= before:
                return
            _, target, seq = self._learned.popleft()
            if kills.get(target) == seq:
                del kills[target]
