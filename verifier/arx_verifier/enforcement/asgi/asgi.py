# SPDX-License-Identifier: Apache-2.0
"""ASGI middleware: every request needs a grant before the application runs.  SPEC 8.4, 11.

The middleware reads the credential and the body, once and bounded, and denies by default.  In an application of
Starlette or FastAPI, the gate of the matched route decides (``endpoints``).  For other applications, ``tools`` maps a
request to its tool beforehand.  ``calls`` ends a long response together with its grant.
"""

import asyncio
import contextlib
import functools
import logging
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Unpack

from arx_verifier.enforcement.asgi.calls import (
    CALL,
    HEAD,
    App,
    Call,
    Message,
    ReadHead,
    Receive,
    Replayed,
    RoutedScope,
    Send,
    http_call,
    require_gate,
    send_answer,
)
from arx_verifier.enforcement.asgi.endpoints import Endpoints
from arx_verifier.enforcement.asgi.public_call import PublicCall, is_preflight
from arx_verifier.enforcement.asgi.sockets import deny, socket_call
from arx_verifier.enforcement.base.client_address import Peers
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall, is_token
from arx_verifier.enforcement.base.routers import routers_of
from arx_verifier.enforcement.base.routes import PUBLIC, Headers, Meaning, RouteMap, Scope, Tools, collect_headers
from arx_verifier.enforcement.bounded_body import BodyTooLongError, ClientGoneError, receive_body
from arx_verifier.enforcement.grants.grant_life import RECHECK_MS
from arx_verifier.enforcement.grants.loop_calls import LoopCalls
from arx_verifier.errors import REASONS, ArxError, RequestError, SettingsError
from arx_verifier.verification.verifier import Screened, Verifier
from arx_verifier.verification.watch import GuardOptions, ended_by

MAX_BODY_BYTES: Final = 1024 * 1024  # the middleware holds a body in memory; its argument `max_body` sets another limit
_NO_TOOL: Final[Meaning] = ("", {})

_log = logging.getLogger(__name__)


class ArxMiddleware:
    """ASGI middleware: an endpoint runs with a grant, which is ``scope["arx"]``, or not at all.

    Args:
        app: The application.
        verifier: The verifier.  If the server runs ``lifespan``, it is started before the application and closed after.
        tools: Maps routes to tools; a request without an entry is refused.
        public: The routes that need no token: ``GET /healthz``, ``/docs`` for ``GET /docs``, or the name of a route.
        max_body: Longest body that is read, bytes.
        trusted_proxies: Networks of the proxies whose ``X-Forwarded-For`` is trusted.
        recheck_ms: Longest time between two rechecks of the grant of a running response, ms; at least 1.
        options: ``limits``, ``effects``, and ``mode`` and ``until`` of a guard that watches; see ``GuardOptions``.

    Raises:
        SettingsError: A route of ``tools`` is malformed or not a route of the application; a route cannot be guarded; a
            network or a limit is malformed; or ``recheck_ms`` is below 1.  In a running event loop, where
            ``add_middleware`` calls this, a mistake in ``tools`` fails the start instead; without a ``lifespan``, each
            call is answered 503.
    """

    def __init__(
        self,
        app: App,
        *,
        verifier: Verifier,
        tools: Tools,
        public: Iterable[str] = (),
        max_body: int = MAX_BODY_BYTES,
        trusted_proxies: Iterable[str] = (),
        recheck_ms: int = RECHECK_MS,
        **options: Unpack[GuardOptions],
    ) -> None:
        if recheck_ms < 1:
            raise SettingsError("recheck_ms is at least 1")
        self.app, self._enforcement = app, Enforcement(verifier, **options)
        self.verifier = self._enforcement.verifier
        self._watches = self._enforcement.watch is not None  # a watch ends, and none begins later
        self._calls = LoopCalls(self.verifier, recheck_ms)
        self._max_body, self._peers = max_body, Peers(trusted_proxies)
        self._max_digits = len(str(max_body))
        self._started = False
        self._endpoints: Endpoints | None = None
        self._meaning: Callable[[Scope, bytes], Meaning | None] | None = None
        self._wrong: SettingsError | None = None
        self._passes_on = False
        self._may_be_public: Callable[[Scope], bool] = _never
        try:
            self._read_tools(tools, public)
        except SettingsError as error:
            if not _in_event_loop():
                raise
            self._wrong = error  # raised here, servers would read it as an application without a lifespan, and go on

    def _read_tools(self, tools: Tools, public: Iterable[str]) -> None:
        if not isinstance(tools, Mapping):
            routes = RouteMap({}, public)
            self._may_be_public = routes.is_public
            self._meaning = tools
            if public:
                self._meaning = lambda scope, body: (PUBLIC, {}) if routes.is_public(scope) else tools(scope, body)
            return
        routers = routers_of(self.app)
        if routers:
            self._endpoints = Endpoints(routers, tools, public)
            self._passes_on = not hasattr(self.app, "routes")
            self._may_be_public = self._endpoints.may_be_public
        elif getattr(self.app, "routes", None) is not None:
            kind = type(self.app)
            raise SettingsError(
                f"the routes of {kind.__module__}.{kind.__qualname__} cannot be read: expected those of Starlette or "
                "FastAPI, or an application that shows none; give `tools` as a function"
            )
        else:
            self._meaning = table = RouteMap(tools, public)
            self._may_be_public = table.is_public

    def is_public(self, method: str, path: str) -> bool:
        """Return whether a route of a Starlette or FastAPI application is public.

        Args:
            method: The method.
            path: The path as the application declares it, without convertors.
        """
        return self._endpoints is not None and self._endpoints.is_public(method, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; see the ASGI specification."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        headers = collect_headers(scope["headers"])
        peer = self._peers.of_scope(scope, headers)
        body: bytes | bytearray
        is_unread, has_more = False, None
        read_head: ReadHead | None = scope.get(HEAD)
        if self._watches and read_head is None:
            receive = Replayed(receive)
        try:
            if not self._started:
                await self._start_late()
            # Before the body is read: a caller without a token of this service costs no more than its headers.
            screened = self._screen(headers, scope)
            if read_head is not None:
                body, has_more = await read_head(receive)
            else:
                body = await self._read_whole(headers, receive)
        except ClientGoneError:
            return
        except (BodyTooLongError, RefusedCall) as error:
            problem = error if isinstance(error, RefusedCall) else self._too_large()
            # It goes on as one whose body the guard has not read.
            if problem.status != 413 or not isinstance(receive, Replayed) or CALL in scope:
                await self._refuse(problem, headers, peer, scope, receive, send)
                return
            receive.rewind()
            body, is_unread = b"", True
        self._calls = calls = self._calls.here()
        body = bytes(body)
        http, line = http_call(scope, body), (scope["method"], scope["path"], scope["query_string"])
        endpoints: Any = self._endpoints  # None for an application without gates, which alone read it
        call = Call(self._enforcement, calls, http, headers, screened, body, receive, send, peer, endpoints, line)
        call.is_unread, call.has_more = is_unread, has_more
        await self._run(call, scope, send)

    async def _read_whole(self, headers: Headers, receive: Receive) -> bytes | bytearray:
        declared = headers.get(b"content-length")
        # A number with fewer digits than the limit is below it.
        if declared is not None and len(declared) >= self._max_digits and self._is_beyond(declared):
            raise self._too_large()
        message = await receive()
        body: bytes = message.get("body", b"")
        # Nearly every body is in one message.
        if message["type"] == "http.request" and not message.get("more_body") and len(body) <= self._max_body:
            return body
        return await receive_body(receive, self._max_body, message)

    async def _run(self, call: Call, scope: Scope, send: Send) -> None:
        if self._endpoints is None:
            await self._decide_here(call, scope, send)
            return
        scope[CALL] = call
        try:
            await call.run(self.app, self._shown(call, scope))
        finally:
            scope.pop(CALL, None)  # the call refers to the scope: without this they are a reference cycle

    def _screen(self, headers: dict[bytes, bytes], scope: Scope) -> Screened | RefusedCall:
        """Return the authenticated token, and remove it from the request; in watch mode also why there is none.

        Raises:
            RefusedCall: It has none.
        """
        if CALL in scope:
            # One call proof covers one call: the inner application would decide on a nonce that is used already.
            raise RefusedCall("tool_not_allowed", "this application is within another one that is guarded")
        try:
            screened = self._enforcement.screen(headers.get(b"authorization", b""))
        except RefusedCall as problem:
            if self._enforcement.watch is None:
                raise
            # The application's own credentials pass, and no token that was made for ARx.
            scope["headers"] = [
                pair for pair in scope["headers"] if pair[0].lower() != b"authorization" or not is_token(pair[1])
            ]
            return problem.with_traceback(None)
        headers.pop(b"authorization", None)
        # The application has no use for it.  What collects the variables of an exception would find it in the scope.
        pairs = scope["headers"]
        if len(pairs) == len(headers) + 1:  # each name once, as in nearly every request
            scope["headers"] = [*headers.items()]
        else:
            scope["headers"] = [pair for pair in pairs if pair[0].lower() != b"authorization"]
        return screened

    async def _refuse(
        self, problem: RefusedCall, headers: Headers, peer: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Refuse a request before its decision; one without a token of this service may still be for a public route."""
        preflight = self._endpoints is not None and is_preflight(scope, headers)
        # A refusal of the token alone is one before the body was read, and a public route needs no token.
        if REASONS[problem.code].status != 401 or CALL in scope or not (preflight or self._may_be_public(scope)):
            self._enforcement.count(problem, peer)
            await send_answer(self._enforcement.answer(problem), scope["method"], send)
            return
        call = PublicCall(self._enforcement, scope, send, peer, problem, preflight=preflight)
        await self._run_public(call, scope, receive)

    async def _run_public(self, call: PublicCall, scope: Scope, receive: Receive) -> None:
        if self._endpoints is None:
            call.admit(self)
            await call.run(self.app, self._shown(call, scope), receive)
            return
        scope[CALL], call.endpoints = call, self._endpoints
        try:
            await call.run(self.app, self._shown(call, scope), receive)
        finally:
            scope.pop(CALL, None)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            raise NotImplementedError(f"ASGI scope type: expected 'http', got {scope['type']!r:.40}")

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decide on the handshake of a WebSocket, which has no body."""
        headers = collect_headers(scope.get("headers", ()))
        peer = self._peers.of_scope(scope, headers)
        screened = None
        try:
            await self._start_late()
            screened = self._screen(headers, scope)
            if self._endpoints is None and not isinstance(self._meaning, RouteMap):
                raise RefusedCall("tool_not_allowed", "`tools` is a function, which maps no WebSocket")
        except RefusedCall as problem:
            if not self._is_killed(screened) and self._enforcement.spares(problem, peer):
                await self.app(scope, receive, send)
                return
            self._enforcement.count(problem, peer)
            await receive()
            await deny(self._enforcement.answer(problem), scope.get("extensions") or {}, send)
            return
        self._calls = calls = self._calls.here()
        call = socket_call(self._enforcement, calls, scope, headers, screened, receive, send, peer, self._endpoints)
        await self._run(call, scope, send)

    def _is_killed(self, screened: Screened | RefusedCall | None) -> bool:
        return isinstance(screened, Screened) and ended_by(self.verifier.epochs, screened.proven) is not None

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[None]:
        """Start the verifier and close it: the ``lifespan`` for an application that mounts this one.

        Raises:
            SettingsError: ``tools`` has a mistake.
        """
        await self._start()
        try:
            yield
        finally:
            await self._close()

    async def _decide_here(self, call: Call, scope: Scope, send: Send) -> None:
        """Decide on the tool that ``tools`` maps the request to, before the application runs."""
        assert self._meaning is not None
        try:
            if call.is_unread:
                raise RequestError("the body is too long")
            tool, args = self._meaning(scope, call.body) or _NO_TOOL
            if tool is PUBLIC:
                public = PublicCall(self._enforcement, scope, send, None, RefusedCall("tool_not_allowed"))
                await self._run_public(public, scope, call.replay())
                return
            if (wait := call.decide(tool, args, scope)) is not None:
                await wait
        except (RequestError, RefusedCall) as error:
            await call.pass_or_refuse(error, self, scope, lambda: call.run(self.app, scope))
        else:
            await call.run(self.app, self._shown(call, scope))

    def _shown(self, call: Call | PublicCall, scope: Scope) -> Scope:
        """Return the scope for the application, which must run no endpoint on whose route nothing was decided."""
        if isinstance(self._meaning, RouteMap):
            return RoutedScope(scope, call.end_unseen)
        return RoutedScope(scope, functools.partial(require_gate, call)) if self._passes_on else scope

    def _is_beyond(self, declared: bytes) -> bool:
        return declared.isdigit() and (len(declared) > 18 or int(declared) > self._max_body)

    def _too_large(self) -> RefusedCall:
        return RefusedCall("malformed_request", f"the body is longer than {self._max_body} bytes", 413)

    async def _start(self) -> None:
        if self._wrong is not None:
            raise self._wrong
        if not self._started:
            await asyncio.to_thread(self.verifier.start)  # idempotent, so that two calls may come here at once
            self._started = True

    async def _start_late(self) -> None:
        """Start the verifier with a call, if the server ran no ``lifespan``.

        Raises:
            RefusedCall: ``tools`` has a mistake.
        """
        try:
            await self._start()
        except SettingsError as error:
            if error is not self._wrong:
                raise
            _log.error("every call is refused: %s", error)
            raise RefusedCall("closed") from error

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the verifier before the application and close it afterwards, also if it has no lifespan of its own."""
        begun = False

        async def receive_and_start() -> Message:
            nonlocal begun
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
                begun = True
            return message

        async def send_and_close(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed", "lifespan.startup.failed"):
                await self._close()
            await send(message)

        try:
            await self.app(scope, receive_and_start, send_and_close)
        except Exception as error:
            if begun:
                await self._close()
                raise
            if isinstance(error, ArxError):
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise  # a server uses the message; a test client would take a return for a successful start
            await self._own_lifespan(receive_and_start, send_and_close)

    async def _own_lifespan(self, receive: Receive, send: Send) -> None:
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _close(self) -> None:
        if self._started:
            self._started = False
            await asyncio.to_thread(self.verifier.close)


def _never(_: Scope) -> bool:
    return False


def _in_event_loop() -> bool:
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True
