# SPDX-License-Identifier: Apache-2.0
"""The bridge for stock HTTP clients of this machine: a path for each server, and each request is signed and passed on.

The first part of a path is a secret, as other users of the machine can connect to a loopback port as well.
"""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import httpx
import uvicorn  # of the extra `mint`: the bridge over stdio does not import this module

from arx_caps.connect.server_access import ServerAccess
from arx_caps.http.event_stream import fields_of, with_data
from arx_caps.mcp.errors import WireError
from arx_caps.mcp.message import RpcMessage, read_message, read_object, written
from arx_caps.mcp.wire import EVENTS_TYPE, JSON_TYPE, MAX_MESSAGE_BYTES, kind_of, read_body, read_events
from arx_verifier.addresses import is_loopback, read_port
from arx_verifier.enforcement import bounded_body
from arx_verifier.errors import ArxError, RequestError, SettingsError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH_BYTES: Final = 24
_log = logging.getLogger(__name__)
_METHODS: Final = ("POST", "GET", "DELETE")
# The rest is the business of one connection, or names a caller, which the bridge does.
_SENT_ON: Final = ("accept", "content-type", "last-event-id")
_SENT_BACK: Final = ("content-type", "mcp-session-id", "mcp-protocol-version", "cache-control", "retry-after", "allow")


def bind_loopback(address: str) -> socket.socket:
    """Return a socket that listens at an address of this machine alone.

    Args:
        address: ``HOST:PORT``, such as ``127.0.0.1:8080`` or ``[::1]:0``; port 0 is any free one.

    Raises:
        SettingsError: It is no loopback address, or cannot be had.
    """
    host, _, text = address.rpartition(":")
    number, port = "127.0.0.1" if host == "localhost" else host.strip("[]"), read_port(text)
    if not is_loopback(number) or port is None:
        raise SettingsError(f"--listen: expected a loopback address such as 127.0.0.1:8080, got {address!r}")
    found = socket.socket(socket.AF_INET6 if ":" in number else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((number, port))
    except OSError as error:
        found.close()
        raise SettingsError(f"--listen: {address} cannot be had: {getattr(error, 'strerror', error)}") from None
    return found


def serve_loopback(listener: socket.socket, app: "LoopbackApp", on_ready: Callable[[], None]) -> None:
    """Serve clients until a signal ends the process.

    Args:
        listener: The socket.
        app: The application.
        on_ready: Called when clients can connect.
    """
    # No access log: a path is a secret.
    options: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False, "proxy_headers": False}
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", timeout_graceful_shutdown=1, **options))

    def stop(*_: object) -> None:
        server.should_exit = True

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)  # the server has its own while it runs, and raises the signal again at its end

    async def serve() -> None:
        try:
            await server.serve(sockets=[listener])
        finally:
            await app.close()

    listener.listen()
    on_ready()
    asyncio.run(serve())


class LoopbackApp:
    """The ASGI application.

    Args:
        servers: The servers by name.
        port: The port that it is served at.
        path: The first part of each path; a random one by default.
    """

    def __init__(self, servers: Mapping[str, ServerAccess], port: int, path: str | None = None) -> None:
        self._servers = servers
        self.path = secrets.token_urlsafe(PATH_BYTES) if path is None else path
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request of a client."""
        if scope["type"] != "http":
            return
        hosts, origins = ([value for name, value in scope["headers"] if name == each] for each in (b"host", b"origin"))
        if len(hosts) != 1:  # RFC 9112 3.2: two readers of two could take different ones
            await _plain(send, 400, f"expected one Host header, got {len(hosts)}")
            return
        # A page of another site, in a browser of this machine, can reach the port by a name of its own.
        if not {*hosts, *(each.removeprefix(b"http://") for each in origins)} <= self._hosts:
            await _plain(send, 403, "the Host or Origin header names another place than this machine")
            return
        server = self._server(scope["path"])
        if server is None:
            await _plain(send, 404, "no server has this path")
        elif scope["method"] not in _METHODS:
            await _plain(send, 405, "expected POST, GET or DELETE")
        else:
            await _pass_while_there(server, scope, receive, send)

    async def close(self) -> None:
        """Close the connections to the servers."""
        for server in self._servers.values():
            await server.close()

    def _server(self, path: str) -> ServerAccess | None:
        first, _, name = path.removeprefix("/").partition("/")
        # In constant time: who can measure must not find the secret byte by byte.
        return self._servers.get(name) if secrets.compare_digest(first.encode(), self.path.encode()) else None


async def _pass(server: ServerAccess, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
    request: RpcMessage | None = None
    if scope["method"] == "POST":
        with contextlib.suppress(WireError):  # what is no message gets the server's own answer
            message = read_message(body)
            request = message if message.is_request else None
    # As a list: a header that was sent twice arrives twice, and the server refuses it.  White space around a value is
    # none of it (RFC 9110 5.5).
    texts = [(name.decode("latin-1"), value.decode("latin-1").strip(" \t")) for name, value in scope["headers"]]
    headers = [(name, value) for name, value in texts if name in _SENT_ON or name.startswith("mcp-")]
    try:
        if request is not None and (refused := server.refusal(request)) is not None:
            await _json(send, refused)
            return
        async with server.opened(scope["method"], headers, body) as response:
            await _send_on(server, request, response, send)
    except (ArxError, httpx.HTTPError) as error:
        if request is not None:
            await _json(send, server.lost(request, error))
        else:
            await _plain(send, 502, server.reason(error))


async def _send_on(server: ServerAccess, request: RpcMessage | None, response: httpx.Response, send: Send) -> None:
    status, kind = response.status_code, kind_of(response.headers.get("content-type", ""))
    if kind == "application/problem+json":
        # A refusal of ARx.  Its challenge is for who signs: a client would begin to log in.
        if request is not None:
            await _json(send, await server.failure(request, response))
        else:
            await _plain(send, 403 if status == 401 else status, "the server refused the request")
        return
    if request is not None and request.method == "tools/list" and kind == JSON_TYPE:
        body = await read_body(response.aiter_bytes())
        await _start(send, response)
        await send({"type": "http.response.body", "body": _shortened(server, body)})
        return
    await _start(send, response)
    try:
        async with contextlib.aclosing(_parts(server, request, response, kind)) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
    except (ArxError, httpx.HTTPError) as error:
        _log.warning("a stream broke off: %s", server.reason(error))
        return  # without its end, which the client can see
    await send({"type": "http.response.body"})


async def _parts(
    server: ServerAccess, request: RpcMessage | None, response: httpx.Response, kind: str
) -> AsyncGenerator[bytes, None]:
    if request is None or request.method != "tools/list" or kind != EVENTS_TYPE:
        async for chunk in response.aiter_bytes():
            yield chunk
        return
    async for event in read_events(response.aiter_bytes()):
        data = fields_of(event).data
        shown = _shortened(server, data)
        yield event if shown is data else with_data(event, shown)


def _shortened(server: ServerAccess, raw: bytes) -> bytes:
    """Return a message without the tools of a list that the task cannot allow; another one as it is."""
    try:
        answer = read_object(raw)
    except RequestError:
        return raw
    return written(answer) if server.shorten(answer) else raw


async def _pass_while_there(
    server: ServerAccess, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    """Pass a request on until it is answered, or its client has gone."""
    try:
        body = bytes(await bounded_body.receive_body(receive, MAX_MESSAGE_BYTES))
    except bounded_body.ClientGoneError:  # before its whole body came: half a message must not reach the server
        return
    except bounded_body.BodyTooLongError:
        await _plain(send, 413, f"expected at most {MAX_MESSAGE_BYTES // 1024 // 1024} MiB")
        return
    passing = asyncio.ensure_future(_pass(server, scope, body, send))
    gone = asyncio.ensure_future(_disconnected(receive))
    await asyncio.wait([passing, gone], return_when=asyncio.FIRST_COMPLETED)
    for task in (passing, gone):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await passing


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, response: httpx.Response) -> None:
    back = [
        (name.encode(), response.headers[name].encode("latin-1")) for name in _SENT_BACK if name in response.headers
    ]
    await send({"type": "http.response.start", "status": response.status_code, "headers": back})


async def _json(send: Send, body: bytes) -> None:
    await _whole(send, 200, JSON_TYPE.encode(), body)


async def _plain(send: Send, status: int, text: str) -> None:
    await _whole(send, status, b"text/plain; charset=utf-8", text.encode() + b"\n")


async def _whole(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
