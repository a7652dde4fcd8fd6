# SPDX-License-Identifier: Apache-2.0
"""What a server sends over HTTP: a body, or a stream of server-sent events.  Both are bounded."""

from collections.abc import AsyncIterator
from typing import Final

from arx_caps.http.event_stream import is_whole, split_events
from arx_verifier.enforcement import bounded_body
from arx_verifier.errors import RequestError

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # a result may hold a file in base64
JSON_TYPE: Final = "application/json"
EVENTS_TYPE: Final = "text/event-stream"


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
    try:
        return await bounded_body.read_stream(chunks, MAX_MESSAGE_BYTES)
    except bounded_body.BodyTooLongError:
        limit = f"{MAX_MESSAGE_BYTES // 1024 // 1024} MiB"
        raise RequestError(f"the server's message: expected at most {limit}") from None


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the events of a stream as they come, without one that broke off.

    Args:
        chunks: The stream's parts.

    Raises:
        RequestError: An event has more than ``MAX_MESSAGE_BYTES``.
    """
    async for event in split_events(chunks, MAX_MESSAGE_BYTES):
        if is_whole(event):
            yield event
