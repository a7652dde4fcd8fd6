# SPDX-License-Identifier: Apache-2.0
"""An MCP server over HTTP of revision 2025-11-25, which streams, and writes a line for each call that it runs.

``python -m tests.gateway.upstream_streams FILE PAUSE_S SIZE``: it listens at any port and prints it.
"""

import asyncio
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

_SLOW_S = 20.0
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("watch", "refund")]


def answer_of(message: dict[str, Any], result: dict[str, Any]) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


class Upstream:
    """The server.

    Args:
        runs: Gets a line for each refund: its argument ``call``, and which part of its run it is.
        pause_s: Between two events of a stream, and during a refund, s.
        size: Of an event, bytes.
    """

    def __init__(self, runs: Path, pause_s: float, size: int) -> None:
        self._runs, self._pause_s, self._text = runs.open("a", buffering=1), pause_s, "x" * size

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Answer a message."""
        message = await request.json()
        params = message.get("params", {})
        if "id" not in message:
            return web.Response(status=202)
        if message["method"] == "initialize":
            about = {"serverInfo": {"name": "orders", "version": "1"}, "capabilities": {"tools": {}}}
            answer = answer_of(message, {"protocolVersion": "2025-11-25", **about})
            answer.headers["Mcp-Session-Id"] = secrets.token_hex(8)
            return answer
        if message["method"] == "tools/list":
            return answer_of(message, {"tools": TOOLS})
        if params["name"] == "watch":
            return await self._watch(request, params)
        call = params["arguments"]["call"]
        self._runs.write(f"{call} began\n")
        await asyncio.sleep(self._pause_s)
        self._runs.write(f"{call} ended\n")
        return answer_of(message, {"content": [{"type": "text", "text": call}]})

    async def get(self, request: web.Request) -> web.Response:
        """Run a call of plain HTTP for a while."""
        self._runs.write(f"{request.query['call']} began\n")
        await asyncio.sleep(_SLOW_S)
        return web.json_response({})

    async def _watch(self, request: web.Request, params: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        token = params.get("_meta", {}).get("progressToken", "p")
        while True:
            # One clock for all processes of a machine: a client reads from an event when it left.
            facts = {"progressToken": token, "progress": time.monotonic_ns(), "message": self._text}
            note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": facts}
            await answer.write(b"event: message\ndata: " + json.dumps(note).encode() + b"\n\n")
            await asyncio.sleep(self._pause_s)


async def main(runs: str, pause_s: str, size: str) -> None:
    """Serve until the end of the process."""
    app, upstream = web.Application(), Upstream(Path(runs), float(pause_s), int(size))
    app.router.add_post("/mcp", upstream.post)
    app.router.add_get("/slow", upstream.get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
