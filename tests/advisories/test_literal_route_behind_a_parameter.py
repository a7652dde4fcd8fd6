# SPDX-License-Identifier: Apache-2.0
"""A caller could reach a route that ``tools`` does not name, under the name of one that it was allowed.

``GET /orders/export`` is an order called "export" to ``GET /orders/{order_id}``: a caller allowed to read that order
was answered by the export of all.  An application that declares the parameter first did the reverse.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from arx_verifier import Rule
from tests.routes.asking import Guarded


async def answer(request: Request) -> Response:
    return PlainTextResponse(f"{request.scope['arx'].tool} {request.url.path} {request.path_params}")


class Answer(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return await answer(request)


ONE, EXPORT = Route("/orders/{order_id}", answer), Route("/orders/export", answer)
READ = {"GET /orders/{order_id}": "orders.get"}
BOTH = READ | {"GET /orders/export": "orders.export"}
FOREIGN = [
    ([EXPORT, ONE], READ),
    ([EXPORT, ONE], BOTH),
    ([Route("/orders/export", Answer), ONE], READ),
    ([Mount("/orders", routes=[Route("/export", answer), Route("/{order_id}", answer)])], READ),
    ([Route("/{kind}/{order_id}", answer), ONE], READ | {"GET /{kind}/{order_id}": "any.get"}),
    ([Route("/orders/{name:str}", answer), ONE], READ),
]  # fmt: skip
SAME = [
    ([ONE], READ),
    ([ONE, EXPORT], READ),
    ([ONE, EXPORT], BOTH),
    ([Route("/orders/{number:int}", answer), ONE], READ),
    ([ONE, Route("/orders/export", answer, methods=["POST"])], READ),
    ([ONE, WebSocketRoute("/orders/live", answer)], READ),
    ([Mount("/orders", routes=[Route("/{order_id}", answer)]), Mount("/files", app=answer)], READ),
]


def asked(routes: Sequence[BaseRoute], tools: dict[str, str], around: bool) -> Any:
    app: Any = Starlette(routes=routes)
    guarded = Guarded(GZipMiddleware(app) if around else app, tools, Rule(tool="orders.get"))
    return asyncio.run(guarded.ask("GET", "/orders/export"))


@pytest.mark.parametrize("around", [False, True], ids=["bare", "within"])
@pytest.mark.parametrize(("routes", "tools"), FOREIGN)
def test_another_route_than_the_one_that_is_allowed_does_not_run(
    routes: Sequence[BaseRoute], tools: dict[str, str], around: bool
) -> None:
    """The framework takes it first; it has another tool, or none."""
    assert asked(routes, tools, around).code == "tool_not_allowed"


@pytest.mark.parametrize(("routes", "tools"), SAME)
def test_the_route_that_is_allowed_runs(routes: Sequence[BaseRoute], tools: dict[str, str]) -> None:
    """An order called "export" exists where the application declares it."""
    answer = asked(routes, tools, around=False)
    assert (answer.status, answer.body[:10]) == (200, b"orders.get")
