# SPDX-License-Identifier: Apache-2.0
"""How much a journal's folder may take: its bound, the share of denials, and what gives room back.  SPEC 12, 15.3.

All processes and runs that write to a folder share these bounds; each segment says what it takes of them.  ``writer``
asks.  A file is ended or removed only when no process writes it any more, and no record is ever changed.
"""

import contextlib
import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Final

from arx_verifier.errors import AuditError
from arx_verifier.journal.reader import end_of_records
from arx_verifier.journal.segment import HEADER_BYTES, denied_in, files_in, finish, is_closed

ALARMS: Final = (0.95, 0.8, 0.5)  # parts of its budget at which a journal warns
_DENIED_SHARE: Final = 4  # denials may use one part in so many: whoever is refused must not use up the room of others
_DENIED_PARTS: Final = 64  # of what is left, one process takes one part before it looks again what others took
_STALE_S: Final = 3600  # a file that is being made, when its process died over it

_log = logging.getLogger("arx_verifier.journal.writer")  # whose alarms they are


def used_in(folder: Path) -> int:
    """Return the bytes that all files of a journal's folder take."""
    used = 0
    for path in files_in(folder):
        with contextlib.suppress(FileNotFoundError):  # shipped or pruned since
            used += path.stat().st_size
    return used


def hold_budget(folder: Path, more: int, max_bytes: int) -> None:
    """Hold a journal's folder to its bound before it takes more.

    Raises:
        AuditError: It has no room for so many bytes more.
    """
    used = used_in(folder)
    if used + more > max_bytes:
        raise AuditError(
            f"the decision journal {folder} has used {used} of its {max_bytes} bytes: "
            "ship or prune old decisions, or allow it more"
        )


def denials_share(folder: Path, max_bytes: int, needed: int) -> int:
    """Return how many bytes of denials one process may write before it asks again.

    Args:
        folder: The journal's folder.
        max_bytes: What all files of the folder may take.
        needed: Bytes that are wanted now.

    Returns:
        The bytes; fewer than are needed once all that write to the folder have used denials' part of it.

    Raises:
        AuditError: It cannot be told, such as without a file descriptor left.
    """
    try:
        left = max_bytes // _DENIED_SHARE - sum(map(denied_in, files_in(folder)))
    except OSError as error:
        raise AuditError(f"the decision journal {folder} cannot be read: {error.strerror}") from error
    return min(left, max(left // _DENIED_PARTS, needed))


def tell_outage(folder: Path, error: Exception, before: str, *, refuses: bool) -> str:
    """Say why a journal cannot be written, in the log once an outage.

    Args:
        folder: The journal's folder.
        error: What the system said, or why there is no room.
        before: What was returned at the last try of this outage; empty at its first.
        refuses: Whether calls are refused meanwhile, and not let go ahead without a record.

    Returns:
        The same in one sentence.
    """
    said = str(error)
    if isinstance(error, OSError):
        why = f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
        said = f"the decision journal {folder} cannot be written: {why}"
    if not before:
        then = "calls are refused (audit_unavailable)" if refuses else "calls go unrecorded"
        mend = "give this process a folder that it can write, with room on its disk, or name another as `journal`"
        _log.error("%s; until it can, %s: %s", said, then, mend)
    return said


def tell_recovery(folder: Path, before: str) -> str:
    """Say in the log that a journal is written again, if it was not; returns what there is to say of an outage."""
    if before:
        _log.warning("the decision journal %s is written again", folder)
    return ""


def warn(folder: Path, fill: float, max_bytes: int, last: float, *, refuses: bool) -> float:
    """Warn once when a journal reaches one of ``ALARMS``.

    Args:
        folder: The journal's folder.
        fill: How much of it is full, 0.0 to 1.0.
        max_bytes: What it may take.
        last: The alarm that was reached before.
        refuses: Whether calls are refused when it is full, and not let go ahead without a record.

    Returns:
        The alarm that is reached, 0.0 for none.
    """
    level = next((alarm for alarm in ALARMS if fill >= alarm), 0.0)
    if level > last:
        then = "calls are refused" if refuses else "calls go unrecorded"
        said = "the decision journal %s is at %d %% of its %d bytes; when it is full, %s"
        _log.warning(said, folder, fill * 100, max_bytes, then)
    return level


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
