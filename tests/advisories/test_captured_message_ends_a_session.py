# SPDX-License-Identifier: Apache-2.0
"""A reader of used requests could end or list another holder's MCP session for ten seconds.

The proof of a message that calls no tool was not spent: a captured `DELETE` ended the session again, a captured
request for a list was answered.  Now each request is accepted once, as a call is.
"""

import json

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed


@pytest.mark.spec("8.2", "8.3")
@pytest.mark.parametrize("method", ["initialize", "tools/list", "ping", "tasks/get", "notifications/initialized"])
def test_a_captured_message_is_replayed(method: str) -> None:
    """The same bytes with the same token reach the server once."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}'))
    identity = {} if method.startswith("notifications") else {"id": 1}
    body = json.dumps({"jsonrpc": "2.0", **identity, "method": method, "params": {}}).encode()
    door, header = Door(realm, upstream), signed(realm.caller(Rule(tool="files.get")), body)
    assert door.ask(body, header)[0] == 200
    assert b'"replayed"' in door.ask(body, header)[1]
    assert upstream.got == [method]


@pytest.mark.spec("8.2", "8.3")
@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_a_captured_request_for_a_session_is_replayed(method: str) -> None:
    """Its end, and its stream."""
    realm = UnsafeTestRealm("files")
    upstream = Upstream(lambda _: Answer(b"{}"))
    door, header = Door(realm, upstream), signed(realm.caller(Rule(tool="files.get")), b"", method)
    assert door.ask(b"", header, method=method)[0] == 200
    status, answer = door.ask(b"", header, method=method)
    assert (status, json.loads(answer)["code"]) == (401, "replayed")
    assert upstream.got == [method]
