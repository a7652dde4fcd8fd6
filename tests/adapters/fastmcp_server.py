# SPDX-License-Identifier: Apache-2.0
"""A guarded server of ``fastmcp`` 4 for the tests: ``python -m tests.adapters.fastmcp_server FOLDER``, over stdio.

See ``mcp_rules``.
"""

import sys
from pathlib import Path
from typing import Any

from fastmcp import Context, FastMCP

from arx_verifier import Verifier
from arx_verifier.integrations.fastmcp import ArxMcpMiddleware
from tests.adapters.mcp_rules import serve_stdio
from tests.adapters.mcp_tools import add_blocking_tool, add_tools


def make_server(verifier: Verifier, ran: list[str], *inner: Any, **watching: Any) -> FastMCP[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    arx = ArxMcpMiddleware(verifier, recheck_ms=50, **watching)
    server: FastMCP[Any] = FastMCP("orders", middleware=[arx, *inner], lifespan=arx.lifespan)
    add_tools(server, Context, ran)
    add_blocking_tool(server, Context, ran)
    return server


def make_app(verifier: Verifier, ran: list[str], *inner: Any, **watching: Any) -> Any:
    """Return the application that serves it over HTTP."""
    return make_server(verifier, ran, *inner, **watching).http_app()


if __name__ == "__main__":
    serve_stdio(Path(sys.argv[1]), lambda verifier: make_server(verifier, []).run("stdio", show_banner=False))
