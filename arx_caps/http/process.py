# SPDX-License-Identifier: Apache-2.0
"""What the servers of ARx share as processes: a listener, garbage, and whom a terminal or a parent process ends."""

import ctypes
import errno
import gc
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError

_PR_SET_DUMPABLE: Final = 4
GARBAGE_AT: Final = 50_000  # new objects until a garbage collection; some running batches have as many


def collect_rarely() -> None:
    """Collect garbage rarely in this process, and never among what is loaded by now."""
    # Loaded modules live for good, and reference counting frees nearly all objects of a call or batch.  A collection of
    # all objects of a gateway took 70 ms, in which no call was answered and no stream was cut.
    gc.freeze()
    gc.set_threshold(GARBAGE_AT)


def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory and environment.  Linux only.

    A core dump is not written either.  ``/proc`` of this process belongs to root from now on; programs that it starts
    are as all others.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def open_listener(name: str, host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        name: The server, such as ``mint``, for the error.
        host: The address.
        port: The port; 0 for any.
        backlog: How many connections may wait.

    Raises:
        SettingsError: It cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol: asyncio sets TCP_NODELAY only for sockets that have it, and Nagle's delay is up to 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        hint = "stop the program that listens there, or choose another port" if taken else None
        raise SettingsError(f"the {name} cannot listen at {host}:{port}: {error.strerror}", hint=hint) from error
    return listener


def open_unix_listener(path: Path, backlog: int) -> socket.socket:
    """Return a Unix socket that listens, and that only this user may connect to.

    Args:
        path: Where; the socket of a process that has ended is removed.
        backlog: How many connections may wait.

    Raises:
        SettingsError: A process listens there, it is another kind of file, or it cannot listen there.
    """
    _remove_stale(path)
    listener, before = socket.socket(socket.AF_UNIX), os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise SettingsError(f"{path}: cannot listen: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SettingsError(f"{path}: expected no file or a socket")
        with socket.socket(socket.AF_UNIX) as trial:
            trial.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:  # any other error may be of a process that lives
        path.unlink(missing_ok=True)
        return
    except OSError as error:
        raise SettingsError(f"{path}: cannot listen: {error.strerror or error}") from error
    raise SettingsError(f"{path}: another process listens there")


def has_terminal() -> bool:
    """Return whether a terminal started this process, so that SIGHUP is the terminal's end."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def stop_at_eof(stop: Callable[[], None]) -> None:
    """Wait for the end of standard input, which is the end of the parent process, and call ``stop``."""
    while os.read(0, 4096):
        pass
    stop()
