# SPDX-License-Identifier: Apache-2.0
"""What a gateway does with an upstream over MCP that is slow, or that answers in an encoding."""

import gzip
import json

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Upstream, exchange


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
