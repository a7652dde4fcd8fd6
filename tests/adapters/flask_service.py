# SPDX-License-Identifier: Apache-2.0
"""The application of ``service_contract`` with Flask; gunicorn runs it in a folder with ``orders.json``."""

from typing import Any

from flask import Flask, Response, request

from arx_verifier import open_verifier
from arx_verifier.integrations.flask import guard
from tests.adapters import service_work
from tests.adapters.service_work import note

app = Flask(__name__)


@app.get("/healthz")
def healthz() -> dict[str, Any]:
    return {}


@app.get("/orders/<order_id>")
def show(order_id: str) -> dict[str, Any]:
    note(f"get {order_id}")
    return {"order": order_id, "by": service_work.holder(request.environ)}


@app.post("/orders/<order_id>/refund")
def refund(order_id: str) -> dict[str, Any]:
    amount = request.get_json()["amount"]
    request.environ["arx"].recheck()
    note(f"refund {order_id} {amount}")
    return {"refunded": amount}


@app.get("/events")
def events() -> Response:
    return Response(service_work.events())


@app.post("/work")
def work() -> dict[str, Any]:
    service_work.work(request.environ["arx"])
    return {}


@app.post("/fail")
def fail() -> dict[str, Any]:
    service_work.fail(request.get_json()["amount"])
    return {}


tools = {"show": "orders.get", "refund": "orders.refund"}
tools |= {name: f"orders.{name}" for name in ("events", "work", "fail")}
service_work.log_everything()
guard(app, open_verifier("orders.json"), tools=tools, public=["healthz"], **service_work.watching())
