# SPDX-License-Identifier: Apache-2.0
"""One kept connection of HTTP/1.1, without a library: a slow client would hide what stands before the server."""

import socket
from typing import Any


class Connection:
    """A connection to one server.

    Args:
        host: The server's host.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self.connect()

    def connect(self) -> None:
        """Connect anew: servers close a connection that was idle during the turns of others."""
        self._socket = socket.create_connection(self._address, 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send a request, and return head and body of its answer.

        Raises:
            RuntimeError: The answer is an error.
        """
        head, data = self._head(request)
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
            raise RuntimeError(f"expected an answer, got {head!r:.300}")
        lower = head.lower()
        _, found, length = lower.partition(b"\r\ncontent-length:")
        if found:
            size = int(length.partition(b"\r\n")[0])
            return head, self._received(data, lambda text: len(text) >= size)
        if b"\r\ntransfer-encoding: chunked" not in lower:
            return head, b""
        return head, self._received(data, lambda text: text.endswith(b"0\r\n\r\n"))

    def open_stream(self, request: bytes) -> None:
        """Send a request for a stream, and wait for the head of the answer.

        Raises:
            RuntimeError: There is no stream.
        """
        head, _ = self._head(request)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"expected a stream, got {head!r:.300}")

    def _head(self, request: bytes) -> tuple[bytes, bytes]:
        self._socket.sendall(request)
        head, _, data = self._received(b"", lambda text: b"\r\n\r\n" in text).partition(b"\r\n\r\n")
        return head, data

    def _received(self, data: bytes, is_whole: Any) -> bytes:
        while not is_whole(data):
            part = self._socket.recv(65_536)
            if not part:
                raise RuntimeError("expected an answer, got the end of the connection")
            data += part
        return data
