# SPDX-License-Identifier: Apache-2.0
"""Open responses of a real HTTP server whose session is killed, or whose store falls silent: cut within L."""

import asyncio
import http.client
import os
import queue
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import StreamingResponse

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.errors import ArxError
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from tests.faults.conftest import L_NS, kill, print_figure, token
from tests.faults.witness import Forgetful
from tests.servers import freeze, until
from tests.support import AUDIENCE, KEY, access

pytestmark = [pytest.mark.servers, pytest.mark.spec("11")]

SLACK_NS = 1_000_000_000  # for a loaded machine; the bytes themselves are held to L without any
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


class Service:
    """
    A tool service: ``/busy`` sends the time for ever, ``/idle`` says one word and then nothing.  ``/framework`` is as
    idle, in Starlette's words; ``/thread`` waits in a thread, which no caller can cancel, until it is ended.
    """

    def __init__(self) -> None:
        self.ends: list[tuple[str, int]] = []  # what on_end and a cancelled application got, and when
        self.port = 0

    async def framework(self, request: Request) -> StreamingResponse:
        """Say one word, and nothing more."""

        async def words() -> AsyncIterator[bytes]:
            yield b"data: hello\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(words())

    def thread(self, request: Request) -> StreamingResponse:
        """Say one word, and wait in a thread."""
        over = threading.Event()
        request.scope["arx"].on_end(lambda _: over.set())

        def words() -> Iterator[bytes]:
            yield b"data: hello\n\n"
            over.wait(60)

        return StreamingResponse(words())

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        scope["arx"].on_end(lambda reason: self.ends.append((reason.code, boot_clock())))
        if scope["path"] in ("/framework", "/thread"):
            request = Request(scope, receive)
            answer = await self.framework(request) if scope["path"] == "/framework" else self.thread(request)
            await answer(scope, receive, send)
            return
        await send(START)
        try:
            if scope["path"] == "/idle":
                await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
                await asyncio.Event().wait()
            while True:
                line = f"data: {boot_clock()}\n\n".encode()
                await send({"type": "http.response.body", "body": line, "more_body": True})
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.ends.append(("cancelled", boot_clock()))
            raise

    def open(self, path: str, text: str) -> "Stream":
        """Open a stream and read it in a thread of its own."""
        return Stream(self.port, path, text)


class Stream:
    """A client with an open response."""

    def __init__(self, port: int, path: str, text: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {text}"})
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.lines: list[bytes] = []
        self.ended = 0
        self.cut = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._response.read1(65536):
                *lines, rest = (rest + data).split(b"\n\n")
                self.lines += lines
        except (http.client.IncompleteRead, ConnectionError):
            self.cut = True
        self.ended = boot_clock()
        self._response.close()
        self._connection.close()

    def wait(self) -> int:
        """Wait for its end; returns when that was, boot clock, ns."""
        self._thread.join(20)
        assert self.ended
        return self.ended


Serve = Callable[..., Service]


class Running(NamedTuple):
    """A server and its thread."""

    server: uvicorn.Server
    thread: threading.Thread


@pytest.fixture
def serve(store: RevocationStore, own_valkey: EmbeddedValkey) -> Iterator[Serve]:
    """Serve the service behind the middleware, with a verifier that follows the real store."""
    running: list[Running] = []

    def serve(*, recheck_ms: int = 100) -> Service:
        service = Service()
        keys = KeyRing({"k1.0": KEY}, realm=store.realm)
        follower = Follower(own_valkey.url, store.realm, "tool")
        verifier = Verifier(audience=AUDIENCE, keys=keys, epochs=follower, decisions=Forgetful())
        tools = {f"GET /{name}": f"orders.{name}" for name in ("idle", "busy", "framework", "thread")}
        app = ArxMiddleware(service.app, verifier=verifier, tools=tools, recheck_ms=recheck_ms)
        config = uvicorn.Config(app, port=0, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append(Running(server, thread))
        until(lambda: server.started)
        service.port = server.servers[0].sockets[0].getsockname()[1]
        assert follower.catch_up(0, 0, 10)
        return service

    yield serve
    for each in running:
        each.server.should_exit = True
        each.thread.join(20)


def times(stream: Stream) -> list[int]:
    return [int(line.split()[1]) for line in stream.lines]


@pytest.mark.parametrize("path", ["/idle", "/busy", "/framework", "/thread"])
def test_an_open_stream_of_a_killed_session_is_cut(store: RevocationStore, serve: Serve, path: str) -> None:
    """Also while it is idle: the application is cancelled, the connection closed, and another session's goes on."""
    service = serve()
    stream, other = service.open(path, token(store)), service.open("/busy", token(store, "s-bbbbbbbbbbbbbbbb"))
    until(lambda: stream.lines and other.lines)
    time.sleep(0.15)  # past the first look
    killed = kill(store)
    ended = stream.wait()
    assert stream.cut, "an end that looks like one would be taken for the whole answer"
    assert service.ends[0][0] == "revoked"
    until(lambda: len(service.ends) == 2 or path != "/idle")
    if path == "/busy":
        assert max(times(stream)) - killed < L_NS
    assert ended - killed < L_NS + SLACK_NS
    print_figure((ended - killed) / 1e6)
    seen = len(other.lines)
    until(lambda: len(other.lines) > seen + 5)
    kill(store, "s-bbbbbbbbbbbbbbbb")
    other.wait()


def test_open_streams_end_with_a_silent_store(own_valkey: EmbeddedValkey, store: RevocationStore, serve: Serve) -> None:
    """SIGSTOP: no byte leaves after L, although the next look would have come much later; and then there is service."""
    service = serve(recheck_ms=60_000)
    streams = [service.open(path, token(store)) for path in ("/idle", "/busy", "/busy")]
    until(lambda: all(stream.lines for stream in streams))
    pid = own_valkey.server_pid
    stopped = freeze(pid)
    for stream in streams:
        ended = stream.wait()
        assert stream.cut
        print_figure((ended - stopped) / 1e6)
        assert ended - stopped < L_NS + SLACK_NS
    for stream in streams[1:]:
        assert max(times(stream)) - stopped < L_NS
    assert {code for code, _ in service.ends} == {"stale", "cancelled"}
    os.kill(pid, signal.SIGCONT)
    text = token(store)

    def answered() -> bool:
        again = service.open("/busy", text)
        if again.status != 200:
            again.wait()
            return False
        until(lambda: again.lines)
        kill(store)
        return bool(again.wait())

    until(answered)


def test_a_stream_outlives_many_leases(store: RevocationStore, serve: Serve) -> None:
    """No fault, no cut: looked at again and again, a stream goes on."""
    service = serve(recheck_ms=20)
    stream = service.open("/busy", token(store))
    until(lambda: len(stream.lines) > 1)
    until(lambda: times(stream)[-1] - times(stream)[0] > 3 * L_NS)
    assert not service.ends
    kill(store)
    stream.wait()


def test_a_long_call_stops_at_its_checkpoint(store: RevocationStore, own_valkey: EmbeddedValkey) -> None:
    """``grant.recheck()`` before each step: none begins later than L after a kill, or the silence."""
    keys, pid = KeyRing({"k1.0": KEY}, realm=store.realm), own_valkey.server_pid
    follower = Follower(own_valkey.url, store.realm, "tool")
    verifier = Verifier(audience=AUDIENCE, keys=keys, epochs=follower, decisions=Forgetful())
    try:
        assert follower.catch_up(0, 0, 10)
        for frozen in (False, True):
            grant = verifier.verify(token(store), access(at=time.time_ns() // 1_000_000))
            steps, why = work_on(grant)
            until(lambda: len(steps) > 10)  # noqa: B023
            event = freeze(pid) if frozen else kill(store)
            assert why.get(timeout=60) == ("stale" if frozen else "revoked")
            assert steps[-1] - event < L_NS
            print_figure((steps[-1] - event) / 1e6)
    finally:
        os.kill(pid, signal.SIGCONT)
        verifier.close()


def work_on(grant: Grant) -> tuple[list[int], queue.Queue[str]]:
    """Make step after step in a thread, each behind a checkpoint; returns when each was begun, and why it stopped."""
    steps: list[int] = []
    why: queue.Queue[str] = queue.Queue()

    def work() -> None:
        while True:
            began = boot_clock()
            try:
                grant.recheck()
            except ArxError as error:
                why.put(error.code)
                return
            steps.append(began)
            time.sleep(0.002)

    threading.Thread(target=work, daemon=True).start()
    return steps, why
