# SPDX-License-Identifier: Apache-2.0
"""The terminal in which `arx run` is started: its settings afterwards, and its size in the box."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.run.test_box import PYTHON, needs_box
from tests.run.world import RunWorld, git_world

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SIZES = """import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
while True:
    print(*os.get_terminal_size(), flush=True)
    signal.sigwait([signal.SIGWINCH])
"""
TAKES_FOREGROUND = """import os, signal
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.setpgrp()
os.tcsetpgrp(0, os.getpgrp())
os.system("stty -echo")
os.kill(os.getpid(), signal.SIGKILL)
"""
ENDS = {
    "exit": ("stty -echo; echo begun; exit 3", 0, 3),
    "kill": ("stty -echo; echo begun; kill -9 $$", 0, 137),
    "term": ("stty -echo; echo begun; exec sleep 1000", signal.SIGTERM, 143),
    "int": ("stty -echo; echo begun; exec sleep 1000", signal.SIGINT, 130),
}


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[tuple[RunWorld, Path]]:
    with git_world(tmp_path, valkey, realm_name) as found:
        yield found


class Terminal:
    """A terminal, and `arx run` as the leader of its session.

    Attributes:
        running: The process.
    """

    running: "subprocess.Popen[str]"

    def __init__(self) -> None:
        self._outer, self._inner, self._text = *pty.openpty(), ""
        kept = termios.tcgetattr(self._inner)
        kept[6][termios.VERASE] = b"\x08"  # as no terminal begins with
        termios.tcsetattr(self._inner, termios.TCSANOW, kept)

    @contextlib.contextmanager
    def runs(self, world: RunWorld, folder: Path, *command: str, options: tuple[str, ...] = ()) -> Iterator[None]:
        """Run a command in it up to the end of the block."""
        with subprocess.Popen(
            world.words(*command, options=options),
            cwd=folder,
            env=world.environment() | {"TERM": "dumb"},
            stdin=self._inner,
            stdout=self._inner,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        ) as self.running:
            try:
                yield
            finally:
                self.running.terminate()

    @property
    def settings(self) -> list[object]:
        """All of its settings."""
        return list(termios.tcgetattr(self._inner))

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._outer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> None:
        """Wait until it shows a text."""
        while text not in self._text:
            assert select.select([self._outer], [], [], 60)[0], f"no {text!r} in {self._text!r}"
            self._text += os.read(self._outer, 4096).decode()

    def hang_up(self) -> None:
        """Close it, as its window."""
        os.close(self._inner)
        os.close(self._outer)

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the status and what was written to standard error."""
        assert self.running.stderr is not None
        errors = self.running.stderr.read()
        return self.running.wait(60), errors


@pytest.mark.parametrize("options", [pytest.param((), marks=needs_box), ("--no-box",)])
def test_the_settings_are_as_before(place: tuple[RunWorld, Path], options: tuple[str, ...]) -> None:
    """
    After the command's end, after its SIGKILL, and after signals to `arx run`; while it ran they were others.
    """
    world, clone = place
    for script, number, status in ENDS.values():
        terminal = Terminal()
        before = terminal.settings
        with terminal.runs(world, clone, "sh", "-c", script, options=options):
            terminal.until("begun")
            if number:
                assert terminal.settings != before
                # Without a box the terminal's own keys reach the command: what kill(1) sends is for both.
                os.killpg(terminal.running.pid, number) if options else terminal.running.send_signal(number)
            assert terminal.end()[0] == status
        assert terminal.settings == before
        terminal.hang_up()


def test_a_shell_that_is_killed_leaves_the_terminal(place: tuple[RunWorld, Path]) -> None:
    """
    One with job control takes the foreground, and gives nothing back after SIGKILL: the settings return all the same.
    """
    world, clone = place
    terminal = Terminal()
    before = terminal.settings
    with terminal.runs(world, clone, PYTHON, "-c", TAKES_FOREGROUND, options=("--no-box",)):
        status, errors = terminal.end()
    assert status == 137, errors
    assert terminal.settings == before
    terminal.hang_up()


@pytest.mark.parametrize("options", [pytest.param((), marks=needs_box), ("--no-box",)])
def test_a_terminal_that_goes_is_no_error(place: tuple[RunWorld, Path], options: tuple[str, ...]) -> None:
    """
    SIGHUP is the command's, and the exit status too; nothing else is printed.
    """
    world, clone = place
    terminal = Terminal()
    with terminal.runs(world, clone, "sh", "-c", "echo begun; exec sleep 1000", options=options):
        terminal.until("begun")
        terminal.hang_up()
        status, errors = terminal.end()
    assert (status, "Traceback" in errors) == (129, False), errors


@needs_box
def test_a_new_size_reaches_the_command(place: tuple[RunWorld, Path]) -> None:
    """
    The command in the box begins with the size of the outer terminal, and reads each new one.
    """
    world, clone = place
    terminal = Terminal()
    terminal.resize(31, 101)
    with terminal.runs(world, clone, PYTHON, "-c", SIZES):
        terminal.until("101 31")
        for rows, columns in ((32, 102), (13, 203)):
            terminal.resize(rows, columns)
            terminal.until(f"{columns} {rows}")
    terminal.hang_up()
