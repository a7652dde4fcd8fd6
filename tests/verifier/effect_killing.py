# SPDX-License-Identifier: Apache-2.0
"""Serve guarded tools whose effects are recorded, and die by SIGKILL at one step of a call.

``python -m tests.verifier.effect_killing KIND FOLDER STEP`` serves and calls in one process: what the tool did and what
the client got are bytes of files in the folder, which a kill leaves there, beside the journal.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from arx_verifier import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.writer import Journal
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway import test_effects as upstreams
from tests.gateway.served_door import call_tool
from tests.verifier.test_watch import serving_wsgi

KINDS: Final = ("asgi", "wsgi", "asgi-204", "wsgi-204", "mcp", "grpc", "grpc-aio", "gateway-http", "gateway-mcp")
STREAMS: Final = ("asgi", "wsgi")  # whose answers have two parts
TAKES_S: Final = 0.5  # in which a client would take an answer that has left
STEPS: Final = ("begin", "worked", "part", "record", "recorded", "none")
TOOLS: Final = {"POST /refund": "orders.refund"}


class World:
    """The folder of one process, and the step at which it dies.

    Args:
        folder: For the journal and the files ``did`` and ``got``.
        step: One of ``STEPS``, or empty to call without end until it is killed from outside.
    """

    def __init__(self, folder: Path, step: str) -> None:
        self.folder, self.step = folder, step
        self.realm = UnsafeTestRealm("orders")
        self.realm.verifier.decisions = KillingJournal(self)

    def at(self, step: str) -> None:
        """Die here if this is the step."""
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # never over: the signal is on its way

    def wait_for_client(self, step: str) -> None:
        """Give the client time to take what has left, if this is the step: it must not be the whole answer."""
        until = time.monotonic() + TAKES_S
        while step == self.step and time.monotonic() < until and not (self.folder / "got").exists():
            time.sleep(0.01)

    def note(self, name: str) -> None:
        """Write one byte to a file."""
        with (self.folder / name).open("ab", buffering=0) as file:
            file.write(b"1")

    def work(self) -> None:
        """Do what the tool does."""
        self.at("begin")
        self.note("did")
        self.at("worked")


class KillingJournal(Journal):
    """A journal whose process dies before or after the record of an effect."""

    def __init__(self, world: World) -> None:
        super().__init__(world.folder / "journal", "orders-1", "orders")
        self._world = world

    def append(self, decision: Decision) -> int:
        """Record a decision."""
        if decision.outcome != "effect":
            return super().append(decision)
        self._world.wait_for_client("record")
        self._world.at("record")
        sequence = super().append(decision)
        self._world.at("recorded")
        return sequence


def asgi_app(world: World) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        world.work()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        world.at("part")
        await send({"type": "http.response.body", "body": b"b", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def asgi_app_without_body(world: World) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        world.work()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def wsgi_app_without_body(world: World) -> Any:
    def app(_: dict[str, Any], start_response: Any) -> list[bytes]:
        world.work()
        start_response("204 No Content", [])(b"")  # its head leaves here
        return []

    return app


def wsgi_app(world: World) -> Any:
    def app(_: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        world.work()
        start_response("200 OK", [("Content-Length", "2")])
        yield b"a"
        world.at("part")
        yield b"b"

    return app


APPS: Final = {
    "asgi": asgi_app,
    "wsgi": wsgi_app,
    "asgi-204": asgi_app_without_body,
    "wsgi-204": wsgi_app_without_body,
}


@contextlib.contextmanager
def served(kind: str, world: World) -> Iterator[Any]:
    """Yield a function that calls the tool once, and returns after the whole answer."""
    options: dict[str, Any] = {"verifier": world.realm.verifier, "tools": TOOLS, "effects": ["orders.refund"]}
    caller = world.realm.caller(Rule(tool="*"), ttl_ms=300_000)
    if kind in APPS:
        is_wsgi = kind.startswith("wsgi")
        http: Any = (ArxWSGI if is_wsgi else ArxMiddleware)(APPS[kind](world), **options)
        with (serving_wsgi if is_wsgi else serving)(http) as port, httpx.Client(timeout=30) as client:

            def post() -> None:
                with client.stream("POST", f"http://127.0.0.1:{port}/refund", auth=caller) as answer:
                    # Read up to its length, and not to the end of the message.
                    assert b"".join(answer.iter_raw()) == (b"ab" if kind in STREAMS else b"")

            yield post
    elif kind == "mcp":
        messages = Messages(world.realm.verifier, effects=["orders.refund"])

        async def schema() -> Mapping[str, Any]:
            return {}

        async def handler() -> Mapping[str, Any]:
            world.work()
            return {"content": []}

        def call() -> None:
            meta = {META_KEY: caller.token("orders.refund")}
            asyncio.run(messages.run(McpMessage("tools/call", {"name": "refund"}, meta), schema, handler))

        yield call
    elif kind.startswith("grpc"):
        with served_grpc(world, caller, is_async=kind == "grpc-aio") as ask:
            yield ask
    else:
        body, which = (b"{}", "http") if kind == "gateway-http" else (upstreams.message(), "mcp")
        answer = (200, upstreams.JSON, body, world.work)
        with upstreams.gateway(which, world.realm, world.folder, *answer) as url, httpx.Client(timeout=30) as client:
            yield (
                (lambda: client.post(f"{url}/refund", auth=caller).raise_for_status())
                if which == "http"
                else (lambda: call_tool(url, caller, "refund").raise_for_status())
            )


@contextlib.contextmanager
def served_grpc(world: World, caller: Any, *, is_async: bool) -> Iterator[Any]:
    """Yield a function that calls a method of a gRPC server once."""
    from tests.adapters import test_grpc_server as servers
    from tests.adapters.grpc_service import Call, stub

    class Threads(servers.Service):
        def unary(self, request: Any, context: Any) -> Any:
            world.work()
            return Call(order_id="o-1")

    class Loop(servers.AioService):
        async def unary(self, request: Any, context: Any) -> Any:  # type: ignore[override]
            world.work()
            return Call(order_id="o-1")

    with servers.served(Loop() if is_async else Threads(), world.realm, effects=["orders.refund"]) as channel:

        def call() -> None:
            token = caller.token("orders.refund", order_id="o-1")
            stub(channel, "Refund")(Call(order_id="o-1"), metadata=(("authorization", f"Bearer {token}"),), timeout=30)

        yield call


def main(kind: str, folder: str, step: str) -> None:
    """Serve, and call once; without a step, call until the process is killed."""
    world = World(Path(folder), step)
    with served(kind, world) as call:
        while True:
            call()
            world.note("got")
            if step:
                break
    world.realm.verifier.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
