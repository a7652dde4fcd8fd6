# SPDX-License-Identifier: Apache-2.0
"""Draw an application: routes in routers, mounts, hosts, convertors, typed parameters, and what each endpoint saw.

The same seed draws the same application again, so that one can be guarded and its twin left bare.
"""

import functools
import inspect
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router

try:
    import fastapi
    from pydantic import create_model
except ImportError:
    fastapi = None

KEEPS_MOUNTS = fastapi is not None and hasattr(fastapi.routing, "_IncludedRouter")
LITERALS = ("orders", "export", "latest", "7", "x")
CONVERTORS = ("", "", "", ":int", ":float", ":path", ":uuid")
NAMES = ("id", "kind", "n")
TYPES = (str, str, int, int | None, bool, float, Decimal)
HOSTS = ("a.example", "{tenant}.example")


class Drawn:
    """An application, and what its endpoints saw.

    Attributes:
        app: The application.
        routes: Method, path as declared, and number of each endpoint.
        ran: Number of each endpoint that ran, with the values that it got and the tool of its grant.
        early: What of the application ran before an endpoint: tool of the grant then, or None without one.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.routes: list[tuple[str, str, int]] = []
        self.ran: list[tuple[int, dict[str, Any], Any]] = []
        self.early: list[Any] = []
        self._fast = fastapi is not None and self._random.random() < 0.8
        self.app: Any = self._application(self._fast, "", "", 3)

    def _pick(self, *choices: Any) -> Any:
        return self._random.choice(choices)

    def _application(self, fast: bool, before: str, host: str, deep: int) -> Any:
        children = self._random.randint(2, 5) if deep == 3 else self._random.randint(1, 3)
        if not fast:
            routes = [self._child(None, before, host, deep) for _ in range(children)]
            return self._pick(Starlette, Router)(routes=routes)
        root = self._pick("", "", "/root", "/orders")
        app = fastapi.FastAPI(openapi_url=None, root_path=root if deep == 3 else "")
        for _ in range(children):
            child = self._child(app.router, before, host, deep)
            if child is not None:
                app.router.routes.append(child)
        return app

    def _child(self, router: Any, before: str, host: str, deep: int, included: bool = False) -> Any:
        """Draw one route; None when it is in the router already."""
        kind = self._random.random()
        if kind < 0.32 and included and not KEEPS_MOUNTS:
            kind = 0.6  # a version that leaves out what is mounted in an included router
        if deep > 0 and kind < 0.25:
            path = self._path(1)
            fast = fastapi is not None and self._random.random() < 0.3
            inner = self._application(fast, before + path, host, deep - 1)
            return Mount(path, app=self._wrapped(inner))
        if deep > 0 and kind < 0.32 and not host:
            pattern = self._pick(*HOSTS)
            return Host(pattern, app=self._application(False, before, f"//{pattern}", deep - 1))
        if deep > 0 and kind < 0.55 and router is not None:
            self._include(router, before, host, deep)
            return None
        if router is None or kind < 0.65:
            return self._plain(before, host)
        self._api(router, before, host)
        return None

    def _wrapped(self, app: Any) -> Any:
        """Put something around an application, as services do."""

        async def around(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)

        return self._pick(app, app, around, functools.partial(around))

    def _path(self, most: int, names: Sequence[str] = NAMES) -> str:
        parts, free = [], list(names)
        for _ in range(self._random.randint(1, most)):
            if free and self._random.random() < 0.5:
                name = free.pop(self._random.randrange(len(free)))
                parts.append("{" + name + self._pick(*CONVERTORS) + "}" + self._pick("", "", "", ".json"))
            else:
                parts.append(self._pick(*LITERALS))
        return "/" + "/".join(parts)

    def _number(self, methods: list[str], path: str, host: str) -> int:
        number = len(self.routes)
        self.routes += [(method, host + path, number) for method in methods]
        return number

    def _plain(self, before: str, host: str) -> Route:
        path, methods = self._path(3), self._pick(["GET"], ["GET"], ["POST"], ["GET", "POST"])
        number = self._number(methods, before + path, host)

        def saw(request: Request) -> PlainTextResponse:
            grant = request.scope.get("arx")
            self.ran.append((number, {**request.path_params, **request.query_params}, grant and grant.tool))
            return PlainTextResponse("done")

        async def saw_async(request: Request) -> PlainTextResponse:
            return saw(request)

        class Saw(HTTPEndpoint):
            async def get(self, request: Request) -> PlainTextResponse:
                return saw(request)

            post = get

        kind = self._random.random()
        endpoint = (
            saw if kind < 0.2 else Saw if kind < 0.4 else functools.partial(saw_async) if kind < 0.5 else saw_async
        )
        return Route(path, endpoint, methods=methods)

    def _include(self, router: Any, before: str, host: str, deep: int) -> None:
        prefix = self._pick("", self._path(1, [f"pre{deep}"]), "/orders")
        inner = fastapi.APIRouter()
        for _ in range(self._random.randint(1, 3)):
            child = self._child(inner, before + prefix, host, deep - 1, included=True)
            if child is not None:
                inner.routes.append(child)
        router.include_router(inner, prefix=prefix, dependencies=self._pick([], [fastapi.Depends(self._early)]))

    def _early(self, request: fastapi.Request if fastapi else Any) -> None:  # type: ignore[valid-type]
        self.early.append(request.scope.get("arx"))

    def _api(self, router: Any, before: str, host: str) -> None:
        path, method = self._path(3), self._pick("GET", "GET", "POST")
        number = self._number([method], before + path, host)

        def saw(request: Request, **values: Any) -> str:
            grant = request.scope.get("arx")
            self.ran.append((number, values, grant and grant.tool))
            return "done"

        async def saw_async(request: Request, **values: Any) -> str:
            return saw(request, **values)

        endpoint = self._pick(saw, saw_async)
        keyword = inspect.Parameter.KEYWORD_ONLY
        fields = [inspect.Parameter("request", keyword, annotation=Request)]
        for name in NAMES:
            if "{" + name in path:
                fields.append(inspect.Parameter(name, keyword, annotation=self._pick(*TYPES)))
        if method == "GET" and self._random.random() < 0.5:
            fields.append(inspect.Parameter("q", keyword, annotation=self._pick(*TYPES), default=None))
        if method == "POST":
            fields.append(inspect.Parameter("amount", keyword, annotation=self._body()))
        endpoint.__signature__ = inspect.Signature(fields)  # type: ignore[attr-defined]
        router.add_api_route(path, endpoint, methods=[method])

    def _body(self) -> Any:
        kind = self._pick(int, str, float, bool)
        if self._random.random() < 0.5:
            return create_model("Body", amount=(kind, ...), note=(str, "none"))
        from typing import Annotated

        return Annotated[kind, fastapi.Body(embed=True)]

    def add_late(self) -> None:
        """Add a route in front of all others, as nothing does that was read before."""
        number = len(self.routes)

        async def late(request: Request) -> PlainTextResponse:
            self.ran.append((number, {}, None))
            return PlainTextResponse("late")

        routes = getattr(self.app, "router", self.app).routes
        routes.insert(self._random.randint(0, len(routes)), Route(self._path(2), late))
