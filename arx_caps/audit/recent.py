# SPDX-License-Identifier: Apache-2.0
"""The leaves that this process has just put into the log, for whoever signs them: not read back and hashed once more.

They are what was committed.  So a row that somebody changes before it is signed is signed as it came, and the change
is found when the row is read.  Whatever is not here, after a start or from another mint, is read from the database.
"""

import threading
from collections import deque
from typing import Final

from arx_caps.audit.tiles import Leaf

MAX_BYTES: Final = 32 * 1024 * 1024  # of kept parts, as come in some seconds; with more, nobody seems to sign


class Recent:
    """The log's last leaves, in order and none missing.  Threads may share it."""

    def __init__(self) -> None:
        self._parts: deque[list[Leaf]] = deque()  # as they were committed
        self._start = self._end = self._bytes = 0
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
            if self._end != size - len(leaves):  # another mint was in between
                self._forget(size - len(leaves))
            self._parts.append(leaves)
            self._end = size
            self._bytes += _bytes_of(leaves)
            if self._bytes > MAX_BYTES:
                self._forget(size)

    def take(self, start: int, end: int) -> list[Leaf]:
        """Return some from ``start`` to before ``end``, if they are here, and forget those before."""
        with self._lock:
            if not self._start <= start < self._end:
                return []
            while self._start + len(self._parts[0]) <= start:
                done = self._parts.popleft()
                self._start += len(done)
                self._bytes -= _bytes_of(done)
            return self._parts[0][start - self._start : end - self._start]

    def _forget(self, start: int) -> None:
        self._parts.clear()
        self._start, self._end, self._bytes = start, start, 0


def _bytes_of(leaves: list[Leaf]) -> int:
    return sum([len(record or b"") for _, record in leaves])
