# SPDX-License-Identifier: Apache-2.0
"""The wall clock."""

import time


def now_ms() -> int:
    """Return the wall clock's time, ms since the Unix epoch."""
    return time.time_ns() // 1_000_000
