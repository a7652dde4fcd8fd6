# SPDX-License-Identifier: Apache-2.0
"""docs/adapters/mcp.md: its server without the adapter and its client are those of the ``mcp`` package, over HTTP.

The package is no part of what ARx needs or is built with: without it this is skipped (``pip install mcp``).
"""

import asyncio
import re
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Bundle, Task
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.agent.live import serving
from tests.house.pages import ROOT, blocks

mcp = pytest.importorskip("mcp")

PAGE = (ROOT / "docs" / "adapters" / "mcp.md").read_text("utf-8")
CLIENT = """\
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

async def call(task, order_id):
"""


def the_block(containing: str) -> str:
    (found,) = [block.text for block in blocks(PAGE) if containing in block.text]
    return found


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@pytest.fixture
def app(realm: UnsafeTestRealm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's server, with the verifier of a realm in memory in place of that of a service file."""
    (tmp_path / "meaning.py").write_text(the_block("def meaning("), "utf-8")
    server = tmp_path / "mcp_service.py"
    server.write_text(the_block("ArxMiddleware(").replace('open_verifier("orders.json")', "verifier"), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return runpy.run_path(str(server), {"verifier": realm.verifier})["app"]


def call(realm: UnsafeTestRealm, port: int, order_id: str, *rules: Rule) -> Any:
    """Call the tool as the page does, with a task that allows this."""
    origins = {"orders": (f"http://127.0.0.1:{port}",)}
    held = {"orders": realm.caller(*rules).macaroon}
    fields = {"agent": "test/agent", "issuer": "http://127.0.0.1:1", "realm": "test", "task": "t-test"}
    task = Task(Bundle(**fields, origins=origins, tokens=held))
    body = the_block("httpx2.AsyncClient(").replace("127.0.0.1:9001", f"127.0.0.1:{port}")
    body = body.replace("await client.call_tool", "return await client.call_tool").replace('"o-1001"', "order_id")
    made: dict[str, Any] = {}
    exec(compile(CLIENT + textwrap.indent(body, "    "), "mcp.md", "exec"), made)
    return asyncio.run(made["call"](task, order_id))


def test_the_page_is_of_the_package_that_is_here() -> None:
    """
    The page names the version that it was tried with.
    """
    from importlib.metadata import version

    assert re.search(r"With `mcp` (\d+\.\d+)", PAGE)[1] == ".".join(version("mcp").split(".")[:2])  # type: ignore[index]


def test_a_call_over_mcp_is_decided_on(realm: UnsafeTestRealm, app: Any) -> None:
    """
    The tool answers for the order that the task allows; for another one nothing runs, and both are recorded.
    """
    rules = (Rule(tool="orders.mcp"), Rule(tool="orders.get", args={"order_id": "o-1"}))
    with serving(app) as port:
        answer = call(realm, port, "o-1", *rules)
        assert [each.text for each in answer.content] == ["o-1 is on its way"]
        assert [each.tool for each in realm.decisions.decisions if each.tool == "orders.get"] == ["orders.get"]
        with pytest.raises(BaseExceptionGroup) as refused:
            call(realm, port, "o-2", *rules)
        assert refused.value.subgroup(mcp.MCPError) is not None
    codes = [each.code for each in realm.decisions.decisions if each.tool == "orders.get"]
    assert codes == ["ok", "argument_not_allowed"]
