# SPDX-License-Identifier: Apache-2.0
"""Queue a run's concurrent uploads in sequence order.  LOG 2.3."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

WAIT_S: Final = 0.5  # how long after its announcement later batches wait for a batch
_RUNS: Final = 1_000  # runs with announced batches before expired ones are removed


def run_of(audience: str, boot: str) -> str:
    """Return the key of a run; it contains the service, so that services cannot block each other.

    Args:
        audience: The service.
        boot: The run's id.
    """
    return f"{audience}/{boot}"


# Each batch comes over a connection of its own, so a short one may overtake a long one.  It would be answered that it
# begins too far ahead, and be sent again.  Correctness does not depend on this order.
class Turns:
    """The batches on their way, by run.  Threads may share it.

    Args:
        wait_s: How long after its announcement later batches wait for a batch, s.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s, self._changed = wait_s, threading.Condition()
        self._coming: dict[str, dict[int, float]] = {}  # by run: first sequence, and end of the wait for it

    def announce(self, run: str, first: int) -> None:
        """Announce that a batch is arriving.

        Args:
            run: The run's key.
            first: The batch's first sequence.
        """
        now = time.monotonic()
        with self._changed:
            if len(self._coming) > _RUNS:
                self._coming = {run: coming for run, coming in self._coming.items() if max(coming.values()) > now}
            coming = {at: until for at, until in self._coming.get(run, {}).items() if until > now}
            self._coming[run] = coming | {first: now + self._wait_s}

    @contextlib.contextmanager
    def turn(self, run: str, first: int) -> Iterator[None]:
        """Wait for the announced earlier batches of a run; the turn lasts until the context ends.

        Args:
            run: The run's key.
            first: The batch's first sequence.
        """
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
        """Withdraw a batch, which had its turn or will have none.

        Args:
            run: The run's key.
            first: The batch's first sequence.
        """
        with self._changed:
            coming = self._coming.get(run, {})
            coming.pop(first, None)
            if not coming:
                self._coming.pop(run, None)
            self._changed.notify_all()
