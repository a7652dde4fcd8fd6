# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP server of the SDK 1.30 for the tests: ``python -m tests.adapters.mcp_v1_server FOLDER``, over stdio.

See ``mcp_rules``.
"""

import sys
from pathlib import Path
from typing import Any

from mcp.server.fastmcp import Context, FastMCP

from arx_verifier import Verifier
from arx_verifier.integrations.mcp_v1 import guard
from tests.adapters.mcp_rules import serve_stdio
from tests.adapters.mcp_tools import add_tools


def make_server(verifier: Verifier, ran: list[str], **watching: Any) -> FastMCP[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    server = guard(FastMCP("orders"), verifier, recheck_ms=50, **watching)
    add_tools(server, Context, ran)
    return server


def make_app(verifier: Verifier, ran: list[str], **watching: Any) -> Any:
    """Return the application that serves it over HTTP."""
    return make_server(verifier, ran, **watching).streamable_http_app()


if __name__ == "__main__":
    serve_stdio(Path(sys.argv[1]), lambda verifier: make_server(verifier, []).run("stdio"))
