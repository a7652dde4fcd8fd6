# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP service that knows nothing of ARx; it checks its own key, and says what it got."""

import asyncio
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


async def show(request: Request) -> Response:
    seen = sorted({"authorization", "cookie", "x-forwarded-user"} & {*request.headers})
    if request.headers.get("x-key") != f"Key {os.environ['BILLING_KEY']}":
        return JSONResponse({"seen": seen}, 401, headers={"www-authenticate": "Key"})
    return JSONResponse({"order": request.path_params["order_id"], "seen": seen, "query": request.url.query})


async def refund(request: Request) -> Response:
    return JSONResponse({"refunded": (await request.json())["amount"]}, 201)


async def watch(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"data: tick\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(parts(), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/v1/orders/{order_id}", show),
        Route("/v1/orders/{order_id}/refund", refund, methods=["POST"]),
        Route("/v1/watch", watch),
    ]
)
