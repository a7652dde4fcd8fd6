# SPDX-License-Identifier: Apache-2.0
"""Token buckets in the memory of a process: how often a caller may call, by name."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_BUCKETS: Final = 65_536  # 10 MB; the least recently used one is dropped, and is full again by then


class Buckets:
    """Token buckets by name.

    Args:
        rate: Calls a second that a bucket gains; 0 for no limit.
        burst: Calls in a full bucket.
        clock: A monotonic clock, s.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # calls left, and when they were counted

    def take(self, name: str, cost: int = 1) -> int:
        """Take a call from a bucket.

        Args:
            name: The bucket's name.
            cost: How many calls to take; 0 to check only.

        Returns:
            0 if there was one, else the seconds until there is one.
        """
        if self._rate == 0:
            return 0
        now = self._clock()
        with self._lock:
            left, since = self._held.get(name, (float(self._burst), now))
            left = min(self._burst, left + (now - since) * self._rate)
            if left < 1:
                return math.ceil((1 - left) / self._rate)
            if cost:
                self._held[name] = (left - cost, now)
                # Only a charged bucket is stored: a name that is merely checked takes no memory.
                self._held.move_to_end(name)
                if len(self._held) > MAX_BUCKETS:
                    self._held.popitem(last=False)
        return 0

    def __len__(self) -> int:
        return len(self._held)
