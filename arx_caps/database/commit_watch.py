# SPDX-License-Identifier: Apache-2.0
"""Whether a database commits: a change waits for a commit only so long.

PostgreSQL holds a commit back for as long as its synchronous standby is silent.  SQLite's commits wait for the disk.
``bounded_waits`` has the waits themselves.
"""

import contextlib
import os
import select
import threading
import time
from typing import Final

from arx_verifier.errors import StoreError

COMMIT_S: Final = 2.0  # the longest wait for a commit
URGENT_S: Final = 1.0  # the same for one answer to an urgent call: `arx kill` waits 3 s for a sign-in
RETRY_S: Final = 10.0  # the first pause before a change is tried without an answer; each is twice the last
URGENT: Final = "arx-mint-urgent"  # what the names of threads begin with that answer urgent calls, such as a kill


# PostgreSQL goes on with a commit whose client has left, in a process that it cannot use for another one. So while one
# has no answer, no further change is begun: repeats of the callers would take all its connections, and then not even a
# kill could be authenticated. The answer may never come, if the standby was promoted: so a change is tried, ever more
# rarely.
class CommitWatch:
    """The commits that have had no answer in time.

    Args:
        name: The database's name in errors.
    """

    def __init__(self, name: str) -> None:
        self._name, self._lock = name, threading.Lock()
        self._sockets: list[int] = []
        self._began = self._retry_at = 0.0
        self._pause_s = RETRY_S

    @property
    def limit_s(self) -> float:
        """The longest wait for a commit of this thread, s."""
        return URGENT_S if is_urgent() else COMMIT_S

    def add(self, socket: int) -> None:
        """Note a commit without an answer.

        Args:
            socket: File descriptor of a copy of its connection's socket; closed here.
        """
        with self._lock:
            if not self._sockets:
                self._began = time.monotonic() - self.limit_s
                self._retry_at, self._pause_s = self._began + RETRY_S, 2 * RETRY_S
            self._sockets.append(socket)

    def clear(self) -> None:
        """Note that the database has committed."""
        if self._sockets:
            with self._lock:
                self._forget()

    def why_not(self) -> str | None:
        """Return why no change can be made now; None if none waits."""
        if not self._sockets:
            return None
        with self._lock:
            if any(map(_is_answered, self._sockets)):
                self._forget()
            if not self._sockets:
                return None
            waited_s = time.monotonic() - self._began
        return f"{self._name} commits nothing: a commit has waited for {waited_s:.0f} s; see its synchronous standby"

    def require(self) -> None:
        """Require that no commit waits.

        Raises:
            StoreError: One does.
        """
        why = self.why_not()
        if why is None:
            return
        with self._lock:
            now = time.monotonic()
            if now >= self._retry_at:
                self._retry_at, self._pause_s = now + self._pause_s, 2 * self._pause_s
                return
        raise StoreError(f"{why}; retry later")

    def _forget(self) -> None:
        for socket in self._sockets:
            with contextlib.suppress(OSError):
                os.close(socket)
        self._sockets = []


def is_urgent() -> bool:
    """Return whether this thread answers urgent calls: what it waits for must not be taken by others."""
    return threading.current_thread().name.startswith(URGENT)


def _is_answered(socket: int) -> bool:
    """Return whether a connection's server has sent something, or has closed it."""
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
