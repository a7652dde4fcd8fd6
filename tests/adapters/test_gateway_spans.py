# SPDX-License-Identifier: Apache-2.0
"""Spans of the gateway with the SDK of OpenTelemetry: between those of the MCP SDK's client and of its server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_caps.gateway.upstream.verifier_runtime import TracedDecisions
from arx_verifier import Constraint, Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.adapters.gateway_server import ROOT, make_app
from tests.adapters.mcp_rules import RULES
from tests.gateway.gateway_realm import GatewayRealm
from tests.gateway.served_door import open_door
from tests.servers import free_ports, nonce_store, until

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
trace.set_tracer_provider(PROVIDER)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def spans() -> None:
    """Forget the spans of the test before."""
    EXPORTER.clear()


def realm_of_orders() -> UnsafeTestRealm:
    realm = UnsafeTestRealm("orders")
    realm.verifier.decisions = TracedDecisions(realm.decisions)
    return realm


def of_gateway() -> list[ReadableSpan]:
    scope = "arx.gateway"
    return [span for span in EXPORTER.get_finished_spans() if span.instrumentation_scope.name == scope]


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_call_has_a_span_between_client_and_server(era: str) -> None:
    """With the tool, the decision and its id, and with no argument; a refusal has its code."""
    realm = realm_of_orders()

    async def run(port: int) -> None:
        async with httpx2.AsyncClient(auth=realm.caller(*RULES), timeout=60) as http:
            over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(over, mode=era) as client:
                await client.call_tool("get", {"order_id": "o-1"})
                assert (await client.call_tool("refund", {"order_id": "canary-argument"})).is_error
                await client.get_prompt("brief", {"order_id": "o-1"})
                with pytest.raises(MCPError):
                    await client.read_resource("orders://canary-argument")

    with serving(make_app(realm.verifier, [])) as port:
        asyncio.run(run(port))
    found = {span.name: span for span in of_gateway()}
    got, refused, read = found["tools/call get"], found["tools/call refund"], found["resources/read"]
    assert got.kind is trace.SpanKind.SERVER
    assert got.attributes is not None
    about = dict(got.attributes)
    allow = next(each for each in realm.decisions.decisions if each.tool == "orders.get")
    assert about.pop("jsonrpc.request.id")
    assert about.pop("mcp.protocol.version") == ("2026-07-28" if era == "auto" else "2025-11-25")
    assert about == {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "get",
        "gen_ai.operation.name": "execute_tool",
        "arx.upstream": "orders",
        "arx.tool": "orders.get",
        "arx.decision": "allow",
        "arx.reason": "ok",
        "arx.decision.id": allow.id,
    }
    for span in (refused, read):
        attributes: Any = span.attributes
        assert (attributes["arx.decision"], attributes["error.type"]) == ("deny", attributes["arx.reason"])
        assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, None)
    assert found["prompts/get brief"].attributes["gen_ai.prompt.name"] == "brief"  # type: ignore[index]
    assert "tools/list" in found or era == "auto"
    by_id = {span.context.span_id: span for span in EXPORTER.get_finished_spans()}
    assert got.parent is not None
    assert by_id[got.parent.span_id].instrumentation_scope.name == "mcp-python-sdk"
    inner = [span for span in by_id.values() if span.parent and span.parent.span_id == got.context.span_id]
    assert [(span.instrumentation_scope.name, span.kind) for span in inner] == [
        ("mcp-python-sdk", trace.SpanKind.SERVER)
    ]
    texts = "".join(span.to_json() for span in of_gateway())
    assert "canary-argument" not in texts
    assert "arx1_" not in texts


def test_a_request_of_plain_http_has_a_span(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller's context goes on to the upstream; no path, query, credential or text of an error is in it."""
    realm, seen = realm_of_orders(), []
    monkeypatch.setenv("KEY", "canary-credential")

    async def show(request: Request) -> JSONResponse:
        seen.append(dict(request.headers))
        return JSONResponse({}, 403 if request.query_params else 200)

    upstream = Starlette(routes=[Route("/orders/{order_id}", show)])
    with serving(upstream) as inner:
        terms: dict[str, Any] = {
            "url": f"http://127.0.0.1:{inner}",
            "routes": {"GET /orders/{order_id}?{note}": "orders.get"},
        }
        terms |= {"credential": {"from": "env:KEY"}}
        rule = Rule(tool="orders.get", args={"order_id": "o-1", "note": Constraint(glob="*", optional=True)})
        with (
            open_door(realm, tmp_path, **terms) as door,
            httpx.Client(auth=realm.caller(rule), timeout=60) as client,
        ):
            url = f"{door}/orders/"
            headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "a=b"}
            first = client.get(url + "o-1", headers=headers)
            assert first.status_code == 200, first.text
            assert client.get(url + "canary-argument", headers=headers).status_code == 403
            assert client.get(url + "o-1?note=canary-argument", headers=headers).status_code == 502
    allowed, refused, failed = of_gateway()
    assert {f"{span.context.trace_id:032x}" for span in (allowed, refused, failed)} == {TRACE}
    assert seen[0]["traceparent"] == f"00-{TRACE}-{allowed.context.span_id:016x}-01"
    assert seen[0]["tracestate"] == "a=b"
    about: list[Any] = [span.attributes for span in (allowed, refused, failed)]
    assert [each["http.response.status_code"] for each in about] == [200, 403, 502]
    assert [each["arx.decision"] for each in about] == ["allow", "deny", "allow"]
    assert (about[0]["arx.tool"], about[1]["arx.reason"]) == ("orders.get", "argument_not_allowed")
    assert [each.get("error.type") for each in about] == [None, None, "502"]
    texts = "".join(json.dumps(span.to_json()) for span in of_gateway())
    for canary in ("canary", "arx1_"):
        assert canary not in texts
    assert str(ROOT) not in texts


def test_a_gateway_under_the_launcher_of_opentelemetry_exports_spans(tmp_path: Path) -> None:
    """As the page says: the site chooses the exporter, the gateway needs no setting; also where decisions wait."""
    (port,) = free_ports(1)
    upstream = Starlette(routes=[Route("/orders/{order_id}", lambda _: JSONResponse({}))])
    (tmp_path / "store").mkdir()
    with nonce_store(tmp_path / "store") as store, serving(upstream) as inner:
        realm = GatewayRealm(tmp_path, store.url)
        table = f'[upstream.orders]\naudience = "orders"\nurl = "http://127.0.0.1:{inner}"\n'
        file = realm.write(table + '[upstream.orders.routes]\n"GET /orders/{order_id}" = "orders.get"\n', port=port)
        launcher = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable]
        choice = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
        output = tmp_path / "output"
        with output.open("w") as out:
            process = subprocess.Popen(
                [*launcher, "-m", "arx_caps.cli", "gateway", str(file)],
                stdout=out,
                stderr=out,
                env={**os.environ, **choice, "OTEL_BSP_SCHEDULE_DELAY": "50", "PYTHONPATH": str(ROOT)},
            )
        try:
            until(lambda: "the gateway listens" in output.read_text() or process.poll() is not None)
            caller = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}), session="s-1")
            url = f"http://127.0.0.1:{port}/orders/orders/o-1"
            answer = httpx.get(url, auth=caller, timeout=60)
            assert answer.status_code == 200, answer.text
            until(lambda: '"arx.decision.id"' in output.read_text())
        finally:
            process.terminate()
            process.wait(60)
    assert '"arx.tool": "orders.get"' in output.read_text()
