# SPDX-License-Identifier: Apache-2.0
"""The gateway's MCP door in one process: an upstream that a test writes, and one request of a client."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from arx_caps.gateway.base.settings import RateTerms, UpstreamTerms
from arx_caps.gateway.mcp.accepted_tools import AcceptedTools
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.upstream.credentials import LiveCall
from arx_verifier.journal.decision import UNPROVEN
from arx_verifier.request import HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields

CALL = LiveCall("", "files.get", UNPROVEN)


class Answer:
    """An answer of an upstream."""

    status = 200

    def __init__(self, data: bytes, *headers: tuple[bytes, bytes], kind: str = "application/json") -> None:
        self._data, self.raw_headers, self.content, self.content_type = data, headers, self, kind

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._data


class Upstream:
    """Answers each message, and keeps what it got.

    Args:
        answer: Returns the answer to a method, or what to await for it.
        serves_one_holder: As of ``Forwarder``.
    """

    name, base = "files", "http://127.0.0.1:1"

    def __init__(self, answer: Callable[[str], Any], serves_one_holder: bool = False) -> None:
        self.got: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.ended: list[bytes] = []
        self.serves_one_holder, self._answer = serves_one_holder, answer

    @contextlib.asynccontextmanager
    async def send(self, method: str, headers: Any, body: bytes, owner: str, *, call: Any) -> AsyncIterator[Answer]:
        self.bodies.append(json.loads(body) if body else {})
        self.headers.append(dict(headers))
        self.got.append(self.bodies[-1].get("method", method))
        answer = self._answer(self.got[-1])
        yield await answer if isinstance(answer, Awaitable) else answer

    async def end_work(self, headers: Any, note: bytes, owner: str, *, call: Any) -> None:
        self.ended.append(note)


class Door:
    """The door before an upstream.

    Args:
        realm: Has the verifier of the audience ``files``.
        upstream: The upstream.
        rate: Its rate.
        asks: What it may ask of clients.
        tools: Its accepted tools; None to hold none.
    """

    def __init__(
        self,
        realm: UnsafeTestRealm,
        upstream: Upstream,
        rate: RateTerms = RateTerms(),  # noqa: B008
        asks: tuple[str, ...] = (),
        tools: AcceptedTools | None = None,
    ) -> None:
        self._terms = UpstreamTerms(audience="files", url="http://127.0.0.1:1", rate=rate, server_requests=asks)
        self._door = McpDoor(realm.verifier, self._terms, upstream, tools=tools)  # type: ignore[arg-type]

    def ask(
        self,
        body: bytes,
        *headers: tuple[bytes, bytes],
        method: str = "POST",
        heads: list[tuple[bytes, bytes]] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request, and return status and body of its answer; ``heads`` gets the headers of it."""
        scope = {"type": "http", "method": method, "headers": list(headers), "client": None, "path": "/files"}
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if came:
                await asyncio.Event().wait()
            came.append(True)
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        came: list[bool] = []

        async def run() -> None:
            await self._door({**scope, "raw_path": b"/files", "query_string": b""}, receive, send)
            await self._door.close()

        asyncio.run(run())
        # What a server refuses: two ends of an answer, and two lengths of one body.
        assert [bool(each.get("more_body")) for each in sent[1:]] == [True] * (len(sent) - 2) + [False]
        assert [name for name, _ in sent[0]["headers"]].count(b"content-length") <= 1
        if heads is not None:
            heads += sent[0]["headers"]
        return sent[0]["status"], b"".join(each.get("body", b"") for each in sent)

    def message(
        self, caller: UnsafeCaller, method: str, params: dict[str, Any] | None = None, *headers: tuple[bytes, bytes]
    ) -> dict[str, Any]:
        """Send a request of MCP that its HTTP request signs, and return the answer."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}).encode()
        status, data = self.ask(body, signed(caller, body), *headers)
        found: dict[str, Any] = json.loads(data) if status == 200 else {"status": status, "data": data}
        return found


def signed(caller: UnsafeCaller, body: bytes, method: str = "POST") -> tuple[bytes, bytes]:
    """Return the header that signs a request to ``Door``."""
    call = HttpCall(method, b"/files", hashlib.sha256(body).digest())
    return b"authorization", f"Bearer {caller._signer.sign(http_fields(call), _now_ms())}".encode()


def exchange(realm: UnsafeTestRealm, upstream: Upstream, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
    """Send one request to a door of its own, and return status and body of its answer."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return Door(realm, upstream).ask(body)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
