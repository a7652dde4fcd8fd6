# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP server of the SDK 1.30 for the tests: ``python -m tests.adapters.mcp_v1_server FOLDER``, over stdio.

See ``mcp_rules``.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from mcp.server.fastmcp import Context, FastMCP

from arx_verifier import Verifier, current_grant
from arx_verifier.integrations.mcp_v1 import guard
from tests.adapters.mcp_rules import serve_stdio


def make_server(verifier: Verifier, ran: list[str]) -> FastMCP[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    server = guard(FastMCP("orders"), verifier, recheck_ms=50)

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
    async def wait_long(context: Context[Any, Any, Any]) -> str:
        ran.append("wait.long")
        await context.report_progress(1, 2)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise
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


def make_app(verifier: Verifier, ran: list[str]) -> Any:
    """Return the application that serves it over HTTP."""
    return make_server(verifier, ran).streamable_http_app()


if __name__ == "__main__":
    serve_stdio(Path(sys.argv[1]), lambda verifier: make_server(verifier, []).run("stdio"))
