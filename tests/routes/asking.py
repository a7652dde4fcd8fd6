# SPDX-License-Identifier: Apache-2.0
"""Ask an ASGI application without an HTTP client: one signed request, and its answer."""

import asyncio
import hashlib
import json
import time
from typing import Any, NamedTuple
from urllib.parse import unquote

from arx_verifier import CallSigner, HttpCall, Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.call_proof import http_fields


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: The status; 0 when the application failed without an answer.
        body: The body.
    """

    status: int
    body: bytes

    @property
    def code(self) -> str:
        """The reason code of a refusal."""
        return str(json.loads(self.body)["code"])


async def ask(app: Any, method: str, target: str, body: bytes = b"", **more: Any) -> Answer:
    """Send one request.

    Args:
        app: The application.
        method: The method.
        target: Path and query.
        body: A JSON body.
        more: Members of the scope; ``token``, ``host``, ``headers`` and ``root_path`` among them.
    """
    raw, _, query = target.partition("?")
    headers = [(b"host", more.pop("host", "orders.example").encode()), *more.pop("headers", ())]
    if body:
        headers.append((b"content-type", b"application/json"))
    if token := more.pop("token", ""):
        headers.append((b"authorization", b"Bearer " + token.encode()))
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
    }
    scope |= {"headers": headers, "client": ("192.0.2.7", 1), "http_version": "1.1", "root_path": ""} | more
    sent: list[Any] = []
    given: list[bytes] = []

    async def receive() -> Any:
        if given:
            await asyncio.Event().wait()  # a client that stays
        given.append(body)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return Answer(0, b"")
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]))


class Guarded:
    """An application behind the middleware, and an agent.

    Args:
        app: The application.
        tools: The table.
        rules: What the agent may do; everything without any.
        options: Further arguments of the middleware.
    """

    def __init__(self, app: Any, tools: Any, *rules: Rule, **options: Any) -> None:
        self.realm = UnsafeTestRealm("orders")
        self.app = ArxMiddleware(app, verifier=self.realm.verifier, tools=tools, **options)
        self._signer = CallSigner(self.realm.caller(*(rules or (Rule(tool="*"),))).macaroon, "orders")

    async def ask(self, method: str, target: str, json_body: Any = None, **more: Any) -> Answer:
        """Send one request, signed."""
        body = b"" if json_body is None else json.dumps(json_body).encode()
        fields = http_fields(HttpCall(method, more.pop("signed", target), hashlib.sha256(body).digest()))
        token = self._signer.sign(fields, time.time_ns() // 1_000_000)
        return await ask(more.pop("app", self.app), method, target, body, token=token, **more)

    @property
    def codes(self) -> list[str]:
        """What was decided, in order."""
        return [decision.code for decision in self.realm.decisions.decisions]
