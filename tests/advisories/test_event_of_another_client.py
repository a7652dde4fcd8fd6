# SPDX-License-Identifier: Apache-2.0
"""Behind a gateway, a client could resume another agent's stream, if the server has one store of events for all.

SDKs take one.  Ids of sessions and tasks were bound to their owner, those of events were not: `Last-Event-ID: 0` in a
session of one's own was enough.  Now the id of an event has a code over it and its owner.
"""

import json

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

EVENTS = b'id: 1\ndata: {"jsonrpc":"2.0","method":"notifications/message"}\n\nid\ndata:\n\n: a comment\n\n'


def ids_of(data: bytes) -> list[str]:
    return [line.removeprefix("id: ") for line in data.decode().splitlines() if line.startswith("id: ")]


@pytest.mark.spec("11")
def test_it_is_not_resumed() -> None:
    """Neither by an id of the upstream, nor by one that another agent got; the agent itself resumes."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(EVENTS, kind="text/event-stream"))
    door = Door(realm, upstream)
    alice = realm.caller(Rule(tool="files.get"), agent="acme/a", session="s-a")
    bob = realm.caller(Rule(tool="files.get"), agent="acme/b", session="s-b")

    def listen(caller: UnsafeCaller, last: str = "") -> tuple[int, bytes]:
        more = [(b"last-event-id", last.encode())] if last else []
        return door.ask(b"", signed(caller, b"", "GET"), *more, method="GET")

    status, data = listen(alice)
    [bound] = ids_of(data)
    assert (status, data.count(b"\n\n")) == (200, 3)
    assert bound != "1"
    for last in ("0", "1", bound, bound + "x", "\u00ff~k~c", "~".join(bound.split("~")[:2])):
        status, data = listen(bob, last)
        assert (status, json.loads(data)["error"]["code"]) == (400, -32600), last
    assert len(upstream.got) == 1
    assert listen(alice, bound)[0] == 200
    assert upstream.headers[-1][b"last-event-id"] == b"1"


def test_the_id_of_a_session_is_none_of_an_event() -> None:
    """Each kind has a code of its own."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    answer = Answer(b'{"jsonrpc":"2.0","id":1,"result":{}}', (b"mcp-session-id", b"1"))
    heads: list[tuple[bytes, bytes]] = []
    body = b'{"jsonrpc":"2.0","id":1,"method":"initialize"}'
    door = Door(realm, Upstream(lambda _: answer))
    assert door.ask(body, signed(caller, body), heads=heads)[0] == 200
    last = (b"last-event-id", dict(heads)[b"mcp-session-id"])
    assert door.ask(b"", signed(caller, b"", "GET"), last, method="GET")[0] == 400
