# SPDX-License-Identifier: Apache-2.0
"""The leaves that this process has just put into the log, for whoever signs them: not read back and hashed once more.

They are what was committed.  So a row that somebody changes before it is signed is signed as it came, and the change
is found when the row is read.  Whatever is not here, after a start or from another mint, is read from the database.
"""

import threading
from collections import deque
from typing import Final

from arx_caps.audit.tiles import Leaf

MAX_BYTES: Final = (
    32 * 1024 * 1024
)  # of kept parts: what comes in some seconds; with more than that, nobody seems to sign


class Recent:
    """The log's last leaves, in order and none missing.  Threads may share it."""

    def __init__(self) -> None:
        self._leaves: deque[Leaf] = deque()
        self._start = self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int, leaves: list[Leaf]) -> None:
        """Remember what was committed.

        Args:
            size: The log's size with them.
            leaves: The leaves.
        """
        if not leaves:
            return
        with self._lock:
            if self._start + len(self._leaves) != size - len(leaves):  # another mint was in between
                self._forget(size - len(leaves))
            self._leaves += leaves
            self._bytes += _bytes_of(leaves)
            if self._bytes > MAX_BYTES:
                self._forget(size)

    def take(self, start: int, end: int) -> list[Leaf]:
        """Return those from ``start`` to before ``end``, as far as they are here, and forget them and all before."""
        with self._lock:
            if not self._start <= start < self._start + len(self._leaves):
                return []
            taken = [self._leaves.popleft() for _ in range(min(end - self._start, len(self._leaves)))]
            self._bytes -= _bytes_of(taken)
            skipped = start - self._start
            self._start += len(taken)
            return taken[skipped:]

    def _forget(self, start: int) -> None:
        self._leaves.clear()
        self._start, self._bytes = start, 0


def _bytes_of(leaves: list[Leaf]) -> int:
    return sum([len(record or b"") for _, record in leaves])
