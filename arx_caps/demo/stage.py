# SPDX-License-Identifier: Apache-2.0
"""The demo's stage: a realm in a temporary folder and real processes in it, all gone when it is left.

Everything is started as a user would start it: the ``arx`` command, the services' own command lines, agents as
processes that are told what to do over a pipe.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

POLICY: Final = """\
[audience.orders]
origins = ["http://127.0.0.1:{orders}"]

[audience.payments]
origins = ["http://127.0.0.1:{payments}"]

[session.support]
agents = ["acme/support/*"]
ttl = "1h"

[task.refund]
agents = ["acme/support/*"]
params = {{ order_id = {{ max_length = 32 }}, amount = {{ range = [0, 100] }} }}
ttl = "10m"
depth = 2
audience = ["orders", "payments"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.list", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [0, "$amount"] }} }} }},
]

[task.payout]
agents = ["acme/support/*"]
params = {{ order_id = {{ max_length = 32 }} }}
ttl = "10m"
audience = ["payments"]
allow = [{{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [0, 1000] }} }} }}]
approvals = [{{ tools = ["payments.refund"] }}]
"""
START_S: Final = 20  # a machine that needs longer has another problem


class StageError(Exception):
    """Something that should have started did not, or a command failed."""


class Actor:
    """An agent's process, told what to do line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, do: str, **command: Any) -> dict[str, Any]:
        """Do one thing and return what came of it.

        Raises:
            StageError: The process died.
        """
        to, back = _pipes(self._process)
        to.write(json.dumps({"do": do, **command}) + "\n")
        to.flush()
        line = back.readline()
        if not line:
            raise StageError(f"the agent's process ended while it was to {do}")
        told: dict[str, Any] = json.loads(line)
        return told


class Stage:
    """The realm, its processes, and the operator's command line.

    Attributes:
        folder: The realm's folder.
        urls: Audience to the origin it lives at.
    """

    def __init__(self, folder: Path, exit_stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._exit = exit_stack
        ports = free_ports(3)
        self.issuer = f"http://127.0.0.1:{ports[0]}"
        self.urls = {"orders": f"http://127.0.0.1:{ports[1]}", "payments": f"http://127.0.0.1:{ports[2]}"}
        self._ports = ports
        self._log = (folder.parent / "processes.log").open("wb")
        exit_stack.callback(self._log.close)

    def arx(self, *words: str) -> dict[str, Any]:
        """Run the ``arx`` command with ``--json`` and return its answer.

        Raises:
            StageError: It exited with an error.
        """
        told: dict[str, Any] = json.loads(self._run(*words, "--json"))
        return told

    def render_trail(self, session: str) -> str:
        """Return the tree of a session as the mint's log tells it, as a person sees it."""
        return self._run("audit", "trail", "--session", session)

    def logged(self, session: str, wanted: int) -> int:
        """Return how many of a session's decisions the mint's log has, once there are as many as wanted, or late."""
        until, found = time.monotonic() + START_S, 0
        while found < wanted and time.monotonic() < until:
            with contextlib.suppress(StageError):  # nothing of it was shipped yet
                trails = self.arx("audit", "trail", "--session", session)["trails"]
                found = sum(each["allowed"] + each["denied"] for each in trails)
        return found

    def _run(self, *words: str) -> str:
        environment = {**os.environ, "ARX_HOME": str(self.folder)}
        command = [sys.executable, "-m", "arx_caps.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        if done.returncode != 0:
            raise StageError(f"arx {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def raise_curtain(self) -> None:
        """Make the realm, start Valkey and mint, enrol the agents and the services, start the services."""
        self.arx("init", str(self.folder), "--name", "acme", "--issuer", self.issuer)
        policy = POLICY.format(orders=self._ports[1], payments=self._ports[2])
        (self.folder / "policy.toml").write_text(policy, encoding="utf-8")
        up = self._start([sys.executable, "-m", "arx_caps.cli", "up", "--json"], stdout=subprocess.PIPE)
        first_line(up, "arx up")
        for path in ("acme/support/triage",):
            self.arx("agent", "enrol", path, "--key-out", str(self.key_of(path)))
        for name, url in self.urls.items():
            file = self.folder / f"{name}.service.json"
            invitation, key = self.folder / f"{name}.invite", self.folder / f"{name}.key.json"
            self.arx("service", "invite", name, "--out", str(invitation))
            journal = ("--journal", str(self.folder / "journals" / name))
            self.arx("service", "join", str(invitation), "--out", str(file), "--key-out", str(key), *journal)
            data = str(self.folder.parent / f"{name}.db")
            port = url.rpartition(":")[2]
            module = [sys.executable, "-m", "arx_caps.demo.service", name]
            self._start([*module, "--service-file", str(file), "--data", data, "--port", port])
        for url in self.urls.values():
            wait_for_port(url)

    def key_of(self, path: str) -> Path:
        """Where an agent's key file is."""
        return self.folder / (path.replace("/", "-") + ".key.json")

    def actor(self) -> Actor:
        """Start an agent's process."""
        command = [sys.executable, "-m", "arx_caps.demo.actor"]
        return Actor(self._start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def _start(self, command: list[str], **pipes: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "ARX_HOME": str(self.folder)}
        process = subprocess.Popen(command, text=True, stderr=self._log, env=environment, **pipes)
        self._exit.callback(stop, process)
        return process

    def last_words(self) -> str:
        """What the processes wrote to their standard error, its end."""
        return (self.folder.parent / "processes.log").read_text(encoding="utf-8", errors="replace")[-2000:]


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Set up a stage in a temporary folder; on leaving, every process is stopped and the folder removed."""
    with tempfile.TemporaryDirectory(prefix="arx-demo-") as folder, contextlib.ExitStack() as exit_stack:
        set_up = Stage(Path(folder) / "realm", exit_stack)
        try:
            set_up.raise_curtain()
            yield set_up
        except StageError as error:
            raise StageError(f"{error}\n{set_up.last_words()}") from error


def stop(process: subprocess.Popen[str]) -> None:
    """End a process politely, then not."""
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def first_line(process: subprocess.Popen[str], name: str) -> str:
    """Wait for a process's first line, which says that it is ready.

    Raises:
        StageError: It ended, or took too long.
    """
    assert process.stdout is not None
    timer = threading.Timer(START_S, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if not line:
        raise StageError(f"{name} did not start")
    return line


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as held:
        ports = []
        for _ in range(count):
            sock = held.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(int(sock.getsockname()[1]))
        return ports


def wait_for_port(url: str) -> None:
    """Wait until something listens.

    Raises:
        StageError: Nothing did in time.
    """
    port = int(url.rpartition(":")[2])
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise StageError(f"nothing listens at {url}")
