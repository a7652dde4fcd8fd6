# SPDX-License-Identifier: Apache-2.0
"""A stream whose upstream breaks off is cut: it does not pass for a whole answer."""

import socket
import threading
from pathlib import Path

import httpx
import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.served_door import open_door

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
        at = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            open_door(realm, tmp_path, url=at, routes={"GET /watch": "orders.watch"}) as url,
            httpx.Client(auth=realm.caller(Rule(tool="orders.watch"))) as client,
            client.stream("GET", f"{url}/watch") as answer,
        ):
            parts = answer.iter_raw()
            assert (answer.status_code, next(parts)) == (200, b"data: 1\n\n")
            with pytest.raises(httpx.RemoteProtocolError):
                next(parts)
        upstream.join()
    assert [record.message for record in caplog.records if record.exc_info] == []
