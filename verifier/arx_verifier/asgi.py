# SPDX-License-Identifier: Apache-2.0
"""Put a verifier before any ASGI application: no request reaches it without a grant.  SPEC 11.

Here the bytes are collected, the clock is read and the answer is sent.  What a request means stands in ``routes``, from
where it came in ``peers``, how a refusal is told in ``problems``; the decision itself is the verifier's.

The body is read once, bounded, and exactly those bytes are passed on: what was checked is what the application sees.
WebSockets are refused: a grant is for one call, and a connection outlives it.  A response that lasts is ended with its
grant; that is ``streams``' matter.
"""

import asyncio
import functools
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from arx_verifier.access import AccessRequest, HttpCall
from arx_verifier.decisions import Decision
from arx_verifier.errors import ArxError, RequestError, SettingsError
from arx_verifier.peers import Peers
from arx_verifier.problems import Answer, answer
from arx_verifier.routes import Meaning, RouteMap, Scope, Tools
from arx_verifier.shadows import require_same_routes
from arx_verifier.streams import RECHECK_MS, App, Message, Receive, Send, Watch, Young
from arx_verifier.verify import Verifier

MAX_BODY_BYTES: Final = 1024 * 1024
SCREEN_BYTES: Final = 4096  # a longer body is read, kept and parsed only for a token that this service's key made
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_NO_TOOL: Final[Meaning] = ("", {})
_READ: Final = frozenset((b"authorization", b"content-length", b"traceparent", b"x-forwarded-for"))
_Headers: TypeAlias = dict[bytes, list[bytes]]  # each value of a name, in order


class _Refuse(Exception):  # noqa: N818 - never leaves this module
    """Ends the handling of a request with a refusal that needs no token."""

    def __init__(self, code: str, detail: str | None = None, status: int | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.status = code, detail, status


class _Disconnected(Exception):  # noqa: N818 - never leaves this module
    """The client went away while it was sending."""


class ArxMiddleware:
    """ASGI middleware that lets a request through with a grant, which is then ``scope["arx"]``, and else refuses it.

    Args:
        app: The application.
        verifier: Decides; started before the application and closed after it where the server runs ``lifespan``.
        tools: Which requests mean which tool; what is not in it is refused.
        max_body: Longest body that is read, in bytes.
        trusted_proxies: Networks of proxies whose ``X-Forwarded-For`` is believed.
        recheck_ms: How long a response may last before its grant is looked at again, and again after as long, ms.

    Raises:
        SettingsError: A route or a network cannot be read, or the time is none.  At the start: the application has a
            route that ``tools`` takes for another one's.
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
        self._meaning = RouteMap(tools) if isinstance(tools, Mapping) else tools
        self._max_body, self._peers = max_body, Peers(trusted_proxies)
        self._started = False
        self._young: Young | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; see the ASGI specification."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            raise NotImplementedError(f"nothing is let through that is not http, such as {scope['type']!r:.40}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._start()
        headers = _headers(scope)
        peer = self._peer(scope, headers)
        try:
            token = _token(headers)
            body = await self._body(headers, receive, token)
            request = self._request(scope, headers, body, peer)
        except _Disconnected:
            return
        except _Refuse as refused:
            self.verifier.refuse(refused.code, AccessRequest("", {}, _now_ms(), peer))
            told = answer(refused.code, realm=self._realm, detail=refused.detail, status=refused.status)
            await _send(told, scope, send)
            return
        decision = await self.verifier.decide_async(token, request)
        if not decision.allowed or decision.grant is None or not request.tool:
            code = "tool_not_allowed" if decision.allowed else decision.code
            told = answer(code, realm=self._realm, failures=decision.all_failures(), decision=decision.id)
            await _send(told, scope, send)
            return
        scope["arx"] = decision.grant
        on_end = functools.partial(self._record_end, decision)
        watch = Watch(decision.grant, self._young_calls(), on_end)
        ended = await watch.run(self.app, scope, _replay(body, receive), send)
        if ended is not None and not watch.started:
            told = answer(ended.code, realm=self._realm, failures=ended.failures, decision=decision.id)
            await _send(told, scope, send)

    def _young_calls(self) -> Young:
        loop = asyncio.get_running_loop()
        young = self._young
        if young is None or young.loop is not loop:  # each loop has its own: what is in one is touched by no other
            self._young = young = Young(loop, self.verifier.epochs, self._recheck_ms)
        return young

    def _record_end(self, decision: Decision, reason: ArxError) -> None:
        if self.verifier.decisions.waits:  # a disk is not waited for in the loop
            asyncio.get_running_loop().run_in_executor(None, self.verifier.record_end, decision, reason)
        else:
            self.verifier.record_end(decision, reason)

    def _request(self, scope: Scope, headers: _Headers, body: bytes, peer: str | None) -> AccessRequest:
        try:
            tool, args = self._meaning(scope, body) or _NO_TOOL
        except RequestError as error:
            raise _Refuse("malformed_request", str(error)) from error
        raw = (scope.get("raw_path") or scope["path"].encode("utf-8", "replace")).partition(b"?")[0]
        target = raw + b"?" + scope["query_string"] if scope["query_string"] else raw
        call = HttpCall(scope["method"], target, hashlib.sha256(body).digest())
        return AccessRequest(tool, args, _now_ms(), peer, call, traceparent=_traceparent(headers))

    async def _body(self, headers: _Headers, receive: Receive, token: str) -> bytes:
        declared = headers[b"content-length"][0] if b"content-length" in headers else b""
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._max_body):
            raise self._too_large()
        # One buffer and no list of parts: a client may send single bytes, or frames of none (HTTP/2) without end.
        body, more, screened = bytearray(), True, False
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise self._too_large()
            if len(body) > SCREEN_BYTES and not screened:
                code = self.verifier.screen(token)
                if code is not None:
                    raise _Refuse(code)
                screened = True
            more = message.get("more_body", False)
        return bytes(body)

    def _too_large(self) -> _Refuse:
        return _Refuse("malformed_request", f"the body is longer than {self._max_body} bytes", 413)

    def _peer(self, scope: Scope, headers: _Headers) -> str | None:
        client = scope.get("client")
        forwarded = [value.decode("latin-1") for value in headers.get(b"x-forwarded-for", ())]
        return self._peers.of(client[0] if client else None, forwarded)

    @property
    def _realm(self) -> str:
        return self.verifier.keys.realm

    async def _start(self) -> None:
        if not self._started:
            if isinstance(self._meaning, RouteMap):
                require_same_routes(self.app, self._meaning)  # not earlier: routes may be added until now
            await asyncio.to_thread(self.verifier.start)  # twice is once
            self._started = True

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


def _headers(scope: Scope) -> _Headers:
    """Look once at every header, and return the values of those that are read here."""
    found: _Headers = {}
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower in _READ:
            found.setdefault(lower, []).append(bytes(value))
    return found


def _token(headers: _Headers) -> str:
    values = headers.get(b"authorization", ())
    if len(values) > 1:
        raise _Refuse("malformed_request", "there is more than one Authorization header")
    scheme, _, token = values[0].partition(b" ") if values else (b"", b"", b"")
    if scheme.lower() != b"bearer" or not token.strip(b" "):
        raise _Refuse("missing_token")
    return token.strip(b" ").decode("latin-1")


def _traceparent(headers: _Headers) -> str | None:
    raw = headers[b"traceparent"][0] if b"traceparent" in headers else b""
    return raw.decode("ascii") if _TRACEPARENT.fullmatch(raw) else None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand out the body that was checked, once; then whatever comes, which can only be the end of the connection."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _send(told: Answer, scope: Scope, send: Send) -> None:
    await send({"type": "http.response.start", "status": told.status, "headers": told.headers})
    body = b"" if scope["method"] == "HEAD" else told.body
    await send({"type": "http.response.body", "body": body, "more_body": False})
