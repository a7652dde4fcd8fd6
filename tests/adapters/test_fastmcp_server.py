# SPDX-License-Identifier: Apache-2.0
"""A guarded server of ``fastmcp`` 4 keeps the contract of guarded MCP servers."""

import asyncio
from typing import Any

import httpx2
import pytest
from fastmcp import Context, FastMCP
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from arx_verifier import Rule
from arx_verifier.integrations.fastmcp import ArxMcpMiddleware
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters import fastmcp_server, mcp_contract
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.readiness import Readiness, check_readiness, route


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of this file."""
    monkeypatch.setattr(mcp_contract, "SERVER", fastmcp_server)


def test_one_server_judges_tools_of_a_mounted_one_and_of_a_tool() -> None:
    """By the name that it lists; a tool that calls another one with the middleware is refused, as its token is used."""
    realm, ran = UnsafeTestRealm("orders"), list[str]()
    arx = ArxMcpMiddleware(realm.verifier)
    outer: FastMCP[Any] = FastMCP("orders", middleware=[arx], lifespan=arx.lifespan)
    inner: FastMCP[Any] = FastMCP("desk")

    @inner.tool()
    async def look() -> str:
        ran.append("look")
        return "looked"

    @outer.tool()
    async def nested(context: Context, middleware: bool) -> str:
        ran.append("nested")
        await context.fastmcp.call_tool("desk_look", {}, run_middleware=middleware)
        return "done"

    outer.mount(inner, namespace="desk")

    async def run() -> list[bool]:
        caller = realm.caller(Rule(tool="orders.nested", args={}, open=True), Rule(tool="orders.desk_look"))
        stranger = realm.caller(Rule(tool="orders.look"))
        failed = []
        with serving(outer.http_app()) as port:
            for auth, calls in (
                (caller, [("desk_look", {}), ("nested", {"middleware": False}), ("nested", {"middleware": True})]),
                (stranger, [("desk_look", {})]),
            ):
                async with httpx2.AsyncClient(auth=auth) as http:
                    over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
                    async with Client(over) as client:
                        for name, args in calls:
                            failed.append(bool((await client.call_tool(name, args)).is_error))
        return failed

    assert asyncio.run(run()) == [False, False, True, True]
    assert ran == ["look", "nested", "look", "nested"]


def test_the_page_of_readiness() -> None:
    """Its route answers as the lease is, and needs no token."""
    realm = UnsafeTestRealm("orders")
    arx = ArxMcpMiddleware(realm.verifier)
    server: FastMCP[Any] = FastMCP("orders", middleware=[arx], lifespan=arx.lifespan)
    route("over stdio has none", server=server, verifier=realm.verifier)
    with serving(server.http_app()) as port:

        def ask() -> Readiness:
            answer = httpx2.get(f"http://127.0.0.1:{port}/readyz")
            return answer.status_code, answer.json()["why"]

        check_readiness(realm, ask)
