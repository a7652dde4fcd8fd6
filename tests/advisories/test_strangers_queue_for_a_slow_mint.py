# SPDX-License-Identifier: Apache-2.0
"""Strangers who asked a gateway for metadata while its mint was slow waited for it one after the other.

Each waited for a timeout of its own after those before it, with a connection open, and each asked the mint again.  So
did requests with an access token by a key that the gateway did not know, and other clients behind them.
"""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.gateway.access_tokens import kept_answer
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.errors import ArxError
from tests.mint.harness import now_ms
from tests.mint.issuer import served

WAITING = 20


def test_one_request_fails_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those who are content with what is kept do not wait at all."""
    monkeypatch.setattr(kept_answer, "_LOOK_S", 600.0)
    asked = list[str]()
    slow, arrived, go_on = (threading.Event() for _ in range(3))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if slow.is_set():
                arrived.set()
                assert go_on.wait(60)
            self.send_response(503 if slow.is_set() else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    async def run() -> None:
        mint = MintClient(f"http://127.0.0.1:{server.server_address[1]}", now=now_ms)
        own = ServiceIdentity(None, mint.issuer, SigningKey.generate(), None)  # type: ignore[arg-type]
        kept = kept_answer.KeptAnswer(mint, own, "/v1/scopes", 600.0)
        assert await kept.get() == {}
        slow.set()
        waiting = [asyncio.ensure_future(kept.get(0.0)) for _ in range(WAITING)]
        await asyncio.to_thread(arrived.wait, 60)
        assert await kept.get() == {}
        go_on.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, ArxError) for each in found)
        assert asked == ["/v1/scopes"] * 2
        mint.close()

    with served(server):
        asyncio.run(run())
