# SPDX-License-Identifier: Apache-2.0
"""An MCP server of the SDK 2 without ARx, behind the gateway, for the tests."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from arx_caps.gateway.forwarding import Forwarder
from arx_caps.gateway.mcp_door import McpDoor
from arx_caps.gateway.settings import UpstreamTerms
from arx_verifier import Verifier
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_tools import add_tools

WHO = "nobody"  # the upstream knows nothing of tokens


class Gateway:
    """The gateway's application for one upstream, which runs as long as it does."""

    def __init__(self, verifier: Verifier, ran: list[str]) -> None:
        self._verifier, self._stack = verifier, contextlib.ExitStack()
        server: MCPServer[Any] = MCPServer("orders")
        add_tools(server, Context, ran)
        self._upstream = server.streamable_http_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            port = self._stack.enter_context(serving(self._upstream))
            terms = UpstreamTerms(audience="orders", url=f"http://127.0.0.1:{port}/mcp")
            self._forwarder = Forwarder("orders", terms, Path(tempfile.gettempdir()))
            self._forwarder.open()
            self._door = McpDoor(self._verifier, terms, self._forwarder)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._door.close()
            await self._forwarder.close()
            self._stack.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self._door(scope, receive, send)


def make_app(verifier: Verifier, ran: list[str], *_: Any) -> Any:
    """Return the application."""
    return Gateway(verifier, ran)
