# SPDX-License-Identifier: Apache-2.0
"""One HTTP request of an MCP client, and its answer: one message, or a stream that has one end."""

import json
from collections.abc import Callable
from typing import Any, Final

from arx_caps.gateway.base.asgi import Message, Scope, Send
from arx_caps.gateway.base.rates import OverRateError
from arx_caps.mcp.errors import error_object
from arx_caps.mcp.message import RpcMessage
from arx_caps.mcp.revision import STATELESS
from arx_verifier.enforcement.base.routes import collect_headers
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED
from arx_verifier.journal.record import ChainFacts

_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]

Headers = list[tuple[bytes, bytes]]


class ResourceCall:
    """A request that an OAuth resource passes on: at a 401, its client logs in anew.  RFC 6750 3.1, RFC 9728.

    Attributes:
        sign: Returns its token with a new signature; None if its client signs.
    """

    sign: Callable[[], str] | None = None

    async def ask_approval(self, message: RpcMessage) -> bool:  # noqa: ARG002 - see ApprovableCall
        """Answer a call that lacks nothing but an approval; return False if none can be asked for.

        Args:
            message: The call.
        """
        return False

    def announce(self, method: str, result: dict[str, Any]) -> bool:  # noqa: ARG002 - see ApprovableCall
        """Change what a server says of itself to what the resource adds; return whether it differs.

        Args:
            method: The method of the message that is answered.
            result: Its result.
        """
        return False


class McpExchange:
    """One HTTP request of a client, and what was answered so far; a ``Carrier`` of its message.

    Args:
        scope: As ASGI has it.
        send: As ASGI has it.
        body: The whole body; None until it was read.
        call: The call of the OAuth resource before the door; None without one.

    Attributes:
        scope: As given, with headers without white space around their values.
        content: The body.
        call: As given.
        headers: By name, as ``collect_headers`` returns them.
        has_begun: Whether the head of the answer was sent.
        owner: The facts of its token; None before the decision.
        opens_links: Whether the client of its session declares elicitation by URL.
    """

    def __init__(self, scope: Scope, send: Send, body: bytes | None = None, call: ResourceCall | None = None) -> None:
        # RFC 9110 5.5: white space around a value is none of it; servers leave it there.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        self.scope, self._send, self.content, self.call = scope, send, body, call
        self.headers = collect_headers(scope["headers"])
        self.has_begun = self._has_ended = self.opens_links = False
        self.owner: ChainFacts | None = None

    @property
    def is_stateless(self) -> bool:
        """Whether it is of MCP 2026-07-28 or later."""
        return self.headers.get(b"mcp-protocol-version", b"").decode("latin-1") >= STATELESS

    @property
    def is_open(self) -> bool:
        """Whether it is answered by a stream that has begun and not ended."""
        return self.has_begun and not self._has_ended

    async def body(self) -> bytes:
        """Return the whole body."""
        return self.content or b""

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of an answer."""
        self.has_begun = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part; do nothing after the end."""
        if not self._has_ended:
            await self.send({"type": "http.response.body", "body": data, "more_body": False})

    async def send(self, message: Message) -> None:
        """Send a part, as ASGI has it."""
        self._has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def whole(self, status: int, headers: Headers, data: bytes) -> None:
        """Send an answer that is no stream."""
        kept = [pair for pair in headers if pair[0] != b"content-length"]  # strict clients refuse two
        await self.begin(status, [*kept, (b"content-length", b"%d" % len(data))])
        await self.end(data)

    async def close(self, status: int, answer: bytes, headers: Headers | None = None) -> None:
        """Send a message as the answer, or as the last event if a stream has begun."""
        if self.has_begun:
            await self.end(b"event: message\ndata: " + answer + b"\n\n")
            return
        kept = [pair for pair in headers or () if pair[0] in (b"www-authenticate", b"retry-after")]
        await self.whole(status, [*_JSON, *kept], answer)

    async def refuse_rate(self, message: RpcMessage | None, error: OverRateError) -> None:
        """Refuse a message of an agent that sends too many.

        Args:
            message: The message; None if the request has none.
            error: Says how long to wait.
        """
        data = {"code": "rate_limited", "wait_s": error.wait_s}
        status = 200 if message is not None and message.is_request else 429  # to a request JSON-RPC answers
        answer = error_message(message and message.id, MCP_REFUSED, str(error), data)
        await self.close(status, answer, [(b"retry-after", b"%d" % error.wait_s)])


def error_message(identity: str | int | None, code: int, text: str, data: dict[str, Any] | None = None) -> bytes:
    """Return a message that is an error of JSON-RPC.

    Args:
        identity: The id of the request, or None.
        code: Its code.
        text: What failed.
        data: What a program can read of it.
    """
    return json.dumps(error_object(identity, code, text, data or None)).encode()
