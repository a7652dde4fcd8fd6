# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP server of the SDK 2 for the tests: ``python -m tests.adapters.mcp_server FOLDER``, over stdio.

See ``mcp_rules``.
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import anyio.from_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from arx_verifier import Verifier, current_grant
from arx_verifier.integrations.mcp import ArxMcpMiddleware
from tests.adapters.mcp_rules import serve_stdio


def make_server(verifier: Verifier, ran: list[str], *inner: Any) -> MCPServer[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    arx = ArxMcpMiddleware(verifier, recheck_ms=50)
    server: MCPServer[Any] = MCPServer("orders", middleware=[arx, *inner], lifespan=arx.lifespan)

    @server.tool()
    async def get(order_id: str) -> str:
        ran.append("get")
        return f"{order_id} is on its way"

    @server.tool()
    def refund(order_id: str, amount: int) -> str:
        ran.append("refund")
        return f"{amount} for {order_id}"

    @server.tool()
    async def find(note: str | None = None) -> str:
        ran.append("find")
        return f"orders with {note!r}"

    @server.tool()
    def whoami() -> str:
        grant = current_grant()
        return "nobody" if grant is None else grant.holder

    @server.tool()
    async def drop(order_id: str) -> str:
        ran.append("drop")
        return order_id

    @server.tool(name="wait.long")
    async def wait_long(context: Context[Any, Any]) -> str:
        ran.append("wait.long")
        await context.report_progress(1, 2)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise
        return "done"

    @server.tool(name="wait.blocking")
    def wait_blocking(context: Context[Any, Any]) -> str:
        ended = threading.Event()
        grant = current_grant()
        assert grant is not None
        grant.on_end(lambda _: ended.set())
        ran.append("wait.blocking")
        anyio.from_thread.run(context.report_progress, 1, 2)
        ran.append("told" if ended.wait(60) else "not told")
        return "done"

    @server.resource("orders://terms")
    async def terms() -> str:
        return "thirty days"

    @server.resource("orders://secret")
    async def secret() -> str:
        return "a secret"

    @server.resource("orders://{order_id}")
    async def order(order_id: str) -> str:
        return f"order {order_id}"

    @server.prompt()
    def brief(order_id: str) -> str:
        return f"Describe {order_id}"

    @server.prompt()
    def hidden() -> str:
        return "hidden"

    return server


def make_app(verifier: Verifier, ran: list[str], *inner: Any) -> Any:
    """Return the application that serves it over HTTP."""
    return make_server(verifier, ran, *inner).streamable_http_app()


if __name__ == "__main__":
    serve_stdio(Path(sys.argv[1]), lambda verifier: make_server(verifier, []).run("stdio"))
