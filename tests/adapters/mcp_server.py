# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP server of the SDK 2 for the tests: ``python -m tests.adapters.mcp_server FOLDER``, over stdio.

See ``mcp_rules``.
"""

import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from arx_verifier import Verifier
from arx_verifier.integrations.mcp import ArxMcpMiddleware
from tests.adapters.mcp_rules import serve_stdio
from tests.adapters.mcp_tools import add_blocking_tool, add_tools


def make_server(verifier: Verifier, ran: list[str], *inner: Any, **watching: Any) -> MCPServer[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    arx = ArxMcpMiddleware(verifier, recheck_ms=50, **watching)
    server: MCPServer[Any] = MCPServer("orders", middleware=[arx, *inner], lifespan=arx.lifespan)
    add_tools(server, Context, ran)
    add_blocking_tool(server, Context, ran)
    return server


def make_app(verifier: Verifier, ran: list[str], *inner: Any, **watching: Any) -> Any:
    """Return the application that serves it over HTTP."""
    return make_server(verifier, ran, *inner, **watching).streamable_http_app()


if __name__ == "__main__":
    serve_stdio(Path(sys.argv[1]), lambda verifier: make_server(verifier, []).run("stdio"))
