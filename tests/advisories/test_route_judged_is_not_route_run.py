# SPDX-License-Identifier: Apache-2.0
"""A caller could run another route than the one that the middleware had judged.

A caller allowed ``orders.get`` was answered by the export where two routes of ``tools`` met in one path, where a
convertor fell through to the next route, below a ``root_path`` that two readers cut off differently, and by routes of a
``Host`` or of a mounted application, which were not looked at.  Parameters of an outer mount came to the application,
and no rule saw them.  The cases of FastAPI are in ``tests/routes/fastapi_cases.py``.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router

from arx_verifier import Constraint, Rule, SettingsError
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.routes import RouteMap
from tests.routes.asgi_client import ASGIClient
from tests.routes.asking import Answer, Guarded, ask
from tests.routes.run import run
from tests.verifier.serving import Realm

GET = Rule(tool="orders.get")
READ = {"GET /orders/{order_id}": "orders.get"}


def saw(name: str, ran: list[Any]) -> Callable[[Request], Any]:
    """An endpoint that notes its name and the tool that it runs as."""

    async def endpoint(request: Request) -> Response:
        ran.append((name, request.scope["arx"].tool))
        return PlainTextResponse(name)

    return endpoint


def asked(guarded: Guarded, method: str, target: str, **more: Any) -> Answer:
    return asyncio.run(guarded.ask(method, target, **more))


def two_that_meet(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    routes = [Route("/{kind}/export", saw("export", ran)), Route("/orders/{order_id}", saw("get", ran))]
    return routes, READ | {"GET /{kind}/export": "orders.export"}


def a_convertor_that_falls_through(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    routes = [Route("/orders/{order_id:int}", saw("get", ran)), Route("/orders/{name}", saw("export", ran))]
    return routes, READ | {"GET /orders/{name}": "orders.export"}


def one_that_is_not_named(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    return [Route("/orders/export", saw("export", ran)), Route("/orders/{order_id}", saw("get", ran))], READ


def one_of_a_mount(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    inner = Starlette(routes=[Route("/export", saw("export", ran)), Route("/{order_id}", saw("get", ran))])
    return [Mount("/orders", app=GZipMiddleware(inner))], READ


def one_of_a_host(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    inner = Router([Route("/orders/{name}", saw("export", ran))])
    return [Host("orders.example", app=inner), Route("/orders/{order_id}", saw("get", ran))], READ


class Hides:
    """A middleware without an ``app``."""

    def __init__(self, app: Any) -> None:
        self._inner = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(scope, receive, send)


@pytest.mark.parametrize("how", ["attribute", "slot", "one of several", "global"])
def test_an_application_that_is_hidden_is_judged_where_it_routes(how: str) -> None:
    """It was taken for one that shows no routes, whose table says what a request means; the export ran as an order."""
    ran: list[Any] = []
    routes, tools = one_that_is_not_named(ran)
    app = Starlette(routes=routes)

    class Slotted:
        __slots__ = ("inner",)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.inner(scope, receive, send)  # type: ignore[attr-defined]

    slotted = Slotted()
    slotted.inner = app  # type: ignore[attr-defined]
    globals()["_hidden"] = app
    outer = {
        "attribute": Hides(Hides(app)),
        "slot": slotted,
        "one of several": Several([app]),
        "global": calls_a_global,
    }[how]
    guarded = Guarded(outer, tools, GET)
    assert asked(guarded, "GET", "/orders/export").code == "tool_not_allowed"
    assert ran == []
    assert asked(guarded, "GET", "/orders/1").status == 200


class Several(Hides):
    """A dispatcher."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner[0](scope, receive, send)


_hidden: Any = None


async def calls_a_global(scope: Any, receive: Any, send: Any) -> None:
    """A function around an application of its module."""
    await _hidden(scope, receive, send)


def one_that_shows_no_routes(ran: list[Any]) -> tuple[list[BaseRoute], dict[str, str]]:
    async def hidden(scope: Any, receive: Any, send: Any) -> None:
        ran.append(("export", "none"))
        await PlainTextResponse("export")(scope, receive, send)

    return [Mount("/orders/export", app=hidden), Mount("/orders", app=hidden)], {}


@pytest.mark.parametrize(
    "case",
    [
        two_that_meet,
        a_convertor_that_falls_through,
        one_that_is_not_named,
        one_of_a_mount,
        one_of_a_host,
        one_that_shows_no_routes,
    ],
)
@pytest.mark.parametrize("around", [False, True], ids=["bare", "within"])
def test_the_export_never_runs_as_an_order(case: Any, around: bool) -> None:
    """An agent that may get orders is refused where the application would run its export, which does not run."""
    ran: list[Any] = []
    routes, tools = case(ran)
    app: Any = Starlette(routes=routes)
    guarded = Guarded(GZipMiddleware(app) if around else app, tools, GET)
    answer = asked(guarded, "GET", "/orders/export")
    assert (answer.status, answer.code, ran) == (403, "tool_not_allowed", [])
    assert guarded.codes == ["tool_not_allowed"]


def test_a_named_route_runs_as_its_own_tool() -> None:
    """Where routes meet, the one that the framework takes runs, under its own tool and its own parameters."""
    ran: list[Any] = []
    routes, tools = two_that_meet(ran)
    guarded = Guarded(Starlette(routes=routes), tools, Rule(tool="orders.export", args={"kind": "orders"}))
    assert asked(guarded, "GET", "/orders/export").status == 200
    assert asked(guarded, "GET", "/bills/export").code == "argument_not_allowed"
    assert ran == [("export", "orders.export")]


def test_routes_of_a_host_are_named_by_it() -> None:
    """``//host`` in front of the path; a parameter of the host is an argument."""
    ran: list[Any] = []
    app = Starlette(routes=[Host("{tenant}.example", app=Router([Route("/orders/{order_id}", saw("get", ran))]))])
    tools = {"GET //{tenant}.example/orders/{order_id}": "orders.get"}
    guarded = Guarded(app, tools, Rule(tool="orders.get", args={"tenant": "acme", "order_id": Constraint(glob="*")}))
    assert asked(guarded, "GET", "/orders/1", host="acme.example").status == 200
    assert asked(guarded, "GET", "/orders/1", host="other.example").code == "argument_not_allowed"
    assert ran == [("get", "orders.get")]


@pytest.mark.parametrize("framework", [True, False], ids=["starlette", "table"])
def test_a_parameter_of_an_outer_mount_is_an_argument(framework: bool) -> None:
    """The rules see the tenant that the application is going to use."""
    ran: list[Any] = []
    endpoint = saw("get", ran)

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await (await endpoint(Request(scope, receive, send)))(scope, receive, send)

    inner: Any = Starlette(routes=[Route("/orders/{order_id}", endpoint)]) if framework else plain
    rule = Rule(tool="orders.get", args={"tenant": "acme", "order_id": Constraint(glob="*")})
    guarded = Guarded(inner, READ, rule)
    outer = Starlette(routes=[Mount("/{tenant}", app=guarded.app)])
    assert asked(guarded, "GET", "/acme/orders/1", app=outer).status == 200
    assert asked(guarded, "GET", "/other/orders/1", app=outer).code == "argument_not_allowed"
    assert ran == [("get", "orders.get")]


@pytest.mark.parametrize("mounted", [False, True])
def test_a_value_is_judged_in_its_one_spelling(mounted: bool) -> None:
    """``007`` is not another value than 7 to rules, and 7 to the endpoint."""
    ran: list[Any] = []
    routes: list[BaseRoute] = [Route("/orders/{number:int}", saw("get", ran))]
    path = "/orders/{number:int}"
    if mounted:
        routes, path = (
            [Mount("/in/{number:int}", routes=[Route("/orders", saw("get", ran))])],
            "/in/{number:int}/orders",
        )
    rule = Rule(tool="orders.get", args={"number": Constraint(none_of=(7,))})
    guarded = Guarded(Starlette(routes=routes), {f"GET {path}": "orders.get"}, rule)
    for text, code in (("7", "argument_not_allowed"), ("007", "malformed_request"), ("8", "")):
        answer = asked(guarded, "GET", path.replace("{number:int}", text))
        assert answer.status == 200 if not code else answer.code == code
    assert ran == [("get", "orders.get")]


def test_a_value_of_an_outer_convertor_is_judged_in_its_one_spelling() -> None:
    """Also where the mount is around the middleware."""
    guarded = Guarded(Starlette(routes=[Route("/orders/{order_id}", saw("get", []))]), READ)
    outer = Starlette(routes=[Mount("/{tenant:int}", app=guarded.app)])
    assert asked(guarded, "GET", "/7/orders/1", app=outer).status == 200
    assert asked(guarded, "GET", "/007/orders/1", app=outer).code == "malformed_request"


@pytest.mark.parametrize("root", ["/api", "/api/"])
def test_a_root_path_hides_no_route(root: str) -> None:
    """What is left of the path is for the framework to say, and the decision is made on what it took."""
    ran: list[Any] = []
    routes = [
        Route("/orders/{order_id}", saw("get", ran)),
        Route("/api/orders/{name}", saw("export", ran)),
        Route("/{name}", saw("export", ran)),
    ]
    guarded = Guarded(Starlette(routes=routes), READ, GET)
    for path in ("/api/orders/1", "/orders/1"):
        asked(guarded, "GET", path, root_path=root)
    assert ("export", "orders.get") not in ran
    assert ("get", "orders.get") in ran


def test_an_application_that_sets_its_root_path_is_judged_by_what_it_runs() -> None:
    """As FastAPI does for its own ``root_path``."""
    ran: list[Any] = []

    class Rooted:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scope["root_path"] = "/api"
            await self.app(scope, receive, send)

    routes = [Route("/orders/{order_id}", saw("get", ran)), Route("/api/orders/{name}", saw("export", ran))]
    tools = READ | {"GET /api/orders/{name}": "orders.export"}
    guarded = Guarded(Starlette(routes=routes, middleware=[Middleware(Rooted)]), tools, Rule(tool="orders.export"))
    assert asked(guarded, "GET", "/api/orders/1").code == "tool_not_allowed"  # the old one took it for an export
    assert ran == []


def test_an_empty_query_is_signed_like_none() -> None:
    """No server shows whether there was a question mark, and clients send it."""
    guarded = Guarded(Starlette(routes=[Route("/orders/{order_id}", saw("get", []))]), READ)
    assert asked(guarded, "GET", "/orders/1", signed="/orders/1?").status == 200
    assert asked(guarded, "GET", "/orders/1", signed="/orders/1??").code == "proof_invalid"


@pytest.mark.parametrize("how", ["insert", "mount", "replace"])
def test_a_route_that_is_added_later_is_refused(how: str) -> None:
    """It has no tool, wherever it stands; what was there before goes on."""
    ran: list[Any] = []
    inner = Router([Route("/{order_id}", saw("get", ran))])
    app = Starlette(routes=[Mount("/orders", app=inner)])
    guarded = Guarded(app, READ)
    late = Route("/export", saw("export", ran))
    if how == "insert":
        inner.routes.insert(0, late)
    elif how == "mount":
        app.router.routes.insert(0, Mount("/orders/export", app=Starlette(routes=[Route("/", saw("export", ran))])))
    else:
        inner.routes = [late, *inner.routes]
    target = "/orders/export/" if how == "mount" else "/orders/export"
    assert asked(guarded, "GET", target).code == "tool_not_allowed"
    assert asked(guarded, "GET", "/orders/1").status == 200
    assert ran == [("get", "orders.get")]


class Opens(Route):
    """Matches nothing, and lets another thread in while the router looks."""

    meanwhile: Callable[[], Any]

    def matches(self, scope: Any) -> Any:
        adder = threading.Thread(target=self.meanwhile)
        adder.start()
        adder.join()
        return super().matches(scope)


@pytest.mark.parametrize("how", ["append", "insert", "extend", "add", "item", "slice", "mount"])
def test_a_route_that_another_thread_adds_meanwhile_is_refused(how: str) -> None:
    """It was added after the router had compared its routes, and before it looked at them."""
    ran: list[Any] = []
    opens, late = Opens("/opens", saw("", ran)), Route("/orders/{name}", saw("export", ran))
    app = Starlette(routes=[opens, Route("/spare", saw("", ran)), Route("/last/{order_id}", saw("get", ran))])
    guarded = Guarded(app, {"GET /last/{order_id}": "orders.get"}, GET)
    routes = app.router.routes
    opens.meanwhile = {
        "append": lambda: routes.append(late),
        "insert": lambda: routes.insert(1, late),
        "extend": lambda: routes.extend(iter([late])),
        "add": lambda: routes.__iadd__([late]),
        "item": lambda: routes.__setitem__(1, late),
        "slice": lambda: routes.__setitem__(slice(1, 1), iter([late])),
        "mount": lambda: app.mount("/orders", Starlette(routes=[Route("/{name}", saw("export", ran))])),
    }[how]
    assert asked(guarded, "GET", "/orders/export").code == "tool_not_allowed"
    assert ran == []
    assert len(routes) == (3 if how == "item" else 4)


class Lazy:
    """Makes its application at the first call."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._made = self._made or self._make()
        await self._made(scope, receive, send)


@pytest.mark.parametrize("kind", [Starlette, Router])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("mounted", [False, True])
def test_routes_that_are_made_at_the_first_call_are_refused(kind: Any, copies: bool, mounted: bool) -> None:
    """They were not there to get gates, and the export ran as an order."""
    ran: list[Any] = []

    def make() -> Any:
        return kind(routes=one_that_is_not_named(ran)[0])

    class Copies(Lazy):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope.copy(), receive, send)

    guarded = Guarded((Copies if copies else Lazy)(make), READ, GET)
    app = Starlette(routes=[Mount("/", app=guarded.app)]) if mounted else guarded.app
    for target in ("/orders/export", "/orders/1", "/orders/export"):
        answer = asked(guarded, "GET", target, app=app)
        assert (answer.status, answer.code) == (403, "tool_not_allowed")
    assert ran == []
    assert guarded.codes == ["ok", "tool_not_allowed"] * 3


@pytest.mark.parametrize(
    ("routes", "tools", "message"),
    [
        ([Route("/orders/{number}", saw("", []))], READ, "for GET it has /orders/{number}"),
        ([Route("/orders/{order_id}", saw("", []), methods=["POST"])], READ, "found 0"),
        ([Route("/orders/{order_id}", saw("", [])), Route("/orders/{order_id}", saw("", []))], READ, "found 2"),
        ([Mount("/orders", app=PlainTextResponse(""))], READ, "found 0"),
        ([Mount("/{order_id}", routes=[Route("/orders/{order_id}", saw("", []))])],
         {"GET /{order_id}/orders/{order_id}": "orders.get"}, "parameter"),
        ([Route("/orders/{order_id}", saw("", []))], {"GET orders": "orders.get"}, "expected one route"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_an_error_when_the_middleware_is_made(
    routes: list[BaseRoute], tools: dict[str, str], message: str
) -> None:
    """Also below a mount, which no lifespan reaches."""
    with pytest.raises(SettingsError, match=message):
        ArxMiddleware(Starlette(routes=routes), verifier=Realm().verifier, tools=tools)


def test_a_wrong_table_fails_the_start_of_an_added_middleware() -> None:
    """Starlette makes it with the first message, where an error would be taken for a missing lifespan."""
    app = Starlette(routes=[Route("/orders/{order_id}", saw("", []))])
    app.add_middleware(ArxMiddleware, verifier=Realm().verifier, tools={"GET /nothing": "orders.get"})
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> Answer:
        with pytest.raises(SettingsError, match="GET /nothing"):
            await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        return await ask(app, "GET", "/orders/1")

    answer = asyncio.run(main())
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "GET /nothing" in sent[0]["message"]
    assert (answer.status, answer.code) == (503, "closed")


def test_a_router_that_dispatches_by_itself_is_an_error() -> None:
    """It may serve what it does not show."""

    class Versions(Router):
        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            await self.hidden(scope, receive, send)

    with pytest.raises(SettingsError, match=r"Versions has a app\(\) of its own"):
        ArxMiddleware(Versions([]), verifier=Realm().verifier, tools={})


def test_what_is_not_routed_is_refused_before_it_is_answered() -> None:
    """A 404, a redirect, a middleware's own answer: each is a refusal instead, proven or not."""

    async def answers(request: Request, call_next: Any) -> Response:
        return PlainTextResponse("mine") if request.url.path == "/mine" else await call_next(request)

    routes = [Route("/orders/{order_id}", saw("get", []))]
    app = Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=answers)])
    guarded = Guarded(app, READ)
    for method, target in (("GET", "/nothing"), ("GET", "/orders/1/"), ("GET", "/mine"), ("DELETE", "/orders/1")):
        assert asked(guarded, method, target).code == "tool_not_allowed"
    assert asyncio.run(ask(guarded.app, "GET", "/mine")).code == "missing_token"
    assert asked(guarded, "GET", "/orders/1").status == 200


def test_a_guarded_application_is_not_called_around_its_middleware() -> None:
    """Its routes refuse without one, and one call is never decided twice."""
    ran: list[Any] = []
    app = Starlette(routes=[Route("/orders/{order_id}", saw("get", ran))])
    guarded = Guarded(app, READ)
    assert asyncio.run(ask(app, "GET", "/orders/1")).code == "tool_not_allowed"
    twice = ArxMiddleware(
        Starlette(routes=[Mount("/in", app=guarded.app)]),
        verifier=guarded.realm.verifier,
        tools={"GET /in/orders/{order_id}": "orders.get"},
    )
    assert asked(guarded, "GET", "/in/orders/1", app=twice).code == "tool_not_allowed"
    assert ran == []


def test_a_table_with_two_meanings_is_an_error() -> None:
    """For an application that shows no routes there is no telling which of the two it takes."""
    both = {"GET /{kind}/export": "orders.export", "GET /orders/{order_id}": "orders.get"}
    with pytest.raises(SettingsError, match="/orders/export"):
        RouteMap(both)
    assert RouteMap(both | {"GET /orders/export": "orders.export"})


def test_routes_that_cannot_be_read_are_an_error() -> None:
    """An application that shows routes of another kind is not taken for one that shows none."""

    class Shows:
        routes = ("GET /orders/{order_id}",)

    with pytest.raises(SettingsError, match="cannot be read"):
        ArxMiddleware(Shows(), verifier=Realm().verifier, tools=READ)  # type: ignore[arg-type]


def test_random_applications_run_what_was_judged() -> None:
    """A slice of ``make routes``, on the framework that is here."""
    assert run(ASGIClient, 1, 60, 15)["ran"] > 100
