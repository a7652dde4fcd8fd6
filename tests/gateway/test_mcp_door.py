# SPDX-License-Identifier: Apache-2.0
"""What a gateway does with an upstream over MCP that is slow, or that answers in an encoding."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from arx_caps.gateway.mcp_door import McpDoor
from arx_caps.gateway.settings import UpstreamTerms
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm


class Answer:
    """An answer of an upstream."""

    status, content_type = 200, "application/json"

    def __init__(self, data: bytes, *headers: tuple[bytes, bytes]) -> None:
        self._data, self.raw_headers, self.content = data, headers, self

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._data


class Upstream:
    """Answers each message, and keeps the methods that it got."""

    name = "files"

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.got: list[str] = []
        self._answer = answer

    @contextlib.asynccontextmanager
    async def send(self, method: str, headers: Any, body: bytes, owner: str) -> AsyncIterator[Answer]:
        self.got.append(json.loads(body)["method"])
        yield self._answer(self.got[-1])


def exchange(realm: UnsafeTestRealm, upstream: Upstream, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    scope = {"type": "http", "method": "POST", "headers": [], "client": None, "path": "/files", "query_string": b""}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    terms = UpstreamTerms(audience="files", url="http://127.0.0.1:1")
    asyncio.run(McpDoor(realm.verifier, terms, upstream)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)


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
