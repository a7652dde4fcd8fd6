# SPDX-License-Identifier: Apache-2.0
"""An MCP server of the SDK, 2 or 1.30, that knows people by a tracker's access tokens, behind a realm's gateway."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from mcp.server import MCPServer
except ImportError:  # the SDK 1.30
    from mcp.server.fastmcp import FastMCP as MCPServer

from tests.adapters.asgi_server import serving
from tests.gateway.people import PeopleWorld, Tracker, people


class Guarded:
    """The server's application, which answers the tracker's people alone."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, server = tracker, MCPServer[Any]("tracker")

        @server.tool()
        async def get() -> str:
            """Return a text."""
            return "done"

        self._app = server.streamable_http_app()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Note whose token a request has, and answer it."""
        if scope["type"] == "http":
            found = self.tracker.owner(dict(scope["headers"]).get(b"authorization", b"").decode())
            if found is None:
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            self.tracker.seen.append(found)
        await self._app(scope, receive, send)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[PeopleWorld]:
    """Run the server, its gateway and the realm.

    Args:
        folder: Where.
    """
    tracker = Tracker()
    with (
        serving(Guarded(tracker)) as port,
        people(folder, tracker=tracker, url=f"http://127.0.0.1:{port}/mcp", routes="") as world,
    ):
        yield world


class Ann:
    """A person who opens the links that a client shows."""

    def __init__(self, world: PeopleWorld) -> None:
        self.world, self.links, self._accounts = world, list[str](), 0
        self._opened: list[asyncio.Future[Any]] = []

    @property
    def url(self) -> str:
        """Where the client connects."""
        return f"http://127.0.0.1:{self.world.gateway}/tracker"

    @property
    def account(self) -> str:
        """The account that was connected last."""
        return f"ann-{self._accounts}"

    def open(self, link: str) -> None:
        """Open a link, and connect another account, while the client goes on."""
        self._accounts += 1
        self.links.append(link)
        work = asyncio.to_thread(self.world.connect, link, "ann", self.account)
        self._opened.append(asyncio.ensure_future(work))

    async def finish(self) -> None:
        """Wait until all is connected."""
        for page in await asyncio.gather(*self._opened):
            assert "Connected" in page.text, page.text

    async def leave(self) -> None:
        """Have an operator end the account."""
        found = (await asyncio.to_thread(self.world.arx, "connection", "list"))["connections"]
        [own] = [each["id"] for each in found if each["state"] == "open"]
        words = ("connection", "end", own, "--reason", "a test", "--yes")
        await asyncio.to_thread(self.world.arx, *words)
