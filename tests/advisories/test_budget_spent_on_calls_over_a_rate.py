# SPDX-License-Identifier: Apache-2.0
"""An agent whose client repeated calls over a gateway's rate lost its whole budget, with calls that were never sent.

Each repeat is a call of its own, which is decided on and paid before its rate is counted.  Now the cost of each call
that is not sent on goes back, also if its upstream cannot be reached, or an argument is ambiguous.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from arx_caps.gateway.base.settings import RateTerms, UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.http.door import HttpDoor
from arx_verifier import Rule
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.agent.live import now_ms
from tests.gateway.door import Answer, Door, Upstream, signed

pytestmark = pytest.mark.spec("17.4")
FILES = {"files.get": {"usd": "1"}}


def test_a_call_of_mcp_over_its_rate_costs_nothing() -> None:
    """The one that was sent stays paid, and the next one is once there is room."""
    realm = UnsafeTestRealm("files", costs=FILES)
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "3"})
    upstream = Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{}}'))
    door = Door(realm, upstream, RateTerms(tool="1/1h"))
    codes = [door.message(caller, "tools/call", {"name": "get"}) for _ in range(8)]
    assert codes[0]["result"]["_meta"]["dev.arx/budget"] == {"usd": "2"}
    assert {each["error"]["data"]["code"] for each in codes[1:]} == {"rate_limited"}
    left = Door(realm, upstream).message(caller, "tools/call", {"name": "get"})
    assert left["result"]["_meta"]["dev.arx/budget"] == {"usd": "1"}
    assert upstream.got == ["tools/call"] * 2


def test_a_call_in_a_session_without_a_subject_costs_nothing() -> None:
    """A client begins another session, and calls again."""
    realm = UnsafeTestRealm("files", costs=FILES)
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "1"})
    door = Door(realm, Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get"}}).encode()
    assert door.ask(body, signed(caller, body), (b"mcp-session-id", b"another"))[0] == 404
    assert door.message(caller, "tools/call", {"name": "get"})["result"]["_meta"]["dev.arx/budget"] == {"usd": "0"}


@pytest.mark.parametrize(("sent", "code"), [(False, "ok"), (True, "budget_exhausted")])
def test_a_call_costs_nothing_if_its_upstream_cannot_be_reached(sent: bool, code: str) -> None:
    """One that the upstream may have got stays paid."""
    realm = UnsafeTestRealm("files", costs=FILES)
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "1"})

    def fail(_: str) -> Answer:
        raise UpstreamError("upstream files", sent=sent)

    assert Door(realm, Upstream(fail)).message(caller, "tools/call", {"name": "get"})["status"] == 502
    assert next_code(realm, caller) == code


def test_a_call_with_an_ambiguous_argument_costs_nothing() -> None:
    """The gateway asks the upstream for its schema alone."""
    realm = UnsafeTestRealm("files", costs=FILES)
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "1"})
    listed = b'{"jsonrpc":"2.0","id":"arx-schema","result":{"tools":[{"name":"get","inputSchema":{}}]}}'
    upstream = Upstream(lambda _: Answer(listed))
    refused = Door(realm, upstream).message(caller, "tools/call", {"name": "get", "arguments": {"text": "null"}})
    assert refused["result"]["isError"]
    assert upstream.got == ["tools/list"]
    assert next_code(realm, caller) == "ok"


@pytest.mark.parametrize(("sent", "code"), [(False, "ok"), (True, "budget_exhausted")])
def test_a_call_of_http_costs_nothing_if_its_upstream_cannot_be_reached(sent: bool, code: str) -> None:
    """One that the upstream may have got stays paid."""
    realm = UnsafeTestRealm("files", costs=FILES)
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "1"})

    class Unreached:
        name = "files"

        @contextlib.asynccontextmanager
        async def send(self, *_: Any, **__: Any) -> AsyncIterator[Answer]:
            raise UpstreamError("upstream files", sent=sent)
            yield

    terms = UpstreamTerms(audience="files", url="http://127.0.0.1:1", routes={"GET /get": "files.get"})
    door: Any = HttpDoor(realm.verifier, terms, Unreached(), terms.routes)  # type: ignore[arg-type]

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9") as client:
            return await client.get("/get", auth=caller)

    assert asyncio.run(run()).json()["may_have_run"] == sent
    assert next_code(realm, caller) == code


def next_code(realm: UnsafeTestRealm, caller: UnsafeCaller) -> str:
    """What the verifier says of one call more."""
    return realm.verifier.decide(caller.token("files.get"), AccessRequest("files.get", {}, now_ms())).code


def test_a_call_of_http_over_its_rate_costs_nothing() -> None:
    """Nor has its answer what the budget has left."""
    realm, upstream = UnsafeTestRealm("files", costs=FILES), Upstream(lambda _: Answer(b"ok", kind="text/plain"))
    caller = realm.caller(Rule(tool="files.get"), budget={"usd": "3"})
    routes = {"GET /get": "files.get"}
    terms = UpstreamTerms(audience="files", url="http://127.0.0.1:1", routes=routes, rate=RateTerms(agent="1/1h"))
    door: Any = HttpDoor(realm.verifier, terms, upstream, routes)  # type: ignore[arg-type]

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=door)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9") as client:
            return [await client.get("/get", auth=caller) for _ in range(8)]

    first, *others = asyncio.run(run())
    assert (first.status_code, first.headers["arx-budget"]) == (200, 'usd="2"')
    assert {(each.status_code, "arx-budget" in each.headers) for each in others} == {(429, False)}
    assert realm.verifier.verify(caller.token("files.get"), AccessRequest("files.get", {}, now_ms())).remaining == {
        "usd": "1"
    }
