# SPDX-License-Identifier: Apache-2.0
"""A pass-through of aiohttp on uvloop that reads nothing and decides nothing: what any proxy in Python takes.

python -m benchmarks.gateway.bare_proxy PORT URL
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

NOT_PASSED = ("Host", "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server")


async def serve(port: int, url: str) -> None:
    """Forward each request to a URL until the process ends."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = request.headers.copy()
            for name in NOT_PASSED:
                headers.popall(name, None)
            async with session.request(request.method, url, headers=headers, data=await request.read()) as answer:
                kept = answer.headers.copy()
                for name in NOT_PASSED:
                    kept.popall(name, None)
                if "Content-Length" in answer.headers:
                    return web.Response(status=answer.status, headers=kept, body=await answer.read())
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for part in answer.content.iter_any():
                    await response.write(part)
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
