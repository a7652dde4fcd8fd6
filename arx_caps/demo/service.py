# SPDX-License-Identifier: Apache-2.0
"""The demo's two tool services: an orders database in SQLite and a payments ledger.

Ordinary Starlette applications; what makes them safe to offer to agents is the middleware around them.  Run one with
``python -m arx_caps.demo.service orders --service-file FILE --port PORT --data FILE``.
"""

import argparse
import contextlib
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_caps.service import open_shipper
from arx_verifier.enforcement.asgi import ArxMiddleware
from arx_verifier.errors import SettingsError
from arx_verifier.service import open_verifier, read_service_file

ORDERS: Final = (
    ("o-1001", "ada@example.com", "espresso machine", 24900),
    ("o-1002", "ben@example.com", "coffee grinder", 8900),
    ("o-1003", "cleo@example.com", "kettle", 4500),
)
TOOLS: Final = {
    "orders": {
        "GET /orders/{order_id}": "orders.get",
        "DELETE /orders/{order_id}": "orders.cancel",
    },
    "payments": {
        "POST /refunds": "payments.refund",
        "GET /refunds/{order_id}": "payments.list",
    },
}


def orders_app(data: Path) -> Starlette:
    """Serve orders out of a SQLite file, made and filled when it is not there."""
    with closing(sqlite3.connect(data)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer TEXT, item TEXT, cents INTEGER)")
        db.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?)", ORDERS)

    def get(request: Request) -> JSONResponse:
        with closing(sqlite3.connect(data)) as db:
            row = db.execute("SELECT * FROM orders WHERE id = ?", (request.path_params["order_id"],)).fetchone()
        if row is None:
            return JSONResponse({"title": "no such order"}, status_code=404)
        return JSONResponse(dict(zip(("id", "customer", "item", "cents"), row, strict=True)))

    def cancel(request: Request) -> JSONResponse:
        with closing(sqlite3.connect(data)) as db, db:
            gone = db.execute("DELETE FROM orders WHERE id = ?", (request.path_params["order_id"],)).rowcount
        return JSONResponse({"cancelled": gone})

    return Starlette(
        routes=[
            Route("/orders/{order_id}", get, methods=["GET"]),
            Route("/orders/{order_id}", cancel, methods=["DELETE"]),
        ]
    )


def payments_app(data: Path) -> Starlette:
    """Keep a ledger of refunds in a SQLite file; each entry says who acted, in which session and by which decision."""
    with closing(sqlite3.connect(data)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS refunds (order_id TEXT, amount INTEGER, agent TEXT, decision TEXT)")

    async def refund(request: Request) -> JSONResponse:
        asked: dict[str, Any] = await request.json()
        grant = request.scope["arx"]
        entry = (asked["order_id"], asked["amount"], grant.agent, grant.decision)
        with closing(sqlite3.connect(data)) as db, db:
            db.execute("INSERT INTO refunds VALUES (?, ?, ?, ?)", entry)
        return JSONResponse({"refunded": asked["amount"], "order_id": asked["order_id"]}, status_code=201)

    def refunds(request: Request) -> JSONResponse:
        with closing(sqlite3.connect(data)) as db:
            rows = db.execute("SELECT amount FROM refunds WHERE order_id = ?", (request.path_params["order_id"],))
            return JSONResponse({"amounts": [amount for (amount,) in rows]})

    return Starlette(
        routes=[
            Route("/refunds", refund, methods=["POST"]),
            Route("/refunds/{order_id}", refunds, methods=["GET"]),
        ]
    )


APPS: Final[dict[str, Callable[[Path], Starlette]]] = {"orders": orders_app, "payments": payments_app}


def main() -> int:
    """Serve one of the two until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m arx_caps.demo.service", description=__doc__)
    parser.add_argument("name", choices=sorted(APPS))
    parser.add_argument("--service-file", required=True, help="what `arx service join` or `enrol` wrote")
    parser.add_argument("--data", type=Path, required=True, help="SQLite file, made when it is not there")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    try:
        verifier = open_verifier(given.service_file)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    app = ArxMiddleware(APPS[given.name](given.data), verifier=verifier, tools=TOOLS[given.name])
    # In this process, and in no call's way; `arx ship` does the same beside it.
    own = read_service_file(given.service_file).key_file is not None
    with open_shipper(given.service_file) if own else contextlib.nullcontext():
        _serve(app, given.host, given.port)
    return 0


def _serve(app: ArxMiddleware, host: str, port: int) -> None:
    # uvicorn would believe a local caller's X-Forwarded-For; whose headers are believed is the middleware's setting.
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    sys.exit(main())
