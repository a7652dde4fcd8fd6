# SPDX-License-Identifier: Apache-2.0
"""Forget floors that can end nothing any more.  SPEC 10.

A floor is of no use once every token that it ends has expired.  The store forgets it then; a verifier that runs for
months must do so too, or its memory grows with every kill.  How long that is, is told by the store.
"""

from collections import deque

from arx_verifier.epochs import State


class Retention:
    """The floors of one view in the order in which they were learned."""

    def __init__(self) -> None:
        self._learned: deque[tuple[int, str, int]] = deque()

    def __len__(self) -> int:
        return len(self._learned)

    def learn(self, at: int, scope: str, seq: int) -> None:
        """Note that a floor was learned at ``at``, boot clock, ns."""
        self._learned.append((at, scope, seq))

    def restart(self, at: int, state: State) -> None:
        """Note all floors of a view that was copied at ``at``."""
        self._learned = deque((at, scope, seq) for scope, seq in state.floors.items())

    def forget(self, state: State, before: int) -> None:
        """Drop the floors learned before ``before`` that were not raised since."""
        while self._learned and self._learned[0][0] < before:
            _, scope, seq = self._learned.popleft()
            if state.floors.get(scope) == seq:
                del state.floors[scope]
