# SPDX-License-Identifier: Apache-2.0
"""A client of a gateway could state a revision of MCP that a server over stdio does not speak, and was served.

A process has no headers, so that the gateway is its HTTP server, which has to refuse it with status 400.  A client read
the answer by the rules of its own revision.
"""

import sys
from pathlib import Path

import httpx
import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.served_door import open_door
from tests.house.pages import ROOT

pytestmark = pytest.mark.servers
REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]


def test_it_is_refused(tmp_path: Path) -> None:
    """Before a decision, with the revisions that are spoken; without a header there is nothing to refuse."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get"))
    script = str(ROOT / "tests" / "gateway" / "upstream_mcp.py")
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    with open_door(realm, tmp_path, command=[sys.executable, script], isolation="none") as url:
        for stated in ("1999-01-01", "2025-11-24", "2025-11-25 ,2025-06-18", "2025-11-25x", ""):
            headers = {"mcp-protocol-version": stated}
            answer = httpx.post(url, json=hello, headers=headers, auth=caller)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022), stated
            assert answer.json()["error"]["data"] == {"supported": REVISIONS, "requested": stated}
            assert answer.json()["id"] == 1
            for method in ("GET", "DELETE"):
                assert httpx.request(method, url, headers=headers, auth=caller).status_code == 400
        for later in ("2030-01-01", "x"):  # in the body too, for the server
            answer = httpx.post(url, json=hello, headers={"mcp-protocol-version": later}, auth=caller)
            assert answer.status_code in (400, 404), later
        for known in ({}, {"mcp-protocol-version": "2025-11-25"}):
            assert httpx.post(url, json=hello, headers=known, auth=caller).status_code == 200
