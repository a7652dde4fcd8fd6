# SPDX-License-Identifier: Apache-2.0
"""A realm, an MCP server, all that can stand before it, and clients: each a process of its own."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from arx_caps.embedded import EmbeddedValkey
from benchmarks.gateway.places import (
    ARX,
    BARE,
    CADDY,
    DIRECT,
    FORGE,
    FORMER,
    FORMER_SHARED,
    PROXY,
    SHARED,
    TIMED,
)
from tests.agent.live import LiveMint, live_mint
from tests.servers import free_ports

ROOT: Final = Path(__file__).resolve().parents[2]
TOOL: Final = "get"
START_S: Final = 120.0  # ContextForge makes its database first
POLICY: Final = """
[audience.files]
origins = {origins}
[session]
agents = ["acme/*"]
ttl = "1h"
[task.orders]
agents = ["acme/*"]
ttl = "30m"
audience = ["files"]
allow = [{{ tool = "files.get", args = {{ order_id = "o-1", note = {{ any = true }} }} }}]
"""
NAMES: Final = (DIRECT, ARX, SHARED, TIMED, BARE, CADDY, PROXY, FORGE)
OF_FORMER: Final = (DIRECT, ARX, SHARED, FORMER, FORMER_SHARED)
GATEWAY: Final = """
[gateway]
listen = ["127.0.0.1:{port}"]
[upstream.files]
audience = "files"
service = "{service}"
url = "{url}"
"""


class Place(NamedTuple):
    """Where a client sends its calls.

    Attributes:
        url: The URL.
        tool: What the tool is called there.
        bearer: The identity that is asked for there, in place of the client's token.
    """

    url: str
    tool: str = TOOL
    bearer: str = ""


class Client:
    """A client in a process of its own."""

    def __init__(self, key_file: Path) -> None:
        words = [sys.executable, "-m", "benchmarks.gateway.client", str(key_file)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def order(self, **order: Any) -> None:
        """Give the client an order; it begins at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return what came of the last order.

        Raises:
            RuntimeError: The client has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("expected an answer of a client, got its end")
        return dict(json.loads(line))

    def calls(self, place: Place, seconds: float) -> list[float]:
        """Call a tool at a place for a time; return how long each call took, ms."""
        self.order(**place._asdict(), seconds=seconds)
        return list(self.answer()["times"])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate(timeout=30)


class Stage:
    """What runs.

    Attributes:
        places: All places, by what stands there.
        gateway: The process of ``arx gateway``.
        timed: The process of the gateway that times its decisions.
    """

    def __init__(
        self, stack: contextlib.ExitStack, folder: Path, python: Mapping[str, Path], former: Path | None
    ) -> None:
        self._stack, self._folder, self._clients = stack, folder, 0
        names = NAMES if former is None else OF_FORMER
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.places = {name: Place(f"http://127.0.0.1:{port}/mcp") for name, port in self._ports.items()}
        for name in (ARX, SHARED, TIMED, FORMER, FORMER_SHARED):
            if name in names:
                self.places[name] = Place(f"http://127.0.0.1:{self._ports[name]}/files")
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
        self._environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self._live = self._mint()
        script = str(ROOT / "benchmarks" / "gateway" / "fastmcp_server.py")
        url = self.places[DIRECT].url
        self._run(DIRECT, python["fastmcp"], script, str(self._ports[DIRECT]))
        command = (sys.executable, "-m", "arx_caps.cli", "gateway")
        self.gateway = self._run(ARX, *command, self._file(ARX))
        self._run(SHARED, *command, self._file(SHARED))
        if former is not None:
            code = os.pathsep.join(map(str, (former, former / "verifier")))
            for name in (FORMER, FORMER_SHARED):
                self._run(name, *command, self._file(name), cwd=former, PYTHONPATH=code)
            return
        self._run(PROXY, python["fastmcp"], script, str(self._ports[PROXY]), url)
        self._run(BARE, sys.executable, "-m", "benchmarks.gateway.bare_proxy", str(self._ports[BARE]), url)
        addresses = [f"127.0.0.1:{self._ports[name]}" for name in (CADDY, DIRECT)]
        words = ["reverse-proxy", "--from", f"http://{addresses[0]}", "--to", addresses[1], "--change-host-header"]
        self._run(CADDY, python["fastmcp"].with_name("caddy"), *words)
        self.timed = self._run(TIMED, sys.executable, "-m", "benchmarks.gateway.timed_gateway", self._file(TIMED))
        if "contextforge" in python:
            self._forge(python["contextforge"])
        else:
            del self.places[FORGE]

    def _mint(self) -> LiveMint:
        store = self._stack.enter_context(EmbeddedValkey(self._folder / "store"))
        port = free_ports(1)[0]
        policy = POLICY.format(origins=json.dumps([f"http://127.0.0.1:{each}" for each in self._ports.values()]))
        context = live_mint(self._folder, store_url=store.url, name="bench", port=port, policy=policy)
        return self._stack.enter_context(context)

    def _file(self, name: str) -> str:
        """Return a gateway's file; each gateway has a journal of its own."""
        port = self._ports[name]
        service = self._live.service_file("files")
        if name not in (SHARED, FORMER_SHARED):
            del service["nonces"]  # as for the one process of an audience
        service["journal"] = str(self._folder / f"journal-{port}")
        path = self._folder / f"{port}.json"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as out:
            json.dump(service, out)
        file = self._folder / f"{port}.toml"
        file.write_text(GATEWAY.format(port=port, service=path, url=self.places[DIRECT].url))
        return str(file)

    def _run(self, name: str, *words: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[bytes]:
        """Run a server until the end, and wait until it listens.

        Raises:
            RuntimeError: It does not.
        """
        path = self._folder / f"{self._ports[name]}.log"
        log = self._stack.enter_context(path.open("wb"))
        out = subprocess.PIPE if name == TIMED else log
        process = subprocess.Popen(
            words, cwd=cwd, env=self._environment | environment, stdin=subprocess.PIPE, stdout=out, stderr=log
        )
        self._stack.callback(_end, process)
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._ports[name]), 1):
                return process
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name}: expected it to listen, got {path.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def _forge(self, python: Path) -> None:
        """Start ContextForge with its defaults, but for the limit of 100 calls a minute, and register the server."""
        secret = {name: secrets.token_urlsafe(48) for name in ("JWT_SECRET_KEY", "AUTH_ENCRYPTION_SECRET")}
        secret |= {
            name: f"Aa1-{secrets.token_urlsafe(24)}" for name in ("PLATFORM_ADMIN_PASSWORD", "DEFAULT_USER_PASSWORD")
        }
        place = {"DATABASE_URL": f"sqlite:///{self._folder}/forge.db", "PLATFORM_ADMIN_EMAIL": "admin@example.com"}
        local = dict.fromkeys(("SSRF_ALLOW_LOCALHOST", "SSRF_ALLOW_PRIVATE_NETWORKS"), "true")
        settings = {**secret, **place, **local, "RATE_LIMITING_ENABLED": "false", "LOG_LEVEL": "ERROR"}
        port = str(self._ports[FORGE])
        self._run(FORGE, python.with_name("mcpgateway"), "--host", "127.0.0.1", "--port", port, **settings)
        words = ["-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com", "--admin", "--exp", "60"]
        environment = self._environment | settings
        done = subprocess.run([python, *words], env=environment, capture_output=True, text=True, check=True)
        bearer = f"Bearer {done.stdout.split()[-1]}"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": bearer}, timeout=30) as client:
            server = {"name": "files", "url": self.places[DIRECT].url, "transport": "STREAMABLEHTTP"}
            client.post("/gateways", json=server).raise_for_status()
        self.places[FORGE] = Place(f"http://127.0.0.1:{port}/mcp/", f"files-{TOOL}", bearer)

    def client(self) -> Client:
        """Start a client, an agent of its own."""
        self._clients += 1
        client = Client(self._live.enrol(f"acme/a{self._clients}"))
        self._stack.callback(client.close)
        return client

    def decisions(self) -> list[float]:
        """End the gateway that times its decisions, and return the times, us."""
        out, _ = self.timed.communicate(timeout=30)
        return list(json.loads(out.splitlines()[-1]))

    def open_streams(self) -> int:
        """Return how many requests and streams ``arx gateway`` has open."""
        port = self._ports[ARX]
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        return int(float(next(line for line in lines if line.startswith("arx_gateway_open{")).split()[-1]))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def stage(folder: Path, python: Mapping[str, Path], former: Path | None = None) -> Iterator[Stage]:
    """Run everything.

    Args:
        folder: For its files.
        python: The interpreter of the environment of FastMCP and Caddy, and of ContextForge, by name; without the
            second, ContextForge is left out.
        former: A former version of this code: then its gateways run beside this one's, and nothing else.
    """
    with contextlib.ExitStack() as stack:
        yield Stage(stack, folder, python, former)


def memory(pid: int) -> int:
    """Return the anonymous memory of a process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def all_calls(clients: Sequence[Client], place: Place, seconds: float) -> float:
    """Let all clients call at once for a time; return the calls a second."""
    for client in clients:
        client.order(**place._asdict(), seconds=seconds)
    answers = [client.answer()["times"] for client in clients]
    # A client's last call ends after the time: what a client has waited for in all is about the whole time.
    return sum(len(times) / (sum(times) / 1000) for times in answers)
