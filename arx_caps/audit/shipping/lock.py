# SPDX-License-Identifier: Apache-2.0
"""The lock that makes one process of many the shipper of a journal.  LOG 2.6.

The log takes each record once, however many processes send it.  But a shipper removes files that it has sent, which
another one may be reading.
"""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from arx_verifier._platform import reset_at_fork

LOCK_FILE: Final = "ship.lock"  # the shipper has its lock
FIRST_FILE: Final = "ship.first"  # `arx ship` has its lock; the process of a verifier then gives way


# The kernel ends a lock with its process, so another process takes over after a kill.
class ShipperLock:
    """The lock of one shipper on a journal.

    Args:
        folder: The folder of the journal.
        yields: Whether it gives way to a shipper that does not yield.

    Attributes:
        resumed: Whether no other shipper has had the lock since this one had it last.
    """

    def __init__(self, folder: Path, *, yields: bool) -> None:
        self._folder, self._yields = folder, yields
        self._held: dict[str, int] = {}
        self._name, self.resumed = secrets.token_bytes(16), False
        _LOCKS.add(self)

    def take(self) -> bool:
        """Return whether this shipper may go on, before each pass; also without a folder, where nothing is to ship.

        Raises:
            OSError: The folder cannot be written.
        """
        try:
            if self._yields and not self._is_free(FIRST_FILE):
                self.release()
                return False
            return (self._yields or self._hold(FIRST_FILE)) and self._hold(LOCK_FILE)
        except FileNotFoundError:
            return True

    @property
    def held(self) -> bool:
        """Whether this shipper has the lock."""
        return LOCK_FILE in self._held

    def release(self) -> None:
        """Let another process ship."""
        while self._held:
            _, descriptor = self._held.popitem()
            # Not by closing alone: a child that was forked meanwhile may have the descriptor.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def after_fork(self) -> None:
        """In a forked child: leave the lock to the parent."""
        self._name = secrets.token_bytes(16)
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, name: str) -> bool:
        if name not in self._held:
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            if not _lock(descriptor, fcntl.LOCK_EX):
                return False
            self._held[name] = descriptor
            if name == LOCK_FILE:
                self.resumed = os.pread(descriptor, len(self._name), 0) == self._name
                with contextlib.suppress(OSError):  # a full disk: the file is empty then, and no shipper resumes
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, self._name, 0)
        return True

    def _is_free(self, name: str) -> bool:
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        if free := _lock(descriptor, fcntl.LOCK_SH):
            os.close(descriptor)
        return free


def _lock(descriptor: int, how: int) -> bool:
    """Lock a file without waiting; close it, and return False, if another process has it."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise
        return False
    return True


_LOCKS: Final = reset_at_fork(ShipperLock.after_fork)
