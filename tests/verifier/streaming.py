# SPDX-License-Identifier: Apache-2.0
"""One call through the middleware whose application may stream, and all that it sent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.token.caveats import Caveat
from tests.verifier.serving import RULES, TOOLS, Realm

SESSION = "session:s-aaaaaaaaaaaaaaaa"
START = {"type": "http.response.start", "status": 200, "headers": []}
App = Callable[[Any, Any, Any], Awaitable[None]]


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Call:
    """One request through the middleware, and all that was sent back."""

    def __init__(self, realm: Realm, app: App, *, recheck_ms: int = 5, caveats: tuple[Caveat, ...] = ()) -> None:
        self.sent: list[Any] = []
        self._middleware = ArxMiddleware(app, verifier=realm.verifier, tools=TOOLS, recheck_ms=recheck_ms)
        token = b"Bearer " + realm.token(*caveats, rules=RULES).encode().encode()
        self._target = {"type": "http", "method": "GET", "path": "/orders/A-1", "raw_path": b"/orders/A-1"}
        self._target |= {"query_string": b"", "headers": [(b"authorization", token)], "client": ("10.0.0.7", 1)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def once(self) -> None:
        await self._middleware(dict(self._target), self.receive, self.send)

    async def __call__(self) -> None:
        await asyncio.wait_for(self.once(), 10)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def realm() -> Realm:
    return Realm()
