# SPDX-License-Identifier: Apache-2.0
"""A shop of a dozen routes with FastAPI, guarded: ``python -m tests.drafts.shop SERVICE_FILE PORT``."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from arx_verifier import open_verifier
from arx_verifier.integrations.fastapi import guard

app = FastAPI(title="shop")


class Line(BaseModel):
    sku: str
    pieces: int = Field(ge=1, le=99)


class Order(BaseModel):
    customer_id: int
    lines: list[Line]
    gift: bool = False


class Refund(BaseModel):
    amount: int
    note: str


class Mail(BaseModel):
    to: str
    subject: str
    body: str


@app.get("/products")
def products(tag: str, limit: int = 10) -> Any:
    return {"tag": tag, "limit": limit}


@app.get("/products/{sku}")
def product(sku: str) -> Any:
    return {"sku": sku}


@app.get("/orders/{order_id}")
def order(order_id: str, expand: bool = False) -> Any:
    return {"order": order_id, "expand": expand}


@app.get("/orders/{order_id}/lines")
def lines(order_id: str) -> Any:
    return {"order": order_id}


@app.post("/orders")
def place(asked: Order) -> Any:
    return {"lines": len(asked.lines)}


@app.post("/orders/{order_id}/refund")
def refund(order_id: str, asked: Refund) -> Any:
    return {"order": order_id, "refunded": asked.amount}


@app.patch("/orders/{order_id}")
def annotate(order_id: str, note: dict[str, str]) -> Any:
    return {"order": order_id, "notes": len(note)}


@app.delete("/orders/{order_id}")
def cancel(order_id: str) -> Any:
    return {"cancelled": order_id}


@app.get("/customers/{customer_id}")
def customer(customer_id: int) -> Any:
    return {"customer": customer_id}


@app.get("/reports/{day}")
def report(day: str, currency: str) -> Any:
    return {"day": day, "currency": currency}


@app.post("/mail")
def mail(asked: Mail) -> Any:
    return {"sent": asked.to}


@app.get("/stock")
def stock(warehouse: str) -> Any:
    return {"warehouse": warehouse}


@app.get("/healthz")
def healthz() -> Any:
    return {}


TOOLS = {
    route.__name__: f"shop.{route.__name__}"
    for route in (*(products, product, order, lines, place, refund, annotate, cancel, customer, report, mail, stock),)
}

if __name__ == "__main__":
    guard(app, open_verifier(sys.argv[1]), tools=TOOLS, public=["healthz"])
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
