# SPDX-License-Identifier: Apache-2.0
"""What a gateway does with an upstream over MCP that is slow, or that answers in an encoding."""

import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.freshness import CLOSING_NS
from tests.gateway.door import Answer, Door, Upstream, exchange, signed
from tests.servers import until


def test_a_call_that_is_killed_while_its_schema_is_read_is_not_forwarded() -> None:
    """The model reads the refusal."""
    realm = UnsafeTestRealm("files")

    def answer(method: str) -> Answer:
        if method == "tools/list":
            realm.epochs.kill("agent:test/agent")
        schema = {"properties": {"text": {"type": "string"}}}
        return Answer(json.dumps({"result": {"tools": [{"name": "get", "inputSchema": schema}]}}).encode())

    upstream = Upstream(answer)
    token = realm.caller(Rule(tool="files.get")).token("files.get", text="null")
    params = {"name": "get", "arguments": {"text": "null"}, "_meta": {"dev.arx/cap": token}}
    _, text = exchange(realm, upstream, "tools/call", params)
    assert upstream.got == ["tools/list"]
    assert b"isError" in text


@pytest.mark.parametrize(
    "listed",
    [
        {"tools": 7},
        {"tools": [7, {"name": "get", "inputSchema": [1]}]},
        {"tools": [{"name": "get", "inputSchema": {"properties": [1]}}]},
        {"tools": [{"name": "get", "inputSchema": {"properties": {"text": True}}}]},
        {"tools": [], "nextCursor": 7},
    ],
)
def test_a_call_is_refused_whatever_the_schema_is(listed: object) -> None:
    """A text that is JSON needs a tool that takes text there; a server that lists nonsense has none."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(json.dumps({"id": "arx-schema", "result": listed}).encode()))
    token = realm.caller(Rule(tool="files.get")).token("files.get", text="null")
    params = {"name": "get", "arguments": {"text": "null"}, "_meta": {"dev.arx/cap": token}}
    status, text = exchange(realm, upstream, "tools/call", params)
    assert (status, b"send it as JSON" in text, upstream.got) == (200, True, ["tools/list"])


@pytest.mark.spec("17.4")
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_result_has_what_a_budget_has_left(kind: str) -> None:
    """All else stays as the upstream wrote it, notifications of a stream too; a refusal has what it was short of."""
    realm = UnsafeTestRealm("files", costs={"files.get": {"usd": "0.3"}})
    result = b'{"content":[],"structuredContent":{"n":1.0,"big":12345678901234567890},"_meta":{"own":1.50}}'
    message = b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}"
    note = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"n":1.0}}'
    data = message if kind == "application/json" else b"data: " + note + b"\n\ndata: " + message + b"\n\n"
    door = Door(realm, Upstream(lambda _: Answer(data, kind=kind)))

    def ask(caller: Any) -> bytes:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get"}}).encode()
        status, found = door.ask(body, signed(caller, body))
        assert status == 200
        return found

    agent = realm.caller(Rule(tool="files.get"), budget={"usd": "0.5"})
    more = data.replace(b'{"own":1.50}', b'{"own":1.50,"dev.arx/budget":{"usd":"0.2"}}')
    assert ask(agent) == more
    assert ask(realm.caller(Rule(tool="files.get"))) == data
    refused = json.loads(ask(agent))["result"]
    assert refused["isError"]
    assert refused["_meta"]["dev.arx/refusal"]["code"] == "insufficient_budget"
    assert refused["_meta"]["dev.arx/refusal"]["budget"] == {
        "pool": "test",
        "hop": "test/agent",
        "unit": "usd",
        "remaining": "0.2",
        "required": "0.3",
    }


@pytest.mark.parametrize("header", [b"Content-Encoding", b"content-encoding"])
def test_a_list_in_an_encoding_is_not_passed_on(header: bytes) -> None:
    """It could not be filtered."""
    realm = UnsafeTestRealm("files")
    tools = gzip.compress(json.dumps({"result": {"tools": [{"name": "secret"}]}}).encode())
    token = realm.caller(Rule(tool="files.get")).token("", method="tools/list")
    params = {"_meta": {"dev.arx/cap": token}}
    upstream = Upstream(lambda _: Answer(tools, (header, b"gzip")))
    status, text = exchange(realm, upstream, "tools/list", params)
    assert (status, upstream.got) == (502, ["tools/list"])
    assert tools not in text


def test_an_unknown_method_is_refused_as_its_revision_says() -> None:
    """It is not forwarded; a client that may use a newer one takes the code as such."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b"{}"))
    caller, door = realm.caller(Rule(tool="*")), Door(realm, upstream)
    for method in ("tools/drop", "tasks/list", "tasks/result"):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": "t"}}).encode()
        headers = ((b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", method.encode()))
        status, data = door.ask(body, signed(caller, body), *headers)
        assert (status, json.loads(data)["error"]["code"]) == (404, -32601), method
    body = body.replace(b"tasks/result", b"tools/drop")
    status, data = door.ask(body, signed(caller, body), (b"mcp-protocol-version", b"2025-11-25"))
    assert (status, json.loads(data)["error"]["code"]) == (200, -32601)
    assert upstream.got == []


def test_white_space_around_a_header_is_none_of_it() -> None:
    """RFC 9110 5.5; a server leaves it there."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b"{}"))
    caller = realm.caller(Rule(tool="files.get"))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get"}}).encode()
    status, _ = Door(realm, upstream).ask(body, signed(caller, body), (b"mcp-name", b" \tget "))
    assert (status, upstream.headers[0][b"mcp-name"]) == (200, b"get")


def test_a_refusal_has_one_length() -> None:
    """Strict clients refuse an answer with two, also with two that are the same."""
    realm = UnsafeTestRealm("files")
    status, _ = Door(realm, Upstream(lambda _: Answer(b""))).ask(b"", method="GET")
    assert status == 401


@pytest.mark.parametrize("late", [[], [b"data: {}\n\n"]])
def test_a_stream_that_ends_with_its_grant_has_one_end(late: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last event is the refusal, also if the upstream ended it first, or has sent more."""
    realm = UnsafeTestRealm("files")
    monkeypatch.setattr(realm.epochs, "lease_left_ns", lambda: CLOSING_NS + 1_000_000)

    class Killed(Answer):
        async def iter_any(self) -> AsyncIterator[bytes]:
            yield b"data: {}\n\n"
            realm.epochs.kill("agent:test/agent")
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 0.01)  # the recheck is due, and its timer has not run
            for part in late:
                yield part

    upstream = Upstream(lambda _: Killed(b"", kind="text/event-stream"))
    token = realm.caller(Rule(tool="files.get")).token("files.get")
    params = {"name": "get", "arguments": {}, "_meta": {"dev.arx/cap": token}}
    status, text = exchange(realm, upstream, "tools/call", params)
    first, last, _ = text.split(b"\n\n")
    assert (status, first) == (200, b"data: {}")
    assert b"isError" in last


@pytest.mark.parametrize("method", ["tools/call", "ping"])
def test_a_redirect_is_not_passed_on(method: str) -> None:
    """A client would follow it, with the message and past the gateway."""

    class Moved(Answer):
        status = 307

    realm = UnsafeTestRealm("files")
    door = Door(realm, Upstream(lambda _: Moved(b"{}", (b"location", b"http://127.0.0.1:1/steal"))))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "get"}}).encode()
    status, data = door.ask(body, signed(realm.caller(Rule(tool="files.get")), body))
    assert (status, b"redirect" in data, b"steal" in data) == (502, True, False)
