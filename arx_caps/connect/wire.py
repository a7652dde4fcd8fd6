# SPDX-License-Identifier: Apache-2.0
"""What a server sends over HTTP: a body, or a stream of server-sent events.  Both are bounded.

The events are those of the HTML standard, section "Server-sent events".
"""

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from arx_verifier.errors import RequestError

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # a result may hold a file in base64
JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class ServerEvent(NamedTuple):
    """One server-sent event.

    Attributes:
        data: Its data; empty for an event that only names an id or a delay.
        id: Its id, from which a stream can be resumed, or None.
        retry_ms: How long to wait before the stream is opened again, ms, or None.
    """

    data: bytes
    id: str | None = None
    retry_ms: int | None = None

    def encode(self) -> bytes:
        """Return its text."""
        lines = [] if self.id is None else [b"id: " + self.id.encode()]
        lines += [] if self.retry_ms is None else [b"retry: %d" % self.retry_ms]
        return b"\n".join([*lines, b"data: " + self.data, b"", b""])


def kind_of(content_type: str) -> str:
    """Return a content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def one_line(raw: bytes) -> bytes:
    """Return valid JSON without line ends, which can only be white space between its tokens."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


async def read_body(chunks: AsyncIterator[bytes]) -> bytes:
    """Return a whole body.

    Args:
        chunks: Its parts.

    Raises:
        RequestError: It has more than ``MAX_MESSAGE_BYTES``.
    """
    parts, size = [], 0
    async for chunk in chunks:
        size = _within(size + len(chunk))
        parts.append(chunk)
    return b"".join(parts)


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """Yield the events of a stream as they come.

    Args:
        chunks: The stream's parts.

    Raises:
        RequestError: An event has more than ``MAX_MESSAGE_BYTES``.
    """
    data: list[bytes] = []
    identity: str | None = None
    retry_ms: int | None = None
    size = 0
    async for line in _lines(chunks):
        if not line:
            if data or identity is not None or retry_ms is not None:
                yield ServerEvent(b"\n".join(data), identity, retry_ms)
            data, identity, retry_ms, size = [], None, None, 0
            continue
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            size = _within(size + len(value))
            data.append(value)
        elif name == b"id" and b"\0" not in value:
            identity = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            retry_ms = int(value)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # By bytes: the line iterators of HTTP clients also end a line at characters that JSON may have in a text.
    begun: list[bytes] = []
    after_return, first, size = False, True, 0
    async for chunk in chunks:
        part = chunk[1:] if after_return and chunk.startswith(b"\n") else chunk
        after_return = chunk.endswith(b"\r")
        if _LINE_END.search(part) is None:
            size = _within(size + len(part))
            begun.append(part)
            continue
        *lines, rest = _LINE_END.split(b"".join([*begun, part]))
        begun, size = [rest], len(rest)
        if first:
            lines[0], first = lines[0].removeprefix(b"\xef\xbb\xbf"), False
        for line in lines:
            yield line


def _within(size: int) -> int:
    if size > MAX_MESSAGE_BYTES:
        raise RequestError(f"the server's message: expected at most {MAX_MESSAGE_BYTES // 1024 // 1024} MiB")
    return size
