# SPDX-License-Identifier: Apache-2.0
"""Whether the mint can record events, for ``/readyz`` and the metrics."""

import threading
import time
from typing import Final

from arx_caps.mint.db.repositories.outbox import OutboxRepository
from arx_verifier.errors import ArxError

LOOK_S: Final = 1.0


class WriteHealth:
    """Checks whether events can be recorded, at most once a second.

    Args:
        outbox: Where events are recorded.
    """

    def __init__(self, outbox: OutboxRepository) -> None:
        self._outbox = outbox
        self._looking = threading.Lock()
        self._looked = float("-inf")
        self._found = ["whether it can record is not known yet"]

    def why_not(self) -> list[str]:
        """Return the reasons why no event can be recorded; empty if events can be."""
        # The check takes the lock that every writer takes, and this route needs no credentials. So a request starts no
        # check of its own within a second, and waits for none: it gets the last result.
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
            # A check that fails is a result, not a failure of the request that asked.
            return [str(error)]
        return []
