# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 by httptools: Node's parser in C, which bounds nothing and checks less than h11.

So a head without end is refused here, and no ``Host`` or two, as h11 refuses them.  A target that is no path is refused
too: uvicorn would take the path inside it, where h11 finds no route.
"""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from arx_caps.mint.server.connections import BoundedProtocol

MAX_PART_BYTES: Final = 16 * 1024  # a head, or the trailers of a body; as h11 has it
MAX_QUEUED: Final = 16  # requests that were sent before the one ahead of them was answered
_BODY: Final = (b"content-length", b"transfer-encoding")


class BoundedHttpTools(BoundedProtocol, HttpToolsProtocol):
    """uvicorn's protocol on httptools, with bounds."""

    _in_head = _moved = False
    _part_bytes = 0  # that came and made neither head nor body nor request whole

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and refuse a head or a trailer that has no end: the parser keeps it in memory."""
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
        """Begin a request.  An error here, or in what follows, is what ``send_400_response`` answers."""
        if len(self.pipeline) >= MAX_QUEUED:
            raise ValueError("too many requests before an answer")
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header in; a trailer is dropped, or it could pass for a header that was checked."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hold the head to what h11 holds it to, and start the application."""
        self._in_head, self._moved = False, True
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("host")
        if not self.url.startswith(b"/") or b"#" in self.url:
            raise ValueError("target")
        switches = self.parser.should_upgrade()
        if switches and any(name in _BODY for name in names):
            raise ValueError("the parser would take this body for the next request")
        super().on_headers_complete()
        if switches:
            self.cycle.keep_alive = False  # what follows is no request either

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body in."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        self._moved = True
        super().on_message_complete()

    def waits(self) -> bool:
        """Tell whether a request is not there yet, or not whole; not while one ahead of it is answered."""
        return not self.pipeline and super().waits()

    def refuse(self, status: int, detail: str) -> None:
        """Refuse; where earlier requests wait for their answers, close the connection, as answers keep their order."""
        if self.pipeline:
            self.transport.abort()
        else:
            super().refuse(status, detail)

    def send_400_response(self, msg: str) -> None:
        """Refuse."""
        self.refuse(400, msg.rstrip("."))
