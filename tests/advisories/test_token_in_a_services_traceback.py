# SPDX-License-Identifier: Apache-2.0
"""A reader of a service's error reports could find the token of a call in the variables of a traceback.

The scope of ASGI and the environ of WSGI kept the ``Authorization`` header while the application ran, and each frame of
a server or a framework has them as a variable.
"""

import asyncio
import traceback
from typing import Any
from wsgiref.util import setup_testing_defaults

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from arx_verifier import ArxMiddleware, ArxWSGI, Rule
from arx_verifier.testing import UnsafeTestRealm

URL = "http://127.0.0.1/orders"


class EndpointError(Exception):
    """What the application raises."""


async def fail(_: Request) -> None:
    raise EndpointError


async def fail_open(websocket: WebSocket) -> None:
    await websocket.accept()
    raise EndpointError


def scope_of(kind: str, header: str) -> dict[str, Any]:
    scope = {"type": kind, "path": "/orders", "raw_path": b"/orders", "query_string": b"", "root_path": ""}
    scope["headers"] = [(b"host", b"127.0.0.1"), (b"Authorization", header.encode())]
    return scope | ({"method": "GET"} if kind == "http" else {})


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("routed", [True, False])
def test_no_variable_of_an_asgi_application_has_the_token(kind: str, routed: bool) -> None:
    realm = UnsafeTestRealm("orders")
    caller, sent = realm.caller(Rule(tool="orders.get")), list[Any]()
    header = caller(httpx2.Request("GET", URL)).headers["authorization"]

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        raise EndpointError

    app = Starlette(routes=[Route("/orders", fail), WebSocketRoute("/orders", fail_open)]) if routed else plain
    word = "GET" if kind == "http" else "WEBSOCKET"
    guarded = ArxMiddleware(app, verifier=realm.verifier, tools={f"{word} /orders": "orders.get"})

    async def receive() -> Any:
        return {"type": "http.request" if kind == "http" else "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def server(scope: Any) -> None:
        await guarded(scope, receive, send)

    with pytest.raises(EndpointError) as caught:
        asyncio.run(server(scope_of(kind, header)))
    assert_no_token(caught.value, header)


def test_no_variable_of_a_wsgi_application_has_the_token() -> None:
    realm = UnsafeTestRealm("orders")
    header = realm.caller(Rule(tool="orders.get"))(httpx2.Request("GET", URL)).headers["authorization"]

    def app(environ: Any, start_response: Any) -> Any:
        raise EndpointError

    guarded = ArxWSGI(app, verifier=realm.verifier, tools={"GET /orders": "orders.get"})
    environ: dict[str, Any] = {"PATH_INFO": "/orders", "HTTP_AUTHORIZATION": header}
    setup_testing_defaults(environ)
    with pytest.raises(EndpointError) as caught:
        guarded(environ, lambda *_: lambda _: None)
    assert_no_token(caught.value, header)


def assert_no_token(error: Exception, header: str) -> None:
    shown = ""
    for number, line in enumerate(traceback.TracebackException.from_exception(error, capture_locals=True).format()):
        shown += line if number > 1 else ""  # the first frame is the test's own
    assert "orders" in shown
    assert header[20:60] not in shown
    assert header[-40:] not in shown
