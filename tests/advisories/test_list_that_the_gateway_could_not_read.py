# SPDX-License-Identifier: Apache-2.0
"""A list that the gateway could not read passed with all its items, also those that the token could never allow.

A parser in Python refuses numbers, depths and bytes that others take.  A list in another shape, or as the answer to
another request of the same client, was not looked at either.
"""

import json
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

TOOLS = b'"tools":[{"name":"get"},{"name":"hidden"}]'
STREAM = "text/event-stream"
SHAPES = {
    "a long integer": b'{"id":1,"result":{%s,"n":%s}}' % (TOOLS, b"9" * 5_000),
    "a deep value": b'{"id":1,"result":{%s,"n":%s}}' % (TOOLS, b"[" * 90_000 + b"]" * 90_000),
    "a byte that is not UTF-8": b'{"id":1,"result":{%s,"n":"\xff"}}' % TOOLS,
    "UTF-16": (b'{"id":1,"result":{%s}}' % TOOLS).decode().encode("utf-16"),
    "no JSON": b'{"id":1,"result":{%s}' % TOOLS,
    "a result twice": b'{"id":1,"result":{%s},"result":{"tools":[]}}' % TOOLS,
    "a list twice": b'{"id":1,"result":{%s,"tools":[]}}' % TOOLS,
    "a result and an error": b'{"id":1,"result":{%s},"error":{"code":1,"message":""}}' % TOOLS,
    "a result and a method": b'{"id":1,"result":{%s},"method":"ping"}' % TOOLS,
    "a batch": b'[{"id":1,"result":{%s}}]' % TOOLS,
    "a text": json.dumps((b"{%s}" % TOOLS).decode()).encode(),
    "a result that is a list": b'{"id":1,"result":[{%s}]}' % TOOLS,
    "a result that is a text": b'{"id":1,"result":"hidden"}',
    "no result": b'{"id":1,"result":null,"more":{%s}}' % TOOLS,
    "items that are no list": b'{"id":1,"result":{"tools":{"hidden":{}}}}',
    "a list of another name": b'{"id":1,"result":{"items":[{"name":"hidden"}]}}',
    "a name in another case": b'{"id":1,"result":{"tools":[],"Tools":[{"name":"hidden"}]}}',
    "another id": b'{"id":2,"result":{%s}}' % TOOLS,
    "an id of another type": b'{"id":"1","result":{%s}}' % TOOLS,
    "an id that is equal": b'{"id":true,"result":{%s}}' % TOOLS,
}


def ask(method: str, data: bytes, kind: str = "application/json", **params: Any) -> tuple[int, bytes]:
    realm = UnsafeTestRealm("files")
    if kind == STREAM:
        data = b"\n".join(b"data: " + line for line in data.split(b"\n")) + b"\n\n"
    door, caller = Door(realm, Upstream(lambda _: Answer(data, kind=kind))), realm.caller(Rule(tool="files.get"))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return door.ask(body, signed(caller, body))


@pytest.mark.parametrize("kind", ["application/json", "text/plain", STREAM])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_that_cannot_be_filtered_is_not_passed_on(shape: str, kind: str) -> None:
    """The client gets an error of the upstream."""
    status, data = ask("tools/list", SHAPES[shape], kind)
    assert b"hidden" not in data
    assert b"-32603" in data
    assert status == (200 if kind == STREAM else 502)


@pytest.mark.parametrize("kind", ["application/json", STREAM])
def test_a_list_is_filtered(kind: str) -> None:
    """Also one that answers what is no list, as a stream that is resumed does."""
    for method in ("tools/list", "ping"):
        _, data = ask(method, b'{"id":1,"result":{%s}}' % TOOLS, kind)
        assert json.loads(data.removeprefix(b"data: "))["result"]["tools"] == [{"name": "get"}]


@pytest.mark.parametrize("kind", ["application/json", STREAM])
def test_a_call_answers_no_other_request(kind: str) -> None:
    """A client gives a list that comes in the stream of a call to the request that has its id."""
    for shape in ("another id", "an id of another type", "an id that is equal", "a result and a method", "no JSON"):
        status, data = ask("tools/call", SHAPES[shape], kind, name="get")
        assert (b"hidden" in data, b"-32603" in data) == (False, True), shape
        assert status == (200 if kind == STREAM else 502)
    odd = rb'{"id":1,"result":{"content":[],"n":"\ud800","big":%s}}' % (b"9" * 50)
    assert odd in ask("tools/call", odd, kind, name="get")[1]  # as the server writes it


@pytest.mark.parametrize("data", [b'{"id":7,"result":{%s}}' % TOOLS, b'[{"id":7,"result":{%s}}]' % TOOLS])
def test_the_stream_of_a_session(data: bytes) -> None:
    """It may have the answer to an earlier request, without what the token could not allow."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b"data: " + data + b"\n\ndata: " + SHAPES["no JSON"], kind=STREAM))
    status, got = Door(realm, upstream).ask(b"", signed(realm.caller(Rule(tool="files.get")), b"", "GET"), method="GET")
    assert (status, b"hidden" in got) == (200, False)


def test_a_page_of_a_server_is_left_out() -> None:
    """Its status is what a client reads: 404 for an unknown session, 405 for a stream that is not offered."""

    class Page(Answer):
        status = 404

    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    door = Door(realm, Upstream(lambda _: Page(SHAPES["a batch"], kind="text/html")))
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()
    assert door.ask(body, signed(caller, body)) == (404, b"")
