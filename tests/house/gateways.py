# SPDX-License-Identifier: Apache-2.0
"""Two gateways behind nginx as docs/operations.md has it, and kill -9 of each under load.

It takes nginx, which `.ci/run` installs, and no part of `make test`: ``make operations`` runs it.
The hosts that the page names are ports of this machine.
"""

import contextlib
import itertools
import json
import secrets
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.journal.reader import read_journal
from arx_verifier.testing import UnsafeCaller
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, Program, gateway, running
from tests.house.pages import ROOT, blocks
from tests.house.reader import environment
from tests.servers import child, free_ports, listens, until
from tests.topologies.authority import Ca

pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]
PAGE: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CLIENTS: Final = 12
CALLS: Final = 8  # of each client before a gateway is killed, and again after it
LATE_S: Final = 30.0  # until an event is here, on a busy machine
PAUSE_S: Final = 0.05  # of a call in the server, and between two events of a stream
RULE: Final = Rule(tool=f"{AUDIENCE}.*")
HEADERS: Final = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
UPSTREAMS: Final = """
[upstream.http]
audience = "orders"
service = "{name}-http.json"
url = "http://127.0.0.1:{port}/mcp"
[upstream.stdio]
audience = "orders"
service = "{name}-stdio.json"
command = ["{python}", "{script}", "{pause_s}"]
isolation = "none"
[upstream.plain]
audience = "orders"
service = "{name}-plain.json"
url = "http://127.0.0.1:{port}"
routes = {{ "GET /slow?{{call}}" = "orders.slow" }}
"""


class Site:
    """The realm, the server over HTTP, two gateways, and nginx before them.

    Args:
        folder: Keeps everything.
        store: Has kills and nonces.
    """

    def __init__(self, folder: Path, store: EmbeddedValkey) -> None:
        self.folder, self.realm, self.ca = folder, GatewayRealm(folder, store.url), Ca.make(folder / "authority")
        self.proxy, *self.ports = free_ports(3)
        self.url = f"https://127.0.0.1:{self.proxy}"
        self.runs = folder / "runs"
        self._held = contextlib.ExitStack()
        self.gateways: list[Program] = []

    def __enter__(self) -> "Site":
        words = ["-m", "tests.gateway.upstream_streams", str(self.runs), str(PAUSE_S), "10"]
        server = self._held.enter_context(running(words, self.folder / "upstream.log"))
        script = ROOT / "tests" / "gateway" / "upstream_watch.py"
        for name, port in zip("ab", self.ports, strict=True):
            for kind in ("http", "stdio", "plain"):
                self.realm.write_service(f"{name}-{kind}.json", journal=f"journal-{name}-{kind}")
            text = UPSTREAMS.format(
                name=name, port=server.first_line, python=sys.executable, script=script, pause_s=PAUSE_S
            )
            members = 'behind_tls = true\ntrusted_proxies = ["127.0.0.1"]\n'
            self.realm.write(text, port=port, file=f"{name}.toml", members=members)
            self.gateways.append(self._start(name))
        self._held.enter_context(self._nginx())
        for port in self.ports:
            # A new store refuses the calls of its first second.
            until(lambda port=port: self._allows(f"http://127.0.0.1:{port}"))  # type: ignore[misc]
        return self

    def _allows(self, url: str) -> bool:
        """Whether a gateway allows a call now, and its server answers it."""
        with self.client(CLIENTS + 1, url) as client:
            call = message(self.caller("z"), "tools/call", "refund", call=secrets.token_hex(8))
            answer = client.post("/http", json=call)
            # A refusal is an error, or a result with `isError`.
            return answer.status_code == 200 and "isError" not in answer.json().get("result", {"isError": True})

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _start(self, name: str) -> Program:
        return self._held.enter_context(gateway(self.folder / f"{name}.toml", self.folder / f"{name}.log"))

    def kill(self, number: int) -> None:
        """Kill a gateway, and wait for its end."""
        self.gateways[number].kill()
        self.gateways[number].wait()

    def restart(self, number: int) -> None:
        """Start a gateway again."""
        self.gateways[number] = self._start("ab"[number])

    def serves(self, number: int) -> bool:
        """Whether nginx sends calls to a gateway that was started."""
        return 'status="200"' in self._metrics(number)

    def has_open(self, number: int) -> bool:
        """Whether a call of plain HTTP is open at a gateway."""
        return 'arx_gateway_open{upstream="plain"} 1.0' in self._metrics(number)

    def _metrics(self, number: int) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[number]}/metrics").text

    @contextlib.contextmanager
    def _nginx(self) -> Iterator[None]:
        """Run nginx with the page's file, at this machine's ports."""
        certificate, key = self.ca.issue("127.0.0.1")
        shutil.copy(certificate, self.folder / "tools.example.pem")
        shutil.copy(key, self.folder / "tools.example.key")
        [text] = [block.text for block in blocks(PAGE) if block.language == "nginx"]
        instead = {"gateway-1.example:8090": f"127.0.0.1:{self.ports[0]}", "listen 443": f"listen {self.proxy}"}
        instead |= {"gateway-2.example:8090": f"127.0.0.1:{self.ports[1]}"}
        for shown, own in instead.items():
            assert shown in text
            text = text.replace(shown, own)
        (self.folder / "gateways.conf").write_text(text)
        program = shutil.which("nginx", path=environment()["PATH"])
        assert program, "nginx is not installed"
        words = [program, "-p", str(self.folder), "-c", "gateways.conf", "-e", "nginx.log", "-g", "daemon off;"]
        with child(words, stdin=subprocess.DEVNULL) as process:
            try:
                until(lambda: process.poll() is not None or listens(self.proxy))
                assert process.poll() is None, (self.folder / "nginx.log").read_text()
                yield
            finally:
                process.terminate()

    def client(self, number: int, url: str | None = None) -> httpx.Client:
        """A client with an address of its own, by which nginx chooses its gateway."""
        trusted = ssl.create_default_context(cafile=str(self.ca.folder / "ca.pem"))
        transport = httpx.HTTPTransport(verify=trusted, local_address=f"127.0.1.{number}")
        return httpx.Client(base_url=url or self.url, transport=transport, headers=HEADERS, timeout=30)

    def caller(self, letter: str) -> UnsafeCaller:
        """An agent with a session of its own."""
        return self.realm.caller(RULE, session="s-" + 16 * letter, agent=f"acme/{letter}")

    def recorded(self) -> Counter[str]:
        """How often each refund was recorded as allowed, by its argument."""
        folders = [self.folder / f"journal-{name}-http" for name in "ab"]
        found = [each for each in read_journal(*folders) if each.allowed and each.tool == f"{AUDIENCE}.refund"]
        return Counter(json.loads(each.arguments or b"{}")["call"] for each in found if each.outcome == "allow")

    def ran(self) -> Counter[str]:
        """How often each refund ran."""
        return Counter(line.split()[0] for line in self.runs.read_text().splitlines() if line.endswith(" began"))


@pytest.fixture
def site(tmp_path: Path, own_valkey: EmbeddedValkey) -> Iterator[Site]:
    with Site(tmp_path, own_valkey) as site:
        yield site


def message(caller: UnsafeCaller, method: str, tool: str = "", **arguments: str) -> dict[str, Any]:
    """A message with a token of its own."""
    params: dict[str, Any] = {}
    if method == "tools/call":
        token = caller.token(f"{AUDIENCE}.{tool}", **arguments)
        params = {"name": tool, "arguments": arguments, "_meta": {"dev.arx/cap": token, "progressToken": "p"}}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


class Load(threading.Thread):
    """One client that calls one time after the other until it is stopped.

    Attributes:
        statuses: Of its calls, in their order.
        error: What else ended it.
    """

    def __init__(self, site: Site, number: int) -> None:
        super().__init__()
        self._site, self._number, self._caller = site, number, site.caller("abcdefghijkl"[number])
        self.statuses: list[int] = []
        self.error: Exception | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        """Call."""
        try:
            with self._site.client(self._number + 1) as client:
                for number in itertools.count():
                    if self.stop.is_set():
                        return
                    name = f"{self._number}-{number}"
                    answer = client.post("/http", json=message(self._caller, "tools/call", "refund", call=name))
                    if answer.status_code == 200:
                        assert answer.json()["result"] == {"content": [{"type": "text", "text": name}]}
                    self.statuses.append(answer.status_code)
        except Exception as error:
            self.error = error


def test_a_gateway_dies_under_load(site: Site) -> None:
    """Calls in flight answer 502, each call that ran is recorded and ran once, and each next call works."""
    loads = [Load(site, number) for number in range(CLIENTS)]
    for load in loads:
        load.start()

    def goes_on(count: int) -> None:
        before = [len(load.statuses) for load in loads]
        for load, done in zip(loads, before, strict=True):
            until(lambda load=load, done=done: load.error or len(load.statuses) >= done + count)  # type: ignore[misc]

    goes_on(CALLS)
    for number in (0, 1):
        site.kill(number)
        goes_on(CALLS)
        site.restart(number)
        until(lambda number=number: site.serves(number))  # type: ignore[misc]
        goes_on(CALLS)
    for load in loads:
        load.stop.set()
    for load in loads:
        load.join(60)
    assert [load.error for load in loads if load.error] == []
    statuses = [load.statuses for load in loads]
    assert {status for each in statuses for status in each} == {200, 502}
    for each in statuses:
        assert (502, 502) not in itertools.pairwise(each), each
    ran, recorded = site.ran(), site.recorded()
    assert set(ran.values()) == {1}
    assert set(recorded.values()) == {1}
    assert ran.keys() <= recorded.keys()
    answered = sum(status == 200 for each in statuses for status in each)
    assert answered <= len(ran)
    lost = sum(status == 502 for each in statuses for status in each)
    print(f"{answered} calls answered, {lost} answered 502, {len(ran)} ran, {len(recorded)} recorded")


def test_gateways_share_used_calls_and_sessions_over_http(site: Site) -> None:
    """A call works at one gateway alone; a session that one has opened works at the other."""
    urls = [f"http://127.0.0.1:{port}" for port in site.ports]
    caller = site.caller("a")
    with site.client(1, urls[0]) as first, site.client(1, urls[1]) as second:
        call = message(caller, "tools/call", "refund", call="once")
        assert "isError" not in first.post("/http", json=call).text
        again = second.post("/http", json=call)
        assert again.json()["error"]["data"]["code"] == "replayed"
        session = {"mcp-session-id": opened(first, caller, "/http")}
        listed = second.post("/http", json=message(caller, "tools/list"), headers=session, auth=caller)
        assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["watch", "refund"]


def test_a_get_that_nginx_sends_again_does_not_run_again(site: Site) -> None:
    """The other gateway knows that the call was used."""
    codes: list[str] = []

    def get() -> None:
        with site.client(1) as client:
            codes.append(client.get("/plain/slow?call=get", auth=site.caller("a")).json()["code"])

    thread = threading.Thread(target=get)
    thread.start()
    until(lambda: site.ran()["get"] and any(map(site.has_open, (0, 1))))
    site.kill(0 if site.has_open(0) else 1)
    thread.join(60)
    assert (codes, site.ran()["get"]) == (["replayed"], 1)


def taken(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a call until the upstream's verifier takes it: in the second of its start, a call is to be signed anew."""
    answers: list[httpx.Response] = []

    def is_taken() -> bool:
        answers.append(send())
        return answers[-1].status_code != 401 or answers[-1].json()["code"] != "proof_invalid"

    until(is_taken)
    return answers[-1]


def opened(client: httpx.Client, caller: UnsafeCaller, path: str) -> str:
    """Initialize, and return the id of the session."""
    answer = taken(lambda: client.post(path, json=message(caller, "initialize"), auth=caller))
    assert answer.status_code == 200, answer.text
    return answer.headers["mcp-session-id"]


def test_a_session_over_stdio_ends_with_its_gateway(site: Site) -> None:
    """Its client, which nginx sends to the other gateway, gets 404 and initializes again."""
    caller = site.caller("a")
    with site.client(1) as client:

        def call(session: str) -> httpx.Response:
            headers = {"mcp-session-id": session}
            return client.post("/stdio", json=message(caller, "tools/call", "refund"), headers=headers)

        session = opened(client, caller, "/stdio")
        for _ in range(5):
            assert call(session).json()["result"] == {}
        [owner] = [number for number, each in enumerate(site.gateways) if has_children(each)]
        site.kill(owner)
        assert taken(lambda: call(session)).status_code == 404
        assert call(opened(client, caller, "/stdio")).json()["result"] == {}


def has_children(process: Program) -> bool:
    return bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def test_a_stream_passes_nginx_as_it_comes_and_ends_with_a_kill(site: Site) -> None:
    """An event is not kept back, and the refusal is the last one."""
    caller = site.caller("a")
    with (
        site.client(1) as client,
        client.stream("POST", "/http", json=message(caller, "tools/call", "watch")) as answer,
    ):
        lines = (line for line in answer.iter_lines() if line.startswith("data:"))
        for _ in range(5):
            left = json.loads(next(lines)[5:])["params"]["progress"]
            assert time.monotonic_ns() - left < LATE_S * 1_000_000_000
        site.realm.kill("s-" + 16 * "a")
        *_, last = lines
    assert json.loads(last[5:])["result"]["isError"] is True
