# SPDX-License-Identifier: Apache-2.0
"""No secret of the gateway is in an answer, a log, an error, a record, a metric or a ``repr``, whatever fails.

A real ``arx gateway`` runs with all loggers at their loudest and the debug modes of Python and ``asyncio``.  Its
upstreams fail in each way, and write the credential that they got wherever they can.
"""

import asyncio
import contextlib
import gc
import os
import re
import secrets
import signal
import socketserver
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from arx_caps.agent import StartedTask
from arx_caps.embedded import EmbeddedValkey
from arx_caps.gateway.base.settings import read_settings
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.gateway import Gateway
from arx_caps.gateway.upstream.forwarder import Forwarder
from tests.agent.live import LiveMint, live_mint
from tests.gateway.door import CALL
from tests.house.pages import ROOT
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
KEYS = {name: f"canary-{name}-{secrets.token_hex(16)}" for name in ("env", "file", "stdio")}
AUDIENCES = ("plain", "tools", "piped", "tls")
GATEWAY = """
[gateway]
listen = [{listen}]
[upstream.plain]
audience = "plain"
url = "http://127.0.0.1:{port}/v1"
credential = {{ from = "env:PLAIN_KEY", prefix = "Bearer " }}
timeout = "1s"
max_answer = 4096
[upstream.plain.routes]
"GET /{{fault}}" = "plain.get"
[upstream.tools]
audience = "tools"
url = "http://127.0.0.1:{port}/mcp"
credential = {{ header = "X-Key", from = "file:tools.key" }}
timeout = "1s"
max_answer = 4096
[upstream.piped]
audience = "piped"
command = ["{python}", "-c", {program}]
isolation = "none"
env = {{ KEY = "env:PIPED_KEY" }}
timeout = "3s"
[upstream.tls]
audience = "tls"
url = "https://127.0.0.1:{port}"
credential = {{ from = "env:PLAIN_KEY" }}
[upstream.tls.routes]
"GET /{{fault}}" = "tls.get"
"""
PROGRAM = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    fault = str(message.get("params", {}).get("arguments", {}).get("fault"))
    said = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": "fine"}]}}
    if fault == "fault_echo":
        said["result"]["content"][0]["text"] = os.environ["KEY"]
    if fault == "fault_error":
        said = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": 1, "message": os.environ["KEY"]}}
    if fault == "fault_note":
        params = {"level": "info", "data": os.environ["KEY"]}
        print(json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": params}), flush=True)
    if fault == "fault_garbage":
        print(os.environ["KEY"], flush=True)
    if fault == "fault_early":
        sys.exit(os.environ["KEY"] and 3)
    if fault != "fault_slow":
        print(json.dumps(said), flush=True)
"""
LOUD = """
import logging
logging.basicConfig(level=1, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
logging.basicConfig = lambda **_: None
"""
OK = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
FAULTS = {
    "good": OK + "content-length: 2\r\n\r\n{{}}",
    "echo": OK + "connection: close\r\n\r\n{key}",
    "header": OK + "x-debug: {key}\r\ncontent-length: 2\r\n\r\n{{}}",
    "stream": "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\ndata: {key}\n\n",
    "challenge": 'HTTP/1.1 401 No\r\nwww-authenticate: Bearer realm="{key}"\r\ncontent-length: 0\r\n\r\n',
    "forbidden": "HTTP/1.1 403 {key}\r\nx-key: {key}\r\nconnection: close\r\n\r\n{key}",
    "moved": "HTTP/1.1 302 Found\r\nlocation: /?key={key}\r\ncontent-length: 0\r\n\r\n",
    "early": "",
    "half": "HTTP/1.1 200 OK\r\nx-key: {key}",
    "short": OK + "content-length: 1000\r\n\r\n{key}",
    "garbage": "{key}\r\n\r\n",
    "badheader": "HTTP/1.1 200 OK\r\n{key}\r\n\r\n",
    "badchunk": OK + "transfer-encoding: chunked\r\n\r\n{key}\r\n{key}",
    "status": "HTTP/1.1 999 {key}\r\ncontent-length: 0\r\n\r\n",
    "coded": OK + "content-encoding: {key}\r\ncontent-length: 0\r\n\r\n",
    "long": OK + "connection: close\r\n\r\n" + "x" * 5000 + "{key}",
}


class _Faulty(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        head = b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in head:
                if not (part := self.connection.recv(65536)):
                    return
                head += part
            found = re.search(rb"fault_(\w+)", head) or re.search(rb"fault_(\w+)", self.connection.recv(65536))
            key = next((value for value in KEYS.values() if value.encode() in head), "no key came")
            fault = found[1].decode() if found else "good"
            if fault == "slow":
                self.connection.recv(1)  # until the gateway goes
            else:
                self.connection.sendall(FAULTS[fault].format(key=key).encode())


class World:
    """A realm, a gateway that is loud, and all that came out of it."""

    def __init__(self, folder: Path, mint: LiveMint, ports: list[int], upstream: int) -> None:
        self.folder, self.mint, self.seen = folder, mint, list[str]()
        self.ports = dict(zip(AUDIENCES, ports, strict=True))
        (folder / "loud").mkdir()
        (folder / "loud" / "sitecustomize.py").write_text(LOUD)
        listen = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        program = msgspec.json.encode(PROGRAM).decode()
        text = GATEWAY.format(listen=listen, port=upstream, python=sys.executable, program=program)
        (folder / "gateway.toml").write_text(text)
        self.key(KEYS["file"])
        for audience in AUDIENCES:
            service = mint.service_file(audience)
            service["journal"] = str(folder / f"{audience}.journal")
            (folder / f"{audience}.json").touch(0o600)
            (folder / f"{audience}.json").write_bytes(msgspec.json.encode(service))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
        self.environment |= {"PYTHONASYNCIODEBUG": "1", "PYTHONPATH": f"{folder / 'loud'}:{ROOT}", "PYTHONDEVMODE": "1"}
        self.environment |= {"PLAIN_KEY": KEYS["env"], "PIPED_KEY": KEYS["stdio"], "PYTHONWARNINGS": "ignore"}

    def key(self, text: str, mode: int = 0o600) -> None:
        """Write the secret of a file."""
        (self.folder / "tools.key").write_text(text)
        (self.folder / "tools.key").chmod(mode)
        self.folder.chmod(0o755)  # in a folder of one user alone, the file's own mode does not matter

    def arx(self, *words: str) -> int:
        """Run a command, and keep what it writes."""
        command = [sys.executable, "-m", "arx_caps.cli", *words]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        self.seen += [done.stdout, done.stderr]
        return done.returncode

    def get(self, task: StartedTask, audience: str, fault: str) -> None:
        """Call a plain HTTP service."""
        url = f"http://127.0.0.1:{self.ports[audience]}/{audience}/fault_{fault}"
        with httpx.Client(auth=task.auth(audience), timeout=30) as client:
            self.read(client, "GET", url)

    def call(self, task: StartedTask, audience: str, fault: str, method: str = "tools/call") -> None:
        """Call a tool, or send another message."""
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28"}
        params: dict[str, Any] = {
            "name": "get",
            "arguments": {"fault": f"fault_{fault}"},
            "_meta": {"progressToken": 1},
        }
        params = params if method == "tools/call" else {"cursor": f"fault_{fault}"}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        url = f"http://127.0.0.1:{self.ports[audience]}/{audience}"
        with httpx.Client(auth=task.auth(audience), headers=headers, timeout=30) as client:
            self.read(client, "POST", url, json=message)

    def read(self, client: httpx.Client, method: str, url: str, **more: Any) -> None:
        """Keep an answer as far as it comes."""
        with contextlib.suppress(httpx.TransportError), client.stream(method, url, **more) as answer:
            self.seen.append(f"{answer.status_code} {answer.reason_phrase} {answer.headers}")
            for part in answer.iter_raw():
                self.seen.append(part.decode("latin-1"))

    def log(self) -> str:
        """What the gateway wrote."""
        return (self.folder / "gateway.log").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The realm of this file."""
    folder = tmp_path_factory.mktemp("canary")
    (folder / "store").mkdir()
    mint_port, *ports = free_ports(1 + len(AUDIENCES))
    policy = "".join(
        f'[audience.{audience}]\norigins = ["http://127.0.0.1:{port}"]\n'
        for audience, port in zip(AUDIENCES, ports, strict=True)
    )
    rules = ", ".join(f'{{ tool = "{audience}.get", any = true }}' for audience in AUDIENCES)
    policy += '[session.all]\nagents = ["acme/**"]\nttl = "1h"\n[task.all]\nagents = ["acme/**"]\nttl = "10m"\n'
    policy += f"audience = {[*AUDIENCES]}\nallow = [{rules}]\n"
    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Faulty) as faulty,
        EmbeddedValkey(folder / "store") as store,
        live_mint(folder, store_url=store.url, name="acme", port=mint_port, policy=policy) as mint,
    ):
        faulty.daemon_threads = True
        thread = threading.Thread(target=faulty.serve_forever)
        thread.start()
        try:
            yield World(folder, mint, ports, faulty.server_address[1])
        finally:
            faulty.shutdown()
            thread.join()


@contextlib.contextmanager
def gateway(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway that runs, and ends at SIGTERM."""
    with (world.folder / "gateway.log").open("w") as log:
        words = [sys.executable, "-m", "arx_caps.cli", "gateway", "gateway.toml", "--debug"]
        process = subprocess.Popen(words, cwd=world.folder, env=world.environment, stdout=log, stderr=log)
    try:
        until(lambda: "the gateway listens" in world.log() or process.poll() is not None)
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_no_text_has_a_secret(world: World) -> None:
    """Each fault of each upstream, reloads with wrong and right files, commands, metrics, records and the log."""
    with (
        gateway(world) as process,
        world.mint.agent("acme/a") as agent,
        agent.open_session() as session,
        session.start_task("all") as task,
    ):
        for fault in (*FAULTS, "slow"):
            world.get(task, "plain", fault)
            world.call(task, "tools", fault)
        for fault in ("echo", "stream", "badchunk", "good"):
            world.call(task, "tools", fault, "tools/list")
        for fault in ("good", "echo", "error", "note", "garbage", "early", "slow"):
            world.call(task, "piped", fault)
        world.get(task, "tls", "good")
        assert world.arx("gateway", "--help") == 0
        assert world.arx("gateway", "--check", "gateway.toml") == 0
        for text, mode in ((f"{KEYS['file']}\nsecond", 0o600), (f"{KEYS['file']}é", 0o600), (KEYS["file"], 0o644)):
            world.key(text, mode)
            assert world.arx("gateway", "--check", "gateway.toml", "--debug") == 2
            before = world.log().count("goes on as before")
            process.send_signal(signal.SIGHUP)
            until(lambda before=before: world.log().count("goes on as before") > before)  # type: ignore[misc]
        world.key(KEYS["file"])
        process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in world.log())
        world.call(task, "tools", "good")
        for path in ("metrics", "readyz", "healthz", "other"):
            world.seen.append(httpx.get(f"http://127.0.0.1:{world.ports['plain']}/{path}", timeout=30).text)
    assert process.returncode == 0
    assert world.log().count("is closed") >= len(AUDIENCES)
    texts = {"log": world.log(), **{f"answer {at}": text for at, text in enumerate(world.seen)}}
    for file in world.folder.rglob("*.journal/**/*"):
        if file.is_file():
            texts[str(file)] = file.read_bytes().decode("latin-1")
    assert "aiohttp" in texts["log"] or "asyncio" in texts["log"]
    assert "answered with its credential" in "".join(world.seen)
    assert any("journal" in name for name in texts)
    for key in KEYS.values():
        assert [name for name, text in texts.items() if key[:-8] in text] == []


def test_no_repr_has_a_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the gateway's own variables in a traceback, as error reporters collect them."""
    monkeypatch.setenv("PLAIN_KEY", KEYS["env"])
    monkeypatch.setenv("PIPED_KEY", KEYS["stdio"])
    running = Gateway(read_settings(world.folder / "gateway.toml"))
    own = [each for each in gc.get_objects() if str(type(each).__module__).startswith("arx_caps.gateway")]
    texts = [repr(each) for each in own] + [repr(vars(each)) for each in own if hasattr(each, "__dict__")]
    assert len(texts) > 10

    async def fail(forwarder: Forwarder, fault: str) -> None:
        forwarder.open()
        try:
            async with forwarder.send("GET", [], b"", f"/fault_{fault}", call=CALL) as answer:
                async for part in answer.content.iter_any():
                    texts.append(part.decode())
        except UpstreamError as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            ours = [frame.f_locals for frame in frames if "arx_caps" in frame.f_code.co_filename]
            texts.extend([str(error), *traceback.format_exception(error), repr(ours)])
        finally:
            await forwarder.close()

    forwarder: Any = running.upstreams["plain"].upstream
    for fault in ("echo", "garbage", "badheader", "early", "short"):
        asyncio.run(fail(forwarder, fault))
    for key in KEYS.values():
        assert [text for text in texts if key[:-8] in text] == []
