# SPDX-License-Identifier: Apache-2.0
"""Put a verifier around any ASGI application: nothing of it runs without a grant.  SPEC 8.4, 11.

This is the outer of two steps.  It reads the credential and the body, once and bounded, and denies by default.  In an
application of Starlette or FastAPI the route that the framework takes decides (``endpoints``); for any other one
``tools`` says beforehand what a request means.

WebSockets are refused: a grant is for one call, and a connection outlives it.  A response that lasts is ended with its
grant (``calls``).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final

from arx_verifier.enforcement.calls import (
    CALL,
    RECHECK_MS,
    App,
    Call,
    Judged,
    Message,
    Receive,
    Send,
    Young,
    send_answer,
)
from arx_verifier.enforcement.client_address import Peers
from arx_verifier.enforcement.endpoints import Endpoints
from arx_verifier.enforcement.enforcement import Enforcement, Problem
from arx_verifier.enforcement.routers import routers_of
from arx_verifier.enforcement.routes import Headers, Meaning, RouteMap, Scope, Tools, collect_headers
from arx_verifier.errors import ArxError, RequestError, SettingsError
from arx_verifier.verification import Verifier

MAX_BODY_BYTES: Final = 1024 * 1024
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1
_NO_TOOL: Final[Meaning] = ("", {})

_log = logging.getLogger(__name__)


class _Disconnected(Exception):  # noqa: N818 - never leaves this module
    """The client went away while it was sending."""


class ArxMiddleware:
    """ASGI middleware: an endpoint runs with a grant, which is then ``scope["arx"]``, or not at all.

    Args:
        app: The application.
        verifier: Decides; started before the application and closed after it where the server runs ``lifespan``.
        tools: Which routes mean which tool; what is not in it is refused.
        max_body: Longest body that is read, in bytes.
        trusted_proxies: Networks of proxies whose ``X-Forwarded-For`` is believed.
        recheck_ms: How long a response may last before its grant is looked at again, and again after as long, ms.

    Raises:
        SettingsError: A route of ``tools`` cannot be read, or is none of the application; a route cannot be guarded; a
            network cannot be read, or the time is none.  In a running event loop, where ``add_middleware`` makes one,
            mistakes in ``tools`` fail the start instead, and without a ``lifespan`` each call is answered 503.
    """

    def __init__(
        self,
        app: App,
        *,
        verifier: Verifier,
        tools: Tools,
        max_body: int = MAX_BODY_BYTES,
        trusted_proxies: Iterable[str] = (),
        recheck_ms: int = RECHECK_MS,
    ) -> None:
        if recheck_ms < 1:
            raise SettingsError("recheck_ms is at least 1")
        self.app, self.verifier, self._recheck_ms = app, verifier, recheck_ms
        self._enforcement = Enforcement(verifier)
        self._max_body, self._peers = max_body, Peers(trusted_proxies)
        self._started = False
        self._young: Young | None = None
        self._endpoints: Endpoints | None = None
        self._meaning: Callable[[Scope, bytes], Meaning | None] | None = None
        self._wrong: SettingsError | None = None
        try:
            self._read_tools(tools)
        except SettingsError as error:
            if not _in_event_loop():
                raise
            self._wrong = error  # an error raised here would be taken for an application without a lifespan

    def _read_tools(self, tools: Tools) -> None:
        if not isinstance(tools, Mapping):
            self._meaning = tools
            return
        routers = routers_of(self.app)
        if routers:
            self._endpoints = Endpoints(routers, tools)
        elif getattr(self.app, "routes", None) is not None:
            kind = type(self.app)
            raise SettingsError(
                f"the routes of {kind.__module__}.{kind.__qualname__} cannot be read: expected those of Starlette or "
                "FastAPI, or an application that shows none; give `tools` as a function"
            )
        else:
            self._meaning = RouteMap(tools)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; see the ASGI specification."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        headers = collect_headers(scope["headers"])
        client, told = scope.get("client"), headers.get(b"x-forwarded-for")
        peer = self._peers.of(client[0] if client else None, (told.decode("latin-1"),) if told else ())
        try:
            if not self._started:
                await self._start_late()
            # Of what a stranger sends nothing is read, and nothing runs.
            screened = self._enforcement.screen(headers.get(b"authorization", b""))
            body = await self._body(headers, receive)
            if CALL in scope:
                raise Problem("tool_not_allowed", "this application is within another one that is guarded")
        except _Disconnected:
            return
        except Problem as problem:
            self._enforcement.count(problem, peer)
            await send_answer(self._enforcement.answer(problem), scope["method"], send)
            return
        young = self._young
        if young is None or young.loop is not asyncio.get_running_loop():
            # Each loop has its own: what is in one is touched by no other.
            self._young = young = Young(asyncio.get_running_loop(), self.verifier.epochs, self._recheck_ms)
        call = Call(self._enforcement, young, scope, headers, screened, body, receive, send, peer)
        if self._endpoints is None:
            await self._decide_here(call, scope)
            return
        scope[CALL], call.endpoints = call, self._endpoints
        try:
            await call.run(self.app, scope)
        finally:
            scope.pop(CALL, None)  # it holds the server's, which holds the scope: garbage that a collector has to find

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            raise NotImplementedError(f"nothing is let through that is not http, such as {scope['type']!r:.40}")

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[None]:
        """Start the verifier and close it: the ``lifespan`` of an application that this one is mounted in.

        Raises:
            SettingsError: ``tools`` is wrong.
        """
        await self._start()
        try:
            yield
        finally:
            await self._close()

    async def _decide_here(self, call: Call, scope: Scope) -> None:
        """Decide on what ``tools`` says that the request means, before the application sees it."""
        assert self._meaning is not None
        try:
            tool, args = self._meaning(scope, call.body) or _NO_TOOL
            await call.decide(tool, args, scope)
        except RequestError as error:
            await call.refuse_malformed(error)
        except Problem as problem:
            await call.refuse(problem)
        else:
            shown = Judged(scope, call) if isinstance(self._meaning, RouteMap) else scope
            await call.run(self.app, shown)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._max_body):
            raise self._too_large()
        # One buffer and no list of parts: a client may send single bytes, or frames of none (HTTP/2) without end.
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            part: bytes = message.get("body", b"")
            if len(body) + len(part) > self._max_body:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body + part) if body else bytes(part)
            body += part

    def _too_large(self) -> Problem:
        return Problem("malformed_request", f"the body is longer than {self._max_body} bytes", 413)

    async def _start(self) -> None:
        if self._wrong is not None:
            raise self._wrong
        if not self._started:
            await asyncio.to_thread(self.verifier.start)  # twice is once
            self._started = True

    async def _start_late(self) -> None:
        """Start with a call, where nobody ran ``lifespan``.

        Raises:
            Problem: ``tools`` is wrong.
        """
        try:
            await self._start()
        except SettingsError as error:
            if error is not self._wrong:
                raise
            _log.error("every call is refused: %s", error)
            raise Problem("closed") from error

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the application and close after it, also around one that has no lifespan of its own."""
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
                raise  # a server has the message; a test client takes who returns for started, and waits for its end
            await self._own_lifespan(receive_and_start, send_and_close)

    async def _own_lifespan(self, receive: Receive, send: Send) -> None:
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _close(self) -> None:
        if self._started:
            self._started = False
            await asyncio.to_thread(self.verifier.close)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
