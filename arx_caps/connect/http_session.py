# SPDX-License-Identifier: Apache-2.0
"""The requests of one client to an MCP server over streamable HTTP, for the revisions from 2025-06-18 on.

Until 2025-11-25 they belong to a session, which is opened anew where the server has forgotten it.  From 2026-07-28 on
each request stands alone.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import httpx

from arx_caps.connect.server_access import ServerAccess
from arx_caps.http.event_stream import EventFields, fields_of
from arx_caps.mcp.errors import NO_ANSWER, error_answer
from arx_caps.mcp.headers import SESSION_HEADER, RevisionHeaders, session_headers
from arx_caps.mcp.message import RpcMessage, read_object, written
from arx_caps.mcp.wire import EVENTS_TYPE, JSON_TYPE, kind_of, one_line, read_body, read_events
from arx_verifier.errors import ArxError, RequestError

Write = Callable[[bytes], Awaitable[None]]

_RETRY_MS: Final = 1000  # before a stream is opened again, where the server names no delay
_MIN_RETRY_MS, _MAX_RETRY_MS = 10, 30_000
_ATTEMPTS: Final = 3  # without an event between them
_END_S: Final = 1.0

_log = logging.getLogger(__name__)


class NoMessageError(Exception):
    """The server gave no message of MCP to a request.

    Attributes:
        answer: What the client gets instead.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__("the server gave no message")
        self.answer = answer


class _Agreed(NamedTuple):
    """What ``initialize`` agreed on: the session's id and the revision."""

    id: str | None = None
    version: str | None = None


class HttpSession:
    """What a client and a server have in common, and the requests between them.

    Args:
        server: The server.
        write: Sends one message to the client, a line without its end.
    """

    def __init__(self, server: ServerAccess, write: Write) -> None:
        self._server, self._write = server, write
        self._headers, self._agreed = RevisionHeaders(), _Agreed()
        # The client's own opening of the session: the bridge repeats it for a server that has forgotten it.
        self._hello: RpcMessage | None = None
        self._ready: RpcMessage | None = None
        self._renewal = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    async def messages(self, request: RpcMessage) -> AsyncGenerator[bytes, None]:
        """Send a request and yield what the server sends to it, the answer last.

        Args:
            request: The request.

        Raises:
            NoMessageError: The server answered otherwise.
            ArxError: The request is none of the task's, or the answer is none of MCP's.
            httpx.HTTPError: The server did not answer.
        """
        for again in (True, False):
            agreed = self._agreed
            async with self._server.opened("POST", self._of(request), request.raw) as response:
                # After a restart the server may not know the session; then it has not run the request.
                renews = again and agreed.id is not None and request.version is None and request.method != "initialize"
                if response.status_code != 404 or not renews:
                    async with contextlib.aclosing(self._read(request, response)) as messages:
                        async for message in messages:
                            yield message
                    return
            await self._renew(agreed)

    async def notify(self, message: RpcMessage) -> None:
        """Send a notification, or the answer to a request of the server.  The client hears nothing of it.

        Args:
            message: The message.
        """
        try:
            async with self._server.opened("POST", self._of(message), message.raw, waits=False) as response:
                if response.status_code >= 300:
                    _log.warning("the server answered %s to %s", response.status_code, message.subject)
        except (ArxError, httpx.HTTPError) as error:
            _log.warning("%s was not sent: %s", message.subject, self._server.reason(error))
        if message.method == "notifications/initialized":
            self._ready = message
            self._listen()

    async def end(self) -> None:
        """End the session at the server."""
        if self._listening is not None:
            self._listening.cancel()
        if self._agreed.id is not None:
            with contextlib.suppress(ArxError, httpx.HTTPError, TimeoutError):
                async with asyncio.timeout(_END_S), self._server.opened("DELETE", self._of_session()):
                    pass

    async def _read(self, request: RpcMessage, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        if request.method == "initialize":
            self._hello = request
        if response.status_code == 200 and (kind := _kind(response)) in (JSON_TYPE, EVENTS_TYPE):
            if kind == JSON_TYPE:
                body = await read_body(response.aiter_bytes())
                yield self._answer(request, read_object(body), body, response)
                return
            async with contextlib.aclosing(self._events(request, response)) as events:
                async for data in events:
                    message = read_object(data)
                    if "method" in message:
                        yield one_line(data)
                    elif message.get("id") == request.id:
                        yield self._answer(request, message, data, response)
                        return
                    else:
                        _log.warning("the server answered another request in the stream of %s", request.subject)
        raise NoMessageError(await self._server.failure(request, response))

    async def _events(self, request: RpcMessage, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield the data of a stream; one that ends is resumed after its last event, if that has an id."""
        opened: contextlib.AbstractAsyncContextManager[httpx.Response] = contextlib.nullcontext(response)
        last, retry_ms, failed = None, _RETRY_MS, 0
        while True:
            lost: Exception = NoMessageError(error_answer(request.id, NO_ANSWER, "the server's stream had no answer"))
            try:
                async with opened as stream:
                    if stream.status_code != 200 or _kind(stream) != EVENTS_TYPE:
                        raise NoMessageError(await self._server.failure(request, stream))
                    async for event in _fields(stream):
                        last, failed = event.id or last, 0
                        retry_ms = _bounded(event.retry_ms, retry_ms)
                        if event.data:
                            yield event.data
            except httpx.HTTPError as error:
                lost = error
            failed += 1
            if last is None or failed > _ATTEMPTS:
                raise lost
            await asyncio.sleep(retry_ms / 1000)
            opened = self._server.opened("GET", self._of_stream(last))

    def _answer(self, request: RpcMessage, answer: dict[str, Any], raw: bytes, response: httpx.Response) -> bytes:
        """Return the line of an answer, and note what it says of the session and of tools.

        Raises:
            RequestError: It is the answer to another request.
        """
        if answer.get("id") is None and "error" in answer:
            return written(answer | {"id": request.id})
        if answer.get("id") != request.id or "method" in answer:
            raise RequestError("the server answered another request")
        result = answer.get("result")
        if request.method == "initialize" and isinstance(result, dict):
            version = result.get("protocolVersion")
            self._agreed = _Agreed(response.headers.get(SESSION_HEADER), version if isinstance(version, str) else None)
        if request.method == "tools/list" and isinstance(result, dict):
            self._headers.learn(result.get("tools"))
            if self._server.shorten(answer):
                return written(answer)
        return one_line(raw)

    async def _renew(self, ended: _Agreed) -> None:
        """Open the session again, as the client opened it; where the server refuses, the ended one stays."""
        async with self._renewal:
            if self._agreed is not ended or self._hello is None:
                return  # another request has done so
            with contextlib.suppress(NoMessageError):  # the request that is sent next gets its own refusal
                async with (
                    self._server.opened("POST", self._of(self._hello), self._hello.raw) as response,
                    contextlib.aclosing(self._read(self._hello, response)) as messages,
                ):
                    async for _ in messages:
                        pass
            if self._agreed is not ended and self._ready is not None:
                await self.notify(self._ready)

    def _listen(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        self._listening = asyncio.create_task(self._forward())

    async def _forward(self) -> None:
        """Send the client what the server sends without being asked, where the server offers that."""
        last, retry_ms = None, _RETRY_MS
        while True:
            try:
                async with self._server.opened("GET", self._of_stream(last)) as response:
                    if response.status_code == 200 and _kind(response) == EVENTS_TYPE:
                        async for event in _fields(response):
                            last = event.id or last
                            retry_ms = _bounded(event.retry_ms, _RETRY_MS)
                            if event.data and "method" in read_object(event.data):
                                await self._write(one_line(event.data))
                    elif response.status_code < 500:
                        return  # not offered, over, or not allowed
            except httpx.HTTPError:
                pass
            except ArxError as error:
                _log.warning("the server's own messages are not received: %s", error)
                return
            await asyncio.sleep(retry_ms / 1000)
            retry_ms = min(retry_ms * 2, _MAX_RETRY_MS)

    def _of(self, message: RpcMessage) -> dict[str, str]:
        if message.method == "initialize":
            return self._headers.of(message)  # it opens a session, and belongs to none
        return self._headers.of(message, *self._agreed)

    def _of_session(self) -> dict[str, str]:
        return session_headers(*self._agreed)

    def _of_stream(self, last: str | None) -> dict[str, str]:
        return self._of_session() | {"accept": EVENTS_TYPE} | ({} if last is None else {"last-event-id": last})


def _bounded(asked_ms: int | None, otherwise_ms: int) -> int:
    return otherwise_ms if asked_ms is None else min(max(asked_ms, _MIN_RETRY_MS), _MAX_RETRY_MS)


async def _fields(response: httpx.Response) -> AsyncGenerator[EventFields, None]:
    async for event in read_events(response.aiter_bytes()):
        # An event that is only a comment keeps the connection open, and is no answer of the server.
        if (fields := fields_of(event)) != EventFields(b""):
            yield fields


def _kind(response: httpx.Response) -> str:
    return kind_of(response.headers.get("content-type", ""))
