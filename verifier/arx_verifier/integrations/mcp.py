# SPDX-License-Identifier: Apache-2.0
"""Guard an MCP server of the ``mcp`` SDK 2: tools, resources and prompts, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example, and what the policy calls each message.  Extra: ``arx-verifier[mcp]``.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from typing import Any, Final, Unpack

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.guard import running_call
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages, budget_meta
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import ServerOptions

_MAX_PAGES: Final = 100  # of a list of tools


class GuardMiddleware:
    """The verifier and the lifespan of a middleware, for each framework on SDK 2.

    Args:
        verifier: The verifier.
        options: ``trusted_proxies``, ``recheck_ms``, ``limits``, and so on; see ``ServerOptions``.

    Raises:
        SettingsError: A network or a limit is malformed.
    """

    def __init__(self, verifier: Verifier, **options: Unpack[ServerOptions]) -> None:
        self._messages = Messages(verifier, **options)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[dict[str, Any]]:
        """Start the verifier and close it: the ``lifespan`` of the server, or a part of it."""
        async with self._messages.lifespan():
            yield {}


class ArxMcpMiddleware(GuardMiddleware):
    """Middleware of ``MCPServer`` and ``Server``: a tool runs with a grant, or not at all.

    ``current_grant()`` is the grant inside a tool, a resource and a prompt.

    Args:
        verifier: The verifier.  ``lifespan`` starts and closes it; without it, the first message starts it.
        options: ``trusted_proxies``, ``recheck_ms``, ``limits``, and so on; see ``ServerOptions``.

    Raises:
        SettingsError: A network or a limit is malformed.
    """

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle one message of a client.

        Raises:
            MCPError: The message is refused, and is not a call of a tool that the model may read the reason of.
        """
        if ctx.request_id is None:
            # Nothing answers a notification, and the handlers of those below change nothing.
            return await call_next(ctx) if self._messages.passes(ctx.method) else None
        params, meta = dict(ctx.params or {}), dict(ctx.meta or {})
        message = McpMessage(ctx.method, params, meta, ctx.request_id, ctx.request)
        try:
            return await self._answer(message, ctx, call_next)
        except RefusedCall as problem:
            refusal = self._messages.refusal(message, problem)
            if not refusal.for_model:
                raise MCPError(code=refusal.error, message=refusal.text, data=refusal.data) from None
            result = CallToolResult(
                content=[TextContent(type="text", text=refusal.text)], is_error=True, _meta=refusal.meta
            )
            answer = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
            return answer | {"resultType": "complete"} if modern else answer

    async def _answer(
        self, message: McpMessage, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        # The handlers, and what they log, never see the token.
        meta: Any = {name: value for name, value in message.meta.items() if name != META_KEY}
        bare = replace(ctx, params=dict(message.params) | {"_meta": meta}, meta=meta) if message.meta else ctx
        if message.is_call:
            return await self._messages.run(
                message, lambda: _schema_of(message, bare, call_next), lambda: _with_budget(call_next(bare))
            )
        screened = await self._messages.recognize(message)
        result = await call_next(bare)
        if message.lists is None:
            return result
        assert isinstance(result, Mapping)  # the server has written it for the wire
        return self._messages.filtered(message, screened, result)


async def _with_budget(result: Awaitable[HandlerResult]) -> HandlerResult:
    """Add what the call's budgets have left to its result, as it goes on the wire."""
    found = await result
    if found is None or not (more := budget_meta(running_call())):
        return found
    if isinstance(found, BaseModel):
        found = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**found, "_meta": {**(found.get("_meta") or {}), **more}}


async def _schema_of(
    message: McpMessage, ctx: ServerRequestContext[Any, Any], call_next: CallNext
) -> Mapping[str, Any]:
    """Return the input schema of a tool as the server lists it; an empty one if it does not."""
    cursor: dict[str, Any] = {}
    for _ in range(_MAX_PAGES):
        listed = await call_next(replace(ctx, method="tools/list", params={"_meta": ctx.meta or {}, **cursor}))
        assert isinstance(listed, Mapping)
        for item in listed.get("tools", ()):
            if item["name"] == message.params["name"]:
                return dict(item["inputSchema"])
        if not isinstance(listed.get("nextCursor"), str):
            break
        cursor = {"cursor": listed["nextCursor"]}
    return {}
