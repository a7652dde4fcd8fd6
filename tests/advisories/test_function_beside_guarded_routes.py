# SPDX-License-Identifier: Apache-2.0
"""A holder of any token could run an endpoint beside guarded routes, on which no decision was made.

A function or an object that passes some calls to a Starlette application and others to a function was taken for a
middleware of that application: its own endpoints had no gate.  An application that makes further routes at its first
call, beside those that it shows, had no gates for them.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from arx_verifier import SettingsError
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from tests.routes.asking import Guarded
from tests.verifier.serving import Realm

READ = {"GET /orders/{order_id}": "orders.get"}


async def export(scope: Any, receive: Any, send: Any) -> None:
    """An endpoint that shows no routes."""
    raise AssertionError("it ran without a decision")


async def order(_: Request) -> Response:
    return PlainTextResponse("order")


def shown() -> Starlette:
    return Starlette(routes=[Route("/orders/{order_id}", order)])


_routed = shown()


class Dispatcher:
    """Passes calls to one of its applications."""

    def __init__(self, app: Any, other: Any) -> None:
        self.app, self.other = app, other

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (self.other if scope["path"] == "/export" else self.app)(scope, receive, send)


class Table:
    """Passes calls to the applications of a dictionary."""

    def __init__(self, **applications: Any) -> None:
        self._applications = applications

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._applications[scope["path"].split("/")[1]](scope, receive, send)


class Lazy:
    """Makes its application at the first call."""

    made: Any = None

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.made = self.made or self._make()
        await self.made(scope, receive, send)


def in_a_closure() -> Any:
    app = shown()

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        await (other if scope["path"] == "/export" else app)(scope, receive, send)

    other = export
    return dispatch


async def in_globals(scope: Any, receive: Any, send: Any) -> None:
    """A dispatching function of a module."""
    await (export if scope["path"] == "/export" else _routed)(scope, receive, send)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: Dispatcher(shown(), export),
        lambda: Dispatcher(export, shown()),
        lambda: Dispatcher(shown(), functools.partial(export)),
        lambda: Table(orders=shown(), export=export),
        lambda: Table(orders=shown(), export=Lazy(lambda: shown())),
        in_a_closure,
        lambda: in_globals,
        lambda: CORSMiddleware(Dispatcher(shown(), export)),
        lambda: Starlette(routes=[Mount("/in", app=Dispatcher(shown(), export))]),
    ],
)
def test_a_function_beside_an_application_is_an_error(mixed: Callable[[], Any]) -> None:
    """Its endpoint ran for every authentic token, and only its answer was withheld."""
    with pytest.raises(SettingsError, match="which shows no routes, beside a Starlette or FastAPI application"):
        ArxMiddleware(mixed(), verifier=Realm().verifier, tools={})


@pytest.mark.parametrize("copies", [False, True])
def test_routes_that_are_made_beside_guarded_ones_are_refused(copies: bool) -> None:
    """They are made at the first call, so that nothing could give them gates; their endpoint does not run."""
    ran: list[str] = []
    app = shown()

    async def late(_: Request) -> Response:
        ran.append("late")
        return PlainTextResponse("late")

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        scope = scope.copy() if copies else scope
        made = Starlette(routes=[Route("/export", late)]) if scope["path"] == "/export" else app
        await made(scope, receive, send)

    guarded = Guarded(dispatch, READ)
    answer = asyncio.run(guarded.ask("GET", "/export"))
    assert (answer.status, answer.code, ran) == (403, "tool_not_allowed", [])
    assert asyncio.run(guarded.ask("GET", "/orders/1")).body == b"order"
    assert guarded.codes == ["tool_not_allowed", "ok"]


def test_middleware_is_no_mixture() -> None:
    """Hooks and callbacks of a middleware are no applications, also where they take three values."""

    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    class Hooked:
        def __init__(self, app: Any) -> None:
            self.app, self.hook = app, lambda span, scope, message: None

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    inner = Starlette(routes=shown().routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes)])
    guarded = Guarded(Hooked(CORSMiddleware(BaseHTTPMiddleware(inner, dispatch=passes))), READ)
    assert asyncio.run(guarded.ask("GET", "/orders/1")).body == b"order"
