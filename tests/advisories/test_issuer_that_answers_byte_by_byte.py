# SPDX-License-Identifier: Apache-2.0
"""An issuer that sends a byte at a time held a thread of the mint, and a refresh longer than its lock.

Each byte began the wait anew, and the time of the whole answer was looked at with a part of the body alone.
"""

import socket
import threading

import pytest

from arx_caps.http.client import fetch
from arx_verifier.errors import RequestError

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.3")]


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"]
)
def test_the_whole_answer_has_one_time(begin: bytes) -> None:
    """In its headers and its body, also of one that ends with the connection."""
    ended = threading.Event()

    def trickle() -> None:
        conn, _ = server.accept()
        with conn:
            conn.recv(4096)
            conn.sendall(begin)
            for _ in range(400):
                try:
                    conn.sendall(b"H")
                except OSError:
                    break
                if ended.wait(0.05):
                    break

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        try:
            with pytest.raises(RequestError, match="did not come within 1 s"):
                fetch(url, timeout=30, total_s=1, longest=10**6)
        finally:
            ended.set()
        thread.join()
