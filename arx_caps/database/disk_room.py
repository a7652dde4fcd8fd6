# SPDX-License-Identifier: Apache-2.0
"""Whether a folder can take more records: its disk has room, and lets its owner write."""

import os
import stat
from pathlib import Path
from typing import Final

LOW_BYTES: Final = 64 * 1024 * 1024  # four segments of a journal: time to act before calls are refused


def room_fault(folder: Path) -> str | None:
    """Return why a folder may take no more records soon, as what follows its name; None if it can.

    Args:
        folder: The folder, of this machine.
    """
    try:
        disk, mode = os.statvfs(folder), folder.stat().st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if disk.f_flag & os.ST_RDONLY:
        return "is on a disk that is mounted read-only"
    # By its mode too: an administrator who looks may write where the folder's owner may not.
    if not mode & stat.S_IWUSR:
        return "is read-only for its owner"
    free = disk.f_bavail * disk.f_frsize
    return f"is on a disk that is full up to {free // 1024**2} MiB" if free < LOW_BYTES else None
