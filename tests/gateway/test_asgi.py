# SPDX-License-Identifier: Apache-2.0
"""How a stream is passed on: it ends with its parts, with its client, or with an error of the upstream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from arx_caps.gateway.base.asgi import pass_on, while_connected
from arx_verifier.enforcement.bounded_body import ClientGoneError


def passed(parts: AsyncIterator[bytes], *messages: str) -> list[Any]:
    """Pass a stream on to a client that sends messages of these types and then none; return what the client got."""
    sent: list[Any] = []
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        kind = next(waiting, None)
        return {"type": kind} if kind else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append((message["body"], message["more_body"]))

    async def passing() -> None:
        with contextlib.suppress(ClientGoneError):
            async with while_connected(receive):
                await pass_on(parts, send)

    asyncio.run(asyncio.wait_for(passing(), 30))
    return sent


async def one(then: BaseException | None = None) -> AsyncIterator[bytes]:
    yield b"one"
    if then is not None:
        raise then


@pytest.mark.parametrize("messages", [(), ("http.request", "http.disconnect")])
def test_a_stream_that_ends_is_ended_for_its_client(messages: tuple[str, ...]) -> None:
    assert passed(one(), *messages) == [(b"one", True), (b"", False)]


def test_a_stream_ends_when_its_client_has_gone() -> None:
    """The upstream's part of it ends as well, although it is silent."""
    ended = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"one"
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    assert passed(endless(), "http.request", "http.disconnect") == [(b"one", True)]
    assert ended == [True]


def test_an_upstream_s_time_out_is_not_taken_for_a_client_that_has_gone() -> None:
    with pytest.raises(TimeoutError, match="upstream"):
        passed(one(TimeoutError("upstream")))
