# SPDX-License-Identifier: Apache-2.0
"""Watch mode of the gateway: whose credentials go to an upstream, and what deciders say.  Real servers at both ends."""

import asyncio
import base64
import contextlib
import json
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from arx_caps.gateway.base.settings import UpstreamTerms, read_settings
from arx_caps.gateway.deciders.decider import Decider, DescribedRequest
from arx_verifier import Constraint, Rule, SettingsError
from arx_verifier.clock import now_ms
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.verification.watch import Watch
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import ServedDoor
from tests.servers import until

pytestmark = [pytest.mark.spec("12.7"), pytest.mark.servers]

RULES = (Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}), Rule(tool="orders.list"))
ROUTES = {"GET /orders/{order_id}": "orders.get"}
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("get", "drop")]


class Upstream:
    """A service that keeps the headers of each request; it answers 401 to one without a credential."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    async def http(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        return JSONResponse({}, 200 if "authorization" in request.headers else 401)

    async def mcp(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        asked = await request.json()
        if "id" not in asked:
            return Response(status_code=202)
        result: dict[str, Any] = {"content": [{"type": "text", "text": "done"}]}
        if asked["method"] == "tools/list":
            result = {"tools": TOOLS}
        headers = {"mcp-session-id": "s-1"} if asked["method"] == "initialize" else {}
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": result}, headers=headers)

    @property
    def credential(self) -> str | None:
        return self.seen[-1].get("authorization")


@contextlib.contextmanager
def gateway(
    kind: str, realm: UnsafeTestRealm, folder: Path, upstream: Upstream | None = None, **watch: Any
) -> Iterator[tuple[str, Upstream]]:
    """Serve an upstream behind the gateway's door to it, whose own credential is ``Bearer own-of-gateway``."""
    upstream = upstream or Upstream()
    (folder / "secret").write_text("own-of-gateway")
    routes = [Route("/mcp", upstream.mcp, methods=["POST"]), Route("/{rest:path}", upstream.http)]
    with serving(Starlette(routes=routes)) as behind:
        url = f"http://127.0.0.1:{behind}{'/mcp' if kind == 'mcp' else ''}"
        table = {"audience": "orders", "url": url, "credential": {"from": "file:secret", "prefix": "Bearer "}}
        table |= {"routes": ROUTES} if kind == "http" else {}
        terms = msgspec.convert(table, UpstreamTerms)
        verifier = realm.verifier.watching(Watch(**{"until_ms": now_ms() + 3_600_000, **watch}))
        with serving(ServedDoor(verifier, terms, folder)) as port:
            yield f"http://127.0.0.1:{port}/orders", upstream


def jwt(payload: bytes) -> str:
    """Return a text in the form of a signed JWT."""
    parts = (b'{"alg":"ES256","typ":"at+jwt"}', payload, b"signature")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def ask(url: str, kind: str, order: str, caller: UnsafeCaller | None = None, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=30) as client:
        if kind == "http":
            return client.get(f"{url}/orders/{order}", auth=caller, headers=headers)
        headers |= {"accept": "application/json, text/event-stream"}
        params = {"name": "get", "arguments": {"order_id": order}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return client.post(url, json=body, auth=caller, headers=headers)


ANOTHERS = jwt(b'{"iss":"https://login.example","sub":"ann"}')
FLASK = "eyJ1c2VyIjoiYW5uIn0.Z0nXkA.bm90IGEgand0"  # of the form of a JWT, without its header
# An access token of a mint, an assertion of an agent, and payloads that have no subject to read.
OF_ARX = (
    b'{"iss":"https://mint.example","sub":"agent:acme/a"}',
    b'{"iss":"acme/a","sub":"acme/a"}',
    b"[]",
    b'{"iss":"x"}',
    b'{"sub":"a","sub":"b"}',
)


@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_the_gateway_s_credential_goes_with_calls_that_a_rule_alone_would_refuse(kind: str, tmp_path: Path) -> None:
    """
    Of an authentic, live token of this audience; every other call goes on with the caller's own headers.
    """
    realm, other = UnsafeTestRealm("orders"), UnsafeTestRealm("orders")
    caller, brief, made = realm.caller(*RULES), realm.caller(*RULES, ttl_ms=1), now_ms()
    until(lambda: now_ms() > made + 5)
    with gateway(kind, realm, tmp_path) as (url, upstream):
        for who, order, sent, expected in (
            (caller, "o-1", {}, "Bearer own-of-gateway"),
            (caller, "x-1", {}, "Bearer own-of-gateway"),
            (None, "o-1", {"authorization": "Bearer of-the-client"}, "Bearer of-the-client"),
            (None, "o-1", {"authorization": f"Bearer {ANOTHERS}"}, f"Bearer {ANOTHERS}"),
            (None, "o-1", {"authorization": "Bearer opaque.with.dots"}, "Bearer opaque.with.dots"),
            *((None, "o-1", {"authorization": f"Bearer {jwt(each)}"}, None) for each in OF_ARX),
            (None, "o-1", {}, None),
            (other.caller(*RULES), "o-1", {}, None),
            (brief, "o-1", {}, None),
        ):
            answer = ask(url, kind, order, who, **sent)
            assert answer.status_code == (200 if expected or kind == "mcp" else 401), answer.text
            assert upstream.credential == expected, (order, sent)
        ask(url, kind, "o-1", None, **{"x-arx-agent": "acme/root", "x-arx-decision": "1", "X-ARX-Subject": "ann"})
        assert not [name for each in upstream.seen for name in each if name.startswith("x-arx")]
        assert "arx1_" not in json.dumps(upstream.seen)


def test_a_cookie_goes_on_unless_it_has_a_token_of_arx(tmp_path: Path) -> None:
    """
    A session of a web framework is one that has the form of a JWT alone.
    """
    ours = jwt(OF_ARX[0])
    with gateway("http", UnsafeTestRealm("orders"), tmp_path) as (url, upstream):
        for cookie, passes in (
            (f"session={FLASK}", True),
            (f"a=1; login={ANOTHERS}", True),
            (f"login={ours}", False),
            (f'login="{ours}"; a=1', False),
        ):
            ask(url, "http", "o-1", None, cookie=cookie)
            assert upstream.seen[-1].get("cookie") == (cookie if passes else None)


@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_a_killed_caller_reaches_no_upstream_of_a_gateway_that_watches(kind: str, tmp_path: Path) -> None:
    """
    A kill holds for its token, whatever else would refuse the call.
    """
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES)
    with gateway(kind, realm, tmp_path) as (url, upstream):
        realm.epochs.kill("session:s-test")
        for order in ("o-1", "x-1"):
            assert "revoked" in ask(url, kind, order, caller).text or kind == "mcp"
        assert not upstream.seen
        assert {each.code for each in realm.decisions.decisions} == {"revoked"}
        assert {each.outcome for each in realm.decisions.decisions} == {"deny"}


def test_a_session_of_mcp_goes_on_without_a_token(tmp_path: Path) -> None:
    """
    ``initialize``, a notification and a list need none; the list is not filtered, also for a token that allows less.
    """
    realm = UnsafeTestRealm("orders")
    with gateway("mcp", realm, tmp_path) as (url, upstream), httpx.Client(trust_env=False, timeout=30) as client:
        headers = {"accept": "application/json, text/event-stream"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        opened = client.post(url, json=begin, headers=headers)
        assert opened.status_code == 200
        headers |= {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        noted = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert client.post(url, json=noted, headers=headers).status_code == 202
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        for who in (None, realm.caller(*RULES)):
            tools = client.post(url, json=listing, headers=headers, auth=who).json()["result"]["tools"]
            assert [each["name"] for each in tools] == ["get", "drop"]
        assert [each.get("mcp-session-id") for each in upstream.seen] == [None, "s-1", "s-1", "s-1"]
        assert upstream.credential == "Bearer own-of-gateway"  # of the live token
        assert [each.get("authorization") for each in upstream.seen[:3]] == [None] * 3


def test_a_decider_lets_pass_and_says_nothing_of_who_calls() -> None:
    """
    Its headers replace those of a client, without a value; a kill is refused.
    """
    realm = UnsafeTestRealm("orders")
    decider = Decider(realm.verifier.watching(Watch(now_ms() + 3_600_000)), ROUTES, ())
    caller = realm.caller(*RULES)

    def decide(order: str, who: UnsafeCaller | None) -> Any:
        request = httpx.Request("GET", f"http://x/orders/{order}", headers={"x-arx-agent": "acme/root"})
        signed = request if who is None else who(request)
        headers = [(name.lower(), value) for name, value in signed.headers.raw]
        return asyncio.run(
            decider.decide(DescribedRequest("GET", f"/orders/{order}".encode(), headers, "10.0.0.7", b""))
        )

    assert dict(decide("o-1", caller).headers)[b"x-arx-agent"] == b"test/agent"
    for who in (caller, None):
        verdict = decide("x-1", who)
        assert verdict.status == 200
        assert {value for name, value in verdict.headers if name.startswith(b"x-arx-")} == {b""}
    realm.epochs.kill("session:s-test")
    assert decide("x-1", caller).status == 401


def settings(folder: Path, text: str) -> Any:
    (folder / "gateway.toml").write_text(text)
    assert tomllib.loads(text)
    return read_settings(folder / "gateway.toml")


TABLE = """
[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:1"
[upstream.orders.routes]
"GET /a" = "orders.a"
"""


def test_the_gateway_s_file_switches_it_on(tmp_path: Path) -> None:
    """
    With ``until``, at most 30 days ahead, and not for a program, whose credentials go with each call.
    """

    def table(lines: str) -> str:
        return TABLE.replace('audience = "orders"\n', f'audience = "orders"\n{lines}\n')

    soon = (datetime.now(UTC) + timedelta(days=29)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for value in (soon, f'"{soon}"'):
        watch = settings(tmp_path, table(f"watch = true\nuntil = {value}")).upstreams["orders"].read_watch()
        assert watch.is_on()
    assert settings(tmp_path, TABLE).upstreams["orders"].read_watch() is None
    late = (datetime.now(UTC) + timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for wrong in ("watch = true", f"watch = true\nuntil = {late}", f"until = {soon}", 'record = "arguments"'):
        with pytest.raises(SettingsError):
            settings(tmp_path, table(wrong))
    program = TABLE.partition("[upstream.orders.routes]")[0].replace('url = "http://127.0.0.1:1"', 'command = ["x"]')
    with pytest.raises(SettingsError, match="expected `url`"):
        settings(tmp_path, program + f"watch = true\nuntil = {soon}\n")
