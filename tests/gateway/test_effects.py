# SPDX-License-Identifier: Apache-2.0
"""Effects of calls through the gateway, over HTTP and MCP: what the upstream's answer shows.  Real servers."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from arx_caps.gateway.base.settings import UpstreamTerms, read_settings
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_caps.gateway.upstream.verifier_runtime import RunningVerifier
from arx_verifier import Rule, SettingsError
from arx_verifier.metrics.counted_decisions import Counts
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.served_door import call_tool
from tests.verifier.test_effects import effects_in

pytestmark = [pytest.mark.spec("12.8"), pytest.mark.servers]

ROUTES = {"POST /refund": "orders.refund"}
STREAM = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")


def message(**result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [], **result}}).encode()


@contextlib.contextmanager
def gateway(
    kind: str,
    realm: UnsafeTestRealm,
    folder: Path,
    status: int,
    header: Any,
    body: bytes,
    work: Callable[[], object] = lambda: None,
    **further: Any,
) -> Iterator[str]:
    """Serve an upstream that works and then answers this, behind the gateway's door."""

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        if await complete_lifespan(scope, receive, send):
            return
        while (await receive()).get("more_body"):
            pass
        work()
        await send({"type": "http.response.start", "status": status, "headers": [header]})
        await send({"type": "http.response.body", "body": body})

    with serving(upstream, log_level="critical") as behind:
        table: dict[str, Any] = {
            "audience": "orders",
            "url": f"http://127.0.0.1:{behind}",
            "effects": ["orders.refund"],
        }
        table |= further | ({"routes": ROUTES} if kind == "http" else {})
        terms = msgspec.convert(table, UpstreamTerms)
        forwarder = Forwarder("orders", terms, folder)
        verifier = realm.verifier.within(None, terms.effects, terms.marks)
        door: Any = (
            HttpDoor(verifier, terms, forwarder, ROUTES) if kind == "http" else McpDoor(verifier, terms, forwarder)
        )

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "lifespan":
                await door({**scope, "root_path": "/orders"}, receive, send)
                return
            await receive()
            forwarder.open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await forwarder.close()
            await send({"type": "lifespan.shutdown.complete"})

        with serving(app) as port:
            yield f"http://127.0.0.1:{port}/orders"


@pytest.mark.parametrize(
    ("kind", "status", "header", "body", "result"),
    [
        ("http", 200, JSON, b"{}", "done"),
        ("http", 409, JSON, b"{}", "failed"),
        ("http", 504, JSON, b"{}", "unknown"),
        ("http", 200, STREAM, b"data: 1\n\n", "done"),
        ("mcp", 200, JSON, message(), "done"),
        ("mcp", 200, JSON, message(isError=True), "failed"),
        ("mcp", 200, JSON, message(task={"taskId": "t-1"}), "unknown"),
        ("mcp", 200, JSON, message(resultType="task", taskId="t-1"), "unknown"),
        ("mcp", 200, JSON, message(resultType="input_required", requestState="x"), "unknown"),
        ("mcp", 200, JSON, message(resultType="complete"), "done"),
        ("mcp", 200, JSON, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"x"}}', "failed"),
        ("mcp", 500, JSON, b"<html>", "unknown"),
        ("mcp", 200, STREAM, b"data: " + message() + b"\n\n", "done"),
        ("mcp", 200, STREAM, b"data: " + message(isError=True) + b"\n\n", "failed"),
        ("mcp", 200, STREAM, b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n', "unknown"),
    ],
)
def test_the_upstream_s_answer_is_the_effect(
    kind: str, status: int, header: Any, body: bytes, result: str, tmp_path: Path
) -> None:
    """An answer that says nothing of a result, or one that breaks off, leaves the effect unknown."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="*"))
    with gateway(kind, realm, tmp_path, status, header, body) as url:
        if kind == "http":
            with httpx.Client(trust_env=False, timeout=30) as client:
                answer = client.post(f"{url}/refund", auth=caller)
        else:
            answer = call_tool(url, caller, "refund")
    [(record, decision)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, decision.tool) == (result, "orders.refund"), answer.text


@pytest.mark.parametrize("kind", ["http", "mcp"])
def test_a_call_that_is_not_forwarded_has_failed(kind: str, tmp_path: Path) -> None:
    """It was allowed, and over the rate of its agent: the upstream never saw it."""
    realm = UnsafeTestRealm("orders")
    caller, ran = realm.caller(Rule(tool="*")), []
    rate = {"agent": "1/1h"}
    with (
        gateway(kind, realm, tmp_path, 200, JSON, message(), lambda: ran.append(1), rate=rate) as url,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        for _ in range(2):
            if kind == "http":
                client.post(f"{url}/refund", auth=caller)
            else:
                call_tool(url, caller, "refund")
    found = [(record.effect.result, decision.outcome) for record, decision in effects_in(realm) if record.effect]
    assert (found, ran) == ([("done", "allow"), ("failed", "allow")], [1])
    sizes = [record.effect.size for record, _ in effects_in(realm) if record.effect]
    assert sizes[0] > 0
    if kind == "mcp":
        assert sizes[1] == -1  # there was no answer of the tool


def test_a_table_s_effects_reach_its_verifier(tmp_path: Path) -> None:
    """As the running gateway opens it, with the limits of the same table."""
    path = tmp_path / "orders.json"
    keys = {"k1.0": "A" * 43}
    file = {"v": 1, "realm": "acme", "audience": "orders", "max_ttl_ms": 1000, "keys": keys}
    path.write_text(json.dumps(file | {"store": "redis://127.0.0.1:1", "journal": str(tmp_path / "journal")}))
    path.chmod(0o600)
    table = {"audience": "orders", "url": "http://127.0.0.1:9", "limits": {"net": ["10.0.0.0/8"]}}
    terms = msgspec.convert(table | {"effects": ["orders.refund"]}, UpstreamTerms)
    verifier = RunningVerifier("upstream.orders", "orders", terms, path, None, Counts(int)).verifier
    assert (verifier._effects, len(verifier.limits)) == (("orders.refund",), 1)


FILE = """\
[gateway]
listen = ["127.0.0.1:9190"]

[decider.orders]
kind = "forward-auth"
listen = "127.0.0.1:9191"
audience = "orders"
routes = { "POST /refund" = "orders.refund" }
effects = ["orders.refund"]

[upstream.shop]
audience = "shop"
url = "http://127.0.0.1:9/mcp"
effects = ["shop refund"]
"""


def test_a_decider_says_that_it_sees_no_answer(tmp_path: Path) -> None:
    """Its table cannot name effects; an upstream's takes patterns alone."""
    path = tmp_path / "gateway.toml"
    path.write_text(FILE)
    with pytest.raises(SettingsError) as wrong:
        read_settings(path)
    assert "a decider sees no answer: name `effects` in the service itself" in str(wrong.value)
    path.write_text(FILE.replace('effects = ["orders.refund"]\n', ""))
    with pytest.raises(SettingsError, match=r"expected tools such as shop\.refund"):
        read_settings(path)
