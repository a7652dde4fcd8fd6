# SPDX-License-Identifier: Apache-2.0
"""A hostile MCP server could ask a client's model, its person or its files by a request of its own, past all rules.

The gateway passed on whatever a server asked.  Now sampling, elicitation and roots reach a client where the table of
the upstream allows them, in no spelling that a client could read so, and a server that waits for an answer gets one.
"""

import json
from typing import Any

import pytest

from arx_caps.gateway.base.settings import ASKED
from arx_caps.gateway.mcp.server_requests import CAPABILITIES, KINDS, ServerRequests, WithheldMessageError
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

CALL: dict[str, Any] = {"name": "get", "arguments": {"n": 1.0}}
RESULT: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
METHODS = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create", "roots": "roots/list"}


def asking(method: str, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "s-1", "method": method, "params": {"message": "Your password?"}, **more}


def event(data: str | dict[str, Any]) -> bytes:
    return b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n\n"


class Asked:
    """A call to a server that asks something, and what came of it."""

    def __init__(self, *messages: str | dict[str, Any], asks: tuple[str, ...] = (), streams: bool = True) -> None:
        realm = UnsafeTestRealm("files")
        data = b"".join(map(event, messages)) if streams else event(messages[0])[6:-2]
        kind = "text/event-stream" if streams else "application/json"
        self.upstream = Upstream(lambda method: Answer(data if method == "tools/call" else b"", kind=kind))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}).encode()
        door = Door(realm, self.upstream, asks=asks)
        caller = realm.caller(Rule(tool="files.get"))
        _, self.data = door.ask(body, signed(caller, body), (b"mcp-protocol-version", b"2025-11-25"))

    @property
    def replies(self) -> list[Any]:
        """What the server read in the place of the client's answer."""
        return [(body.get("id"), body["error"]["code"]) for body in self.upstream.bodies if "error" in body]


def test_each_kind_is_named_once() -> None:
    """In the file of the settings, and where messages are judged."""
    assert tuple(KINDS) == ASKED


@pytest.mark.parametrize("kind", METHODS)
def test_a_request_reaches_the_client_where_the_table_allows_it(kind: str) -> None:
    """Else the server reads that there is no such method, and the result of the call follows."""
    refused = Asked(asking(METHODS[kind]), RESULT)
    assert b"password" not in refused.data
    assert refused.data == event(RESULT)
    assert refused.replies == [("s-1", -32601)]
    others = tuple(each for each in METHODS if each != kind)
    assert Asked(asking(METHODS[kind]), RESULT, asks=others).data == event(RESULT)
    allowed = Asked(asking(METHODS[kind]), RESULT, asks=(kind,))
    assert allowed.data == event(asking(METHODS[kind])) + event(RESULT)
    assert allowed.replies == []


def test_what_is_no_kind_is_refused_and_the_rest_passes() -> None:
    """A method that is not known may be another spelling of a later revision; a ping and notifications pass."""
    values = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1.0}}
    ended = {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": {"elicitationId": "e"}}
    found = Asked(asking("ping"), values, asking("client/run"), ended, RESULT)
    assert found.data == event(asking("ping")) + event(values) + event(RESULT)
    assert found.replies == [("s-1", -32601)]


SPELLINGS = [
    '{"jsonrpc":"2.0","id":"s-1","Method":"sampling/createMessage","params":{}}',
    '{"jsonrpc":"2.0","id":"s-1","\\u006dethod":"sampling/createMessage","params":{}}',
    '{"jsonrpc":"2.0","id":"s-1","method":"ping","method":"sampling/createMessage","params":{}}',
    '{"jsonrpc":"2.0","id":"s-1","method":"ping","METHOD":"sampling/createMessage","params":{}}',
    '{"jsonrpc":"2.0","id":"s-1","method":["sampling/createMessage"],"params":{}}',
    '{"jsonrpc":"2.0","id":"s-1","method":"Sampling/createMessage","params":{}}',
    '{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"password","data":{"elicitations":[]}}}',
    '{"jsonrpc":"2.0","id":1,"error":{"code":-3.2042e4,"message":"password","data":{"elicitations":[]}}}',
]
INPUT = '{"e":{"method":"elicitation/create","params":{"message":"password"}}}'
INPUTS = [
    '{"resultType":"input_required","inputRequests":%s}',
    '{"resultType":"input_required","InputRequests":%s}',
    '{"resultType":"input_required","inputReque\u017ft\u017f":%s}',
    '{"resultType":"input_required","input\\u0052equests":%s}',
    '{"resultType":"input_required","inputReque\\u017fts":%s}',
    '{"resultType":"input_required","inputRequests":{},"inputRequests":%s}',
    '{"resultType":"input_required","inputRequests":[%s]}',
    '{"resultType":"complete","inputRequests":%s}',
    '{"resultType":"complete","result":{"inputRequests":%s}}',
    '{"resultType":"task","task":{"status":"input_required","inputRequests":%s}}',
]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    "text", [*SPELLINGS, *['{"jsonrpc":"2.0","id":1,"result":%s}' % (each % INPUT) for each in INPUTS]]
)
def test_no_spelling_reaches_the_client(text: str, streams: bool) -> None:
    """As a message of its own and as the answer; some clients ignore the case of names, and take one of two."""
    found = Asked(text, streams=streams)
    for part in (b"sampling/createMessage", b"Sampling/createMessage", b'"password"', b"elicitation/create"):
        assert part not in found.data


def test_an_answer_that_asks_passes_where_the_table_allows_it() -> None:
    """Byte for byte."""
    text = '{"jsonrpc":"2.0","id":1,"result":%s}' % (INPUTS[0] % INPUT)
    assert Asked(text, asks=("elicitation",)).data == event(text)
    assert b"elicitation/create" not in Asked(text, asks=("sampling", "roots")).data


def test_a_server_learns_of_no_capability_that_it_may_not_use() -> None:
    """At the start of a session, and in each message of a revision without; no other byte of the message changes."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(json.dumps(RESULT).encode()))
    door, caller = Door(realm, upstream, asks=("roots",)), realm.caller(Rule(tool="files.get"))
    capable: dict[str, Any] = {"sampling": {}, "elicitation": {"form": {}}, "roots": {"listChanged": True}, "tasks": {}}
    door.message(caller, "initialize", {"capabilities": capable, "protocolVersion": "2025-11-25"})
    kept = {"roots": {"listChanged": True}, "tasks": {}}
    assert upstream.bodies[-1]["params"] == {"capabilities": kept, "protocolVersion": "2025-11-25"}
    door.message(caller, "tools/call", CALL | {"_meta": {CAPABILITIES: capable, "a": 1e2}})
    assert upstream.bodies[-1]["params"] == CALL | {"_meta": {CAPABILITIES: kept, "a": 100.0}}


def test_a_gateway_that_watches_passes_what_clients_get_today() -> None:
    """Nothing breaks on the day on which it is put before a server; once the watch has ended, the table holds."""
    watches = [True]
    requests = ServerRequests("files", (), lambda: watches[-1])
    question, body = json.dumps(asking("sampling/createMessage")).encode(), b'{"params":{"capabilities":{"roots":{}}}}'
    announced = {"capabilities": {"roots": {}}}
    assert not requests.may_ask(question)
    requests.judge(asking("sampling/createMessage"))
    assert requests.without_capabilities(body, "initialize", announced, {}) == body
    watches.append(False)
    assert requests.may_ask(question)
    with pytest.raises(WithheldMessageError):
        requests.judge(asking("sampling/createMessage"))
    assert requests.without_capabilities(body, "initialize", announced, {}) == b'{"params":{"capabilities":{}}}'
