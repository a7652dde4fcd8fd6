# SPDX-License-Identifier: Apache-2.0
"""Quotas of a journal's folder: its size, the share of denials, and alarms.  SPEC 12, 15.3.

All processes and runs that write to a folder share the quotas; each segment's header counts its part.
"""

import contextlib
import errno
import logging
import time
from pathlib import Path
from typing import Final

from arx_verifier.errors import AuditError
from arx_verifier.journal.liveness import SOCKET, is_listening
from arx_verifier.journal.reader import end_of_records
from arx_verifier.journal.segment import HEADER_BYTES, denied_in, fcntl, files_in, finish, is_closed, read_header

ALARMS: Final = (0.95, 0.8, 0.5)  # used shares of the quota at which a journal warns
_DENIED_SHARE: Final = 4  # denials may use a quarter: refused callers must not use up the room for allowed calls
_DENIED_PARTS: Final = 64  # a process takes a 64th of the rest before it counts again what others took
_STALE_S: Final = 3600  # age of a half-made file or a refused socket whose process must have died

_log = logging.getLogger("arx_verifier.journal.writer")  # the logger that operators know from the journal


def used_in(folder: Path) -> int:
    """Return the size of all files in a journal's folder, bytes."""
    used = 0
    for path in files_in(folder):
        with contextlib.suppress(FileNotFoundError):  # shipped since
            used += path.stat().st_size
    return used


def hold_budget(folder: Path, more: int, max_bytes: int) -> None:
    """Require room in a journal's folder.

    Args:
        folder: The journal's folder.
        more: Bytes needed.
        max_bytes: The quota of all its files, bytes.

    Raises:
        AuditError: There is no room.
    """
    used = used_in(folder)
    if used + more > max_bytes:
        raise AuditError(
            f"the decision journal {folder} has used {used} of its {max_bytes} bytes: "
            "ship old decisions, or allow it more"
        )


def denials_share(folder: Path, max_bytes: int, needed: int) -> int:
    """Return how many bytes of denials one process may write before it asks again.

    Args:
        folder: The journal's folder.
        max_bytes: The quota of all its files, bytes.
        needed: Bytes needed now.

    Returns:
        The bytes; fewer than needed once all writers together have used the denials' share.

    Raises:
        AuditError: The folder cannot be read, for example without a free file descriptor.
    """
    try:
        left = max_bytes // _DENIED_SHARE - sum(map(denied_in, files_in(folder)))
    except OSError as error:
        raise AuditError(f"the decision journal {folder} cannot be read: {error.strerror}") from error
    return min(left, max(left // _DENIED_PARTS, needed))


def log_outage(folder: Path, error: Exception, before: str, *, refuses: bool) -> str:
    """Log once for each outage why a journal cannot be written.

    Args:
        folder: The journal's folder.
        error: The system's error, or why there is no room.
        before: The text returned at the last attempt of this outage; empty at its first.
        refuses: Whether calls are refused meanwhile; else they go unrecorded.

    Returns:
        The reason, in one sentence.
    """
    reason = str(error)
    if isinstance(error, OSError):
        why = f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
        reason = f"the decision journal {folder} cannot be written: {why}"
    if not before:
        then = "calls are refused (audit_unavailable)" if refuses else "calls go unrecorded"
        mend = "give this process a folder that it can write, with room on its disk, or name another as `journal`"
        _log.error("%s; until it can, %s: %s", reason, then, mend)
    return reason


def log_recovery(folder: Path, before: str) -> str:
    """Log the end of an outage, if there was one.

    Args:
        folder: The journal's folder.
        before: The last text of ``log_outage``; empty without an outage.

    Returns:
        An empty text.
    """
    if before:
        _log.warning("the decision journal %s is written again", folder)
    return ""


def warn(folder: Path, fill: float, max_bytes: int, last: float, *, refuses: bool) -> float:
    """Log a warning once when a journal reaches one of ``ALARMS``.

    Args:
        folder: The journal's folder.
        fill: Used share of the quota, 0.0 to 1.0.
        max_bytes: The quota, bytes.
        last: The last alarm.
        refuses: Whether calls are refused when it is full; else they go unrecorded.

    Returns:
        The present alarm, 0.0 for none.
    """
    level = next((alarm for alarm in ALARMS if fill >= alarm), 0.0)
    if level > last:
        then = "calls are refused" if refuses else "calls go unrecorded"
        message = "the decision journal %s is at %d %% of its %d bytes; when it is full, %s"
        _log.warning(message, folder, fill * 100, max_bytes, then)
    return level


def finish_stale(folder: Path) -> None:
    """Cut the files of runs that died after their last record, and remove half-made files and dead sockets."""
    for path in files_in(folder):
        with contextlib.suppress(OSError, AuditError):
            _finish_stale(path)
    for path in (*files_in(folder, ".making"), *files_in(folder, SOCKET)):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S and not (path.suffix == SOCKET and is_listening(path)):
                path.unlink()


def _finish_stale(path: Path) -> None:
    with path.open("r+b") as file:
        start = file.read(HEADER_BYTES)
        if is_closed(start):
            return
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if a living run holds it
        # Asked before the file is read: a writer that dies in between has written nothing since.
        if is_listening(path.with_name(f"{read_header(start).boot}{SOCKET}")):
            return
        file.seek(0)
        raw = file.read()
        end = None if is_closed(raw) else end_of_records(raw)  # it may have been closed before the lock was taken
        if end is not None:  # a file that may be damaged stays unchanged
            finish(file.fileno(), end)
