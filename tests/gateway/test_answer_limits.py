# SPDX-License-Identifier: Apache-2.0
"""What a gateway does with an upstream that answers too much, too late or without end, and with a new secret."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway.gateway_realm import GatewayRealm, gateway
from tests.gateway.served_door import call_tool, open_door
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
LEASE_MS = 1_000
SESSION = "s-abcdefghijklmnop"
TABLE = """
[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:{}"
timeout = "{}"
max_answer = 1024
credential = {{ header = "X-Key", from = "file:key" }}
[upstream.orders.routes]
"GET /size/{{size}}" = "orders.get"
"GET /bare/{{size}}" = "orders.get"
"GET /silent" = "orders.get"
"GET /halting" = "orders.get"
"GET /key" = "orders.get"
"GET /watch" = "orders.get"
"""


async def _endless(first: bytes) -> AsyncIterator[bytes]:
    yield first
    await asyncio.Event().wait()


async def _ticks() -> AsyncIterator[bytes]:
    while True:
        yield b"data: tick\n\n"
        await asyncio.sleep(0.02)


async def size(request: Request) -> Response:
    return Response(b"x" * int(request.path_params["size"]), media_type="text/plain")


async def bare(request: Request) -> Response:
    return Response(b"x" * int(request.path_params["size"]))  # without a content type


async def silent(_: Request) -> Response:
    await asyncio.Event().wait()
    return Response()


async def halting(_: Request) -> Response:
    return StreamingResponse(_endless(b"{"), media_type="application/json")


async def key(request: Request) -> Response:
    return JSONResponse({"is_new": request.headers["x-key"] == "the-new-key"})


async def watch(_: Request) -> Response:
    return StreamingResponse(_ticks(), media_type="text/event-stream")


class World(NamedTuple):
    """A gateway process, its realm, and what it wrote."""

    realm: GatewayRealm
    client: httpx.Client
    process: int
    log: Path


@pytest.fixture
def world(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[World]:
    """A gateway before the application of this file."""
    realm, [port] = GatewayRealm(tmp_path, valkey.url, lease_ms=LEASE_MS, name=realm_name), free_ports(1)
    names = {
        "/size/{size}": size,
        "/bare/{size}": bare,
        "/silent": silent,
        "/halting": halting,
        "/key": key,
        "/watch": watch,
    }
    (tmp_path / "key").write_text("the-old-key")
    (tmp_path / "key").chmod(0o600)
    app = Starlette(routes=[Route(path, endpoint) for path, endpoint in names.items()])
    with serving(app) as upstream:
        file, log = realm.write(TABLE.format(upstream, "500ms"), port=port), tmp_path / "log"
        caller = realm.caller(Rule(tool="orders.get", open=True), session=SESSION)
        url = f"http://127.0.0.1:{port}/orders"
        with gateway(file, log) as process, httpx.Client(base_url=url, auth=caller, timeout=60) as client:
            until(lambda: client.get("/size/7").status_code == 200)  # a new store refuses what was signed before it
            yield World(realm, client, process.pid, log)


@pytest.mark.slow
def test_an_answer_that_is_too_long_or_too_late_is_a_problem(world: World) -> None:
    """502 and 504, which say that the call may have run; the next call works."""
    assert world.client.get("/size/1024").content == b"x" * 1024
    for path, status in (("/size/1025", 502), ("/bare/1025", 502), ("/silent", 504), ("/halting", 504)):
        answer = world.client.get(path)
        assert (answer.status_code, answer.json()["may_have_run"]) == (status, True), path
    assert world.client.get("/size/7").status_code == 200


@pytest.mark.slow
def test_a_secret_from_a_file_is_read_again(world: World) -> None:
    """At SIGHUP; until then the old one is used."""
    assert world.client.get("/key").json() == {"is_new": False}
    (world.realm.folder / "key").write_text("the-new-key")
    assert world.client.get("/key").json() == {"is_new": False}
    os.kill(world.process, signal.SIGHUP)
    until(lambda: "reloaded" in world.log.read_text())
    assert world.client.get("/key").json() == {"is_new": True}


@pytest.mark.slow
def test_a_stream_is_cut_within_the_lease_after_a_kill(world: World) -> None:
    """By the kill's own message, or at the latest when the lease of the view before it ends."""
    with world.client.stream("GET", "/watch") as answer:
        parts = answer.iter_raw()
        assert next(parts) == b"data: tick\n\n"
        world.realm.kill(SESSION)
        killed = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in parts:
                pass
        assert time.monotonic() - killed < LEASE_MS / 1000
    assert world.client.get("/size/7").json()["code"] == "revoked"


@pytest.mark.parametrize("streams", [False, True])
def test_a_message_of_mcp_that_is_too_long_is_an_error(streams: bool, tmp_path: Path) -> None:
    """An answer, and one event of a stream."""

    async def answer(_: Request) -> Response:
        text = '{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"%s"}]}}' % ("x" * 2000)
        if streams:
            return Response(f"data: {text}\n\n", media_type="text/event-stream")
        return Response(text, media_type="application/json")

    realm = UnsafeTestRealm("orders")
    with (
        serving(Starlette(routes=[Route("/mcp", answer, methods=["POST"])])) as upstream,
        open_door(realm, tmp_path, url=f"http://127.0.0.1:{upstream}/mcp", max_answer=1024) as url,
    ):
        got: Any = call_tool(url, realm.caller(Rule(tool="orders.get")), "get")
    assert '"error"' in got.text
    assert "-32603" in got.text
    assert "xxxx" not in got.text
