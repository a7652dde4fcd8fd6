# SPDX-License-Identifier: Apache-2.0
"""A reader who does what a page asks, with real processes."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.pages import Block, matches
from tests.servers import free_ports

DEADLINE_S = 60.0
LEASE_S = 1.2  # a little more than the default lease
LATE = 3  # the exit code of a kill that a verifier confirms late, as on a loaded machine


def environment() -> dict[str, str]:
    """Return a person's environment: ``arx`` is found, no variable of ARx is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARX_", "PYTHON"))}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "PYTHONUNBUFFERED": "1"}


def run_line(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type one line in a shell; what it writes to both streams is in ``stdout``."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment(),
        timeout=DEADLINE_S,
    )


def run_python(file: Path, *options: str) -> str:
    """Run a file as a person does, and return what it writes."""
    done = subprocess.run(
        [sys.executable, *options, file.name],
        cwd=file.parent,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


class Reader:
    """A reader who does what a section asks, in an empty folder, at ports that are free.

    Args:
        folder: The folder.
        ports: What to put for the ports that the section names.
    """

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder, self._ports = folder, ports
        self._behind: list[subprocess.Popen[str]] = []
        self._script, self._up_since = "", 0.0

    def here(self, text: str) -> str:
        """Put this machine's ports for those that are shown."""
        for shown, port in self._ports.items():
            text = text.replace(f":{shown}", f":{port}").replace(f"--port {shown}", f"--port {port}")
        return text

    def console(self, text: str) -> None:
        """Type each command and compare what it writes, where that is shown."""
        for entry in re.findall(r"^\$ (.*\n(?:(?!\$ ).*\n)*)", self.here(text), re.MULTILINE):
            command, _, shown = entry.partition("\n")
            if command.startswith("arx kill"):
                # A person is slower: within its first lease a store does not know yet who else holds one.
                time.sleep(max(0.0, self._up_since + LEASE_S - time.monotonic()))
            if command.endswith("&"):
                self._start(command.removesuffix("&").strip(), shown)
            else:
                done, until = run_line(command, self.folder), time.monotonic() + DEADLINE_S
                while command.startswith("arx kill") and done.returncode == LATE and time.monotonic() < until:
                    done = run_line(command, self.folder)
                assert done.returncode == 0, f"{command}\n{done.stdout}"
                assert not shown or matches(shown, done.stdout), f"{command}\n{done.stdout}"
            if command.startswith("arx init"):
                policy = self.folder / ".arx" / "policy.toml"
                policy.write_text(self.here(policy.read_text("utf-8")), "utf-8")

    def _start(self, command: str, shown: str) -> None:
        """Start a command behind the prompt, and wait for its first line, or for its port."""
        log = (self.folder / f"log-{len(self._behind)}").open("w")
        with log:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                stdout=subprocess.PIPE if shown else log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment(),
            )
        self._behind.append(process)
        if shown:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert matches(shown, line), line or Path(log.name).read_text()
            self._up_since = time.monotonic()
            return
        port, deadline = int(command.rpartition("--port ")[2].split()[0]), time.monotonic() + DEADLINE_S
        while True:
            assert process.poll() is None, Path(log.name).read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.02)

    def python(self, block: Block) -> None:
        """Write a file, or append where the page asks for that; what it writes is looked at with the next block."""
        name = re.search(r"`(\w+\.py)`:$", block.before)
        assert name is not None, f"which file is this? {block.before}"
        goes_on = "At the end of" in block.before
        file = self.folder / name[1]
        before = file.read_text("utf-8") if goes_on else ""
        file.write_text(before + self.here(block.text), "utf-8")
        self._script = name[1]

    def text(self, shown: str) -> None:
        """Run the last file, and compare the end of what it writes."""
        written = run_python(self.folder / self._script)
        last = written.splitlines()[-len(shown.splitlines()) :]
        assert matches(self.here(shown), "\n".join(last)), written

    def stop(self) -> list[int]:
        """End what was started, the last first, and say how each ended."""
        codes = []
        for process in reversed(self._behind):
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            codes.append(process.returncode)
        self._behind.clear()
        return codes


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader with an empty folder."""
    mint, orders = map(str, free_ports(2))
    someone = Reader(tmp_path, {"8700": mint, "9001": orders})
    yield someone
    someone.stop()
