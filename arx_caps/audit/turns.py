# SPDX-License-Identifier: Apache-2.0
"""Have the batches of a run stand in line in their order, where a sender has several on their way.  SPEC 18.3.

Each comes over a connection of its own, so that a short one may overtake a long one; it would be answered that it
begins too far ahead, and sent again.  Nothing depends on it: a batch waits for those before it, and only so long.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

WAIT_S: Final = 0.5  # from when a batch was announced until nobody waits for it any more
_RUNS: Final = 1_000  # of which something is remembered before it is looked what of it is over


def run_of(audience: str, boot: str) -> str:
    """Name a run; no service can name another one's."""
    return f"{audience}/{boot}"


class Turns:
    """Which batches are on their way.  Threads share it."""

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s, self._changed = wait_s, threading.Condition()
        self._coming: dict[str, dict[int, float]] = {}  # of each run: first sequence, and until when it is waited for

    def announce(self, run: str, first: int) -> None:
        """Tell that a batch is on its way, before it is here."""
        now = time.monotonic()
        with self._changed:
            if len(self._coming) > _RUNS:
                self._coming = {run: coming for run, coming in self._coming.items() if max(coming.values()) > now}
            coming = {at: until for at, until in self._coming.get(run, {}).items() if until > now}
            self._coming[run] = coming | {first: now + self._wait_s}

    @contextlib.contextmanager
    def turn(self, run: str, first: int) -> Iterator[None]:
        """Wait for those of a run that begin before, as far as they were announced; then it is this one's turn."""
        self._wait(run, first)
        try:
            yield
        finally:
            self.done(run, first)

    def _wait(self, run: str, first: int) -> None:
        with self._changed:
            while True:
                before = [until for at, until in self._coming.get(run, {}).items() if at < first]
                left = max(before, default=0.0) - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def done(self, run: str, first: int) -> None:
        """Tell that a batch had its turn, or will have none."""
        with self._changed:
            coming = self._coming.get(run, {})
            coming.pop(first, None)
            if not coming:
                self._coming.pop(run, None)
            self._changed.notify_all()
