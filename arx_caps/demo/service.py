# SPDX-License-Identifier: Apache-2.0
"""Two tool services on SQLite, guarded by ARx: orders, and a ledger of refunds.

Run one with ``python service.py orders --service-file orders.json --data orders.db --port 9001``.
"""

import argparse
import contextlib
import sqlite3

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from arx_verifier import ArxMiddleware, open_verifier

TOOLS = {  # which tool each route is; the middleware refuses every other route
    "orders": {"GET /orders/{order_id}": "orders.get", "DELETE /orders/{order_id}": "orders.cancel"},
    "payments": {"POST /refunds": "payments.refund", "GET /refunds/{order_id}": "payments.list"},
}


def query(data: str, sql: str, *values: object) -> list[dict[str, object]]:
    """Run one statement on the SQLite file and return its rows."""
    with contextlib.closing(sqlite3.connect(data)) as db, db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(sql, values)]


def orders_app(data: str) -> Starlette:
    """Return an application that shows and cancels orders."""
    query(data, "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT, cents INTEGER)")
    query(data, "INSERT OR IGNORE INTO orders VALUES ('o-1001', 'kettle', 4500), ('o-1002', 'grinder', 8900)")

    def get(request: Request) -> JSONResponse:
        rows = query(data, "SELECT * FROM orders WHERE id = ?", request.path_params["order_id"])
        return JSONResponse(rows[0]) if rows else JSONResponse({"title": "no such order"}, 404)

    def cancel(request: Request) -> JSONResponse:
        query(data, "DELETE FROM orders WHERE id = ?", request.path_params["order_id"])
        return JSONResponse({})

    return Starlette(routes=[Route("/orders/{order_id}", get), Route("/orders/{order_id}", cancel, methods=["DELETE"])])


def payments_app(data: str) -> Starlette:
    """Return an application that keeps a ledger of refunds; an entry names the agent and the decision."""
    query(data, "CREATE TABLE IF NOT EXISTS refunds (order_id TEXT, amount INTEGER, agent TEXT, decision TEXT)")

    async def refund(request: Request) -> JSONResponse:
        asked = await request.json()
        grant = request.scope["arx"]  # who calls, through whom, for which task
        entry = (asked["order_id"], asked["amount"], grant.agent, grant.decision)
        query(data, "INSERT INTO refunds VALUES (?, ?, ?, ?)", *entry)
        return JSONResponse({"refunded": asked["amount"]}, 201)

    def show(request: Request) -> JSONResponse:
        rows = query(data, "SELECT amount FROM refunds WHERE order_id = ?", request.path_params["order_id"])
        return JSONResponse({"amounts": [row["amount"] for row in rows]})

    return Starlette(routes=[Route("/refunds", refund, methods=["POST"]), Route("/refunds/{order_id}", show)])


APPS = {"orders": orders_app, "payments": payments_app}


def main() -> None:
    """Serve one of the two until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(TOOLS))
    parser.add_argument("--service-file", required=True, help="written by `arx service enrol`")
    parser.add_argument("--data", required=True, help="SQLite file, made if it does not exist")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    app = ArxMiddleware(
        APPS[given.name](given.data), verifier=open_verifier(given.service_file), tools=TOOLS[given.name]
    )
    # uvicorn would trust X-Forwarded-For of any local caller; the middleware has its own setting for proxies.
    uvicorn.run(app, host=given.host, port=given.port, proxy_headers=False, log_level="warning")


if __name__ == "__main__":
    main()
