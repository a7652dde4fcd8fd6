# SPDX-License-Identifier: Apache-2.0
"""A call that was refused could still run its endpoint, behind a middleware that had begun an answer before.

What an application sends before a route has decided is refused.  The middleware then went on to the route, whose gate
decided anew: the caller read a refusal, and the log had both.
"""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from tests.verifier.serving import RULES, Realm


@pytest.mark.spec("8.4")
def test_a_refused_call_runs_no_endpoint() -> None:
    """A middleware had begun an answer before the route was reached, and the call was refused for that."""
    ran: list[str] = []

    async def order(_: Any) -> PlainTextResponse:
        ran.append("order")
        return PlainTextResponse("order")

    class Early:
        """Begins an answer before it calls the application."""

        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await self._app(scope, receive, send)

    realm = Realm()
    app = Starlette(routes=[Route("/orders/{order_id}", order)])
    app.add_middleware(Early)
    guarded = ArxMiddleware(app, verifier=realm.verifier, tools={"GET /orders/{order_id}": "orders.get"})
    token = b"Bearer " + realm.token(rules=RULES).encode().encode()
    scope = {"type": "http", "method": "GET", "path": "/orders/A-1", "raw_path": b"/orders/A-1"}
    scope |= {"query_string": b"", "headers": [(b"authorization", token)], "client": ("10.0.0.7", 1)}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guarded(scope, receive, send))
    assert [message.get("status") for message in sent] == [403, None]
    assert (ran, [decision.outcome for decision in realm.sink.decisions]) == ([], ["deny"])
