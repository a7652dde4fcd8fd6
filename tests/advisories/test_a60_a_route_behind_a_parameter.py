# SPDX-License-Identifier: Apache-2.0
"""A60.  A route of the application that ``tools`` did not name was reached under the name of another one.

``GET /orders/export`` is an order called "export" to ``GET /orders/{order_id}``: whoever was allowed to read that order
was answered by the export of all.  An application that declares the parameter first did the reverse.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from arx_verifier.asgi import ArxMiddleware
from arx_verifier.errors import SettingsError
from tests.verifier.serving import Realm


async def answer(request: Request) -> Response:
    return PlainTextResponse(request.url.path)


class Answer(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return await answer(request)


ONE, EXPORT = Route("/orders/{order_id}", answer), Route("/orders/export", answer)
READ = {"GET /orders/{order_id}": "orders.get"}
BOTH = READ | {"GET /orders/export": "orders.export"}
FOREIGN = [
    ([EXPORT, ONE], READ),
    ([ONE, EXPORT], READ),
    ([ONE, EXPORT], BOTH),
    ([Route("/orders/export", Answer), ONE], READ),
    ([Mount("/orders", routes=[Route("/export", answer), Route("/{order_id}", answer)])], READ),
    ([Route("/{kind}/{order_id}", answer), ONE], READ | {"GET /{kind}/{order_id}": "any.get"}),
    ([Route("/orders/{number:int}", answer), ONE], READ),
    ([Route("/orders/{order_id}", answer, methods=["POST"]), Route("/orders/pay", answer, methods=["POST"])],
     {"POST /orders/{order_id}": "orders.put"}),
]  # fmt: skip
SAME = [
    ([EXPORT, ONE], BOTH),
    ([ONE], READ),
    ([Route("/orders/{number:int}", answer), EXPORT], BOTH),
    ([ONE, Route("/orders/export", answer, methods=["POST"])], READ),
    ([ONE, WebSocketRoute("/orders/live", answer)], READ),
    ([ONE, Route("/health", answer), Route("/orders/export/all", answer)], READ),
    ([Mount("/orders", routes=[Route("/{order_id}", answer)]), Mount("/files", app=answer)], READ),
]


def begin(app: Any) -> str:
    """Begin an application's lifespan, as a server does, and return why it does not start; empty when it does."""
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.shutdown" if told else "lifespan.startup"}

    async def send(message: Any) -> None:
        told.append(message)

    with contextlib.suppress(SettingsError):
        asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    assert told[0]["type"] in ("lifespan.startup.complete", "lifespan.startup.failed")
    return str(told[0].get("message", ""))


def guarded(app: Any, tools: dict[str, str]) -> ArxMiddleware:
    return ArxMiddleware(app, verifier=Realm().verifier, tools=tools)


@pytest.mark.parametrize("around", [False, True], ids=["bare", "within"])
@pytest.mark.parametrize(("routes", "tools"), FOREIGN)
def test_a_service_that_would_answer_with_another_route_does_not_start(
    routes: Sequence[BaseRoute], tools: dict[str, str], around: bool
) -> None:
    """It says which route it is, also behind further middleware."""
    app: Any = Starlette(routes=routes)
    told = begin(guarded(GZipMiddleware(app) if around else app, tools))
    assert "would be judged as" in told


@pytest.mark.parametrize(("routes", "tools"), SAME)
def test_one_that_answers_with_the_same_starts(routes: Sequence[BaseRoute], tools: dict[str, str]) -> None:
    """What the table does not reach is no matter; nor is what is declared in the table's own order."""
    assert begin(guarded(Starlette(routes=routes), tools)) == ""


def test_routes_are_looked_at_when_all_are_there() -> None:
    """One that is added after the middleware is found as well."""
    app = Starlette(routes=[ONE])
    before = guarded(app, READ)
    app.router.routes.insert(0, EXPORT)
    assert "GET /orders/export" in begin(before)


def test_without_a_lifespan_no_request_is_answered() -> None:
    """A server that runs none gets no answer from the wrong route either."""
    client = TestClient(guarded(Starlette(routes=[EXPORT, ONE]), READ))
    with pytest.raises(SettingsError, match="GET /orders/export"):
        client.get("/orders/export")


def test_a_unit_test_of_such_a_service_fails_and_does_not_hang() -> None:
    """A test client learns from the exception that nothing was started."""
    with (
        pytest.raises(SettingsError, match="GET /orders/export"),
        TestClient(guarded(Starlette(routes=[EXPORT, ONE]), READ)),
    ):
        pass
