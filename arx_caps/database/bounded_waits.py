# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL whose answers are waited for only so long.

SQLite has no server.  ``engines`` opens them.
"""

import os
import time
from collections.abc import Generator
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from arx_caps.database.commit_watch import CommitWatch

_Answer = TypeVar("_Answer")
CHECK_S: Final = 0.1  # how often a wait looks at the clock


class NoAnswerError(psycopg.OperationalError, TimeoutError):
    """PostgreSQL did not answer in time; the connection is closed."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when an answer takes too long."""

    _answer_s: float | None = None
    _commits: CommitWatch | None = None

    def bound(self, answer_s: float | None, commits: CommitWatch | None) -> None:
        """Set the bounds; the arguments are those of ``engines.open_engine``."""
        self._answer_s, self._commits = answer_s, commits

    def wait(
        self,
        gen: Generator[Any, Any, _Answer],
        interval: float = CHECK_S,
        timeout: float | None = None,
    ) -> _Answer:
        """Wait for an answer, at most for the connection's bound.

        Raises:
            NoAnswerError: It did not come in time.
        """
        limit_s = self._answer_s if timeout is None else timeout
        return super().wait(gen if limit_s is None else self._within(gen, limit_s), interval)

    def commit(self) -> None:
        """Commit, and wait for the answer at most for the connection's bound.

        Raises:
            NoAnswerError: It did not come in time; the transaction may be committed or not.
        """
        with self.lock:
            changes = self.pgconn.transaction_status != TransactionStatus.IDLE
            self.wait(self._commit_gen(), timeout=None if self._commits is None else self._commits.limit_s)
        if changes and self._commits is not None:
            self._commits.clear()

    def _within(self, gen: Generator[Any, Any, _Answer], limit_s: float) -> Generator[Any, Any, _Answer]:
        until = time.monotonic() + limit_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    raise self._give_up(limit_s)
                wanted = gen.send(ready)
        except StopIteration as end:
            answer: _Answer = end.value
            return answer

    def _give_up(self, limit_s: float) -> NoAnswerError:
        # Never cancelled: PostgreSQL answers a cancelled wait for a standby with success, although the standby lacks
        # the change.  It goes on with a commit whose client has left: the copy of the socket shows when it is done.
        if self._commits is not None:
            self._commits.add(os.dup(self.pgconn.socket))
        self.pgconn.finish()
        return NoAnswerError(f"no answer within {limit_s:g} s")
