# SPDX-License-Identifier: Apache-2.0
"""Whether the mint can record, as far as is known; looked at once a second at most.

The check takes the lock that every writer takes.  So a stranger's request must not start one by itself, and no request
waits for another one's check.
"""

import threading
import time
from typing import Final

from arx_caps.mint.db.repositories.outbox import Outbox
from arx_verifier.errors import ArxError

LOOK_S: Final = 1.0


class WriteHealth:
    """What is known about the record.

    Args:
        outbox: Where events are recorded.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._looking = threading.Lock()
        self._looked = float("-inf")
        self._found = ["whether it can record is not known yet"]

    def why_not(self) -> list[str]:
        """Return why nothing can be recorded; empty when it can."""
        if self._looking.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked >= LOOK_S:
                    self._found = self._look()
                    self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self._found

    def _look(self) -> list[str]:
        try:
            self._outbox.check()
        except ArxError as error:
            return [str(error)]
        return []
