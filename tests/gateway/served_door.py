# SPDX-License-Identifier: Apache-2.0
"""A gateway's door before an upstream, over real HTTP in a thread, with the verifier of a test realm."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.catalogue.terms import RouteTerms, route_terms
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.mcp.accepted_tools import AcceptedTools
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.stdio import StdioUpstream
from arx_caps.gateway.upstream.credentials import Credential
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_verifier import Verifier
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.adapters.asgi_server import complete_lifespan, serving, whole_body

# What a request of MCP 2026-07-28 says of its client.
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Recorder:
    """An upstream of either kind, as an ASGI application: it keeps what arrives, and opens a session when asked."""

    def __init__(self) -> None:
        self.arrived: list[tuple[dict[str, Any], bytes]] = []
        self._sessions = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Keep a request, and answer it as an MCP server would."""
        if await complete_lifespan(scope, receive, send):
            return
        body = await whole_body(receive)
        self.arrived.append((scope, body))
        headers = [(b"content-type", b"application/json")]
        if b'"initialize"' in body:
            self._sessions += 1
            headers.append((b"mcp-session-id", b"s-%d" % self._sessions))
        tools = [{"name": "note", "inputSchema": {"properties": {"note": {"type": "string"}}}}, {"name": "drop"}]
        answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


def routes_of(terms: UpstreamTerms) -> dict[str, str] | dict[str, RouteTerms]:
    """Return the routes of a table that names them itself, as a running upstream has them."""
    return route_terms(terms.routes, terms.bodies) if terms.bodies else terms.routes


class ServedDoor:
    """The ASGI application of one upstream, which is reached at ``/`` and the audience.

    Args:
        verifier: Decides on each call.
        terms: The upstream's table.
        folder: Where files with secrets are.
        person: The credential of people's own accounts, as of ``Forwarder``.
    """

    def __init__(
        self, verifier: Verifier, terms: UpstreamTerms, folder: Path, person: Credential | None = None
    ) -> None:
        self._name = terms.audience
        tools = folder / f"{self._name}.tools.json"
        self._upstream: Any = (
            StdioUpstream(self._name, terms, folder) if terms.command else Forwarder(self._name, terms, folder, person)
        )
        self._door: HttpDoor | McpDoor = (
            HttpDoor(verifier, terms, self._upstream, routes_of(terms))
            if terms.is_http
            else McpDoor(verifier, terms, self._upstream, tools=AcceptedTools(self._name, tools))
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the upstream with the lifespan, and answer requests."""
        if scope["type"] != "lifespan":
            await self._door({**scope, "root_path": f"/{self._name}"}, receive, send)
            return
        await receive()
        self._upstream.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._door.close()
        await self._upstream.close()
        await send({"type": "lifespan.shutdown.complete"})


@contextlib.contextmanager
def open_door(realm: UnsafeTestRealm, folder: Path, parser: str = "auto", **terms: Any) -> Iterator[str]:
    """Serve a door; yield the URL of the upstream behind it.

    Args:
        realm: Its verifier's realm.
        folder: Where files with secrets are.
        parser: What parses HTTP: ``httptools``, or ``h11`` where that is not installed.
        terms: The upstream's table.
    """
    read = msgspec.convert({"audience": "orders", **terms}, UpstreamTerms)
    verifier = realm.verifier.within(None, read.effects, read.marks)
    with serving(ServedDoor(verifier, read, folder), http=parser, ws="none", log_level="error") as port:
        yield f"http://127.0.0.1:{port}/{read.audience}"


def call_tool(url: str, caller: UnsafeCaller, name: str, /, more: Mapping[str, str] | None = None, **args: Any) -> Any:
    """Call a tool over MCP, without a session; return the answer's JSON."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28"}
    headers |= {"mcp-method": "tools/call", "mcp-name": name, **(more or {})}
    params = {"name": name, "arguments": args, "_meta": ENVELOPE}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return httpx.post(url, json=message, headers=headers, auth=caller, timeout=30)  # type: ignore[arg-type]
