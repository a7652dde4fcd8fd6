# SPDX-License-Identifier: Apache-2.0
"""Whether a writer of a segment still lives: by its lock, or by its socket where it has no locks.  SPEC 15.3."""

import os
import socket
from pathlib import Path
from typing import BinaryIO, Final

from arx_verifier._platform import require_posix
from arx_verifier.errors import AuditError
from arx_verifier.journal.segment import HEADER_BYTES, fcntl, is_closed, read_header

SOCKET: Final = ".sock"
_PATH_BYTES: Final = 100  # a socket's address has room for 103 to 107 bytes of a path, by system


def is_written(path: Path) -> bool:
    """Return whether a process may still write to a segment.

    Raises:
        OSError: It cannot be opened, or its writer's socket cannot be asked, for example without a free descriptor.
    """
    with path.open("rb") as file:
        return has_writer(file, path.parent)


def has_writer(file: BinaryIO, folder: Path) -> bool:
    """Return whether a process may still write to an open segment.

    Args:
        file: The segment, at its beginning.
        folder: The journal's folder.

    Raises:
        OSError: Its writer's socket cannot be asked, for example without a free file descriptor.
    """
    start = file.read(HEADER_BYTES)
    if is_closed(start):
        return False
    require_posix("a journal")
    try:
        # The writer holds this lock for its life and the kernel frees it: a process id in the file could be another
        # one's.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    try:
        boot = read_header(start).boot
    except AuditError:
        return False  # without its run; a file with a damaged header is neither cut nor deleted
    return is_listening(folder / f"{boot}{SOCKET}")


def is_listening(path: Path) -> bool:
    """Return whether a process listens on a socket; True unless it is certain that none does.

    Args:
        path: The socket's path, of any length.

    Raises:
        OSError: There is no free file descriptor, or this process may not make a socket.
    """
    try:
        path.stat()  # most runs have no socket, and a process that ships them may have no right to make one
    except FileNotFoundError:
        return False
    except OSError:
        return True  # such as a link to itself, which must not stop the shipping of other runs
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full queue of a stopped process must answer EAGAIN, and not wait
        return _accepts(probe, path)


def _accepts(probe: socket.socket, path: Path) -> bool:
    address, folder = str(path), -1
    if len(os.fsencode(address)) > _PATH_BYTES:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        address = f"/proc/self/fd/{folder}/{path.name}"
    try:
        probe.connect(address)
    except ConnectionRefusedError:
        return False
    except FileNotFoundError:
        return path.exists()  # without /proc a long path cannot be asked, which shows no death
    except OSError:
        return True
    finally:
        if folder >= 0:
            os.close(folder)
    return True
