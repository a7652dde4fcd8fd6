# SPDX-License-Identifier: Apache-2.0
"""Server-sent events as bytes: a stream cut at its events, and the fields of one.  HTML standard, 9.2."""

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from arx_verifier.errors import RequestError

# Possessive: the end of one line, \r\n, is not the ends of two.  `re` looks for the first byte alone, which an atomic
# group would prevent: half of the time for an event.
_EVENT_END: Final = re.compile(rb"(?:\n|\r\n?+)(?:\n|\r\n?+)")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventFields(NamedTuple):
    """What one event says.

    Attributes:
        data: Its data; empty for an event that only names an id or a delay.
        id: Its id, from which a stream can be resumed, or None.
        retry_ms: How long to wait before the stream is opened again, ms, or None.
    """

    data: bytes
    id: str | None = None
    retry_ms: int | None = None


async def split_events(chunks: AsyncIterator[bytes], longest: int) -> AsyncIterator[bytes]:
    """Yield the events of a stream as they come, each with the blank line that ends it.

    A stream that breaks off yields the begun event last, without that line.

    Args:
        chunks: The stream's parts.
        longest: The longest event, bytes.

    Raises:
        RequestError: An event is longer.
    """
    # By bytes: the line iterators of HTTP clients also end a line at characters that JSON may have in a text.
    kept, first = bytearray(), True
    async for chunk in chunks:
        # A blank line may have begun with the last byte of the chunk before.
        searched, begin = max(len(kept) - 1, 0), 0
        kept += chunk
        while (end := _EVENT_END.search(kept, max(searched, begin))) is not None:
            event, begin = bytes(kept[begin : end.end()]), end.end()
            _check(len(event), longest)
            yield event.removeprefix(_BYTE_ORDER_MARK) if first else event
            first = False
        del kept[:begin]
        _check(len(kept), longest)
    if kept:
        yield bytes(kept)


def _check(size: int, longest: int) -> None:
    if size > longest:
        raise RequestError(f"the server's event: expected at most {longest} bytes")


def is_whole(event: bytes) -> bool:
    """Return whether a blank line ends an event; a client ignores one that broke off."""
    return _EVENT_END.search(event) is not None


def fields_of(event: bytes) -> EventFields:
    """Return the fields of an event.

    Args:
        event: Its lines.
    """
    data: list[bytes] = []
    identity: str | None = None
    retry_ms: int | None = None
    for line in event.splitlines():  # of bytes: at \r\n, \n and \r alone
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"id" and b"\0" not in value:
            identity = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            retry_ms = int(value)
    return EventFields(b"\n".join(data), identity, retry_ms)


def with_id(event: bytes, identity: str) -> bytes:
    """Return an event with another id.

    Args:
        event: The event.
        identity: The id, on one line.
    """
    kept = [line for line in event.splitlines() if line and line.partition(b":")[0] != b"id"]
    return b"\n".join([b"id: " + identity.encode(), *kept, b"", b""])


def with_data(event: bytes, data: bytes) -> bytes:
    """Return an event with other data.

    Args:
        event: The event.
        data: JSON; a line of it is a line of the event.
    """
    kept = [line for line in event.splitlines() if line and line.partition(b":")[0] != b"data"]
    return b"\n".join([*kept, *(b"data: " + line for line in data.splitlines()), b"", b""])
