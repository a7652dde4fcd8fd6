# SPDX-License-Identifier: Apache-2.0
"""Run one server as a child process that ends with the process that started this program.

``arx_caps.embedded`` starts this program and keeps the other end of its standard input open.  When that end closes, or
the starter dies, the guard stops the server.
"""

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
POLL_S = 0.5  # a fork of the holder keeps the pipe open, so the guard polls its parent's id as well
PATIENCE_S = 5.0  # from SIGTERM to SIGKILL; the append-only file is already on disk


def die_with(parent: int) -> None:
    """In the child, before exec: have the kernel kill this process when ``parent`` ends.

    Args:
        parent: Process id of the guard.  If it has ended already, this process exits with 1.
    """
    # The kernel's parent-death signal follows the forking *thread*; the guard has one, so it means the process.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def wait_for_end(holder: int, child: int, woken: int) -> int | None:
    """Wait until the server or its holder ends.

    Args:
        holder: Process id of the process that started the guard.
        child: Process id of the server.
        woken: File descriptor that signals write to.

    Returns:
        The server's exit code; None when the holder is gone.
    """
    while os.getppid() == holder:
        ready = select.select([0, woken], [], [], POLL_S)[0]
        if woken in ready:
            os.read(woken, 64)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if 0 in ready and not os.read(0, 64):
            return None
    return None


def stop(child: int) -> None:
    """Send SIGTERM to the server; send SIGKILL after ``PATIENCE_S`` seconds."""
    os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.005)


def main(holder: int, command: list[str]) -> int:
    """Start ``command`` and guard it.

    Args:
        holder: Process id of the process that started the guard.
        command: The program's absolute path and its arguments.

    Returns:
        The server's exit code, or the number of the signal that ended it; 0 when the guard stopped it.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        os.umask(0o077)
        die_with(guard)
        os.execv(command[0], command)  # noqa: S606  no shell is wanted
    code = wait_for_end(holder, child, woken)
    if code is None:
        stop(child)
        code = 0
    return abs(code)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
