# SPDX-License-Identifier: Apache-2.0
"""What of a request reaches an upstream: no header that changes its method, its path or who sends it."""

import asyncio
import contextlib
import resource
from pathlib import Path
from typing import ClassVar

import pytest
from aiohttp import web

from arx_caps.gateway.base.settings import CredentialTerms, UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.forwarder import Forwarder, answer_headers
from tests.gateway.door import CALL

pytestmark = pytest.mark.servers
STREAMS = 1100
DROPPED = [
    *("x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"),
    *("x_key", "x_http_method_override", "x_forwarded_user", "mcp_session_id", "x-forwarded-user", "cookie"),
    "x-hop",  # named by `Connection`
]


def test_no_header_overrides_what_was_decided_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WSGI reads `x_key` as `x-key`; some frameworks take method and path from a header."""
    monkeypatch.setenv("UPSTREAM_KEY", "canary")

    async def got() -> set[str]:
        seen: set[str] = set()

        async def show(request: web.Request) -> web.Response:
            seen.update(name.lower() for name in request.headers)
            return web.Response()

        app = web.Application()
        app.router.add_post("/a", show)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        credential = CredentialTerms(header="X-Key", source="env:UPSTREAM_KEY")
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        terms = UpstreamTerms(audience="orders", url=url, routes={"POST /a": "orders.a"}, credential=credential)
        forwarder = Forwarder("orders", terms, tmp_path)
        forwarder.open()
        try:
            headers = [(name.encode(), b"DELETE") for name in [*DROPPED, "x-other"]]
            headers += [(b"connection", b"keep-alive, X-Hop")]
            async with forwarder.send("POST", headers, b"", "/a", call=CALL) as answer:
                assert answer.status == 200
        finally:
            await forwarder.close()
            await runner.cleanup()
        return seen

    seen = asyncio.run(got())
    assert {"x-key", "x-other"} <= seen
    assert seen.isdisjoint(DROPPED)


def test_what_an_answer_names_as_of_its_connection_stays_there() -> None:
    """RFC 9110 7.6.1."""
    headers = [(b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"X-Other", b"2")]
    own = [(b"cache-control", b"private, no-cache"), (b"vary", b"Authorization")]
    assert answer_headers(headers) == [(b"x-other", b"2"), *own]


class Stream(asyncio.Protocol):
    """Answers each request with the head of a stream."""

    ends: ClassVar[list[asyncio.Future[None]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._end = transport, asyncio.get_running_loop().create_future()
        self.ends.append(self._end)

    def data_received(self, _: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head)  # type: ignore[attr-defined]

    def connection_lost(self, _: Exception | None) -> None:
        self._end.set_result(None)


def test_open_streams_keep_no_other_request_waiting(tmp_path: Path) -> None:
    """A gateway has places for 4,096 clients, and each may hold a stream of one upstream."""

    async def forwarded() -> int:
        server = await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", 0, backlog=2048)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        forwarder = Forwarder("orders", UpstreamTerms(audience="orders", url=url), tmp_path)
        forwarder.open()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(forwarder.close)
            for _ in range(STREAMS):
                await asyncio.wait_for(stack.enter_async_context(forwarder.send("GET", [], b"", call=CALL)), 30)
        server.close()
        await asyncio.gather(*Stream.ends)
        return len(Stream.ends)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * STREAMS)), hard))
    try:
        assert asyncio.run(forwarded()) == STREAMS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Odd(asyncio.Protocol):
    """Answers each request with a head of its own."""

    head: ClassVar[bytes] = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(b"HTTP/1.1 " + self.head + b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x", "101"),
        (b"099 Odd", "99"),
        (b"999 Odd", "999"),
        (b"407 Odd", "refused the gateway"),
        (b"200 OK\r\nContent-Type: application/json\r\nContent-Type: text/event-stream", "content types"),
    ],
)
def test_an_answer_that_is_none_of_http_is_an_error(head: bytes, why: str, tmp_path: Path) -> None:
    """No server could write it, or a client could read it otherwise; after 101 a connection has no requests."""

    async def ask() -> None:
        Odd.head = head
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Odd, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        forwarder = Forwarder("orders", UpstreamTerms(audience="orders", url=url, timeout_ms=20_000), tmp_path)
        forwarder.open()
        try:
            async with forwarder.send("GET", [], b"", "", call=CALL):
                pass
        finally:
            await forwarder.close()
            server.close()

    with pytest.raises(UpstreamError, match=why):
        asyncio.run(ask())
