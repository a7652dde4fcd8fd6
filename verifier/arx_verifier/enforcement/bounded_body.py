# SPDX-License-Identifier: Apache-2.0
"""Read a body that comes in parts, up to a bound.  A declared length may be wrong: what comes is counted.

What a body means is in ``routes``.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyTooLongError(Exception):
    """A body has more bytes than its reader takes."""


class ClientGoneError(Exception):
    """A client went before it had sent its whole body."""


async def receive_body(
    receive: Receive,
    longest: int,
    message: MutableMapping[str, Any] | None = None,
    check: Callable[[int], None] | None = None,
) -> bytearray:
    """Return the body of a request.

    Args:
        receive: As ASGI has it.
        longest: The longest body, bytes.
        message: The first message, if it was received.
        check: Called with the size so far, bytes, before a part is kept; raises if it may not be.

    Raises:
        BodyTooLongError: It is longer.
        ClientGoneError: The client went.
    """
    body = bytearray()
    while True:
        message = message or await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        if check is not None and len(body) + len(part) <= longest:
            check(len(body) + len(part))
        _add(body, part, longest)
        if not message.get("more_body", False):
            return body
        message = None


async def read_stream(parts: AsyncIterable[bytes], longest: int) -> bytes:
    """Return a body that comes in parts.

    Args:
        parts: The parts.
        longest: The longest body, bytes.

    Raises:
        BodyTooLongError: It is longer.
    """
    body = bytearray()
    async for part in parts:
        _add(body, part, longest)
    return bytes(body)


def read_parts(parts: Iterable[bytes], longest: int) -> bytes:
    """Return a body that comes in parts, as ``read_stream`` does."""
    body = bytearray()
    for part in parts:
        _add(body, part, longest)
    return bytes(body)


def _add(body: bytearray, part: bytes, longest: int) -> None:
    # One buffer and no list of parts: the other side may send single bytes, or endless empty frames (HTTP/2).
    if len(body) + len(part) > longest:
        raise BodyTooLongError
    body += part
