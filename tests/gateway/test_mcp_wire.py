# SPDX-License-Identifier: Apache-2.0
"""Messages, headers and streams of MCP as bytes: what has two meanings is refused, all else passes unchanged."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.gateway.base.bound_ids import BoundIds
from arx_caps.http.event_stream import fields_of, split_events, with_data
from arx_caps.mcp.errors import WireError
from arx_caps.mcp.headers import check_headers
from arx_caps.mcp.message import read_message, result_of, without_token
from arx_verifier.journal.record import ChainFacts
from arx_verifier.token.keyring import KeyRing

CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "get", "arguments": {"n": 7, "deep": ["x"]}},
}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        json.dumps([CALL]),
        "{}",
        json.dumps(CALL | {"jsonrpc": "1.0"}),
        json.dumps(CALL | {"id": None}),
        json.dumps(CALL | {"id": 1.5}),
        json.dumps(CALL | {"id": True}),
        json.dumps(CALL | {"id": [1]}),
        json.dumps(CALL | {"method": 7}),
        json.dumps(CALL | {"method": ""}),
        json.dumps(CALL | {"params": [1]}),
        json.dumps(CALL | {"result": {}}),
        json.dumps(CALL | {"Method": "tools/list"}),
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get","name":"drop"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"n":1e999}}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"n":9007199254740993}}}',
        '\ufeff{"jsonrpc":"2.0","id":1,"method":"ping"}',
        '{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        '{"jsonrpc":"2.0","result":{}}',
        '{"jsonrpc":"2.0","id":1,"result":{},"params":{}}',
    ],
)
def test_what_is_not_one_message_is_refused(body: str) -> None:
    """Batches, duplicate names, numbers that parsers read differently, members of another era."""
    with pytest.raises(WireError):
        read_message(body.encode())


def test_the_three_kinds_of_messages() -> None:
    """A request has a method and an id, a notification no id, a reply no method."""
    assert read_message(json.dumps(CALL).encode())[:3] == ("tools/call", CALL["params"], 1)
    note = read_message(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert (note.is_request, note.method) == (False, "notifications/initialized")
    reply = read_message(b'{"jsonrpc":"2.0","id":"a","result":{"model":"m"}}')
    assert (reply.is_request, reply.method, reply.id) == (False, "", "a")


def sentinel(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


@pytest.mark.parametrize(
    "headers",
    [
        {b"mcp-method": b"tools/list"},
        {b"mcp-method": b"Tools/Call"},
        {b"mcp-method": b"tools/call,\ntools/call"},
        {b"mcp-name": b"drop"},
        {b"mcp-name": sentinel("drop")},
        {b"mcp-name": b"=?base64?%%%?="},
        {b"mcp-param-n": b"8"},
        {b"mcp-param-deep": sentinel("y")},
        {b"mcp-session-id": b"a,\nb"},
        {b"mcp-protocol-version": b"2026-07-28,\n2025-11-25"},
        {b"content-type": b"application/json; charset=utf-7"},
        {b"content-type": b"application/json; charset=utf-8; charset=utf-16"},
        {b"content-type": b"application/json,\napplication/json; charset=utf-7"},
        {b"content-type": b"text/plain"},
        {b"content-encoding": b"deflate"},
    ],
)
def test_a_header_that_disagrees_with_the_body_is_refused(headers: dict[bytes, bytes]) -> None:
    """A proxy before the server may route by it; the decision was on the body."""
    with pytest.raises(WireError) as refused:
        check_headers(headers, read_message(json.dumps(CALL).encode()))
    assert refused.value.code == -32020


def test_headers_that_agree_pass() -> None:
    """Plain, in base64, and those of other methods."""
    agreeing = {b"mcp-method": b"tools/call", b"mcp-name": sentinel("get"), b"mcp-param-n": b"7", b"mcp-param-x": b"x"}
    check_headers(agreeing, read_message(json.dumps(CALL).encode()))
    read = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "a://b"}}
    check_headers({b"mcp-name": b"a://b"}, read_message(json.dumps(read).encode()))
    for kind in (b"application/json", b"application/json; charset=utf-8", b'Application/JSON;charset="UTF-8"'):
        check_headers(
            {b"content-type": kind, b"content-encoding": b"identity"},
            read_message(b'{"jsonrpc":"2.0","id":1,"method":"ping"}'),
        )


@pytest.mark.parametrize("missing", [b"mcp-method", b"mcp-name"])
def test_a_request_has_the_headers_that_its_revision_demands(missing: bytes) -> None:
    """MCP 2026-07-28: method and name; a notification needs none, and no message of a session does."""
    message = read_message(json.dumps(CALL).encode())
    found = {b"mcp-protocol-version": b"2026-07-28", b"mcp-method": b"tools/call", b"mcp-name": b"get"}
    check_headers(found, message)
    del found[missing]
    with pytest.raises(WireError) as refused:
        check_headers(found, message)
    assert refused.value.code == -32020
    check_headers(found | {b"mcp-protocol-version": b"2025-11-25"}, message)
    note = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    check_headers({b"mcp-protocol-version": b"2026-07-28"}, read_message(note))


def test_a_version_in_the_body_agrees_with_the_header() -> None:
    """The header chooses the revision at the server, and the body may name another."""
    params = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    message = read_message(json.dumps(CALL | {"params": params}).encode())
    check_headers({b"mcp-protocol-version": b"2026-07-28", b"mcp-method": b"tools/call"}, message)
    with pytest.raises(WireError):
        check_headers({b"mcp-protocol-version": b"2025-11-25"}, message)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=4))
def test_only_the_token_is_taken_from_a_message(more: dict[str, Any]) -> None:
    """All other bytes stay; a token that is there twice, or in another spelling, is no message to forward."""
    token = "arx1_" + "A" * 40
    body = json.dumps({"params": {"more": more, "_meta": {"dev.arx/cap": token}}}).encode()
    bare = without_token(body, token)
    assert token.encode() not in bare
    assert bare == body.replace(token.encode(), b"")
    for other in (bare, body + body, body.replace(b"arx1_", b"\\u0061rx1_")):
        with pytest.raises(WireError):
            without_token(other, token)


@given(
    st.lists(st.sampled_from([b"event: message\ndata: {}\n\n", b": ping\r\n\r\n", b"id: 1\rdata: a\rdata: b\r\r"])),
    st.data(),
)
def test_a_stream_is_cut_at_its_events(wanted: list[bytes], data: st.DataObject) -> None:
    """Whatever the parts in which it comes."""
    whole = b"".join(wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    async def stream() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def run() -> list[bytes]:
        return [event async for event in split_events(stream(), 1000)]

    assert b"".join(asyncio.run(run())) == whole
    assert fields_of(b"id: 1\rdata: a\rdata: b\r\r").data == b"a\nb"


@pytest.mark.parametrize(
    "stream", [b"data: 1\n\r\ndata: 2\r\n\n", b"data: 1\r\n\rdata: 2\n\r", b"\xef\xbb\xbfdata:1\n\ndata:2\n\n"]
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stream_is_read_as_its_client_reads_it(stream: bytes, size: int) -> None:
    """Lines end in three ways, mixed as the server likes; the stream may begin with a byte order mark."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    async def run() -> list[bytes]:
        return [fields_of(event).data async for event in split_events(chunks(), 1000)]

    assert [data for data in asyncio.run(run()) if data] == [b"1", b"2"]


def test_an_event_gets_other_data() -> None:
    """Its id and name stay."""
    event = with_data(b"id: 4\nevent: message\ndata: {}\n\n", b'{"a":1}')
    assert event == b'id: 4\nevent: message\ndata: {"a":1}\n\n'
    assert result_of(b'{"result":{"tools":[]}}') == {"result": {"tools": []}}
    assert result_of(b'{"error":{}}') is None
    assert result_of(b"no JSON") is None


def test_a_session_is_its_openers_alone() -> None:
    """Of the ARx session, the agent and its delegations; another gateway with the same key knows it too."""
    keys = {"k1.0": b"k" * 32}
    owner = ChainFacts(agent="acme/a", session="s-1", kid="k1.0")
    bound = BoundIds(KeyRing(keys, realm="r"), "session").bind("up~stream", owner)
    other = BoundIds(KeyRing(keys | {"k2.0": b"l" * 32}, realm="r"), "session")
    assert other.read(bound, owner) == "up~stream"
    for thief in (
        ChainFacts(agent="acme/b", session="s-1", kid="k1.0"),
        ChainFacts(agent="acme/a", session="s-2", kid="k1.0"),
        ChainFacts(agent="acme/a", session="s-1", named=("acme/a/x",), kid="k1.0"),
    ):
        assert other.read(bound, thief) is None
    for forged in (
        "",
        "up",
        "up~stream",
        bound[:-1],
        bound.replace("k1.0", "k2.0"),
        bound.replace("up", "uq"),
        bound + "é",
    ):
        assert other.read(forged, owner) is None
    assert BoundIds(KeyRing(keys, realm="r"), "task").read(bound, owner) is None
    assert BoundIds(KeyRing({"k1.0": b"x" * 32}, realm="r"), "session").read(bound, owner) is None
