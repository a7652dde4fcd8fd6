# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP endpoint of streamable HTTP without an SDK, for the tests of the bridge: sessions and MCP 2026-07-28.

Each request is noted as it came, so that a test can send it again.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from arx_verifier import Verifier, current_grant
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.mcp.messages import McpMessage, Messages

VERSION = "io.modelcontextprotocol/protocolVersion"
MARKED = {"type": "object", "properties": {"order_id": {"type": "string", "x-mcp-header": "Order"}}}
TOOLS = ("get", "refund", "drop", "wait", "ask", "late", "break", "plain")


class Seen(NamedTuple):
    """One request as it came."""

    method: str
    headers: dict[str, str]
    body: bytes

    @property
    def rpc(self) -> dict[str, Any]:
        """Its message."""
        return json.loads(self.body) if self.body else {}


class McpEndpoint:
    """The endpoint at ``/mcp``.

    Attributes:
        seen: The requests, in their order.
        ran: The name of each tool that runs, and ``cancelled`` when one is.
        said: Called with each event of them, for tests that wait.
        push: Messages for the client's event stream.
    """

    def __init__(self, verifier: Verifier, report: Callable[[str], None] = lambda _: None) -> None:
        self._messages = Messages(verifier, recheck_ms=50)
        self.seen: list[Seen] = []
        self.ran: list[str] = []
        self.sessions: set[str] = set()
        self.offers_stream = True
        self._report = report
        self._replies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.push: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._late: dict[str, dict[str, Any]] = {}

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/mcp", self._post, methods=["POST"]),
            Route("/mcp", self._get, methods=["GET"]),
            Route("/mcp", self._delete, methods=["DELETE"]),
        ]
        return Starlette(routes=routes, lifespan=lambda _: self._messages.lifespan())

    async def _note(self, request: Request) -> dict[str, Any]:
        seen = Seen(request.method, dict(request.headers), await request.body())
        self.seen.append(seen)
        self._report(f"{seen.method} {seen.rpc.get('method', '')}".strip())
        return seen.rpc

    async def _post(self, request: Request) -> Response:
        rpc = await self._note(request)
        modern = request.headers.get("mcp-protocol-version") == "2026-07-28"
        if (
            not modern
            and rpc.get("method") != "initialize"
            and request.headers.get("mcp-session-id") not in self.sessions
        ):
            return Response(status_code=404)
        if "method" not in rpc:
            await self._replies.put(rpc)
        if "id" not in rpc or "method" not in rpc:
            return Response(status_code=202)
        if modern and (wrong := _header_mismatch(request, rpc)):
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": -32020, "message": wrong}}, 400)
        params = rpc.get("params", {})
        message = McpMessage(rpc["method"], params, params.get("_meta", {}), rpc["id"], request)
        try:
            if message.method == "tools/call" and params["name"] in ("wait", "ask", "late", "break"):
                return StreamingResponse(self._events(message), media_type="text/event-stream")
            answer, headers = await self._result(message)
        except RefusedCall as refused:
            return JSONResponse(_refusal(self._messages, message, refused))
        return JSONResponse({"jsonrpc": "2.0", "id": rpc["id"], "result": answer}, headers=headers)

    async def _result(self, message: McpMessage) -> tuple[dict[str, Any], dict[str, str]]:
        if message.method == "initialize":
            await self._messages.recognize(message)
            self.sessions.add(session := secrets.token_hex(8))
            about = {"protocolVersion": message.params["protocolVersion"], "capabilities": {"tools": {}}}
            return about | {"serverInfo": {"name": "orders", "version": "1"}}, {"mcp-session-id": session}
        if message.method == "tools/list":
            # Not filtered here, so that a test sees what the bridge itself removes.
            await self._messages.recognize(message)
            return {"tools": [{"name": name, "inputSchema": MARKED} for name in TOOLS]}, {}
        if message.method == "tools/call":
            return await self._messages.run(message, _no_schema, lambda: self._tool(message)), {}
        await self._messages.recognize(message)
        return {}, {}

    async def _tool(self, message: McpMessage) -> dict[str, Any]:
        name, args = message.params["name"], message.params.get("arguments", {})
        self.ran.append(name)
        self._report(f"ran {name}")
        grant = current_grant()
        assert grant is not None
        return _text(f"{name} {json.dumps(args, sort_keys=True)} by {grant.holder}")

    async def _events(self, message: McpMessage) -> AsyncIterator[bytes]:
        events: asyncio.Queue[bytes] = asyncio.Queue()
        work = asyncio.create_task(self._work(message, events))
        try:
            while (event := await events.get()) != b"":
                yield event
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _work(self, message: McpMessage, events: "asyncio.Queue[bytes]") -> None:
        async def tool() -> dict[str, Any]:
            return await self._streamed(message, events)

        try:
            answer = {"jsonrpc": "2.0", "id": message.id, "result": await self._messages.run(message, _no_schema, tool)}
        except RefusedCall as refused:
            answer = _refusal(self._messages, message, refused)
        if message.params["name"] == "late":
            self._late["e-1"] = answer
        elif message.params["name"] != "break":
            await events.put(_event(answer))
        await events.put(b"")

    async def _streamed(self, message: McpMessage, events: "asyncio.Queue[bytes]") -> dict[str, Any]:
        name = message.params["name"]
        if name == "wait":
            progress = {"progressToken": message.meta.get("progressToken"), "progress": 1}
            await events.put(_event({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self._report("cancelled")
                raise
        if name == "ask":
            await events.put(_event({"jsonrpc": "2.0", "id": "q-1", "method": "elicitation/create", "params": {}}))
            reply = await self._replies.get()
            return _text(f"{reply['id']} {reply['result']['action']}")
        if name == "late":
            await events.put(b": a comment\r\nid: e-1\r\nretry: 10\r\ndata: \r\n\r\n")
        return _text(name)

    async def _get(self, request: Request) -> Response:
        await self._note(request)
        if (late := self._late.pop(request.headers.get("last-event-id", ""), None)) is not None:
            return Response(_event(late), media_type="text/event-stream")
        if not self.offers_stream:
            return Response(status_code=405)

        async def stream() -> AsyncIterator[bytes]:
            yield b": open\n\n"
            while True:
                yield _event(await self.push.get())

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def _delete(self, request: Request) -> Response:
        await self._note(request)
        self.sessions.discard(request.headers.get("mcp-session-id", ""))
        return Response(status_code=204)


def _event(message: dict[str, Any]) -> bytes:
    # In two lines of data and with a character at which text, unlike an event stream, has a line end.
    head, tail = json.dumps(message | {"note": "a\u2028b"}, ensure_ascii=False).split(", ", 1)
    return f"event: message\r\ndata: {head},\r\ndata: {tail}\r\n\r\n".encode()


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


async def _no_schema() -> dict[str, Any]:
    return {}


def _refusal(messages: Messages, message: McpMessage, refused: RefusedCall) -> dict[str, Any]:
    refusal = messages.refusal(message, refused)
    if refusal.for_model:
        return {"jsonrpc": "2.0", "id": message.id, "result": _text(refusal.text) | {"isError": True}}
    error = {"code": refusal.error, "message": refusal.text, "data": refusal.data}
    return {"jsonrpc": "2.0", "id": message.id, "error": error}


def _header_mismatch(request: Request, rpc: dict[str, Any]) -> str | None:
    """What MCP 2026-07-28 demands of the headers, or None."""
    params = rpc.get("params", {})
    wanted = {"mcp-method": rpc["method"]}
    if rpc["method"] == "tools/call":
        wanted["mcp-name"] = params["name"]
        if "order_id" in params.get("arguments", {}):
            wanted["mcp-param-order"] = params["arguments"]["order_id"]
    for name, value in wanted.items():
        if request.headers.getlist(name) != [value]:
            return f"{name} header does not match the body"
    return None
