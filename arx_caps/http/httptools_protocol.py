# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 by httptools, with the bounds and checks of h11 that it lacks."""

# httptools is Node's parser in C: it bounds nothing and checks less than h11. So a head without end, no or two Host
# fields, and a target that is no path are refused here: uvicorn would route by the path inside an absolute target.

from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from arx_caps.http.connections import BoundedProtocol

MAX_PART_BYTES: Final = 16 * 1024  # of a head or of a body's trailers, as in h11
MAX_QUEUED: Final = 16  # pipelined requests that wait for the answer before theirs
_BODY: Final = (b"content-length", b"transfer-encoding")


class BoundedHttpTools(BoundedProtocol, HttpToolsProtocol):
    """uvicorn's httptools protocol, with bounds on connections and on each head."""

    _in_head = _moved = False
    _part_bytes = 0  # received since the last head, piece of a body, or end of a request

    def data_received(self, data: bytes) -> None:
        """Receive bytes, and refuse a head or trailers that are too long."""
        # The parser keeps an unfinished head in memory, so it gets pieces that can be counted.
        for start in range(0, len(data), MAX_PART_BYTES):
            piece = data[start : start + MAX_PART_BYTES]
            self._moved = False
            super().data_received(piece)
            self._part_bytes = 0 if self._moved else self._part_bytes + len(piece)
            if self.transport.is_closing():
                return
            if self._part_bytes > MAX_PART_BYTES:
                self.refuse(431, "Invalid HTTP request received")
                return

    def on_message_begin(self) -> None:
        """Begin a request.

        Raises:
            ValueError: Too many requests wait; uvicorn calls ``send_400_response`` for any error in here.
        """
        if len(self.pipeline) >= MAX_QUEUED:
            raise ValueError("too many requests before an answer")
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header; drop a trailer."""
        # A trailer arrives after the checks of the head, and would pass for a header that was checked.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head as h11 does, and start the application.

        Raises:
            ValueError: The head is invalid.
        """
        self._in_head, self._moved = False, True
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        # RFC 9112 3.2: two readers of two Host fields could take different ones.
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("host")
        if not self.url.startswith(b"/") or b"#" in self.url:
            raise ValueError("target")
        switches = self.parser.should_upgrade()
        if switches and any(name in _BODY for name in names):
            raise ValueError("the parser would take this body for the next request")
        super().on_headers_complete()
        if switches:
            self.cycle.keep_alive = False  # bytes after an upgrade are no request

    def on_body(self, body: bytes) -> None:
        """Receive a piece of a body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Mark the request as whole."""
        self._moved = True
        super().on_message_complete()

    def waits(self) -> bool:
        """Return whether a whole request is still to arrive, with none queued before it."""
        return not self.pipeline and super().waits()

    def refuse(self, status: int, detail: str) -> None:
        """Answer with a problem and close the connection."""
        # Answers keep the order of their requests: with earlier ones open, this one cannot be answered.
        if self.pipeline:
            self.transport.abort()
        else:
            super().refuse(status, detail)

    def send_400_response(self, msg: str) -> None:
        """Answer with status 400."""
        self.refuse(400, msg.rstrip("."))


def bounded(*, places: int, request_s: float, type_of: Callable[[str], str]) -> type[BoundedProtocol]:
    """Return the protocol class of one server.

    Args:
        places: As the attribute.
        request_s: As the attribute.
        type_of: As the attribute.
    """
    members = {"places": places, "request_s": request_s, "type_of": staticmethod(type_of), "held": {}}
    return type("Bounded", (BoundedHttpTools,), members)
