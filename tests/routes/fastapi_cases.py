# SPDX-License-Identifier: Apache-2.0
"""What went wrong with FastAPI, case by case; ``python -m tests.routes`` runs them where FastAPI is installed."""

import asyncio
import datetime as dt
import enum
import tempfile
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import fastapi
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic_core import core_schema
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from arx_verifier import ArxError, Constraint, Rule
from tests.routes.asking import Answer, Guarded
from tests.routes.confusion import NUMBERS

READ = {"GET /orders/{order_id}": "orders.get"}


def _asked(guarded: Guarded, method: str, target: str, body: Any = None) -> Answer:
    return asyncio.run(guarded.ask(method, target, body))


def an_included_router_hides_no_route() -> None:
    """The export of an included router ran as an order; it is refused, and runs no dependency."""
    ran: list[str] = []
    router = fastapi.APIRouter()

    @router.get("/export", dependencies=[fastapi.Depends(lambda: ran.append("dependency"))])
    def export() -> str:
        ran.append("export")
        return "all"

    @router.get("/{order_id}")
    def get(order_id: str) -> str:
        ran.append(order_id)
        return order_id

    async def plain(request: fastapi.Request) -> PlainTextResponse:
        ran.append("plain")
        return PlainTextResponse("plain")

    router.routes.insert(0, Route("/plain", plain))
    app = fastapi.FastAPI()
    app.include_router(router, prefix="/orders")
    app.openapi()  # has FastAPI make the included routes before they are guarded
    guarded = Guarded(app, READ, Rule(tool="orders.get"))
    for path in ("/orders/export", "/docs", "/openapi.json", "/nothing", "/orders/1/"):
        assert _asked(guarded, "GET", path).code == "tool_not_allowed", path
    assert ran == []
    assert _asked(guarded, "GET", "/orders/1").status == 200
    router.add_api_route("/late/{order_id}", get)
    app.include_router(router, prefix="/orders/again")
    for path in ("/orders/late/1", "/orders/again/1", "/orders/again/late/1"):
        assert _asked(guarded, "GET", path).status in (400, 403), path
    assert ran == ["1"]
    assert _asked(guarded, "GET", "/orders/2").status == 200


def a_value_is_the_one_that_was_judged() -> None:
    """``007`` is not 7, ``yes`` not True; neither endpoint nor dependency runs.  No caller chose a default."""
    ran: list[Any] = []

    def page(limit: int = 10) -> int:
        ran.append(("page", limit))
        return limit

    app = fastapi.FastAPI()

    @app.get("/orders/{order_id}")
    async def get(
        order_id: int, full: bool = False, day: dt.date | None = None, limit: int = fastapi.Depends(page)
    ) -> None:
        ran.append((order_id, full, limit))

    guarded = Guarded(app, READ, Rule(tool="orders.get", args={"order_id": Constraint(none_of=(8,))}))
    open_to_all = Guarded(app, READ)
    assert _asked(guarded, "GET", "/orders/8").code == "argument_not_allowed"
    wrong = ("/orders/008", "/orders/7?full=yes", "/orders/7?full=1", "/orders/7?limit=05", "/orders/7?limit=%2B5")
    for target in (*wrong, "/orders/7?day=1767225600"):
        answer = _asked(open_to_all, "GET", target)
        assert (answer.status, answer.code) == (400, "malformed_request"), target
    assert ran == []
    for target in ("/orders/7", "/orders/7?full=true&limit=5", "/orders/7?day=2026-01-01"):
        assert _asked(open_to_all, "GET", target).status == 200, target
    assert ran[1::2] == [(7, False, 10), (7, True, 5), (7, False, 10)]


def a_declared_query_is_judged_by_its_types() -> None:
    """A name takes kinds from the endpoint, a line states its own; an endpoint never gets one of several values."""
    ran: list[Any] = []
    app = fastapi.FastAPI()

    def page(limit: int | None = None) -> int | None:
        return limit

    @app.get("/orders")
    def find(
        price: float = 1.0,
        tag: Annotated[list[str] | None, fastapi.Query()] = None,
        text: Annotated[str, fastapi.Query(alias="q")] = "",
        limit: int | None = fastapi.Depends(page),
    ) -> None:
        ran.append((price, tag, text, limit))

    @app.post("/orders")
    def make(dry: bool = False, count: int = 1, note: Annotated[str, fastapi.Body(embed=True)] = "") -> None:
        ran.append((dry, count, note))

    few = Rule(
        tool="orders.find", args={"limit": Constraint(max=9, optional=True), "tag": Constraint(subset=("a", "b"))}
    )
    made = Rule(tool="orders.make", args={"count": Constraint(max=3), "dry": "true"})
    guarded = Guarded(app, {"find": "orders.find", "make": "orders.make"}, few, made)
    for target in ("limit=9&tag=a", "tag=b&tag=a"):
        assert _asked(guarded, "GET", f"/orders?{target}").status == 200, target
    assert ran == [(1.0, ["a"], "", 9), (1.0, ["b", "a"], "", None)]
    for target, code in (
        ("tag=a&limit=10", "argument_not_allowed"),
        ("tag=a&tag=c", "argument_not_allowed"),
        ("tag=a&limit=9&limit=10", "malformed_request"),
        ("tag=a&limit=09", "malformed_request"),
        ("tag=a&q=1&q=2", "malformed_request"),
        ("tag=a&price=2.50", "malformed_request"),
    ):
        assert _asked(guarded, "GET", f"/orders?{target}").code == code, target
    assert _asked(guarded, "POST", "/orders?count=2&dry=true").status == 200
    assert _asked(guarded, "POST", "/orders?count=4&dry=true").code == "argument_not_allowed"
    assert _asked(guarded, "POST", "/orders?count=2&dry=true&note=x").code == "malformed_request"
    assert ran[2:] == [(True, 2, "")]
    lists = Guarded(app, {"GET /orders?{q:list}": "orders.find"})
    assert _asked(lists, "GET", "/orders?q=1&q=2").code == "malformed_request"
    assert len(ran) == 3


class Kind(enum.IntEnum):
    """A choice of numbers, which a path has as text."""

    SMALL = 1


class Own(int):
    """An integer of the application's own, of which no framework knows how it is read."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Read it in hexadecimal."""
        return core_schema.no_info_plain_validator_function(lambda text: cls(text, 16))


def _twice(text: str) -> str:
    return text + text


def a_number_in_the_path_is_judged_as_one() -> None:
    """The type of the endpoint decides; what it reads otherwise than the rules do, it never gets."""
    ran: list[Any] = []
    app = fastapi.FastAPI()

    def add(kind: Any) -> None:
        def saw(n: Any) -> None:
            ran.append(n)

        saw.__annotations__["n"] = kind
        app.get(f"/{len(kinds)}/{{n}}", name=f"saw{len(kinds)}")(saw)
        kinds.append(kind)

    kinds: list[Any] = []
    numbers = [int, int | None, Annotated[int, fastapi.Path(ge=-(2**70))], float, Decimal, Decimal | None]
    texts = [str, Kind, bool, int | str, Own, dt.date]
    changed = [Annotated[int, BeforeValidator(_twice)], Annotated[int, AfterValidator(lambda read: read + 1)]]
    for kind in (*numbers, *changed, *texts):
        add(kind)
    at_most_ten = Rule(tool="*", args={"n": Constraint(max=10)})
    tools = {f"saw{at}": f"saw.{at}" for at in range(len(kinds))}
    limited, unlimited = Guarded(app, tools, at_most_ten), Guarded(app, tools)
    for at, kind in enumerate(kinds):
        is_number = kind in numbers
        for text in (*NUMBERS, "10", "11", "7", "1", "-3", "%37", "7.5", "10.5", "1_0", "true", "1%20"):
            for guarded in (limited, unlimited):
                _asked(guarded, "GET", f"/{at}/{quote(text, safe='%')}")
            assert all(value <= 10 for value in ran if type(value) in (int, float, Decimal)) or guarded is unlimited
            ran.clear()
        answers = {text: _asked(limited, "GET", f"/{at}/{text}").status for text in ("7", "10", "-3", "11")}
        assert list(answers.values()) == [200, 200, 200, 403] or (not is_number and 200 not in answers.values()), kind
        assert ran == ([7, 10, -3] if is_number else []), kind
        ran.clear()


def a_dependency_and_a_prefix_state_the_type_too() -> None:
    """Of a parameter in the prefix of a router, in a mount, and of one that a dependency alone takes."""
    ran: list[Any] = []

    def tenant(account: int) -> int:
        ran.append(account)
        return account

    def instead(account: str) -> str:
        ran.append(account)
        return account

    router = fastapi.APIRouter(prefix="/{account}", dependencies=[fastapi.Depends(tenant)])

    @router.get("/orders/{name}")
    def get(name: str) -> None:
        ran.append(name)

    inner = fastapi.FastAPI()
    inner.include_router(router, prefix="/{shard:int}")
    app = fastapi.FastAPI()
    app.mount("/{zone:float}", inner)
    args = {name: Constraint(max="9.5") for name in ("zone", "shard", "account")} | {"name": "7"}
    guarded = Guarded(app, {"get": "orders.get"}, Rule(tool="orders.get", args=args))
    assert _asked(guarded, "GET", "/9.5/9/9/orders/7").status == 200
    assert ran == [9, "7"]
    for path in ("/9.6/9/9/orders/7", "/9.5/10/9/orders/7", "/9.5/9/10/orders/7"):
        assert _asked(guarded, "GET", path).code == "argument_not_allowed", path
    for path in ("/9.50/9/9/orders/7", "/9.5/09/9/orders/7", "/9.5/9/09/orders/7", "/9.5/9/9_0/orders/7"):
        assert _asked(guarded, "GET", path).code == "malformed_request", path
    assert ran == [9, "7"]
    inner.dependency_overrides[tenant] = instead
    assert _asked(guarded, "GET", "/9.5/9/x/orders/7").code == "argument_not_allowed"
    assert ran == [9, "7"]


def a_json_value_keeps_its_type() -> None:
    """``"5"`` is not 5, and true is not 1; in models, lists and single members."""
    ran: list[Any] = []

    class Line(BaseModel):
        count: int

    class Refund(BaseModel):
        amount: int
        lines: list[Line] = []
        key: UUID | None = None
        memo: str = "none"

    app = fastapi.FastAPI()

    @app.post("/refunds")
    def refund(asked: Refund) -> None:
        ran.append(asked.amount)

    @app.put("/refunds")
    def put(amount: Annotated[int, fastapi.Body()], memo: Annotated[str, fastapi.Body()] = "none") -> None:
        ran.append(amount)

    guarded = Guarded(app, {"POST /refunds": "orders.refund", "PUT /refunds": "orders.put"})
    for body in ({"amount": "5"}, {"amount": True}, {"amount": 5, "lines": [{"count": "1"}]}):
        for method in ("POST", "PUT"):
            if method == "POST" or "lines" not in body:
                answer = _asked(guarded, method, "/refunds", body)
                assert (answer.status, answer.code) == (400, "malformed_request"), body
    assert ran == []
    key = "6f1f0a8e-0000-4000-8000-00000000000a"
    for body in ({"amount": 5}, {"amount": 5, "lines": [{"count": 1}], "key": key, "unknown": 1}):
        assert _asked(guarded, "POST", "/refunds", body).status == 200, body
    assert _asked(guarded, "PUT", "/refunds", {"amount": 5, "memo": "late"}).status == 200
    assert ran == [5, 5, 5]


def a_replaced_dependency_is_compared_too() -> None:
    """``dependency_overrides`` bring parameters of their own."""
    ran: list[Any] = []

    def before() -> None:
        return None

    def instead(limit: int = 10) -> None:
        ran.append(limit)

    app = fastapi.FastAPI()

    @app.get("/orders/{order_id}")
    def get(order_id: str, _: None = fastapi.Depends(before)) -> None:
        ran.append(order_id)

    app.dependency_overrides[before] = instead
    guarded = Guarded(app, READ)
    assert _asked(guarded, "GET", "/orders/1?limit=05").code == "malformed_request"
    assert _asked(guarded, "GET", "/orders/1?limit=5").status == 200
    assert ran == [5, "1"]


def endpoints_of_every_kind_run_once() -> None:
    """Generators, background tasks, mounted applications and an application's own ``root_path``."""
    ran: list[Any] = []
    inner = fastapi.FastAPI()

    @inner.get("/{order_id}")
    def get(order_id: str, tasks: fastapi.BackgroundTasks) -> None:
        tasks.add_task(ran.append, "task")
        ran.append(order_id)

    async def plain(request: fastapi.Request) -> PlainTextResponse:
        ran.append(request.path_params)
        return PlainTextResponse("")

    app = fastapi.FastAPI(root_path="/api")

    app.mount("/orders", inner)
    app.router.routes.append(Mount("/plain/{n:int}", routes=[Route("/", plain)]))
    tools = READ | {"GET /plain/{n}/": "orders.plain"}
    if tuple(map(int, fastapi.__version__.split(".")[:2])) >= (0, 137):  # older ones stream no generators

        @app.get("/stream/{order_id}")
        async def stream(order_id: int) -> AsyncIterator[int]:
            ran.append(order_id)
            yield order_id

        tools["GET /stream/{order_id}"] = "orders.stream"
    guarded = Guarded(app, tools)
    assert _asked(guarded, "GET", "/api/orders/2").status == 200
    assert _asked(guarded, "GET", "/api/plain/7/").status == 200
    assert ran == ["2", "task", {"n": 7}]
    if "GET /stream/{order_id}" in tools:
        assert _asked(guarded, "GET", "/stream/007").code == "malformed_request"
        assert _asked(guarded, "GET", "/stream/7").status == 200
        assert ran[3:] == [7]


def no_handler_answers_for_a_refusal() -> None:
    """An application's own handler of exceptions made a 200 of a value that was not judged."""
    for kind in (ArxError, ValueError, Exception):
        for within in (False, True):
            _handled(kind, within)


def _handled(kind: type[Exception], within: bool) -> None:
    ran: list[Any] = []
    app = fastapi.FastAPI()

    @app.exception_handler(kind)
    async def handle(_: fastapi.Request, __: Exception) -> PlainTextResponse:
        return PlainTextResponse("mine")

    if within:

        @app.middleware("http")
        async def passes(request: fastapi.Request, call_next: Any) -> Any:
            return await call_next(request)

    @app.get("/a")
    async def in_the_loop(full: bool) -> None:
        ran.append(full)

    @app.get("/b")
    def in_a_thread(full: bool) -> None:
        ran.append(full)

    guarded = Guarded(app, {"GET /a": "a.get", "GET /b": "b.get"})
    for path in ("/a?full=yes", "/b?full=yes"):
        assert _asked(guarded, "GET", path).code == "malformed_request", (kind, within, path)
    assert ran == []
    assert guarded.codes == ["ok", "malformed_request"] * 2, guarded.codes


def the_way_decides_and_not_the_function() -> None:
    """One function at three routes, and one router in two places, have the tool of the route that was taken."""
    ran: list[str] = []
    router = fastapi.APIRouter()

    async def get(order_id: str) -> None:
        ran.append(order_id)

    for path in ("/a", "/b", "/c"):
        router.get(path + "/{order_id}")(get)
    app = fastapi.FastAPI()
    for prefix in ("/x", "/y"):
        app.include_router(router, prefix=prefix)
    names = {f"GET /{prefix}/{path}/{{order_id}}": f"{prefix}.{path}" for prefix in "xy" for path in "ab"}
    guarded = Guarded(app, names, Rule(tool="x.a", args={"order_id": "1"}))
    for prefix in "xy":
        for path in "abc":
            answer = _asked(guarded, "GET", f"/{prefix}/{path}/1")
            assert answer.status == (200 if prefix + path == "xa" else 403), (prefix, path, answer)
    assert ran == ["1"]


def a_websocket_and_files_are_refused() -> None:
    """A route of WebSockets never runs, and files that are mounted or served as a frontend have no tool."""
    ran: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "index.html").write_text("files")
        app = fastapi.FastAPI()

        @app.get("/orders/{order_id}")
        async def get(order_id: str) -> None:
            ran.append(order_id)

        @app.websocket("/socket")
        async def socket(_: fastapi.WebSocket) -> None:
            ran.append("socket")

        app.mount("/files", StaticFiles(directory=folder))
        if hasattr(app, "frontend"):  # newer versions
            app.frontend("/", directory=folder)
        guarded = Guarded(app, READ)
        for path in ("/files/index.html", "/index.html", "/"):
            assert _asked(guarded, "GET", path).code == "tool_not_allowed", path
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b"", "root_path": ""}
        asyncio.run(guarded.app(scope, receive, send))
        assert sent == [{"type": "websocket.close", "code": 1008}]
        assert ran == []
        assert _asked(guarded, "GET", "/orders/1").status == 200


def routes_that_come_later_are_refused() -> None:
    """An application that is made at the first call, and a route that is added to an included router during one."""
    ran: list[str] = []
    router = fastapi.APIRouter()

    class Opens(fastapi.routing.APIRoute):
        def matches(self, scope: Any) -> Any:
            router.add_api_route("/{name}", export)
            return super().matches(scope)

    def export(name: str) -> None:
        ran.append(name)

    app = fastapi.FastAPI()
    app.router.routes.append(Opens("/opens", export))
    app.include_router(router, prefix="/orders")
    app.router.add_api_route("/last/{order_id}", export)
    assert _asked(Guarded(app, {"GET /last/{order_id}": "orders.get"}), "GET", "/orders/1").code == "tool_not_allowed"

    def make() -> Any:
        made, inner = fastapi.FastAPI(), fastapi.APIRouter()
        inner.add_api_route("/{name}", export)
        made.include_router(inner, prefix="/orders")
        return made

    class Lazy:
        made: Any = None

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.made = self.made or make()
            await self.made(scope, receive, send)

    assert _asked(Guarded(Lazy(), READ), "GET", "/orders/1").code == "tool_not_allowed"
    assert ran == []


CASES = (
    routes_that_come_later_are_refused,
    no_handler_answers_for_a_refusal,
    the_way_decides_and_not_the_function,
    a_websocket_and_files_are_refused,
    an_included_router_hides_no_route,
    a_value_is_the_one_that_was_judged,
    a_declared_query_is_judged_by_its_types,
    a_number_in_the_path_is_judged_as_one,
    a_dependency_and_a_prefix_state_the_type_too,
    a_json_value_keeps_its_type,
    a_replaced_dependency_is_compared_too,
    endpoints_of_every_kind_run_once,
)
