# SPDX-License-Identifier: Apache-2.0
"""Tidy a journal's folder: end the files of runs that died, remove old ones.  SPEC 12.

A file is touched only when nobody writes it any more, and no record is ever changed.  Which records were shipped is
for whoever ships them.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from arx_verifier.errors import AuditError
from arx_verifier.journal.reader import end_of_records
from arx_verifier.journal.segment import HEADER_BYTES, files_in, finish, is_closed

_STALE_S: Final = 3600


def finish_stale(folder: Path) -> None:
    """Cut the files of runs that died at the end of their records, and remove half-made ones."""
    for path in files_in(folder):
        with contextlib.suppress(OSError, AuditError):
            _finish_stale(path)
    for path in files_in(folder, ".making"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink()


def _finish_stale(path: Path) -> None:
    with path.open("r+b") as file:
        if is_closed(file.read(HEADER_BYTES)):
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a run that lives: not ours to end
        file.seek(0)
        raw = file.read()
        end = None if is_closed(raw) else end_of_records(raw)  # it may have ended, in order, before the lock was ours
        if end is not None:  # what cannot be told apart from damage stays as it is
            finish(file.fileno(), end)


def prune_journal(folder: str | os.PathLike[str], before_ms: int) -> int:
    """Remove files of a journal that are closed and were last written before a time.

    Args:
        folder: The journal's folder.
        before_ms: Milliseconds since the Unix epoch.

    Returns:
        Bytes given back.

    Raises:
        OSError: A file could not be removed.
    """
    freed = 0
    for path in files_in(Path(folder)):
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime * 1000 < before_ms and is_closed(file.read(HEADER_BYTES)):
                path.unlink()
                freed += status.st_size
    return freed
