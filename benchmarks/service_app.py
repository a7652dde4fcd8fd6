# SPDX-License-Identifier: Apache-2.0
"""A small Starlette service for the benchmark, guarded or not: python -m benchmarks.service_app PORT [SERVICE_FILE]."""

import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.service import open_verifier


async def refund(request: Request) -> JSONResponse:
    """Answer with what was asked for."""
    asked = await request.json()
    return JSONResponse({"order": asked["order"], "refunded": asked["amount"]})


def application() -> Starlette:
    """Return the application."""
    return Starlette(routes=[Route("/refunds", refund, methods=["POST"])])


def main() -> None:
    """Serve until a signal ends it."""
    app: Any = application()
    if len(sys.argv) > 2:
        app = ArxMiddleware(app, verifier=open_verifier(sys.argv[2]), tools={"POST /refunds": "orders.refund"})
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
