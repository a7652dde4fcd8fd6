# SPDX-License-Identifier: Apache-2.0
"""The bridge as a process of its own, as a client starts it, before a guarded MCP endpoint over real HTTP."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Bundle, Task
from arx_verifier import Constraint, Rule
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.holder import HolderKey
from tests.adapters.asgi_server import serving
from tests.connect.mcp_endpoint import VERSION, McpEndpoint
from tests.servers import free_ports

RULES = (
    Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    *(Rule(tool=f"orders.{name}") for name in ("wait", "ask", "late", "break", "plain")),
)
MODERN = {VERSION: "2026-07-28"}
WAIT_S = 60
ARX = ("-m", "arx_caps.cli")


class Client:
    """A client that started a bridge: it sends lines and reads lines."""

    def __init__(self, *words: str, program: tuple[str, str] = ARX) -> None:
        command = [sys.executable, *program, "connect", *words]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes)
        self._lines: queue.Queue[bytes] = queue.Queue()
        self.errors: list[bytes] = []
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()
        self._others: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def raw(self, line: bytes) -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, method: str, params: dict[str, Any] | None = None, identity: object = None) -> None:
        """Send a request, or a notification where it has no id."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        self.raw(json.dumps(message if identity is None else message | {"id": identity}).encode())

    def receive(self, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Return the next message that is wanted; others are kept."""
        for other in self._others:
            if wanted(other):
                self._others.remove(other)
                return other
        while True:
            line = self._lines.get(timeout=WAIT_S)
            assert line, b"".join(self.errors).decode()
            self.texts.append(line.decode())
            message = json.loads(line)
            if wanted(message):
                return message
            self._others.append(message)

    def rest(self) -> list[dict[str, Any]]:
        """Return all that is left after the end, and what was kept."""
        left = [json.loads(line) for line in iter(self._lines.get, b"")]
        return [*self._others, *left]

    def answer(self, identity: object) -> dict[str, Any]:
        """Return the answer to a request."""
        return self.receive(lambda message: "method" not in message and message["id"] == identity)

    def ask(self, identity: object, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.send(method, params, identity)
        return self.answer(identity)

    def call(self, identity: object, tool: str, meta: dict[str, Any] | None = None, /, **args: Any) -> tuple[bool, str]:
        """Call a tool; whether it failed, and what the model reads."""
        params: dict[str, Any] = {"name": tool, "arguments": args}
        answer = self.ask(identity, "tools/call", params | ({} if meta is None else {"_meta": meta}))
        return bool(answer["result"].get("isError")), answer["result"]["content"][0]["text"]

    def open(self, version: str = "2025-11-25") -> dict[str, Any]:
        """Open a session."""
        about = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = self.ask(0, "initialize", about)
        self.send("notifications/initialized")
        return answer

    def close(self) -> int:
        """Close stdin and return the exit code."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        code = self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join(WAIT_S)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


class World:
    """An endpoint that is served, its realm, and bridges to it."""

    def __init__(self, folder: Path) -> None:
        self.realm = UnsafeTestRealm("orders")
        self.folder, self.bundle = folder, folder / "task.bundle"
        (self.port,) = free_ports(1)
        self._events: queue.Queue[str] = queue.Queue()
        self.endpoint = McpEndpoint(self.realm.verifier, self._events.put)
        self.write_bundle()
        self._stack = contextlib.ExitStack()

    @property
    def url(self) -> str:
        """The endpoint's URL."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def task(self, *rules: Rule, ttl_ms: int = 600_000, key: HolderKey | None = None) -> Task:
        """A task for calls of the endpoint; with a key, a bound one."""
        caller = self.realm.caller(*(rules or RULES), ttl_ms=ttl_ms, key=key)
        origins = {"orders": (f"http://127.0.0.1:{self.port}",)}
        tokens = {"orders": caller.macaroon}
        about: dict[str, Any] = {"agent": "test/agent", "issuer": "http://127.0.0.1:9", "realm": "test"}
        return Task(Bundle(**about, origins=origins, task="t-test", tokens=tokens))

    def write_bundle(self, *rules: Rule, ttl_ms: int = 600_000) -> None:
        """Write the bundle's file anew."""
        self.task(*rules, ttl_ms=ttl_ms).save(self.bundle)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Serve the endpoint."""
        with serving(self.endpoint.app(), self.port):
            yield

    @contextlib.contextmanager
    def bridged(self, *words: str, program: tuple[str, str] = ARX) -> Iterator[Client]:
        """Start a bridge by a program of Python, that of ``arx`` if none is named."""
        client = Client("--task", str(self.bundle), *words, self.url, program=program)
        try:
            yield client
        finally:
            client.process.terminate()
            client.close()

    def wait_for(self, event: str) -> None:
        """Wait for an event of the endpoint."""
        while self._events.get(timeout=WAIT_S) != event:
            pass

    def codes(self) -> list[str]:
        """The codes of the decisions so far."""
        return [decision.code for decision in self.realm.decisions.decisions]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world whose endpoint is served."""
    made = World(tmp_path)
    with made.served():
        yield made
