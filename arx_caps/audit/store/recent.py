# SPDX-License-Identifier: Apache-2.0
"""Cache of the leaves that this process has just committed, for signing without reading them back."""

import threading
from typing import Final

from arx_caps.audit.merkle import Leaf

MAX_BYTES: Final = 32 * 1024 * 1024  # of kept parts, the load of some seconds; with more, signing seems to have stopped


# A row that an attacker changes between commit and signing is signed as it was committed, so a later check of the row
# detects the change.  Leaves of other mints, or from before a start, are read from the database.
class Recent:
    """The log's last leaves, in order and without gaps.  Threads may share it."""

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._start = self._bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int, leaves: list[Leaf]) -> None:
        """Add committed leaves.

        Args:
            size: The log's size with them.
            leaves: The leaves.
        """
        with self._lock:
            if self._start + len(self._leaves) != size - len(leaves) or self._bytes > MAX_BYTES:
                # Another mint appended in between, or signing has stopped.
                self._leaves, self._start, self._bytes = [], size - len(leaves), 0
            self._leaves += leaves
            self._bytes += _bytes_of(leaves)

    def take(self, start: int, end: int) -> list[Leaf]:
        """Return the cached leaves from ``start`` to before ``end``, in order."""
        with self._lock:
            return self._leaves[start - self._start : end - self._start] if start >= self._start else []

    def forget(self, before: int) -> None:
        """Drop the leaves before an index."""
        with self._lock:
            count = max(0, before - self._start)
            self._bytes -= _bytes_of(self._leaves[:count])
            self._start += len(self._leaves[:count])
            del self._leaves[:count]


def _bytes_of(leaves: list[Leaf]) -> int:
    return sum([len(record or b"") for _, record in leaves])
