# SPDX-License-Identifier: Apache-2.0
"""Guard a server of ``fastmcp`` 4: tools, resources and prompts, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example, and what the policy calls each message.  Extra: ``arx-verifier[fastmcp]``.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Final

from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools import ToolResult
from mcp.shared.exceptions import MCPError

from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.guard import running_call
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, budget_meta
from arx_verifier.integrations.mcp import GuardMiddleware

_PARAMS: Final = ("name", "arguments", "uri")


class ArxMcpMiddleware(GuardMiddleware, Middleware):
    """Middleware of ``FastMCP``: a tool runs with a grant, or not at all.

    ``current_grant()`` is the grant inside a tool, a resource and a prompt.  Put it last: it judges what runs.

    Args:
        verifier: The verifier.  ``lifespan`` starts and closes it; without it, the first message starts it.
        options: ``trusted_proxies``, ``recheck_ms``, ``limits``, and so on; see ``ServerOptions``.

    Raises:
        SettingsError: A network or a limit is malformed.
    """

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """Handle one message of a client.

        Raises:
            MCPError: A message is refused, and is not a call of a tool that the model may read the reason of.
        """
        if context.type == "notification":
            # Nothing answers a notification, and the handlers of those that pass change nothing.
            return await call_next(context) if self._messages.passes(str(context.method)) else None
        message = _message_of(context)
        if message.is_component and isinstance(context.message, Mapping):
            return await call_next(context)  # raises: the server refused it before a tool was looked for
        try:
            return await self._answer(message, context, call_next)
        except RefusedCall as problem:
            refusal = self._messages.refusal(message, problem)
            if refusal.for_model:
                return ToolResult(content=refusal.text, meta=refusal.meta, is_error=True)
            raise MCPError(code=refusal.error, message=refusal.text, data=refusal.data) from None

    async def _answer(self, message: McpMessage, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        if message.is_call:
            return await self._messages.run(
                message, lambda: _schema_of(message, context), lambda: _with_budget(call_next(context))
            )
        screened = await self._messages.recognize(message)
        result = await call_next(context)
        if message.lists is None:
            return result
        return self._messages.shown(message, screened, result)


async def _with_budget(result: Awaitable[Any]) -> Any:
    """Add what the call's budgets have left to its result."""
    found = await result
    more = budget_meta(running_call())
    if not more or not hasattr(found, "meta"):
        return found
    # A copy: the server may keep the result for its next caller.
    return found.model_copy(update={"meta": {**(found.meta or {}), **more}})


def _message_of(context: MiddlewareContext[Any]) -> McpMessage:
    request = None if context.fastmcp_context is None else context.fastmcp_context.request_context
    sent: Any = context.message
    if isinstance(sent, Mapping):
        params = dict(sent)
    else:
        params = {name: value for name in _PARAMS if (value := getattr(sent, name, None)) is not None}
    if "uri" in params:
        params["uri"] = str(params["uri"])
    if request is None:  # the server's own code calls: there is no token, so it is refused
        return McpMessage(str(context.method), params, {}, None, None)
    meta: dict[str, Any] = dict(request.meta or {})
    inner: Any = request._srctx  # noqa: SLF001 - tools reach it, too
    # Tools, and what they log, never see the token.
    for handed in (request.meta, inner.meta, (inner.params or {}).get("_meta")):
        if isinstance(handed, dict):
            handed.pop(META_KEY, None)
    return McpMessage(str(context.method), params, meta, request.request_id, request.request)


async def _schema_of(message: McpMessage, context: MiddlewareContext[Any]) -> Mapping[str, Any]:
    """Return the input schema of a tool; an empty one if there is none."""
    assert context.fastmcp_context is not None
    found = await context.fastmcp_context.fastmcp.get_tool(str(message.params["name"]))
    return {} if found is None else found.parameters
