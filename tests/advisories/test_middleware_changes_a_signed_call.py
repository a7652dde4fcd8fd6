# SPDX-License-Identifier: Apache-2.0
"""An attacker in between could add a header and have a signed call run as another call that its token allows.

A middleware of the application that reads ``X-HTTP-Method-Override`` or ``X-Original-URL`` changed the request after
its proof was checked: a signed ``GET`` was decided on and run as a ``DELETE``, which no agent had signed.
"""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from tests.routes.asking import Guarded

pytestmark = pytest.mark.spec("8.4")

TOOLS = {"GET /in/orders/{order_id}": "orders.get", "DELETE /in/orders/{order_id}": "orders.delete"}


class Changes:
    """A middleware that takes a member of the scope from a header, in place or in a copy."""

    def __init__(self, app: Any, in_place: bool) -> None:
        self.app, self._in_place = app, in_place

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for name, value in scope["headers"]:
            if name.startswith(b"x-set-"):
                member = name[6:].decode().replace("-", "_")
                new = value if member == "query_string" else value.decode()
                if not self._in_place:
                    scope = dict(scope)
                scope[member] = new
        await self.app(scope, receive, send)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("inner", [True, False], ids=["of a mount", "of the application"])
def test_what_no_agent_signed_is_refused(in_place: bool, inner: bool) -> None:
    ran: list[str] = []

    async def order(request: Request) -> Response:
        ran.append(f"{request.method} {request.url.path}?{request.url.query}")
        return PlainTextResponse("")

    middleware = [Middleware(Changes, in_place=in_place)]
    routes = [Route("/orders/{order_id}", order, methods=["GET", "DELETE"])]
    mounted = Starlette(routes=routes, middleware=middleware if inner else [])
    app = Starlette(routes=[Mount("/in", app=mounted)], middleware=[] if inner else middleware)
    guarded = Guarded(app, TOOLS)

    async def ask(*headers: tuple[bytes, bytes]) -> Any:
        return await guarded.ask("GET", "/in/orders/7?full=yes", headers=headers)

    assert asyncio.run(ask()).status == 200
    for name, value in ((b"method", b"DELETE"), (b"path", b"/in/orders/8"), (b"query-string", b"full=no")):
        answer = asyncio.run(ask((b"x-set-" + name, value)))
        assert (answer.status, answer.code) == (400, "malformed_request"), name
    assert ran == ["GET /in/orders/7?full=yes"]
