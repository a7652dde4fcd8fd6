# SPDX-License-Identifier: Apache-2.0
"""An MCP server of the SDK, 2 or 1.30, without ARx, behind the gateway, for the tests.

``python -m tests.adapters.gateway_server FILE`` runs the server over stdio; FILE gets the name of each tool that runs.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

try:
    from mcp.server import MCPServer
    from mcp.server.mcpserver import Context
except ImportError:  # the SDK 1.30
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_verifier import Verifier
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_tools import add_tools

ROOT = Path(__file__).resolve().parents[2]
WHO = "anonymous"  # the upstream knows nothing of tokens


def make_server(ran: list[str]) -> MCPServer[Any]:
    """Return the server; ``ran`` gets the name of each tool that runs, and of each that was ended."""
    server: MCPServer[Any] = MCPServer("orders")
    add_tools(server, Context, ran)
    return server


class Gateway:
    """The gateway's application for one upstream, which runs as long as it does."""

    def __init__(self, verifier: Verifier, ran: list[str], log: Path | None = None) -> None:
        self._verifier, self._ran, self._log = verifier, ran, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the upstream with the lifespan, and answer requests."""
        if scope["type"] != "lifespan":
            await self._door(scope, receive, send)
            return
        await receive()
        with contextlib.ExitStack() as stack:
            if self._log is None:
                port = stack.enter_context(serving(make_server(self._ran).streamable_http_app()))
                terms = UpstreamTerms(audience="orders", url=f"http://127.0.0.1:{port}/mcp")
                upstream: Any = Forwarder("orders", terms, ROOT)
            else:
                command = (sys.executable, "-m", "tests.adapters.gateway_server", str(self._log))
                terms = UpstreamTerms(
                    audience="orders", command=command, env={"PYTHONPATH": str(ROOT)}, isolation="none"
                )
                upstream = StdioUpstream("orders", terms, ROOT)
            upstream.open()
            self._door = McpDoor(self._verifier, terms, upstream)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._door.close()
            await upstream.close()
            if self._log is not None and self._log.exists():
                self._ran.extend(self._log.read_text("utf-8").split())
        await send({"type": "lifespan.shutdown.complete"})


def make_app(verifier: Verifier, ran: list[str], *_: Any, **options: Any) -> Any:
    """Return the application."""
    return Gateway(verifier.within(**options), ran)


class _File(list[str]):
    """A list that is written to a file as well."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)

    def append(self, name: str) -> None:
        """Add a name."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")


if __name__ == "__main__":
    make_server(_File(sys.argv[1])).run("stdio")
