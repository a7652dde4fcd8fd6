# SPDX-License-Identifier: Apache-2.0
"""docs/service.md, and the pages of ASGI and of MCP without an adapter: their applications run as they stand."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from arx_verifier import Constraint, Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.guard import protect
from arx_verifier.errors import ArxError
from arx_verifier.testing import UnsafeTestRealm
from tests.house.pages import ROOT, blocks
from tests.house.reader import environment

PAGE = (ROOT / "docs" / "service.md").read_text("utf-8")
ADAPTERS = ROOT / "docs" / "adapters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, as a reader writes them."""
    folder = tmp_path_factory.mktemp("service")
    for block in blocks(PAGE):
        name = re.search(r"`(\w+\.py)`", block.before)
        if name is not None:
            (folder / name[1]).write_text(block.text, "utf-8")
    return folder


@pytest.mark.slow
def test_its_tests_pass(folder: Path) -> None:
    """
    ``pytest`` over the page's application and tests, with warnings as errors: each test is there, and passes.
    """
    words = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "."]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, "3 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_an_application_without_routes_is_guarded(tmp_path: Path) -> None:
    """
    docs/adapters/asgi.md: its application runs for the calls of its table alone, and as its tokens allow.
    """
    (block,) = blocks((ADAPTERS / "asgi.md").read_text("utf-8"))
    (tmp_path / "service.py").write_text(block.text.replace('open_verifier("orders.json")', "verifier"), "utf-8")
    realm = UnsafeTestRealm("orders")
    agent = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}))
    app = runpy.run_path(str(tmp_path / "service.py"), {"verifier": realm.verifier})["app"]
    with TestClient(app) as client:
        assert client.get("/orders/o-1", auth=agent).json() == {"tool": "orders.get", "by": "test/agent"}
        assert client.get("/orders/o-2", auth=agent).json()["code"] == "argument_not_allowed"
        assert client.get("/other", auth=agent).json()["code"] == "tool_not_allowed"
        assert client.get("/orders/o-1").status_code == 401


def test_a_tool_of_mcp_is_decided_on(tmp_path: Path) -> None:
    """
    docs/adapters/mcp.md, without the adapter: a message is a tool with its arguments, the protocol's own words, or no
    request at all.
    """
    page = (ADAPTERS / "mcp.md").read_text("utf-8")
    (block,) = [block for block in blocks(page) if "`meaning.py`" in block.before]
    (tmp_path / "meaning.py").write_text(block.text, "utf-8")
    meaning = runpy.run_path(str(tmp_path / "meaning.py"))["meaning"]
    realm = UnsafeTestRealm("orders")

    async def answered(request: object) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(routes=[Route("/mcp", answered, methods=["GET", "POST"])])
    agent = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}), Rule(tool="orders.mcp"))
    messages = {
        200: [
            {"method": "tools/call", "params": {"name": "get", "arguments": {"order_id": "o-1"}}},
            {"method": "tools/list"},
            {"result": {}},
        ],
        403: [
            {"method": "tools/call", "params": {"name": "get", "arguments": {"order_id": "o-2"}}},
            {"method": "tools/call", "params": {"name": "cancel", "arguments": {"order_id": "o-1"}}},
            {"method": "tools/call", "params": {"name": "mcp x"}},
            {"method": "tools/call", "params": {}},
        ],
        400: [{"method": "tools/call"}, {"method": "tools/call", "params": {"name": "get", "arguments": []}}, []],
    }
    with TestClient(ArxMiddleware(app, verifier=realm.verifier, tools=meaning)) as client:
        for status, each in messages.items():
            for message in each:
                answer = client.post("/mcp", json=message, auth=agent)
                assert answer.status_code == status, (message, answer.text)
        assert client.get("/mcp", auth=agent).status_code == 200


def test_a_refusal_is_as_it_is_shown() -> None:
    """
    The page's refusal is one that there is, but for its id and what every problem has.
    """
    realm = UnsafeTestRealm("orders")

    async def refund(request: object) -> JSONResponse:
        return JSONResponse({})

    routes = [Route("/", refund, methods=["POST"])]
    app = ArxMiddleware(Starlette(routes=routes), verifier=realm.verifier, tools={"POST /": "refund"})
    agent = realm.caller(Rule(tool="refund", args={"amount": Constraint(max=20)}))
    with TestClient(app) as client:
        answer = client.post("/", json={"amount": 50}, auth=agent).json()
    shown = json.loads(next(block.text for block in blocks(PAGE) if block.language == "json"))
    assert {**shown, "type": "about:blank", "decision": answer["decision"]} == answer


def test_a_function_is_tested_as_well() -> None:
    """
    A caller's token opens a protected function once, for the arguments that it was made for.
    """
    realm = UnsafeTestRealm("orders")
    get = protect(realm.verifier, tool="orders.get")(lambda order_id: order_id)
    agent = realm.caller(Rule(tool="orders.get", args={"order_id": "o-1"}))
    token = agent.token("orders.get", order_id="o-1")
    assert get(order_id="o-1", arx_token=token) == "o-1"
    late = realm.caller(Rule(tool="orders.get"), ttl_ms=-1).token("orders.get", order_id="o-1")
    for presented, code in ((token, "replayed"), (late, "expired")):
        with pytest.raises(ArxError) as refused:
            get(order_id="o-1", arx_token=presented)
        assert refused.value.code == code
