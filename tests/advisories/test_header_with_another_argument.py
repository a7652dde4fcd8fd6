# SPDX-License-Identifier: Apache-2.0
"""A caller of the gateway could give one argument's header the value of another argument.

MCP 2026-07-28 copies arguments to headers, by which proxies and servers route.  The gateway required each to be some
argument of the body: with `{"region": "eu", "note": "us"}`, `Mcp-Param-Region: us` reached the server of the USA.
"""

from pathlib import Path

import pytest

from arx_verifier import Constraint, Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import Recorder, call_tool, open_door

pytestmark = pytest.mark.servers
RULE = Rule(tool="orders.get", args={"region": "eu", "note": Constraint(glob="*")})


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"mcp-param-region": "eu"}, None),
        ({"Mcp-Param-Note": "us", "mcp-param-place": "us"}, None),
        ({"mcp-param-region": "us"}, -32020),
        ({"MCP-PARAM-REGION": "=?base64?dXM=?="}, -32020),
        ({"mcp-param-place": "asia"}, -32020),
    ],
)
def test_a_header_has_the_argument_of_its_name(headers: dict[str, str], code: int | None, tmp_path: Path) -> None:
    """One that no argument is called by may have any argument of the body: a server can name it in its schema."""
    realm, upstream = UnsafeTestRealm("orders"), Recorder()
    with serving(upstream) as port, open_door(realm, tmp_path, url=f"http://127.0.0.1:{port}") as url:
        answer = call_tool(url, realm.caller(RULE), "get", headers, region="eu", note="us")
    assert answer.json().get("error", {}).get("code") == code
    assert len(upstream.arrived) == (code is None)
