# SPDX-License-Identifier: Apache-2.0
"""A client that did not send or did not read could lock others out of a gateway, or fill its memory.

Requests that never ended took all places, and further clients got 503 for as long as they were held.  A server over
stdio that wrote faster than its client read filled the gateway's memory.  One agent could take all places with streams.
A closed terminal made a gateway read its
file again, and go on without an owner.
"""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller
from tests.gateway.gateway_realm import AUDIENCE, ENVELOPE, GatewayRealm, gateway
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
PARTS = (b"", b"POST /orders HT", b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
BEFORE = "from arx_caps.gateway import serve\nserve._REQUEST_S = {:}"
STDIO = '[upstream.orders]\naudience = "orders"\ncommand = ["{python}", "-c", {script}]\nisolation = "none"\n'
# Answers `initialize`; a call gets notifications without end, as fast as they are read.
FLOOD = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "tools/call" and message["params"]["name"] == "flood":
        token = message["params"]["_meta"]["progressToken"]
        note = {"progressToken": token, "progress": 1, "message": "x" * 100_000}
        while True:
            print(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": note}), flush=True)
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}), flush=True)
"""
STATELESS = {
    "accept": "application/json, text/event-stream",
    "mcp-method": "tools/call",
    "mcp-name": "get",
    "mcp-protocol-version": "2026-07-28",
}


@pytest.fixture
def realm(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> GatewayRealm:
    return GatewayRealm(tmp_path, valkey.url, name=realm_name)


@pytest.fixture
def port(realm: GatewayRealm) -> int:
    """Where a gateway of one server over stdio is going to listen."""
    [port] = free_ports(1)
    realm.write(STDIO.format(python=sys.executable, script=json.dumps(FLOOD)), port=port)
    return port


def started(realm: GatewayRealm, **how: Any) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    return gateway(realm.folder / "gateway.toml", realm.folder / "log", **how)


@contextlib.contextmanager
def half_requests(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for number in range(count):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            client.sendall(PARTS[number % len(PARTS)])
        yield


@pytest.mark.slow
def test_half_requests_make_room_for_whole_ones(realm: GatewayRealm, port: int) -> None:
    """A gateway with 24 places answers, while 120 clients hold connections open."""
    with started(realm, files=560), half_requests(port, 120):
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_request_that_does_not_arrive_is_given_up(realm: GatewayRealm, port: int, part: bytes) -> None:
    """A byte now and then prolongs nothing."""
    with started(realm, before=BEFORE.format(0.3)), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(part)
        client.settimeout(0.02)
        until(lambda: is_closed(client, b"x" if part else b""))


def is_closed(client: socket.socket, more: bytes) -> bool:
    try:
        client.sendall(more)
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def call(caller: UnsafeCaller, name: str) -> bytes:
    token = caller.token(f"{AUDIENCE}.{name}")
    params = {"name": name, "arguments": {}, "_meta": {**ENVELOPE, "dev.arx/cap": token, "progressToken": "p"}}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


def sent(port: int, body: bytes) -> socket.socket:
    """Send a call, and read nothing."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    lines = [f"{name}: {value}" for name, value in {**STATELESS, "mcp-name": "flood"}.items()]
    head = f"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def memory(process: subprocess.Popen[str]) -> int:
    """What a process has in memory, bytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()


def written(process: subprocess.Popen[str]) -> int:
    """What the programs of a gateway have written, bytes."""
    found = [Path(f"/proc/{child}/io").read_text().split() for child in children(process).split()]
    return sum(int(words[words.index("wchar:") + 1]) for words in found)


@pytest.mark.slow
def test_a_client_that_does_not_read_its_stream(realm: GatewayRealm, port: int) -> None:
    """It holds little memory, no other client waits for it, and its call is given up."""
    flood, get = Rule(tool=f"{AUDIENCE}.flood"), Rule(tool=f"{AUDIENCE}.get")
    slow, other = realm.caller(flood, session="s-slow"), realm.caller(get, session="s-other")
    url = f"http://127.0.0.1:{port}/orders"
    with started(realm, before=BEFORE.format(1.5)) as process, httpx.Client(timeout=60) as client:
        assert client.post(url, content=call(other, "get"), headers=STATELESS).json()["result"] == {}
        before, programs = memory(process), len(children(process).split())
        with sent(port, call(slow, "flood")):
            until(lambda: len(children(process).split()) > programs and written(process) > 1_000_000)
            for _ in range(20):
                assert client.post(url, content=call(other, "get"), headers=STATELESS).json()["result"] == {}
                assert memory(process) - before < 20_000_000
            until(
                lambda: 'arx_gateway_open{upstream="orders"} 0.0' in client.get(url.replace("orders", "metrics")).text
            )
            assert memory(process) - before < 20_000_000


@pytest.mark.slow
def test_one_agent_does_not_take_all_places(realm: GatewayRealm, port: int) -> None:
    """Its calls beyond its limit are refused; another agent is served."""
    file = realm.folder / "gateway.toml"
    file.write_text(file.read_text() + "rate = { open = 2 }\n")
    rule, url = Rule(tool=f"{AUDIENCE}.*"), f"http://127.0.0.1:{port}"
    agents = [realm.caller(rule, session=f"s-{number}", agent="acme/many") for number in range(3)]
    other = realm.caller(rule, session="s-other", agent="acme/other")
    with started(realm), httpx.Client(timeout=60, headers=STATELESS, base_url=url) as client:
        with sent(port, call(agents[0], "flood")) as first, sent(port, call(agents[1], "flood")) as second:
            assert first.recv(1) == second.recv(1) == b"H"
            refused = client.post("/orders", content=call(agents[2], "get")).json()["error"]
            assert refused["data"]["code"] == "rate_limited"
            assert client.post("/orders", content=call(other, "get")).json()["result"] == {}
        until(lambda: 'arx_gateway_open{upstream="orders"} 0.0' in client.get("/metrics").text)
        assert client.post("/orders", content=call(agents[2], "get")).json()["result"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_terminals_end_ends_a_gateway(realm: GatewayRealm, port: int, on_terminal: bool) -> None:
    """SIGHUP of a terminal that is closed stops it in order; without a terminal it reads its file again."""
    terminal, theirs = pty.openpty() if on_terminal else os.pipe()[::-1]
    log = realm.folder / "log"
    with started(realm, stdin=theirs) as process:
        process.send_signal(signal.SIGHUP)
        if on_terminal:
            assert process.wait(60) == 0
        else:
            until(lambda: "reloaded" in log.read_text())
            assert process.poll() is None
    os.close(terminal)
    os.close(theirs)
    assert port
