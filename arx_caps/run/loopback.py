# SPDX-License-Identifier: Apache-2.0
"""The first process of a box: it leads loopback to the front's Unix socket, and runs the command in a terminal.

``arx_caps.run.box`` starts this file with ``python -I -S``, so it imports the standard library alone.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable
from typing import Final

PORT: Final = 3128  # of the front, in the box's own network
SIGNALS: Final = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGCONT, signal.SIGWINCH),
)  # that the command gets
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit statuses, as of shells
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_MACHINES: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "riscv64": (0xC00000F3, 198)}
_IO_URING_SETUP: Final = 425
_OTHER_NUMBERS: Final = 0x40000000  # system calls of x32
_CHUNK: Final = 1 << 16


def refuse_sockets() -> None:
    """Refuse sockets of families that leave a network namespace, as AF_VSOCK does, and other ways to make one.

    The filter is of seccomp(2): it refuses calls of another machine's numbers, so 32-bit programs too, and io_uring.
    """
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    if (machine := platform.machine()) not in _MACHINES:
        sys.exit(f"arx run: no box on {machine}: type --no-box (then programs of your user can read this task)")
    architecture, call = _MACHINES[machine]
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    refused, allowed = 7 + len(families), 8 + len(families)  # places of the last two instructions
    steps = [(load, 4, 1, 1), (equal, architecture, 2, refused), (load, 0, 3, 3)]
    steps += [(at_least, _OTHER_NUMBERS, refused, 4), (equal, _IO_URING_SETUP, refused, 5), (equal, call, 6, allowed)]
    steps += [(load, 16, 7, 7), *((equal, family, allowed, 8 + place) for place, family in enumerate(families))]
    code = b"".join(
        struct.pack("HBBI", step, 0 if step == load else yes - place - 1, 0 if step == load else no - place - 1, value)
        for place, (step, value, yes, no) in enumerate(steps)
    )
    code += struct.pack("HBBI", answer, 0, 0, 0x00050000 | errno.ENOSYS) + struct.pack("HBBI", answer, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
    if ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(program, len(program)), 0, 0) != 0:
        sys.exit("arx run: the kernel does not know seccomp filters")


def in_thread(act: Callable[..., None], *terms: object) -> threading.Thread:
    """Return a started thread that does not keep this process."""
    thread = threading.Thread(target=act, args=terms, daemon=True)
    thread.start()
    return thread


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Send what comes from one socket to another, up to the end."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    for side, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            side.shutdown(how)


def forward(client: socket.socket, path: str) -> None:
    """Lead a connection to the front, and end both together."""
    with client, socket.socket(socket.AF_UNIX) as front, contextlib.suppress(OSError):
        # Else parts of an answer wait 40 ms for its client.
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        front.connect(path)
        back = in_thread(pump, front, client)
        pump(client, front)
        back.join()


def accept(listener: socket.socket, path: str) -> None:
    """Lead each connection to the front."""
    while True:
        with contextlib.suppress(OSError):  # such as of a connection that has gone already
            in_thread(forward, listener.accept()[0], path)


def relay(source: int, sink: int) -> None:
    """Write what comes from one descriptor to another, up to the end."""
    with contextlib.suppress(OSError):
        while chunk := os.read(source, _CHUNK):
            while chunk:
                chunk = chunk[os.write(sink, chunk) :]


def copy_size(terminal: int) -> None:
    """Give a terminal the size of the outer one."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0)))


def why_not_started(error: OSError) -> str:
    """Return why a program cannot be started, in words for people."""
    if error.errno == errno.ENOEXEC:
        return "neither a program of this machine nor a script that begins with #!"
    return str(error.strerror)


def become(command: list[str], terminal: int | None) -> None:
    """Become the command, in a session of its own, with a terminal if there is one."""
    try:
        if terminal is None:
            os.setsid()
        else:
            error = None if os.isatty(2) else os.dup(2)
            os.login_tty(terminal)
            if error is not None:
                os.dup2(error, 2)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # which Python takes or ignores
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], command)  # noqa: S606  no shell is wanted
    except OSError as error:
        print(f"arx run: {command[0]}: {why_not_started(error)}", file=sys.stderr, flush=True)
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


def signal_group(child: int, number: int) -> None:
    """Send a signal to the command's process group, or to the command alone before it has one."""
    try:
        os.killpg(child, number)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)


def reap(child: int) -> int | None:
    """Take what has ended from the kernel; return the wait status of the command once it has ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if found[0] == child:
                return found[1]
    return None


def main(path: str, command: list[str]) -> int:
    """Run the command, and return its exit status; no process of the box outlives it.

    Args:
        path: The front's Unix socket.
        command: A program and its arguments.
    """
    if os.getpid() != 1:
        sys.exit("expected to be the first process of a box")
    # Other processes of the box are of the same user: none may trace this one, which has the outer terminal.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    refuse_sockets()
    listener = socket.create_server(("127.0.0.1", PORT), backlog=1024)
    inner, terminal = os.openpty() if os.isatty(0) and os.isatty(1) else (None, None)
    if terminal is not None:
        termios.tcsetattr(terminal, termios.TCSANOW, termios.tcgetattr(0))
        copy_size(terminal)
    # Waited for, as the starter has blocked them: another thread may get a signal, and would not wake this one.
    waited = {*SIGNALS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child = os.fork()
    if child == 0:
        become(command, terminal)
    in_thread(accept, listener, path)
    shown = None
    if inner is not None and terminal is not None:
        os.close(terminal)
        tty.setraw(0)  # the starter restores it
        in_thread(relay, 0, inner)
        shown = in_thread(relay, inner, 1)
    ended = None
    while ended is None:
        number = signal.sigwait(waited)
        if number == signal.SIGCHLD:
            ended = reap(child)
        elif number == signal.SIGWINCH and inner is not None:
            copy_size(inner)  # the kernel sends the signal
        else:
            signal_group(child, number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    if shown is not None:
        shown.join()  # what the command has written comes out first
    code = os.waitstatus_to_exitcode(ended)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main(sys.argv[1], sys.argv[2:]))
