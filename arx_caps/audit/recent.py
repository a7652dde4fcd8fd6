# SPDX-License-Identifier: Apache-2.0
"""The leaves that this process has just put into the log, for whoever signs them: not read back and hashed once more.

They are what was committed.  So a row that somebody changes before it is signed is signed as it came, and the change
is found when the row is read.  Whatever is not here, after a start or from another mint, is read from the database.
"""

import threading
from typing import Final

from arx_caps.audit.tiles import Leaf

MAX_BYTES: Final = 32 * 1024 * 1024  # of kept parts, as come in some seconds; with more, nobody seems to sign


class Recent:
    """The log's last leaves, in order and none missing.  Threads may share it."""

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._start = self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int, leaves: list[Leaf]) -> None:
        """Remember what was committed.

        Args:
            size: The log's size with them.
            leaves: The leaves.
        """
        with self._lock:
            if self._start + len(self._leaves) != size - len(leaves) or self._bytes > MAX_BYTES:
                # Another mint was in between, or nobody takes them.
                self._leaves, self._start, self._bytes = [], size - len(leaves), 0
            self._leaves += leaves
            self._bytes += _bytes_of(leaves)

    def take(self, start: int, end: int) -> list[Leaf]:
        """Return those from ``start`` to before ``end``, as far as they are here."""
        with self._lock:
            return self._leaves[start - self._start : end - self._start] if start >= self._start else []

    def forget(self, before: int) -> None:
        """Let go of those before an index."""
        with self._lock:
            count = max(0, before - self._start)
            self._bytes -= _bytes_of(self._leaves[:count])
            self._start += len(self._leaves[:count])
            del self._leaves[:count]


def _bytes_of(leaves: list[Leaf]) -> int:
    return sum([len(record or b"") for _, record in leaves])
