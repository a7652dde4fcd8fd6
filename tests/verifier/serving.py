# SPDX-License-Identifier: Apache-2.0
"""A verifier with what it takes to ask it: tokens for it, and requests through the middleware."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier

KEY = b"k" * 32
TOOLS = {
    "GET /orders/{order_id}": "orders.get",
    "POST /orders/{order_id}/refund?{memo}": "orders.refund",
    "GET /orders/latest": "orders.latest",
}
RULES = (
    Rule(tool="orders.get"),
    Rule(tool="orders.refund", args={"order_id": Constraint(glob="A-*"), "amount": Constraint(range=(1, 20))}),
)


class Slow(InMemoryDecisions):
    """A sink that may wait, so that decisions leave the event loop."""

    waits = True


class Realm:
    """A verifier with what it takes to make tokens for it."""

    def __init__(self, sink: InMemoryDecisions | None = None) -> None:
        self.epochs, self.sink = UnsafeLocalEpochs(), sink or InMemoryDecisions(verifier="v1")
        self.keys = KeyRing({"k1.0": KEY}, realm="acme")
        self.verifier = Verifier(audience="orders", keys=self.keys, epochs=self.epochs, decisions=self.sink)

    def token(self, *caveats: Caveat, rules: tuple[Rule, ...] | None = RULES) -> Macaroon:
        now = time.time_ns() // 1_000_000
        identifier = Identifier(
            agent="acme/support",
            aud="orders",
            born=(self.epochs.incarnation, self.epochs.seq),
            depth=2,
            exp=now + 60_000,
            iat=now,
            id="A" * 22,
            kid="k1.0",
            session="s-aaaaaaaaaaaaaaaa",
            task="t-aaaaaaaaaaaaaaaa",
            v=1,
        )
        first = (Caveat(allow=rules),) if rules else ()
        return Macaroon.mint(identifier, key=KEY, realm="acme", caveats=(*first, *caveats))

    @property
    def codes(self) -> list[str]:
        self.sink.close()
        counted = [counted.code for decision in self.sink.decisions for counted in decision.counts]
        return [decision.code for decision in self.sink.decisions if decision.code != "counted"] + counted


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return dict(json.loads(self.body))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Report what it saw."""
    seen = b""
    while (message := await receive())["type"] == "http.request":
        seen += message["body"]
        if not message["more_body"]:
            break
    grant: Grant = scope["arx"]
    body = json.dumps([grant.tool, grant.agent, seen.decode("latin-1")]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def ask(
    realm: Realm,
    target: str,
    token: str | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
    parts: list[bytes] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    client: tuple[str, int] | None = ("10.0.0.7", 1),
    scope: Mapping[str, Any] | None = None,
    **options: Any,
) -> Answered | None:
    """Send one request; None when the application was cut off without an answer."""
    options = {"tools": TOOLS} | options
    app = ArxMiddleware(application, verifier=realm.verifier, **options)
    raw, _, query = target.partition("?")
    lines = list(headers or [])
    if token is not None:
        lines.append((b"authorization", b"Bearer " + token.encode("latin-1")))
    if body and not any(name == b"content-type" for name, _ in lines):
        lines.append((b"content-type", b"application/json"))
    whole = {"type": "http", "method": method, "path": raw, "raw_path": raw.encode(), "query_string": query.encode()}
    whole |= {"headers": lines, "client": client, **(scope or {})}
    chunks = [body] if parts is None else parts
    messages = [{"type": "http.request", "body": part, "more_body": part is not chunks[-1]} for part in chunks]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(whole, receive, send))
    if not sent:
        return None
    fields = {name.decode(): value.decode("ascii") for name, value in sent[0]["headers"]}
    return Answered(sent[0]["status"], fields, b"".join(message["body"] for message in sent[1:]))


def answered(*args: Any, **more: Any) -> Answered:
    result = ask(*args, **more)
    assert result is not None
    return result
