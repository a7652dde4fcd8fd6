# SPDX-License-Identifier: Apache-2.0
"""What all doors need of ASGI: its types, and a stream that ends with its client."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeVar

from arx_caps.agent.tasks.approval import FIRST_PAUSE_S, LONGEST_PAUSE_S, SLOWER
from arx_verifier.enforcement import bounded_body

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_UNWATCHED_S: Final = 0.1  # until a call is watched for a client that goes


class StreamedBody:
    """A body that goes on while it comes.

    Args:
        receive: As ASGI has it.
        head: What was read of it.
        more: Whether more follows.
    """

    def __init__(self, receive: Receive, head: bytes = b"", *, more: bool = True) -> None:
        self._receive, self._head, self._more, self._over = receive, head, more, asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield it.

        Raises:
            ClientGoneError: The client went before its end.
        """
        try:
            if self._head:
                yield self._head
            while self._more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise bounded_body.ClientGoneError
                self._more = message.get("more_body", False)
                if part := message.get("body", b""):
                    yield part
        finally:
            self._over.set()

    async def receive(self) -> Message:
        """Return what comes after it, as ASGI has it: an answer may begin before, and must take no part of it."""
        await self._over.wait()
        return await self._receive()


@contextlib.asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block once the client has gone: its answer has no reader any more.

    Args:
        receive: As ASGI has it, after the body.

    Raises:
        ClientGoneError: The client has gone.
    """
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def watch() -> None:
        watches.append(loop.create_task(until_gone(receive)))
        watches[0].add_done_callback(end)

    def end(_: asyncio.Task[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the block has just ended
            limit.reschedule(loop.time())

    # Most calls are over before: a task for each of them costs more than passing their answers on.
    timer = loop.call_later(_UNWATCHED_S, watch)
    try:
        async with asyncio.timeout(None) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise bounded_body.ClientGoneError from None
    finally:
        timer.cancel()
        for task in watches:
            task.cancel()


async def pass_on(parts: AsyncIterator[bytes], send: Send) -> None:
    """Send a stream's parts as they come, and its end.

    Args:
        parts: The parts.
        send: As ASGI has it; the answer has begun.
    """
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(receive: Receive) -> None:
    """Return once the client of a request has gone.

    Args:
        receive: As ASGI has it, after the body.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


async def poll(
    receive: Receive, hold_s: float, look: Callable[[], Awaitable[T]], is_over: Callable[[T], object]
) -> T | None:
    """Poll to the end, or for some time, and return what was seen last; None if the client has gone.

    Args:
        receive: As ASGI has it, after the body.
        hold_s: How long to look.
        look: Returns what there is.
        is_over: Returns whether that is the end.
    """
    pause, until = FIRST_PAUSE_S, time.monotonic() + hold_s
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        # A call whose client has gone is not made: its answer would be lost.
        while not gone.done():
            found = await look()
            if is_over(found) or time.monotonic() + pause > until:
                return found
            await asyncio.wait((gone,), timeout=pause)
            pause = min(pause * SLOWER, LONGEST_PAUSE_S)
        return None
    finally:
        gone.cancel()


async def read_body(
    receive: Receive, longest: int, short: int = 0, require: Callable[[], None] | None = None
) -> bytes | None:
    """Return the body of a request; None if it is longer, or the client went.

    Args:
        receive: As ASGI has it.
        longest: The longest body, bytes.
        short: What may be kept of it before ``require``, bytes.
        require: Called before more of it is kept; raises if that may not be.
    """
    left = require

    def check(size: int) -> None:
        nonlocal left
        if left is not None and size > short:
            left()
            left = None

    try:
        return bytes(await bounded_body.receive_body(receive, longest, check=check))
    except (bounded_body.BodyTooLongError, bounded_body.ClientGoneError):
        return None


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body that was read, and then goes on.

    Args:
        body: The body.
        receive: As ASGI has it, after the body.
    """
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
