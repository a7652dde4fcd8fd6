# SPDX-License-Identifier: Apache-2.0
"""nginx and Caddy with the files of `deploy/` before a recorder, and a decider of `arx gateway` beside them.

It takes nginx, which `.ci/run` installs, and Caddy from PyPI, and no part of `make test`: ``make deciders`` runs it.
Hosts and ports of the files are replaced by those of this machine.  What reached the recorder was allowed, and is in
the journal: that holds for each test.
"""

import base64
import concurrent.futures
import contextlib
import functools
import getpass
import hashlib
import os
import re
import socket
import socketserver
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import ArxMiddleware, Rule, open_verifier
from arx_verifier.journal.reader import read_journal
from arx_verifier.request import HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields
from tests.adapters.asgi_server import complete_lifespan, serving, whole_body
from tests.agent.live import now_ms
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, Program, gateway
from tests.gateway.proxy_programs import caddy, nginx, run_nginx
from tests.gateway.served_door import open_door
from tests.house.reader import environment
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]
LEASE_MS: Final = 1_000
TRIALS: Final = 50
AT_ONCE: Final = 5
UNSURE: Final = (500, 502, 503)  # of a proxy whose decider does not answer, or cannot decide
IDLE_S: Final = 1.0  # after which no further answer comes; a late one would only leave a test without its finding
ROUTES: Final = {
    "GET /orders/{order_id}?{limit:int}": "orders.get",
    "POST /orders/{order_id}/refund": "orders.refund",
    "POST /files/{name}": "orders.upload",
}
RULES: Final = (
    Rule(tool="orders.get", args={"order_id": {"glob": "o-*"}, "limit": {"max": 20, "optional": True}}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": {"max": 20, "optional": True}}),
)
DECIDER: Final = """
[decider.{name}]
kind = "forward-auth"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "{name}.json"
body_header = "X-Arx-Body"
spends = {spends}
[decider.{name}.routes]
"""


class Recorder:
    """What is behind the proxy: it keeps what arrives."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Keep a request, and answer it."""
        if await complete_lifespan(scope, receive, send):
            return
        body = await whole_body(receive)
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].partition(b"?")[0].decode("latin-1") + (f"?{query}" if query else "")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.arrived.append((scope["method"], target, headers, body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Site:
    """The realm, the decider and the proxies.

    Args:
        folder: Keeps everything.
        store: Has kills and nonces.
    """

    def __init__(self, folder: Path, store: EmbeddedValkey) -> None:
        self.folder, self.realm = folder, GatewayRealm(folder, store.url, lease_ms=LEASE_MS)
        self.recorder = Recorder()
        self.listen, self.spending, self.sparing, *self.ports = free_ports(7)
        self.urls = dict(zip(("nginx", "caddy", "nginx-guarded", "caddy-guarded"), self.ports, strict=True))
        self._held = contextlib.ExitStack()
        self._sessions = 0
        self._lock = threading.Lock()
        self.gateway: Program

    def __enter__(self) -> "Site":
        text = ""
        for name, port, spends in (("shop", self.spending, "true"), ("first", self.sparing, "false")):
            self.realm.write_service(f"{name}.json", journal=f"journal-{name}")
            text += DECIDER.format(name=name, port=port, spends=spends)
            text += "".join(f'"{route}" = "{tool}"\n' for route, tool in ROUTES.items())
        self.realm.write_service("behind.json", journal="journal-behind")
        self.file = self.realm.write(text, port=self.listen)
        self.start()
        upstream = self._held.enter_context(serving(self.recorder))
        guarded = ArxMiddleware(self.recorder, verifier=open_verifier(self.folder / "behind.json"), tools=dict(ROUTES))
        behind = self._held.enter_context(serving(guarded))
        for name, port in self.urls.items():
            keeps = name.endswith("-guarded")
            to, decider = (behind, self.sparing) if keeps else (upstream, self.spending)
            run = nginx if name.startswith("nginx") else caddy
            self._held.enter_context(run(self.folder / name, port, to=to, decider=decider, keeps_token=keeps))
            # A new store may have forgotten calls of its first second, and refuses them: a client signs anew.
            until(functools.partial(self._answers, name))
        return self

    def _answers(self, host: str) -> bool:
        with self.client(host) as client:
            return client.get("/orders/o-1", auth=self.caller()[1]).status_code == 200

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def start(self) -> None:
        """Start the gateway."""
        self.gateway = self._held.enter_context(gateway(self.file, self.folder / "gateway.log"))

    def caller(self, agent: str = "acme/a") -> tuple[str, UnsafeCaller]:
        """A new session's id, and its agent."""
        with self._lock:
            self._sessions += 1
            session = "s-" + "".join("abcdefghij"[int(digit)] for digit in f"{self._sessions:016d}")
        return session, self.realm.caller(*RULES, session=session, agent=agent)

    def client(self, host: str, **more: Any) -> httpx.Client:
        """A client of a proxy; each call has an agent of its own session."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.urls[host]}", timeout=30, **more)

    def allowed(self) -> set[str]:
        """The ids of all decisions that allowed a call."""
        folders = [self.folder / f"journal-{name}" for name in ("shop", "first", "behind")]
        return {each.id for each in read_journal(*folders) if each.allowed}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("deciders")
    with EmbeddedValkey(folder / "store") as store, Site(folder, store) as site:
        yield site


@pytest.fixture
def site(whole: Site) -> Iterator[Site]:
    """The site; what reaches the recorder in a test was allowed."""
    whole.recorder.arrived.clear()
    yield whole
    allowed = whole.allowed()
    for method, target, headers, _ in whole.recorder.arrived:
        assert headers.get("x-arx-decision") in allowed, f"{method} {target} had no decision"


@pytest.fixture(params=["nginx", "caddy"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def signed(caller: UnsafeCaller, method: str, target: str, body: bytes = b"") -> str:
    """The header of a call, by hand: a client library would write another target."""
    call = HttpCall(method, target.encode("latin-1"), hashlib.sha256(body).digest())
    return "Authorization: Bearer " + CallSigner(caller.macaroon, AUDIENCE).sign(http_fields(call), now_ms())


def raw(site: Site, host: str, text: str, body: bytes = b"", *, keeps_open: bool = False) -> list[int]:
    """Send bytes, and return the status of each answer until the proxy closes, or waits for more."""
    head = text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.urls[host]), 30) as connection:
        connection.sendall(head + body)
        data = b""
        connection.settimeout(IDLE_S if keeps_open else 30)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := connection.recv(65536):
                data += part
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def lines(site: Site, method: str, target: str, *more: str) -> str:
    """The lines of a signed request."""
    return "\n".join([f"{method} {target} HTTP/1.1", "Host: shop", signed(site.caller()[1], method, target), *more])


def test_the_caller_is_named_and_cannot_be_forged(site: Site, host: str) -> None:
    """The token stays at the proxy."""
    session, caller = site.caller()
    names = ("Decision", "Agent", "Session", "Task", "Tool", "Issuer", "Subject", "Reason", "Body")
    forged = {f"X-Arx-{name}": "forged" for name in names} | {"x-arx-agent": "acme/root", "X_Arx_Agent": "acme/root"}
    forged |= {"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/orders/o-9", "X-Forwarded-For": "192.0.2.1"}
    with site.client(host) as client:
        answer = client.get("/orders/o-1?limit=5", headers=forged, auth=caller)
    assert (answer.status_code, answer.text) == (200, "ok")
    [(method, target, headers, _)] = site.recorder.arrived
    assert (method, target) == ("GET", "/orders/o-1?limit=5")
    assert "authorization" not in headers
    assert {headers["x-arx-agent"], headers["x-arx-session"], headers["x-arx-tool"]} == {
        *("acme/a", session, "orders.get")
    }
    assert "forged" not in headers.values()
    assert [name for name, value in headers.items() if value == "acme/root"] in ([], ["x_arx_agent"])
    decision = headers["x-arx-decision"]
    folder = site.folder / "journal-shop"
    [found] = [each for each in read_journal(folder) if each.id == decision]
    assert (found.allowed, found.tool, found.peer) == (True, "orders.get", "127.0.0.1")


@pytest.mark.parametrize(
    "name", ["X-Arx-Agent", "close,x-arx-agent, X-ARX-Decision", "Authorization", "X-Forwarded-Uri"]
)
def test_no_client_takes_a_header_away(site: Site, host: str, name: str) -> None:
    """Nor with ``Connection``, by which it names headers that a proxy must not pass on (RFC 9110 7.6.1)."""
    raw(site, host, lines(site, "GET", "/orders/o-1", "Connection: close", f"Connection: x, {name}"))
    for _, _, headers, _ in site.recorder.arrived:
        assert {"x-arx-agent", "x-arx-decision"} <= headers.keys()


def test_a_refusal_says_why(site: Site, host: str) -> None:
    """With a challenge, the reason and the decision; no cache may keep it."""
    _, caller = site.caller()
    with site.client(host) as client:
        none = client.get("/orders/o-1", headers={"X-Forwarded-Uri": "/", "X-Arx-Decision": "x"})
        assert (none.status_code, none.json()["code"]) == (401, "missing_token")
        assert none.headers["www-authenticate"].startswith("Bearer ")
        refused = client.get("/orders/x-1", auth=caller)
        assert (refused.status_code, refused.json()["code"]) == (403, "argument_not_allowed")
        assert "no-store" in refused.headers["cache-control"]
        assert refused.json()["decision"]
        request = caller(client.build_request("GET", "/orders/o-1"))
        assert [client.send(request).status_code for _ in range(2)] == [200, 401]
    assert len(site.recorder.arrived) == 1


def test_a_body_is_not_guessed(site: Site, host: str) -> None:
    """Whatever says that there is one: a length, chunks, or nothing at all in HTTP/2."""
    _, caller = site.caller()
    path = "/orders/o-1/refund"
    with site.client(host) as client:
        assert client.post(path, auth=caller).status_code == 200
        assert client.post(path, json={"amount": 5}, auth=caller).json()["code"] == "request_unseen"
        assert client.request("GET", "/orders/o-1", content=b"{}", auth=caller).json()["code"] == "request_unseen"
    body = b'{"amount": 50}'
    # The proof is of the empty body, which the client does not send.
    assert (
        raw(site, host, lines(site, "POST", path, f"Content-Length: {len(body)}", "Connection: close"), body)[0] == 403
    )
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert (
        raw(site, host, lines(site, "POST", path, "Transfer-Encoding: chunked", "Connection: close"), chunk)[0] == 403
    )
    assert (
        raw(site, host, lines(site, "GET", "/orders/o-1", "Transfer-Encoding: chunked", "Connection: close"), chunk)[0]
        == 403
    )
    assert [each[3] for each in site.recorder.arrived] == [b""]
    for words in (["-T", "-", "-X", "POST"], ["-X", "POST"]):
        header = signed(site.caller()[1], "POST", path)
        asked = ["curl", "-s", "--http2-prior-knowledge", "-H", header, *words, "-o", "/dev/null", "-w", "%{http_code}"]
        asked.append(f"http://127.0.0.1:{site.urls[host]}{path}")
        done = subprocess.run(asked, input=body, capture_output=True, env=environment(), check=True)
        assert done.stdout == b"403", done.stdout
    assert len(site.recorder.arrived) == 1
    header = signed(site.caller()[1], "GET", "/orders/o-1")
    asked = ["curl", "-s", "--http2-prior-knowledge", "-H", header, f"http://127.0.0.1:{site.urls[host]}/orders/o-1"]
    assert subprocess.run(asked, capture_output=True, env=environment(), check=True).stdout == b"ok"


@pytest.mark.parametrize(
    "target",
    [
        *("//orders/o-1", "/orders//o-1", "/orders/./o-1", "/x/../orders/o-1", "/orders/%2e%2e/orders/o-1"),
        *("/orders%2fo-1", "/orders/o-1%2F", "/orders/o-1;a=b", "/orders/o-1;", "/orders\\o-1", "/orders/o-1%00"),
        *("/orders/o-1#x", "/orders/o-1?limit=5&limit=9", "/orders/%ff", "/orders/o-1/", "/%6frders/../orders/o-1"),
        *("/arx-decider", "/arx-decider/", "/ARX-DECIDER", "/.well-known/x", "*", "orders/o-1"),
    ],
)
def test_a_path_with_two_readings_goes_no_further(site: Site, host: str, target: str) -> None:
    """The proxy chooses a location by its own reading of the path."""
    [status] = raw(site, host, lines(site, "GET", target, "Connection: close"))[:1] or [400]
    assert status >= 400
    assert site.recorder.arrived == []


@pytest.mark.parametrize("target", ["/orders/o%2d1", "/%6frders/o-1", "/orders/o-1?limit=5", "/orders/o-%C3%A9"])
def test_what_was_decided_on_is_what_runs(site: Site, host: str, target: str) -> None:
    """Byte for byte, with the escapes that the client chose."""
    assert raw(site, host, lines(site, "GET", target, "Connection: close")) == [200]
    [(_, came, _, _)] = site.recorder.arrived
    assert came == target


def test_an_absolute_target_is_judged_by_its_path(site: Site, host: str) -> None:
    """Both proxies pass the path on, and say so to the decider."""
    header = signed(site.caller()[1], "GET", "/orders/o-1")
    raw(site, host, f"GET http://shop/orders/o-1 HTTP/1.1\nHost: shop\n{header}\nConnection: close")
    raw(site, host, f"GET http://shop/orders/x-1 HTTP/1.1\nHost: shop\n{header}\nConnection: close")
    assert [target for _, target, _, _ in site.recorder.arrived] in (["/orders/o-1"], [])


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PURGE", "DELETE", "get", "CONNECT", "PRI"])
def test_a_method_without_a_route_goes_no_further(site: Site, host: str, method: str) -> None:
    """Nor does one that a header names."""
    statuses = raw(site, host, lines(site, method, "/orders/o-1", "Connection: close"))
    assert not statuses or statuses[0] >= 400
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        raw(site, host, lines(site, "GET", "/orders/o-1", f"{name}: {method}", "Connection: close"))
    for _, _, headers, _ in site.recorder.arrived:
        assert not any("override" in name or name == "x-http-method" for name in headers)


def test_head_passes_as_get_does(site: Site, host: str) -> None:
    """And its answer has no body."""
    with site.client(host) as client:
        answer = client.head("/orders/o-1", auth=site.caller()[1])
    assert (answer.status_code, answer.content, site.recorder.arrived[0][0]) == (200, b"", "HEAD")


@pytest.mark.parametrize(
    "odd",
    [
        "Content-Length: 4\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked\nContent-Length: 0",
        "Content-Length: 0\nContent-Length: 60",
        "Content-Length: +0",
        "Content-Length: 0, 60",
        "Content-Length: 0x3c",
        "X: y\n Transfer-Encoding: chunked",
        "Content_Length: 60",
        "Expect: 100-continue\nContent-Length: 60",
    ],
)
def test_a_hidden_second_request_has_no_decision_of_the_first(site: Site, host: str, odd: str) -> None:
    """A request in the body of another one goes no further without a decision of its own."""
    hidden = b"0\r\n\r\nGET /orders/o-2 HTTP/1.1\r\nHost: shop\r\nX-Arx-Decision: x\r\n\r\n"
    raw(site, host, lines(site, "POST", "/orders/o-1/refund", odd), hidden, keeps_open=True)
    assert [target for _, target, _, _ in site.recorder.arrived] in ([], ["/orders/o-1/refund"])
    assert [each[3] for each in site.recorder.arrived] in ([], [b""])


def test_two_requests_of_a_connection_have_a_decision_each(site: Site, host: str) -> None:
    """The second one has no token."""
    first = lines(site, "GET", "/orders/o-1") + "\n\nGET /orders/o-2 HTTP/1.1\nHost: shop\nConnection: close"
    assert raw(site, host, first) == [200, 401]
    assert len(site.recorder.arrived) == 1


def test_a_websocket_is_refused(site: Site, host: str) -> None:
    """A kill would not end the open connection."""
    key = base64.b64encode(os.urandom(16)).decode()
    more = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    assert raw(site, host, lines(site, "GET", "/orders/o-1", *more), keeps_open=True)[0] >= 400
    assert site.recorder.arrived == []


def test_a_long_target_is_decided_on_whole_or_refused(site: Site, host: str) -> None:
    """None is cut."""
    for length, statuses in ((3_000, (200, 403)), (7_000, (200, 400, 403, 414, 500)), (100_000, (400, 414, 431, 500))):
        target = "/orders/o-" + "1" * length
        found = raw(site, host, lines(site, "GET", target, "Connection: close"))
        assert not found or found[0] in statuses, found
    assert all(len(target) in (3_010, 7_010) for _, target, _, _ in site.recorder.arrived)


def test_a_call_is_spent_where_it_runs(site: Site, host: str) -> None:
    """Before a verifier with the same store, a decider that spends makes each call one that was made before."""
    _, caller = site.caller()
    with site.client(f"{host}-guarded") as client:
        request = caller(client.build_request("GET", "/orders/o-1"))
        assert [client.send(request).status_code for _ in range(2)] == [200, 401]
        [decided] = [each for each in read_journal(site.folder / "journal-behind") if each.allowed][-1:]
        assert decided.tool == "orders.get"
        again = caller(client.build_request("GET", "/orders/o-1"))
        with site.client(host) as spending:
            request = spending.build_request(
                "GET", "/orders/o-1", headers={"authorization": again.headers["authorization"]}
            )
            assert spending.send(request).status_code == 200
        refused = client.send(again)
        assert (refused.status_code, refused.json()["code"]) == (401, "replayed")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "POST"])
def test_a_call_goes_to_one_of_several_servers(method: str, tmp_path: Path) -> None:
    """Also if its answer is lost: it may have run."""
    got: list[bytes] = []

    class Lost(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            got.append(self.rfile.readline())  # and closes

    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lost)) for _ in range(2)]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            held.callback(server.shutdown)
        [port] = free_ports(1)
        first, second = [server.server_address[1] for server in servers]
        held.enter_context(nginx(tmp_path / "nginx", port, to=first, also_to=second, decider=None))
        assert httpx.request(method, f"http://127.0.0.1:{port}/orders/o-1", timeout=30).status_code == 502
    assert len(got) == 1


CACHING = """user {user};
pid cache.pid;
events {{}}
http {{
  access_log off;
  proxy_cache_path kept keys_zone=kept:1m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{to};
      proxy_set_header Host $http_host;
      proxy_cache kept;
      add_header x-cache $upstream_cache_status;
    }}
  }}
}}
"""


def test_a_cache_before_a_gateway_keeps_no_answer(tmp_path: Path) -> None:
    """Though the service behind calls it public: nginx would give it to all, also to one without a token."""
    caching = [(b"cache-control", b"public, max-age=60"), (b"x-accel-expires", b"60"), (b"content-length", b"2")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if await complete_lifespan(scope, receive, send):
            return
        await send({"type": "http.response.start", "status": 200, "headers": caching})
        await send({"type": "http.response.body", "body": b"it"})

    realm, [port] = UnsafeTestRealm("orders"), free_ports(1)
    callers = [realm.caller(Rule(tool="orders.get"), session=f"s-{number}") for number in range(2)]
    with contextlib.ExitStack() as held:
        service = held.enter_context(serving(app))
        url = held.enter_context(
            open_door(realm, tmp_path, url=f"http://127.0.0.1:{service}", routes={"GET /x": "orders.get"})
        )
        file = tmp_path / "cache.conf"
        file.write_text(CACHING.format(user=getpass.getuser(), port=port, to=urlsplit(url).port))
        held.enter_context(run_nginx(file, port))
        answers = [httpx.get(f"http://127.0.0.1:{port}/orders/x", auth=caller) for caller in (*callers, None)]
    assert [(answer.status_code, answer.headers.get("x-cache")) for answer in answers[:2]] == [(200, "MISS")] * 2
    assert answers[2].status_code == 401


def kill_once(site: Site, host: str) -> float:
    """Kill a session, and return how long after it the last call that was allowed began, s; 0 if none did.

    A decider to which the store answers late, as on a busy machine, refuses for another reason until it is fresh again.
    """
    session, caller = site.caller()
    with site.client(host) as client:
        until(lambda: client.get("/orders/o-1", auth=caller).status_code == 200)
        site.realm.kill(session)
        killed, last = time.monotonic(), 0.0
        while True:
            now = time.monotonic() - killed
            answer = client.get("/orders/o-1", auth=caller)
            if answer.status_code == 401:
                assert answer.json()["code"] == "revoked"
                return last
            if answer.status_code == 200:
                last = now
                assert last <= LEASE_MS / 1000, f"a call was allowed {last:.3f} s after the kill"
            else:
                assert answer.status_code in UNSURE, answer.text


def test_a_kill_is_in_force_within_the_lease(site: Site, host: str) -> None:
    """The time is of the begin of the last call that was allowed."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda _: kill_once(site, host), range(TRIALS)))
    print(
        f"{host}: {TRIALS} kills; last allowed call began after {statistics.median(found) * 1000:.1f} ms p50, ", end=""
    )
    print(f"{max(found) * 1000:.1f} ms at most; the lease is {LEASE_MS} ms")


def test_a_proxy_without_its_decider_refuses(site: Site, host: str) -> None:
    """It allows nothing until the decider answers again."""
    _, caller = site.caller()
    with site.client(host) as client:
        assert client.get("/orders/o-1", auth=caller).status_code == 200
        site.gateway.kill()
        site.gateway.wait()
        for path in ("/orders/o-1", "/", "/orders/x"):
            assert client.get(path, auth=caller).status_code in UNSURE
        site.start()
        until(lambda: client.get("/orders/o-1", auth=site.caller()[1]).status_code == 200)
