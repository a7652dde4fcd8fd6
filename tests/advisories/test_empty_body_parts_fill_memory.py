# SPDX-License-Identifier: Apache-2.0
"""A caller without a token could fill a service's memory with a body of empty parts.

Every part of a body was kept until the last one came, and the sum of their lengths was bounded, not their number.  A
stranger who sent empty HTTP/2 data frames without end took eight bytes of memory with each, before any token was looked
at; and a holder who sent a megabyte in pieces of two bytes took twenty.  The bridge for stock clients, and what reads
the answers of upstreams and MCP servers, had a loop of their own with the same weakness.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from arx_caps.mcp.wire import read_body
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from tests.verifier.serving import TOOLS, Realm, application

PARTS = 100_000


@pytest.mark.parametrize(("part", "most"), [(b"", 20_000), (b"ab", 800_000)], ids=["nothing", "little"])
def test_parts_of_a_body_take_what_they_hold(part: bytes, most: int) -> None:
    """However many there are: little more than their bytes, until the client goes away."""
    realm = Realm()
    authorization = b"Bearer " + realm.token().encode().encode()
    target = {"type": "http", "method": "POST", "path": "/orders/A-1/refund", "query_string": b"", "client": None}
    taken, came = [], 0

    async def receive() -> Any:
        nonlocal came
        came += 1
        if came in (1000, PARTS):
            taken.append(tracemalloc.get_traced_memory()[0])
        if came == PARTS:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": bytes(bytearray(part)), "more_body": True}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    app = ArxMiddleware(application, verifier=realm.verifier, tools=TOOLS)
    tracemalloc.start()
    try:
        asyncio.run(app({**target, "headers": [(b"authorization", authorization)]}, receive, send))
    finally:
        tracemalloc.stop()
    assert taken[1] - taken[0] < most


@pytest.mark.parametrize(("part", "most"), [(b"", 20_000), (b"ab", 800_000)], ids=["nothing", "little"])
def test_parts_of_an_answer_take_what_they_hold(part: bytes, most: int) -> None:
    """The body of an MCP server, by which a bridge reads what its server sends."""
    taken = []

    async def parts() -> AsyncIterator[bytes]:
        for number in range(PARTS):
            if number in (1000, PARTS - 1):
                taken.append(tracemalloc.get_traced_memory()[0])
            yield bytes(bytearray(part))

    tracemalloc.start()
    try:
        assert asyncio.run(read_body(parts())) == part * PARTS
    finally:
        tracemalloc.stop()
    assert taken[1] - taken[0] < most
