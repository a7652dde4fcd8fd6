# SPDX-License-Identifier: Apache-2.0
"""Gates at the routes of Starlette and FastAPI: each decides on the tool of the matched route.  SPEC 8.4.

``Endpoints`` walks an application's routes and replaces each handler by a ``Gate``.  The framework routes.  The gate of
the matched route decides with the parameters that the framework matched, before the endpoint, its dependencies and its
middleware.  The gate of a route that ``tools`` does not name refuses.

A route that is added later gets its gate before the router has it (``Routes``).  If a program replaces a router's list
of routes, ``Dispatch`` finds the routes without a gate at the next call.  This module imports no framework: it reaches
every object through the application.
"""

# The framework must route, and not a second router here: two routers that read one path differently would decide on one
# tool and run another.

import functools
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Self, SupportsIndex, TypeAlias

import msgspec

from arx_verifier.enforcement.asgi.calls import CALL, App, Call, Receive, Send, send_answer
from arx_verifier.enforcement.asgi.sockets import SocketScope, deny
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.parameters import RUNNING, Parameters, Sent, checked, declared_query
from arx_verifier.enforcement.base.problems import answer
from arx_verifier.enforcement.base.routers import DEEP, is_own, require_own_dispatch, routers_of
from arx_verifier.enforcement.base.routes import (
    PUBLIC,
    WEBSOCKET,
    Key,
    Scope,
    converted_argument,
    join_arguments,
    parameter_text,
    path_argument,
    read_body,
    read_keys,
    require_clean_path,
)
from arx_verifier.errors import RequestError, SettingsError

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")
_NAME: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HOST: Final = re.compile(r"\A//[^/]*")
_TAKEN: Final = "one call runs one endpoint, and another one was reached"
_NEVER: Final = [0]  # the ids of no routes
_BARE: Final = "this application is guarded: call it through its ArxMiddleware"


class Gate:
    """A replacement of a route's handler, which decides and then runs it.

    Args:
        route: The route.
        inner: Its handler.
    """

    def __init__(self, route: Any, inner: App) -> None:
        self._route, self._inner = route, inner
        self.__name__ = getattr(getattr(route, "endpoint", None), "__name__", type(route).__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; see the ASGI specification."""
        await self.run(scope, receive, send)

    # A call of a method costs half as much as one of an object.
    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as a route's ``handle``."""
        call: Call | None = scope.get(CALL)
        if call is None:
            await self._run_bare(scope, receive, send)
            return
        try:
            if call.is_unread:
                raise RefusedCall("malformed_request")
            # A middleware could call the application again with a changed scope: the second route was never decided.
            # One that was refused, as a middleware began an answer before, runs none.
            if call.life is not None or call.problem is not None:
                raise RefusedCall("tool_not_allowed", _TAKEN)
            tool, args = call.endpoints.meaning(self._route, call, scope)
            if tool is PUBLIC:
                call.admit(self._route)
            else:
                wait = call.decide(tool, args, scope)
                if wait is not None:
                    await wait
        except (RequestError, RefusedCall) as error:
            run = functools.partial(self._run_public, call, scope, receive, send)
            await call.pass_or_refuse(error, self._route, scope, run, send)
        else:
            # The endpoint reads the body of the decision, even if a middleware replaced ``receive``.
            if tool is PUBLIC:
                await self._run_public(call, scope, receive, send)
            elif call.parameters is None:
                await self._inner(scope, call.replay(), send)
            else:
                await self._run_compared(call, call.parameters, scope, send)

    async def _run_bare(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The request did not pass the middleware: another server, or a mount, runs the guarded application.
            await send_answer(answer("tool_not_allowed", realm="", detail=_BARE), scope["method"], send)
        elif scope["type"] == "websocket":
            await deny(answer("tool_not_allowed", realm="", detail=_BARE), scope.get("extensions") or {}, send)
        else:
            await self._inner(scope, receive, send)

    async def _run_public(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        token = RUNNING.set(call)
        try:
            await self._inner(scope, receive, send)
        finally:
            RUNNING.reset(token)

    async def _run_compared(self, call: Call, parameters: Parameters, scope: Scope, send: Send) -> None:
        token = RUNNING.set(call)
        try:
            call.compare(parameters.require_judged_before)
            await self._inner(scope, call.replay(), send)
        except Exception:
            if call.unjudged is None:
                raise
        finally:
            RUNNING.reset(token)
            if call.unjudged is not None and call.life is not None:
                call.life.end(call.unjudged)
        if call.unjudged is not None:
            await call.withdraw(call.unjudged)


class Dispatch:
    """A replacement of a router's handler, which first adds gates to routes without one."""

    def __init__(self, router: Any, inner: App) -> None:
        self._router, self._inner = router, inner

    def run(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection, as a router's ``middleware_stack``."""
        call: Call | None = scope.get(CALL)
        if call is not None:
            call.endpoints.require_gates(self._router)
            if call.rest is None:
                call.rest = _rest_of(scope) if scope.get("root_path") else scope["path"]
            if call.is_socket:
                scope = SocketScope(scope)
        return self._inner(scope, receive, send)


class Served(msgspec.Struct, frozen=True):
    """One way to a route.

    Attributes:
        route: The route.
        declared: Its whole path as declared, with convertors, mounts and host (``//host``).
        path: The same without convertors.
        parts: The path without its host: literal, parameter, literal …
        convertors: For each parameter the function that writes its value; None for text.
        converts: Whether a parameter has such a function.
        keys: The lines of ``tools`` that name it, by method.
        is_fastapi: Whether the framework converts the arguments for the endpoint and its dependencies.
        clean: The path itself if it has no parameters and can be read in one way; else None.
        raw: The same as it is sent.
    """

    route: Any
    declared: str
    path: str
    parts: list[str]
    convertors: dict[str, Any]
    converts: bool
    keys: dict[str, Key]
    is_fastapi: bool
    clean: str | None
    raw: bytes

    def texts(self, parameters: Mapping[str, Any], root: str) -> dict[str, str]:
        """Return each parameter as it was sent.

        Args:
            parameters: The values that the framework matched.
            root: The ``root_path``.

        Raises:
            RequestError: A parameter was sent in another spelling than that of its value.
        """
        found = {}
        for name, value in parameters.items():
            found[name] = text = (self.convertors.get(name) or parameter_text)(name, value)
            if type(value) is not str and name not in self.convertors and text not in root.split("/"):
                raise RequestError(
                    f"parameter {name!r:.80} of the path: expected {text!r:.80}, the spelling of its value"
                )
        return found

    def arguments(self, parameters: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
        """Return each parameter as it is judged: an integer or a float of the framework's own convertors as its number.

        Args:
            parameters: The values that the framework matched.
            texts: ``texts`` of them.

        Raises:
            RequestError: As ``converted_argument``.
        """
        # The text of another convertor, such as a hexadecimal one, is not that of its number.
        return {
            name: converted_argument(name, value)
            if self.convertors.get(name) in (None, parameter_text)
            else texts[name]
            for name, value in parameters.items()
        }

    def fill(self, texts: Mapping[str, str]) -> str | None:
        """Return the path with these parameters; None if the route has other ones."""
        if not self.convertors.keys() <= texts.keys():
            return None
        parts = self.parts.copy()
        parts[1::2] = [texts[name] for name in parts[1::2]]
        return "".join(parts)


class Routes(list[Any]):
    """The routes of a router; each has its gate before it is in the list.

    Args:
        routes: The present routes.
        guard: Adds gates to routes.
    """

    # The gate comes first: a thread that adds a route while a call is routed would otherwise open it for that call.

    def __init__(self, routes: Iterable[Any], guard: Callable[[list[Any]], None]) -> None:
        super().__init__(routes)
        self._guard = guard

    def append(self, route: Any) -> None:
        """Add a route at the end."""
        self.insert(len(self), route)

    def insert(self, at: SupportsIndex, route: Any) -> None:
        """Add a route before another one."""
        self._guard([route])
        super().insert(at, route)

    def extend(self, routes: Iterable[Any]) -> None:
        """Add routes at the end."""
        self[len(self) :] = routes

    def __iadd__(self, routes: Iterable[Any]) -> Self:  # type: ignore[misc]  # a sum of lists is a plain list
        self.extend(routes)
        return self

    def __setitem__(self, at: Any, new: Any) -> None:
        new = list(new) if isinstance(at, slice) else new
        self._guard(new if isinstance(at, slice) else [new])
        super().__setitem__(at, new)


Held: TypeAlias = tuple[Any, str, list[int], list[Any]]
"""A list of routes: its owner, its name there, the ids of the routes, and the routes, so that no id is used again."""


class Endpoints:
    """The endpoints of an application, each behind a gate.

    Args:
        routers: The application's outermost routers.
        tools: The table: ``METHOD /path`` as the application declares it, or the route's name, and the tool.
        public: The routes that need no token; see ``read_keys``.

    Raises:
        SettingsError: A line of the table names no endpoint, or more than one, or something cannot be guarded.
    """

    def __init__(self, routers: list[Any], tools: Mapping[str, str], public: Iterable[str] = ()) -> None:
        self._routers, self._lock = routers, threading.Lock()
        self._served: dict[int, list[Served]] = {}
        self._held: dict[int, list[Held]] = {}
        self._parameters: dict[int, Parameters] = {}
        self._sockets: dict[int, Any] = {}
        self._changed = False
        keys = read_keys(tools, public)
        every = [served for router in routers for served in self._guard(router, "", "", DEEP)]
        for key in keys:
            self._name(key, every)
        for served in every:
            if served.keys:
                self._served.setdefault(id(served.route), []).append(served)
        compile_path = sys.modules["starlette.routing"].compile_path
        self._public: list[tuple[str, re.Pattern[str]]] = [
            (method, compile_path(_HOST.sub("", one.declared))[0])
            for one in every
            for method, key in one.keys.items()
            if key.tool is PUBLIC
        ]

    def _name(self, key: Key, every: list[Served]) -> None:
        """Give a line of the table to the route that it names."""
        named = [one for one in every if key.path == one.declared and _takes(one.route, key.method)]
        named = named or [one for one in every if key.path == one.path and _takes(one.route, key.method)]
        if not key.method:
            named = [one for one in every if key.path == getattr(one.route, "name", None)]
            named = named or [one for one in every if key.path == getattr(one.route.endpoint, "__name__", None)]
        table = "`public`" if key.tool is PUBLIC else "`tools`"
        if len({id(one.route) for one in named}) != 1:
            if key.method or named:
                shown = {one.declared for one in (every if key.method else named) if _takes(one.route, key.method)}
                has = f"for {key.method or 'this name'} it has"
            else:
                shown, has = {str(getattr(one.route, "name", "")) for one in every}, "its names are"
            raise SettingsError(
                f"{table} names {key.text!r:.100}: expected one route of the application, found {len(named)}; "
                f"{has} {', '.join(sorted(shown)[:20]) or 'none'}"
            )
        route = named[0].route
        methods = _methods_of(route)
        if not methods and not key.method:
            raise SettingsError(f"{table} names {key.text!r:.100}, which takes every method: name each with its path")
        if key.tool is PUBLIC and WEBSOCKET in methods:
            raise SettingsError(f"`public` names {key.text!r:.100}: a WebSocket needs a token")
        if key.tool is PUBLIC and len(named) != sum(one.route is route for one in every):
            raise SettingsError(f"`public` names {key.text!r:.100}, a route that has other paths too: give its name")
        declared = declared_query(route.dependant) if named[0].is_fastapi else {}
        for one in named:
            if len(one.convertors) != one.declared.count("{"):
                raise SettingsError(f"{table} names {key.text!r:.100}: two parameters of {one.declared} have one name")
            for method in (key.method,) if key.method else sorted(methods - {"HEAD"}):
                given = key if key.method else key.of(method, declared)
                if one.keys.setdefault(method, given) != given:
                    raise SettingsError(f"{table} names the route {method} {one.declared} twice")
                if method == "GET" and _takes(route, "HEAD"):
                    one.keys.setdefault("HEAD", given)

    def may_be_public(self, scope: Scope) -> bool:
        """Return whether a request without a token may be routed: its path is that of a public route.

        Args:
            scope: The ASGI ``http`` scope.
        """
        paths = {scope["path"], _rest_of(scope)} if scope.get("root_path") else (scope["path"],)
        return any(
            method == scope["method"] and pattern.match(path) for method, pattern in self._public for path in paths
        )

    def is_public(self, method: str, path: str) -> bool:
        """Return whether a route is public.

        Args:
            method: The method.
            path: The path as the application declares it, without convertors.
        """
        ways = [one for ways in self._served.values() for one in ways if one.path == path]
        return any(one.keys[method].tool is PUBLIC for one in ways if method in one.keys)

    def meaning(self, route: Any, call: Call, scope: Scope) -> tuple[str, dict[str, Any]]:
        """Return the tool and the arguments of a call that has reached a route.

        Args:
            route: The route.
            call: The call.
            scope: The scope, with the parameters that the framework matched.

        Returns:
            Both; an empty tool if ``tools`` does not name the route, and ``PUBLIC`` for a public one.

        Raises:
            RequestError: The call has no single meaning.
        """
        ways = self._served.get(id(route))
        # Fail closed: no tool, so the call is refused as a route that `tools` does not name.
        if ways is None:
            return "", {}
        way = ways[0]
        parameters = scope.get("path_params")
        texts = way.texts(parameters, scope.get("root_path", "")) if parameters else {}
        if way.converts or self._changed or len(ways) > 1:
            found = [each for each in ways if each.fill(texts) == call.rest]
            if not found:
                raise RequestError(f"the path: expected {way.fill(texts)!r:.200}, the spelling of its values")
            way = found[0]
        method = scope.get("method", WEBSOCKET)
        key = way.keys.get(method)
        if key is None or key.tool is PUBLIC:
            return ("", {}) if key is None else (PUBLIC, {})
        # A path without parameters is the same in each call of its route, and was checked before.
        if scope["path"] != way.clean or scope.get("raw_path") != way.raw:
            require_clean_path(scope)
        raw, body = scope["query_string"], call.body
        query, members = key.read_query(raw) if raw else {}, read_body(call.headers, body)
        arguments = way.arguments(parameters, texts) if parameters else {}
        if way.is_fastapi:
            call.parameters = known = self._parameters_of(route, scope)
            call.sent = Sent(texts, query, members if body else None)
            arguments |= {
                name: path_argument(name, arguments[name], kind)
                for name, kind in known.path_kinds.items()
                if type(arguments.get(name)) is str
            }
        return key.tool, join_arguments(key, method, arguments, key.typed(query), members, has_body=bool(body))

    def _parameters_of(self, route: Any, scope: Scope) -> Parameters:
        """Return the parameters that the framework will convert, with those of the routers' dependencies."""
        context = scope.get("fastapi", {}).get("effective_route_context")
        if getattr(context, "original_route", None) is route:
            route = context
        provider = getattr(route, "dependency_overrides_provider", scope.get("app"))
        if "method" not in scope:  # a WebSocket: its route may be a copy, with the dependencies of its router
            route = scope["route"]
        overrides = getattr(provider, "dependency_overrides", {})
        known = self._parameters.get(id(route.dependant))
        if known is None or overrides:
            known = Parameters(route.dependant, route._embed_body_fields, overrides)  # noqa: SLF001 - of FastAPI
            if not overrides:
                self._parameters[id(route.dependant)] = known  # holds the dependant, and so its id
        return known

    def gate_copy(self, route: Any) -> None:
        """Add a gate to a route of WebSockets that FastAPI copied from one of an included router."""
        if not _is_guarded(route):
            route.handle = Gate(self._sockets.get(id(route.endpoint), route), route.handle).run

    def require_gates(self, router: Any) -> None:
        """Add gates to the routes of a router that have none."""
        for owner, name, ids, _ in self._held.get(id(router)) or [(router, "routes", _NEVER, [])]:
            # By identity, as an equal route may be another object without a gate.
            if [*map(id, getattr(owner, name, ()))] != ids:
                with self._lock:
                    self._changed = True
                    for each in self._routers:
                        list(self._guard(each, "", "", DEEP))
                return

    def _guard_new(self, router: Any, routes: list[Any]) -> None:
        """Add gates to routes before a router has them."""
        with self._lock:
            self._changed = True
            for route in routes:
                list(self._guard_route(route, "", "", DEEP, [(router, "", [], [])]))

    def _guard(
        self, router: Any, before: str, host: str, deep: int, into: list[Held] | None = None
    ) -> Iterator[Served]:
        """Add a gate to each route of a router, and yield the ways to it."""
        require_own_dispatch(router, deep)
        held = [] if into is None else into
        if into is None:
            self._held[id(router)] = held
            if not isinstance(getattr(router.middleware_stack, "__self__", None), Dispatch):
                router.middleware_stack = Dispatch(router, router.middleware_stack).run
        if not isinstance(router.default, Gate) and not is_own(router.default):
            router.default = Gate(router, router.default)
        fresh = False
        for name in ("routes", "_low_priority_routes"):
            routes = getattr(router, name, None)
            if routes is None:
                continue
            if not isinstance(routes, Routes):
                routes = Routes(routes, functools.partial(self._guard_new, router))
                setattr(router, name, routes)
            held.append((router, name, list(map(id, routes)), list(routes)))
            for route in routes:
                fresh = not _is_guarded(route) or fresh
                yield from self._guard_route(route, before, host, deep, held)
        if fresh and hasattr(router, "_mark_routes_changed"):
            router._mark_routes_changed()  # noqa: SLF001 - FastAPI then rebuilds its copies of an included router

    def _guard_route(self, route: Any, before: str, host: str, deep: int, held: list[Held]) -> Iterator[Served]:
        routing = sys.modules["starlette.routing"]
        path = before + getattr(route, "path", "")
        context = getattr(route, "include_context", None)
        if context is not None and hasattr(route.original_router, "_mark_routes_changed"):
            yield from self._guard(route.original_router, before + context.prefix, host, deep - 1, held)
        elif isinstance(route, (routing.Mount, routing.Host)):
            inner = routers_of(route.app)
            for router in inner:
                yield from self._guard(router, path, f"//{route.host}" if hasattr(route, "host") else host, deep - 1)
            if not inner and not isinstance(route.app, Gate):
                route.app = Gate(route, route.app)
        else:
            _guard_handler(route, hasattr(held[0][0], "_mark_routes_changed"))
            if isinstance(route, routing.WebSocketRoute):
                self._sockets[id(route.endpoint)] = route
            if isinstance(route, (routing.Route, routing.WebSocketRoute)):
                yield _served(route, path, host)


def _rest_of(scope: Scope) -> str:
    """Return the part of the path that an application routes, by the rule of Starlette."""
    path: str = scope["path"]
    root: str = scope["root_path"]
    if not path.startswith(root) or path[len(root) :][:1] not in ("", "/"):
        return path
    return path[len(root) :]


def _is_guarded(route: Any) -> bool:
    return isinstance(getattr(getattr(route, "handle", None), "__self__", None), Gate)


def _guard_handler(route: Any, is_remade: bool) -> None:
    """Add a gate to a route.

    Raises:
        SettingsError: The route's class does not allow it.
    """
    if _is_guarded(route):
        return
    try:
        route.handle = Gate(route, route.handle).run
        if hasattr(route, "dependant") and hasattr(route, "endpoint"):  # a frontend of FastAPI has none
            require = functools.partial(_require_judged, route)
            route.endpoint = route.dependant.call = checked(route.endpoint, require)
        elif is_remade and hasattr(route, "endpoint"):
            route.endpoint = Gate(route, route.app)  # FastAPI rebuilds a plain route of an included router from this
    except AttributeError as error:
        kind = type(route)
        raise SettingsError(f"a route cannot be guarded: {kind.__module__}.{kind.__qualname__}: {error}") from error


def _require_judged(route: Any, values: Mapping[str, Any]) -> None:
    # The endpoint's own check: a program that calls it past its route, such as another endpoint, has no decision for
    # it.
    call: Call | None = RUNNING.get()
    if call is not None and call.admitted is route:
        return
    if call is None or call.parameters is None:
        raise RequestError("an endpoint that is guarded was called from outside of its route")
    call.compare(call.parameters.require_judged, values)


def _methods_of(route: Any) -> set[str]:
    """Return the methods of a route; empty for all."""
    methods: set[str] | None = getattr(route, "methods", {WEBSOCKET})
    return methods or set()


def _takes(route: Any, method: str) -> bool:
    methods = _methods_of(route)
    return not method or (method in methods if methods else method != WEBSOCKET)


def _served(route: Any, declared: str, host: str) -> Served:
    types = sys.modules["starlette.convertors"].CONVERTOR_TYPES
    writers = {name: _writer(types[kind or "str"]) for name, kind in _PARAMETER.findall(host + declared)}
    path = _PARAMETER.sub(r"{\1}", declared)
    bare, converts = _PARAMETER.sub(r"{\1}", host) + path, any(writers.values())
    parts, is_fastapi, raw = _NAME.split(path), hasattr(route, "dependant"), path.encode("utf-8", "replace")
    clean = path if not writers and _is_clean(path, raw) else None
    return Served(route, host + declared, bare, parts, writers, converts, {}, is_fastapi, clean, raw)


def _is_clean(path: str, raw: bytes) -> bool:
    try:
        require_clean_path({"path": path, "raw_path": raw})
    except RequestError:
        return False
    return True


def _writer(convertor: Any) -> Any:
    """Return the function that writes a parameter's value in its one spelling; None if the framework keeps the text."""
    types = sys.modules["starlette.convertors"]
    # The exact types: a subclass may change the value, and its text is then not what the tool receives.
    if type(convertor) in (types.StringConvertor, types.PathConvertor):
        return None
    if type(convertor) in (types.IntegerConvertor, types.FloatConvertor, types.UUIDConvertor):
        return parameter_text

    def write(name: str, value: Any) -> str:
        try:
            return str(convertor.to_string(value))
        except (AssertionError, TypeError, ValueError) as error:
            raise RequestError(f"parameter {name!r:.80} of the path has no spelling of its value") from error

    return write
