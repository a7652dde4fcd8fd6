# SPDX-License-Identifier: Apache-2.0
"""A realm for the tests of carrying adapters: a real mint and store, an HTTP service that is guarded, an operator.

The service ``orders`` looks orders up, watches them and refunds them; refunds above 100 wait for an operator.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from arx_caps.agent import Agent
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import ArxMiddleware
from arx_verifier.journal import InMemoryDecisions
from tests.agent.live import LiveMint, live_mint, serving
from tests.servers import free_ports, until

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:{port}"]

[session.support]
agents = ["acme/*"]
ttl = "1h"

[task.refund]
agents = ["acme/*"]
params = {{ order_id = {{ max_length = 8 }}, amount = {{ range = [1, 100] }} }}
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.watch", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, "$amount"] }} }} }},
]
depth = 2

[task.payout]
agents = ["acme/*"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, 1000] }} }} }},
]
approvals = [{{ tools = ["orders.refund"] }}]
depth = 2
"""

ROUTES = {
    "GET /orders/{order_id}": "orders.get",
    "GET /orders/{order_id}/watch": "orders.watch",
    "POST /orders/{order_id}/refund": "orders.refund",
}


class Desk:
    """The realm while it runs.

    Attributes:
        mint: The mint, and what an operator does with it.
        url: The service's address.
        calls: What the service did, ``orders.get o-1``; a refused call is not here.
        records: What the service recorded of each call.
    """

    def __init__(self, mint: LiveMint, url: str, calls: list[str], records: InMemoryDecisions) -> None:
        self.mint, self.url, self.calls, self.records = mint, url, calls, records

    def agent(self, name: str) -> Agent:
        """Enrol an agent ``acme/NAME`` and be it."""
        return self.mint.agent(f"acme/{name}")

    def kill(self, target: str) -> None:
        """Kill a target as an operator, again until the service has confirmed it: one that just started may be late."""
        body = {"targets": [target], "reason": "a test"}
        until(lambda: self.mint.operator("POST", "/v1/kills", body)["status"] == "confirmed")

    def approve(self, approval: str, outcome: str = "approve") -> None:
        """Answer a request for an approval as an operator."""
        self.mint.operator("POST", "/v1/approvals", {"approval": approval, "outcome": outcome, "why": None})


@contextlib.contextmanager
def open_desk(folder: Path) -> Iterator[Desk]:
    """Start store, mint and service; end them.

    Args:
        folder: An empty folder for keys and data.
    """
    mint_port, service_port = free_ports(2)
    calls: list[str] = []
    records = InMemoryDecisions()
    policy = POLICY.format(port=service_port)
    with (
        EmbeddedValkey(folder / "store") as store,
        live_mint(folder, store_url=store.url, name="desk", port=mint_port, policy=policy) as mint,
        mint.service("orders", decisions=records) as verifier,
    ):
        app = ArxMiddleware(_application(calls), verifier=verifier, tools=ROUTES)
        with serving(app, service_port):
            yield Desk(mint, f"http://127.0.0.1:{service_port}", calls, records)


def _application(calls: list[str]) -> Starlette:
    async def get(request: Request) -> JSONResponse:
        order = request.path_params["order_id"]
        calls.append(f"orders.get {order}")
        return JSONResponse({"order": order, "paid": 80})

    async def watch(request: Request) -> StreamingResponse:
        calls.append(f"orders.watch {request.path_params['order_id']}")

        async def lines() -> AsyncIterator[bytes]:
            while True:
                yield b"nothing new\n"
                await asyncio.sleep(0.02)

        return StreamingResponse(lines())

    async def refund(request: Request) -> JSONResponse:
        order, amount = request.path_params["order_id"], (await request.json())["amount"]
        calls.append(f"orders.refund {order} {amount}")
        return JSONResponse({"refunded": amount})

    return Starlette(
        routes=[
            Route("/orders/{order_id}", get),
            Route("/orders/{order_id}/watch", watch),
            Route("/orders/{order_id}/refund", refund, methods=["POST"]),
        ]
    )


class Loud(logging.Handler):
    """Everything that any library logs, at its loudest, as one text; a canary test looks for secrets in it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, with its arguments and its exception."""
        self.lines.append(logging.Formatter("%(name)s %(message)s").format(record))


@contextlib.contextmanager
def at_its_loudest() -> Iterator[Loud]:
    """Log everything, of every library."""
    root, loud = logging.getLogger(), Loud()
    before = root.level
    root.addHandler(loud)
    root.setLevel(logging.NOTSET)
    try:
        yield loud
    finally:
        root.removeHandler(loud)
        root.setLevel(before)


def secrets_in(*texts: Any) -> list[str]:
    """Return what looks like a token, a bundle or an Authorization header in texts."""
    found = []
    for text in map(str, texts):
        text = text.replace("'Bearer …'", "")  # what the header of a call shows of itself
        found += [mark for mark in ("arx1_", "arxb1_", "Bearer ", '"d":') if mark in text]
    return found
