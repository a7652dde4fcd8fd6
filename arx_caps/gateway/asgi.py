# SPDX-License-Identifier: Apache-2.0
"""What both doors need of ASGI: its types, and a stream that ends with its client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def pass_on(parts: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send a stream's parts as they come, until it ends or the client goes.

    Args:
        parts: The parts.
        receive: As ASGI has it.
        send: As ASGI has it; the answer has begun.
    """
    gone = asyncio.ensure_future(_disconnected(receive))
    pump = asyncio.ensure_future(_pump(parts, send))
    try:
        await asyncio.wait({gone, pump}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            await pump
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        for task in (gone, pump):
            task.cancel()
        await asyncio.gather(gone, pump, return_exceptions=True)


async def _pump(parts: AsyncIterator[bytes], send: Send) -> None:
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive, longest: int) -> bytes | None:
    """Return the body of a request; None if it is longer, or the client went.

    Args:
        receive: As ASGI has it.
        longest: The longest body, bytes.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > longest:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)
