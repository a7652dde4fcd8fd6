# SPDX-License-Identifier: Apache-2.0
"""A stream whose upstream breaks off is cut: it does not pass for a whole answer."""

import socket
import threading
from pathlib import Path

import httpx
import pytest

from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.http.door import HttpDoor
from arx_caps.gateway.upstream.forwarder import Forwarder
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import serving

pytestmark = pytest.mark.servers
BEGIN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"


def break_off(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(BEGIN)


def test_a_stream_that_breaks_off_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets what came, and then an error of its connection; the log gets no traceback."""
    realm = UnsafeTestRealm("orders")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = threading.Thread(target=break_off, args=(listener,))
        upstream.start()
        terms = UpstreamTerms(audience="orders", url=f"http://127.0.0.1:{listener.getsockname()[1]}", routes={"a": "b"})
        forwarder = Forwarder("orders", terms, tmp_path)
        door = HttpDoor(realm.verifier, terms, forwarder, {"GET /watch": "orders.watch"})

        async def app(scope, receive, send):  # type: ignore[no-untyped-def]
            if scope["type"] == "lifespan":
                await receive()
                forwarder.open()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await forwarder.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await door({**scope, "root_path": "/orders"}, receive, send)

        with (
            serving(app) as port,
            httpx.Client(auth=realm.caller(Rule(tool="orders.watch"))) as client,
            client.stream("GET", f"http://127.0.0.1:{port}/orders/watch") as answer,
        ):
            parts = answer.iter_raw()
            assert (answer.status_code, next(parts)) == (200, b"data: 1\n\n")
            with pytest.raises(httpx.RemoteProtocolError):
                next(parts)
        upstream.join()
    assert [record.message for record in caplog.records if record.exc_info] == []
