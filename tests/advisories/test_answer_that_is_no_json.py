# SPDX-License-Identifier: Apache-2.0
"""A client could get what is no JSON from an MCP server behind a gateway: bytes that are not UTF-8, `NaN`.

What one parser refuses another one reads in its own way.  Now such an answer is an error of the upstream, and no number
that the gateway writes again becomes `Infinity`.
"""

import json
import sys
from pathlib import Path

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed
from tests.gateway.served_door import call_tool, open_door

WRONG = {
    "a byte that is not UTF-8": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
}
SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    print('{"jsonrpc":"2.0","id":%d,"result":{"content":[],"n":%s}}' % (message["id"], sys.argv[1]), flush=True)
"""


@pytest.mark.parametrize("method", ["tools/call", "tools/list"])
@pytest.mark.parametrize("wrong", WRONG)
def test_it_is_an_error_of_the_upstream(wrong: str, method: str) -> None:
    """In the result of a call, and in a list."""
    realm = UnsafeTestRealm("files")
    data = b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"tools":[],"n":%s}}' % WRONG[wrong]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "get"}}).encode()
    door = Door(realm, Upstream(lambda _: Answer(data)))
    status, answer = door.ask(body, signed(realm.caller(Rule(tool="files.get")), body))
    assert (status, json.loads(answer)["error"]["code"]) == (502, -32603)


def test_a_number_beyond_all_is_not_written_anew() -> None:
    """1e999 is JSON, and `Infinity` is not; where nothing is written anew, it passes."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    data = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"hidden"}],"n":1e999}}'
    for method, expected in (("tools/list", 502), ("tools/call", 200)):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "get"}}).encode()
        status, answer = Door(realm, Upstream(lambda _: Answer(data))).ask(body, signed(caller, body))
        assert (status, b"Infinity" in answer) == (expected, False)


@pytest.mark.servers
@pytest.mark.parametrize("value", ["NaN", "1e999"])
def test_a_process_writes_none_either(tmp_path: Path, value: str) -> None:
    """What the gateway reads over stdio it writes anew."""
    realm = UnsafeTestRealm("orders")
    with open_door(realm, tmp_path, command=[sys.executable, "-c", SERVER, value], isolation="none") as url:
        answer = call_tool(url, realm.caller(Rule(tool="orders.get", open=True)), "get")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, -32603)
