# SPDX-License-Identifier: Apache-2.0
"""A client without a token could cancel the work of others at an MCP server, by the gateway's own credential.

A gateway that watches passes such a client's messages on without its credential.  Once it ended such a call, it sent
the server a cancellation with it, about the session and the request that the client had named.  Now a cancellation
has that credential only if its call had it.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.test_watch import Upstream, ask, gateway
from tests.servers import until

pytestmark = [pytest.mark.spec("12.7"), pytest.mark.servers]


class SlowUpstream(Upstream):
    """An MCP server that answers no call; it keeps each message with its credential."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[str, str | None]] = []
        self.called = threading.Event()

    async def mcp(self, request: Request) -> Response:
        """Keep the message; wait for ever if it is a call."""
        asked: dict[str, Any] = await request.json()
        self.got.append((asked["method"], request.headers.get("authorization")))
        if asked["method"] == "tools/call":
            self.called.set()
            await asyncio.Event().wait()
        return Response(status_code=202)


@pytest.mark.parametrize(("order", "lends"), [("o-1", True), ("expired", False)])
def test_a_cancellation_has_the_credential_of_its_call(order: str, lends: bool, tmp_path: Path) -> None:
    """Of an allowed call, and of one whose token had expired before it was killed."""
    realm = UnsafeTestRealm("orders")
    rule = Rule(tool="orders.get", open=True)
    caller, made = realm.caller(rule) if lends else realm.caller(rule, ttl_ms=1), now_ms()
    until(lambda: now_ms() > made + 5)
    upstream = SlowUpstream()
    with gateway("mcp", realm, tmp_path, upstream) as (url, _), ThreadPoolExecutor(1) as clients:
        answer = clients.submit(ask, url, "mcp", order, caller)
        assert upstream.called.wait(30)
        realm.epochs.kill("session:s-test")
        assert "revoked" in answer.result(30).text
        until(lambda: len(upstream.got) == 2)
    credential = "Bearer own-of-gateway" if lends else None
    assert upstream.got == [("tools/call", credential), ("notifications/cancelled", credential)]
