# SPDX-License-Identifier: Apache-2.0
"""A caller of the gateway could hide a tool or an argument from its rules, by a name in another case.

Servers in Go and ASP.NET read `Name` as `name`, and take the last one.  The gateway judged `name` and passed both on:
the record had `get`, the server ran `drop`.  Members of MCP that a decision depends on have one spelling, and no object
has two names that differ in case alone.
"""

import json
from pathlib import Path

import httpx
import pytest

from arx_caps.mcp.message import check_names
from arx_verifier import Rule
from arx_verifier.errors import RequestError
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder, open_door

pytestmark = pytest.mark.servers
RULES = (Rule(tool="orders.get", args={"order_id": "o-1"}, open=True), Rule(tool="orders.list"))


@pytest.mark.parametrize(
    "params",
    [
        '{"name":"get","arguments":{"order_id":"o-1"},"Name":"drop"}',
        '{"name":"get","arguments":{"order_id":"o-1"},"ARGUMENTS":{"order_id":"o-2"}}',
        '{"name":"get","arguments":{"order_id":"o-1","Order_Id":"o-2"}}',
        '{"name":"get","arguments":{"order_id":"o-1","ship":{"to":"a","To":"b"}}}',
        '{"name":"list","Arguments":{"all":true}}',
        '{"name":"list","argument\u017f":{"all":true}}',
    ],
)
def test_an_mcp_message(params: str, tmp_path: Path) -> None:
    """It is no message, and the server does not get it."""
    realm, upstream = UnsafeTestRealm("orders"), Recorder()
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'.encode()
    with serving(upstream) as port, open_door(realm, tmp_path, url=f"http://127.0.0.1:{port}") as url:
        answer = httpx.post(url, content=body, auth=realm.caller(*RULES))  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]["code"], upstream.arrived) == (400, -32600, [])


def test_a_request_of_plain_http(tmp_path: Path) -> None:
    """Also where one name is in the path and the other in the body."""
    realm, upstream = UnsafeTestRealm("orders"), Recorder()
    routes = {"POST /orders/{order_id}": "orders.get"}
    with serving(upstream) as port, open_door(realm, tmp_path, url=f"http://127.0.0.1:{port}", routes=routes) as url:
        caller = realm.caller(*RULES)
        for body in ({"Order_Id": "o-2"}, {"n": 1, "N": 2}):
            answer = httpx.post(f"{url}/orders/o-1", json=body, auth=caller)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["code"], upstream.arrived) == (400, "malformed_request", [])
        assert httpx.post(f"{url}/orders/o-1", json={"n": 1}, auth=caller).status_code == 200  # type: ignore[arg-type]
    assert json.loads(upstream.arrived[0][1]) == {"n": 1}


@pytest.mark.parametrize(
    ("first", "second"), [("\ua7cb", "\u0264"), ("\U00010d50", "\U00010d70"), ("\U00016eb8", "\U00016ed3")]
)
def test_letters_that_this_python_does_not_know(first: str, second: str) -> None:
    """A server of a later Unicode takes them for one: they are refused on each version of Python."""
    with pytest.raises(RequestError):
        check_names({"a": [{first: 1, second: 2}]})
    check_names({"a": [{first: 1, "b": 2}]})
