# SPDX-License-Identifier: Apache-2.0
"""Whether the mint can record events, for ``/readyz`` and the metrics."""

import threading
import time
from typing import Final

from arx_caps.database.commit_watch import COMMIT_S, CommitWatch
from arx_caps.mint.db.repositories.events.outbox import OutboxRepository
from arx_verifier.errors import ArxError

LOOK_S: Final = 1.0
SILENT: Final = "the mint's database has not answered a check within {:g} s"


class WriteHealth:
    """Checks whether events can be recorded, at most once a second.

    Args:
        outbox: Where events are recorded.
        commits: The commits without an answer.
    """

    def __init__(self, outbox: OutboxRepository, commits: CommitWatch) -> None:
        self._outbox, self._commits = outbox, commits
        self._lock = threading.Lock()
        self._looked = self._began = float("-inf")
        self._found = ["whether it can record is not known yet"]
        self._done = threading.Event()
        self._done.set()

    def why_not(self) -> list[str]:
        """Return the reasons why no event can be recorded; empty if events can be."""
        # The check takes the lock that every writer takes, and this route needs no credentials. So a request starts no
        # check of its own within a second, and waits for none but its own: it gets the last result.
        with self._lock:
            now = time.monotonic()
            begins = self._done.is_set() and now - self._looked >= LOOK_S
            if begins:
                self._began = now
                self._done.clear()
                # Not in the caller's thread: a database that is silent, and not down, answers in minutes.
                threading.Thread(target=self._look, name="arx-mint-health", daemon=True).start()
        if begins:
            self._done.wait(COMMIT_S + LOOK_S)
        why = self._commits.why_not()
        if why is not None:
            return [why]
        # A server that is silent fails nothing: the check goes on, and its last result is from before.
        if not self._done.is_set() and time.monotonic() - self._began > COMMIT_S:
            return [SILENT.format(COMMIT_S)]
        return self._found

    def _look(self) -> None:
        try:
            self._outbox.check()
            self._found = []
        except ArxError as error:
            # A check that fails is a result, not a failure of the request that asked.
            self._found = [str(error)]
        finally:
            self._looked = time.monotonic()
            self._done.set()
