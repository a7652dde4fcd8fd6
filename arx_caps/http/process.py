# SPDX-License-Identifier: Apache-2.0
"""What the servers of ARx share as processes: a listener, garbage, systemd, and the end of a terminal or a parent."""

import contextlib
import ctypes
import errno
import gc
import logging
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from arx_verifier.errors import SettingsError

_PR_SET_DUMPABLE: Final = 4
READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"
NOTIFY_S: Final = 5.0  # systemd reads at once; a start or a stop must not wait for another program
GARBAGE_AT: Final = 50_000  # new objects until a garbage collection; some running batches have as many

_PASSING: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)  # another program may end, and an address may come up

_log = logging.getLogger(__name__)


class ListenError(SettingsError):
    """The address is taken, or this machine does not have it yet: a later start may succeed."""

    code = "not_listening"


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


def notify_manager(state: str) -> None:
    """Send this process's state to systemd, if it runs this process as a unit of type ``notify``.  sd_notify(3).

    Args:
        state: ``READY``, ``RELOADING`` or ``STOPPING``.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if state == RELOADING:  # systemd compares it with the time at which it asked for a reload
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(NOTIFY_S)
            sender.connect("\0" + address[1:] if address.startswith("@") else address)  # of the abstract namespace
            sender.send(state.encode())
    except OSError as error:
        # It serves all the same; systemd ends a start of which it does not hear.
        _log.warning("NOTIFY_SOCKET: systemd was not notified (%s): %s", state.partition("=")[0], error)


@contextlib.contextmanager
def reload_notified(*, serving: bool) -> Iterator[None]:
    """Notify systemd of a reload while the block runs.

    Args:
        serving: Whether this process serves already; the end of a reload would be taken for the end of its start.
    """
    if serving:
        notify_manager(RELOADING)
    try:
        yield
    finally:
        if serving:
            notify_manager(READY)


def open_listener(name: str, host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        name: The server, such as ``mint``, for the error.
        host: The address.
        port: The port; 0 for any.
        backlog: How many connections may wait.

    Raises:
        ListenError: The address is taken, or not this machine's.
        SettingsError: It cannot listen there for another reason.
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
        kind = ListenError if error.errno in _PASSING else SettingsError
        raise kind(f"the {name} cannot listen at {host}:{port}: {error.strerror}", hint=hint) from error
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
