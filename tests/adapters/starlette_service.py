# SPDX-License-Identifier: Apache-2.0
"""The application of ``service_contract`` with Starlette; uvicorn runs it in a folder with ``orders.json``."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from arx_verifier import open_verifier
from arx_verifier.integrations.starlette import current_grant, guard
from tests.adapters import service_work
from tests.adapters.service_work import note


async def healthz(_: Request) -> Response:
    return JSONResponse({})


async def show(request: Request) -> Response:
    order_id = request.path_params["order_id"]
    note(f"get {order_id}")
    return JSONResponse({"order": order_id, "by": service_work.holder(request.scope)})


async def refund(request: Request) -> Response:
    order_id, amount = request.path_params["order_id"], (await request.json())["amount"]
    current_grant(request).recheck()
    note(f"refund {order_id} {amount}")
    return JSONResponse({"refunded": amount})


def events(_: Request) -> Response:
    return StreamingResponse(service_work.events())


def work(request: Request) -> Response:
    service_work.work(current_grant(request))
    return Response()


async def fail(request: Request) -> Response:
    service_work.fail((await request.json())["amount"])
    return Response()


async def live(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(f"{current_grant(websocket).holder} {await websocket.receive_text()}")


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/orders/{order_id}", show),
        Route("/orders/{order_id}/refund", refund, methods=["POST"]),
        Route("/events", events),
        Route("/work", work, methods=["POST"]),
        Route("/fail", fail, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
)
tools = {"show": "orders.get", "refund": "orders.refund"}
tools |= {name: f"orders.{name}" for name in ("events", "work", "fail", "live")}
service_work.log_everything()
guard(app, open_verifier("orders.json"), tools=tools, public=["healthz"], **service_work.watching())
