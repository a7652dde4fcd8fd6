# SPDX-License-Identifier: Apache-2.0
"""The bridge `arx connect --listen` took a request with two `Host` headers, and judged the last one.

RFC 9112 3.2 wants status 400: a proxy before it may have judged the other one.
"""

import asyncio
from typing import Any

import pytest

from arx_caps.connect.loopback import LoopbackApp

HOST, OTHER = (b"host", b"127.0.0.1:8080"), (b"host", b"evil.example")
ORIGIN, FOREIGN = (b"origin", b"http://localhost:8080"), (b"origin", b"https://evil.example")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([HOST], 404),
        ([HOST, ORIGIN], 404),
        ([], 400),
        ([OTHER, HOST], 400),
        ([HOST, OTHER], 400),
        ([HOST, HOST], 400),
        ([OTHER], 403),
        ([HOST, FOREIGN, ORIGIN], 403),
        ([HOST, ORIGIN, FOREIGN], 403),
    ],
)
def test_each_request_has_one(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """And no origin but this machine's, also among several."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    app = LoopbackApp({}, 8080)
    scope = {"type": "http", "method": "POST", "path": "/x/files", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status
