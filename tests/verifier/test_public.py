# SPDX-License-Identifier: Apache-2.0
"""Routes that need no token: what a request without one reaches, and what it never does."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router

from arx_verifier import Rule, SettingsError
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.routes import RouteMap
from tests.routes.asking import Answer, Guarded, ask
from tests.verifier.serving import Realm, application

TOOLS = {"GET /orders/{order_id}": "orders.get"}
PREFLIGHT = [(b"origin", b"https://shop.example"), (b"access-control-request-method", b"GET")]


def saw(name: str, ran: list[str]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        ran.append(name + (" with a grant" if "arx" in request.scope else ""))
        return PlainTextResponse(name)

    return endpoint


def asked(app: Any, method: str, target: str, **more: Any) -> Answer:
    """Send a request without a token."""
    return asyncio.run(ask(app, method, target, **more))


def shop(ran: list[str], middleware: list[Middleware] | None = None) -> Starlette:
    inner = Router([Route("/status/{n:int}", saw("status", ran)), Route("/hidden", saw("hidden", ran))])
    routes = [
        Route("/healthz", saw("health", ran)),
        Route("/orders/{order_id}", saw("get", ran)),
        Route("/orders", saw("put", ran), methods=["OPTIONS", "PUT"]),
        Mount("/in", app=inner),
        Host("a.example", app=Router([Route("/at", saw("at", ran))])),
    ]
    return Starlette(routes=routes, middleware=middleware or [])


PUBLIC = ["/healthz", "GET /in/status/{n}", "GET //a.example/at"]


def test_a_public_route_runs_without_a_token_and_no_other_does() -> None:
    """In mounts, hosts and below a root path; a wrong token is no worse than none."""
    ran: list[str] = []
    guarded = Guarded(shop(ran), TOOLS, public=PUBLIC)
    for target, more in (
        ("/healthz", {}),
        ("/healthz", {"token": "nonsense"}),
        ("/in/status/7", {}),
        ("/at", {"host": "a.example"}),
        ("/api/healthz", {"root_path": "/api"}),
    ):
        assert asked(guarded.app, "GET", target, **more).status == 200, target
    assert asyncio.run(guarded.ask("GET", "/healthz")).status == 200
    assert ran == ["health", "health", "status", "at", "health", "health"]
    ran.clear()
    for method, target in (
        ("GET", "/orders/1"),
        ("GET", "/in/hidden"),
        ("GET", "/in/status/x"),
        ("GET", "/healthz/"),
        ("GET", "//healthz"),
        ("GET", "/nothing"),
        ("POST", "/healthz"),
        ("PUT", "/orders"),
        ("GET", "/at"),
    ):
        assert asked(guarded.app, method, target).code == "missing_token", target
    assert ran == []
    codes = [decision.code for decision in guarded.realm.decisions.decisions]
    assert [code for code in codes if code == "ok"] == []


def test_a_middleware_cannot_lead_a_public_request_elsewhere() -> None:
    """The path that it reaches is judged at its gate, and its own answer to another path is withheld."""
    ran: list[str] = []

    class Rewrites:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "path": "/orders/1"} if scope["path"] == "/healthz" else scope, receive, send)

    async def answers(request: Request, call_next: Any) -> Response:
        return PlainTextResponse("mine") if request.url.path == "/in/status/7" else await call_next(request)

    middleware = [Middleware(Rewrites), Middleware(BaseHTTPMiddleware, dispatch=answers)]
    guarded = Guarded(shop(ran, middleware), TOOLS, public=PUBLIC)
    assert asked(guarded.app, "GET", "/healthz").code == "missing_token"
    assert asked(guarded.app, "GET", "/in/status/7").code == "missing_token"
    assert ran == []


def test_a_public_endpoint_may_fail() -> None:
    """Its error is the application's own, as without a guard."""

    async def gone(_: Request) -> Response:
        raise HTTPException(410)

    async def fails(_: Request) -> Response:
        raise ValueError

    app = Starlette(routes=[Route("/gone", gone), Route("/fails", fails)])
    guarded = Guarded(app, {}, public=["/gone", "/fails"])
    assert asked(guarded.app, "GET", "/gone").status == 410
    with pytest.raises(ValueError):
        asked(guarded.app, "GET", "/fails")


def test_a_route_that_is_added_later_is_not_public() -> None:
    """Also one at the path of a public route."""
    ran: list[str] = []
    app = shop(ran)
    guarded = Guarded(app, TOOLS, public=PUBLIC)
    app.router.routes.insert(0, Route("/healthz", saw("late", ran)))
    assert asked(guarded.app, "GET", "/healthz").code == "missing_token"
    assert ran == []


def test_a_preflight_reaches_cors_and_no_endpoint() -> None:
    """A browser sends no token with it; the middleware's answer is the only one that it gets."""
    ran: list[str] = []
    cors = Middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_headers=["Authorization"])
    guarded = Guarded(shop(ran, [cors]), TOOLS)
    for target in ("/orders/1", "/orders", "/nothing"):
        assert asked(guarded.app, "OPTIONS", target, headers=PREFLIGHT).status == 200
    other = [(b"origin", b"https://other.example"), *PREFLIGHT[1:]]
    assert asked(guarded.app, "OPTIONS", "/orders/1", headers=other).status == 400
    for headers in ([], PREFLIGHT[:1], PREFLIGHT[1:]):
        assert asked(guarded.app, "OPTIONS", "/orders", headers=headers).code == "missing_token"
    assert asked(guarded.app, "GET", "/orders/1", headers=PREFLIGHT).code == "missing_token"
    assert ran == []


def test_a_preflight_without_cors_learns_nothing() -> None:
    """A guarded endpoint for OPTIONS does not run, and a 404 or 405 of the framework is withheld."""
    ran: list[str] = []
    guarded = Guarded(shop(ran), TOOLS | {"OPTIONS /orders": "orders.options"})
    for target in ("/orders/1", "/orders", "/nothing", "/in/hidden"):
        assert asked(guarded.app, "OPTIONS", target, headers=PREFLIGHT).code == "missing_token"
    guarded = Guarded(application, {"GET /orders": "orders.list"})
    assert asked(guarded.app, "OPTIONS", "/orders", headers=PREFLIGHT).code == "missing_token"
    assert ran == []


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """An application that shows no routes."""
    await PlainTextResponse("grant" if "arx" in scope else "none")(scope, receive, send)


@pytest.mark.parametrize("table", [True, False], ids=["table", "function"])
def test_a_public_route_of_any_application(table: bool) -> None:
    """Beside a table, and beside a function that maps requests."""
    tools: Any = TOOLS if table else lambda scope, body: ("orders.get", {}) if "orders" in scope["path"] else None
    guarded = Guarded(plain, tools, public=["GET /healthz", "/status/{n}"])
    for target in ("/healthz", "/status/1"):
        assert asked(guarded.app, "GET", target).body == b"none"
        assert asked(guarded.app, "HEAD", target).status == 200
        assert asyncio.run(guarded.ask("GET", target)).body == b"none"
    for method, target in (("GET", "/orders/1"), ("POST", "/healthz"), ("GET", "//healthz"), ("GET", "/status/1/2")):
        assert asked(guarded.app, method, target).code == "missing_token", target
    assert asyncio.run(guarded.ask("GET", "/orders/1")).body == b"grant"


@pytest.mark.parametrize("signed", [False, True])
def test_a_public_route_of_routes_that_are_made_later(signed: bool) -> None:
    """They were not there to be compared with the line, so that another endpoint could be behind it."""
    ran: list[str] = []

    class Lazy:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await shop(ran)(scope, receive, send)

    guarded = Guarded(Lazy(), TOOLS, public=["/healthz"])
    answer = asyncio.run(guarded.ask("GET", "/healthz")) if signed else asked(guarded.app, "GET", "/healthz")
    assert (answer.code, ran) == ("tool_not_allowed" if signed else "missing_token", [])


@pytest.mark.parametrize(
    ("tools", "public", "message"),
    [
        (TOOLS, ["GET /orders/{order_id}"], "twice"),
        ({}, ["/nothing"], "found 0"),
        ({}, ["get"], "found 0"),
        ({}, ["healthz"], "found 0; its names are endpoint"),
        ({}, "/healthz", "expected a list"),
        ({"status": "*public"}, [], "is no tool"),
    ],
)
def test_a_wrong_list_is_an_error(tools: dict[str, str], public: Any, message: str) -> None:
    """A route that is public and has a tool, or a line of no route."""
    with pytest.raises(SettingsError, match=message):
        ArxMiddleware(shop([]), verifier=Realm().verifier, tools=tools, public=public)


def test_a_public_line_meets_no_line_of_the_table() -> None:
    """For an application that shows no routes a request has one meaning, and names are no routes."""
    with pytest.raises(SettingsError, match="same requests"):
        RouteMap({"GET /{kind}/x": "orders.x"}, ["GET /orders/{order_id}"])
    with pytest.raises(SettingsError, match="no names"):
        RouteMap({"show": "orders.get"})
    assert RouteMap(TOOLS, ["/orders/latest"]).is_public(
        {"method": "GET", "path": "/orders/latest", "type": "http", "raw_path": b""}
    )


def test_a_public_route_at_two_paths_is_named() -> None:
    """A line names one of them, and the route would be public at both."""
    route = Route("/healthz", saw("", []), name="health")
    app = Starlette(routes=[Mount("/a", routes=[route]), Mount("/b", app=Router([route]))])
    with pytest.raises(SettingsError, match="other paths"):
        ArxMiddleware(app, verifier=Realm().verifier, tools={}, public=["/a/healthz"])
    guarded = Guarded(app, {}, Rule(tool="*"), public=["health"])
    assert asked(guarded.app, "GET", "/b/healthz").status == 200
