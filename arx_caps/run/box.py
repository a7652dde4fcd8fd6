# SPDX-License-Identifier: Apache-2.0
"""The box of a coding agent, by bubblewrap: a working folder, no secret, and one way out, the front's socket.

The repository in the working folder is writable, so its hooks and build files are the agent's when a person runs them.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import arx_caps.run.loopback as loopback
from arx_caps.isolation.choice import kind_that_works, tried
from arx_caps.isolation.program import Program
from arx_caps.isolation.start import Isolation, IsolationError, bubblewrap_start
from arx_verifier.errors import SettingsError

PROXY: Final = f"http://127.0.0.1:{loopback.PORT}"
_PYTHON: Final = os.path.realpath(sys.executable)
_BESIDE: Final = "or type --no-box (then programs of your user can read this task)"


def open_box(
    command: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    folder: Path,
    home: Path,
    reads: tuple[Path, ...],
    writes: tuple[Path, ...] = (),
    protected: tuple[Path, ...] = (),
) -> Isolation:
    """Return a box that works on this machine: a process in it could read nothing of what is protected.

    Args:
        command: The command that will run in it.
        environment: All of its variables.
        folder: Its working folder, which it can change.
        home: Its home, which it can change; made if there is none.
        reads: What else it may read: the front's socket and authority, and paths that the user named.
        writes: What else it may change.
        protected: Files of the task, which it must not reach.

    Raises:
        SettingsError: There is no box here, or a path would show or change what is not the agent's.
        FileNotFoundError: The command is no program.
    """
    if shutil.which(command[0], path=environment["PATH"]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    python = Program(name="arx run", command=(_PYTHON,), environment={}, home=home).needed()
    given = Program(
        name="arx run",
        command=command,
        environment=environment,
        home=home,
        folder=Path(os.path.realpath(folder)),
        reads=(*reads, Path(loopback.__file__), *python),
        writes=(folder, *writes),
        protected=protected,
        offline=True,
    )
    _require_safe_paths(given)
    try:
        return tried(bubblewrap_start(given.resolved()))
    except IsolationError as error:
        why = str(error)
        if shutil.which("bwrap") is None:
            why = "bwrap not found: install bubblewrap"
        elif kind_that_works() != "bubblewrap":  # else it is of this command's files alone
            why += ": allow user namespaces on this machine"
        raise SettingsError(f"no box: {why}, {_BESIDE}") from None


def box_command(box: Isolation, socket: Path) -> tuple[str, ...]:
    """Return what starts the command in its box; start it in a session of its own, with ``SIGNALS`` blocked.

    Start it in a thread that lives as long as the command: the kernel ends the box with that thread.

    Args:
        box: The box.
        socket: The front's socket.
    """
    program = box.program
    first = (_PYTHON, "-I", "-S", loopback.__file__, str(socket))
    return box.start_of((*first, str(program.executable), *program.command[1:])).command


def signal_box(pid: int, number: int) -> bool:
    """Send a signal to the command in a box; return False if there is no command yet, or none any more.

    Args:
        pid: The process that ``box_command`` became.
        number: The signal.
    """
    try:
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(first[0]), number)
    except (OSError, IndexError):
        return False
    return True


@contextlib.contextmanager
def kept_terminal() -> Iterator[None]:
    """Restore the settings of the terminal at the end: the box makes it raw."""
    kept = termios.tcgetattr(0) if os.isatty(0) else None
    try:
        yield
    finally:
        if kept is not None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # a killed shell has kept the foreground
            with contextlib.suppress(termios.error):  # of a terminal that is gone
                termios.tcsetattr(0, termios.TCSADRAIN, kept)


def _require_safe_paths(program: Program) -> None:
    """Require that the command can neither read what is protected nor change what a next start would run or follow."""
    real = program.resolved()
    own = (program.home, *program.writes, *program.reads)
    writable = (real.home, *real.writes)
    tools = [*map(Path, (sys.prefix, sys.executable, __file__)), *map(Path, filter(None, [shutil.which("bwrap")]))]
    for path in (real.home, *real.writes, *real.reads):
        for secret in real.protected:
            if secret.is_relative_to(path):
                raise SettingsError(f"no box: the command could read {secret} in {path}: move it elsewhere")
        if Path(os.path.realpath(os.path.expanduser("~"))).is_relative_to(path):  # noqa: PTH111  there may be none
            raise SettingsError(f"no box: {path} has your home in it: start in the folder of a project")
    for folder in writable:
        for tool in tools:
            if Path(os.path.realpath(tool)).is_relative_to(folder) or tool.is_relative_to(folder):
                raise SettingsError(
                    f"no box: the command could change {tool} in {folder}: install ARx and bubblewrap elsewhere"
                )
        for path in own:
            whole = Path(os.path.abspath(path))  # noqa: PTH100  a link has its own place
            place = Path(os.path.realpath(whole.parent)) / whole.name
            if place.is_relative_to(folder) and not Path(os.path.realpath(whole)).is_relative_to(folder):
                raise SettingsError(
                    f"no box: {path} is a link in {folder}, which a command can change: name its target"
                )
