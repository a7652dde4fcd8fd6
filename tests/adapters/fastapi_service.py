# SPDX-License-Identifier: Apache-2.0
"""The application of ``service_contract`` with FastAPI; uvicorn runs it in a folder with ``orders.json``."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from arx_verifier import Grant, open_verifier
from arx_verifier.integrations.fastapi import current_grant, guard
from tests.adapters import service_work
from tests.adapters.service_work import note

app = FastAPI()
Granted = Annotated[Grant, Depends(current_grant)]


class Refund(BaseModel):
    amount: int


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {}


@app.get("/orders/{order_id}")
async def show(order_id: str, request: Request) -> dict[str, str]:
    note(f"get {order_id}")
    return {"order": order_id, "by": service_work.holder(request.scope)}


@app.post("/orders/{order_id}/refund")
async def refund(order_id: str, asked: Refund, grant: Granted) -> dict[str, int]:
    grant.recheck()
    note(f"refund {order_id} {asked.amount}")
    return {"refunded": asked.amount}


@app.get("/events")
def events() -> StreamingResponse:
    return StreamingResponse(service_work.events())


@app.post("/work")
def work(grant: Granted) -> None:
    service_work.work(grant)


@app.post("/fail")
async def fail(asked: Refund) -> None:
    service_work.fail(asked.amount)


@app.websocket("/live")
async def live(websocket: WebSocket, grant: Granted) -> None:
    await websocket.accept()
    while True:
        await websocket.send_text(f"{grant.holder} {await websocket.receive_text()}")


tools = {"show": "orders.get", "refund": "orders.refund"}
tools |= {name: f"orders.{name}" for name in ("events", "work", "fail", "live")}
service_work.log_everything()
guard(app, open_verifier("orders.json"), tools=tools, public=["healthz", "/openapi.json"], **service_work.watching())
