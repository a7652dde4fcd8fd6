# SPDX-License-Identifier: Apache-2.0
"""Guard an MCP server of the ``mcp`` SDK 1.30: tools, resources and prompts, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example, and what the policy calls each message.  Extra: ``arx-verifier[mcp-v1]``.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, Unpack, overload

from mcp import McpError, types
from mcp.server.fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import request_ctx

from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.base.guard import running_call
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages, budget_meta
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import ServerOptions

S = TypeVar("S", FastMCP[Any], Server[Any, Any])
Handler = Callable[[Any], Awaitable[types.ServerResult]]


def guard(
    server: S,
    verifier: Verifier,
    **options: Unpack[ServerOptions],
) -> S:
    """Guard a server: from here on a tool runs with a grant, or not at all.

    ``current_grant()`` is the grant inside a tool, a resource and a prompt.  Tools may be added later.

    Args:
        server: The server.
        verifier: The verifier.  The first message starts it; the program closes it.
        options: ``trusted_proxies``, ``recheck_ms``, ``limits``, and so on; see ``ServerOptions``.

    Returns:
        The same server.

    Raises:
        SettingsError: A network or a limit is malformed.
    """
    inner: Any = server._mcp_server if isinstance(server, FastMCP) else server  # noqa: SLF001 - it has no other name
    inner.request_handlers = _Handlers(inner.request_handlers, Messages(verifier, **options))
    return server


class _Handlers(dict[type, Handler]):
    """The handlers of a server by type of request; ``get``, by which the SDK serves a client, returns guarded ones."""

    # This version of the SDK has no middleware.  Its own code takes handlers by ``[]``, which stay as they are.

    def __init__(self, handlers: Mapping[type, Handler], messages: Messages) -> None:
        super().__init__(handlers)
        self._messages = messages

    @overload
    def get(self, kind: type, default: None = None, /) -> Handler | None: ...
    @overload
    def get(self, kind: type, default: Any, /) -> Any: ...
    def get(self, kind: type, default: Any = None, /) -> Any:
        """Return the guarded handler of a type of request."""
        handler = super().get(kind)
        if handler is None:
            return default

        async def guarded(request: Any) -> types.ServerResult:
            return await self._answer(request, handler)

        return guarded

    async def _answer(self, request: Any, handler: Handler) -> types.ServerResult:
        message = _message_of(request)
        try:
            if message.is_call:
                return await self._messages.run(
                    message, lambda: self._schema_of(message), lambda: _with_budget(handler(request))
                )
            screened = await self._messages.recognize(message)
            result = await handler(request)
        except RefusedCall as problem:
            refusal = self._messages.refusal(message, problem)
            if not refusal.for_model:
                raise McpError(types.ErrorData(code=refusal.error, message=refusal.text, data=refusal.data)) from None
            text = types.TextContent(type="text", text=refusal.text)
            return types.ServerResult(types.CallToolResult(content=[text], isError=True, _meta=refusal.meta))
        if message.lists is not None:
            items = self._messages.shown(message, screened, getattr(result.root, message.lists))
            # A copy: the server may keep the list for its next caller.
            result = types.ServerResult(result.root.model_copy(update={message.lists: items}))
        return result

    async def _schema_of(self, message: McpMessage) -> Mapping[str, Any]:
        """Return the input schema of a tool as the server lists it; an empty one if it does not."""
        listing = super().get(types.ListToolsRequest)
        listed: Any = [] if listing is None else (await listing(types.ListToolsRequest(method="tools/list"))).root
        tools = getattr(listed, "tools", ())
        return next((found.inputSchema for found in tools if found.name == message.params["name"]), {})


async def _with_budget(result: Awaitable[types.ServerResult]) -> types.ServerResult:
    """Add what the call's budgets have left to its result."""
    found = await result
    if not (more := budget_meta(running_call())):
        return found
    # A copy: the server may keep the result for its next caller.
    return types.ServerResult(found.root.model_copy(update={"meta": {**(found.root.meta or {}), **more}}))


def _message_of(request: Any) -> McpMessage:
    context, sent, method = request_ctx.get(), request.params, request.method
    params: dict[str, Any] = {}
    if method == "tools/call":
        params["name"] = sent.name  # a dump takes longer than the decision
    elif sent is not None:
        params = sent.model_dump(by_alias=True, exclude_none=True, mode="json", exclude={"meta"})
    if getattr(sent, "arguments", None) is not None:
        params["arguments"] = sent.arguments  # as they were sent, also what has no value
    held = {} if context.meta is None else context.meta.model_extra or {}
    meta = dict(held)
    if context.meta is not None and context.meta.progressToken is not None:
        meta["progressToken"] = context.meta.progressToken
    held.pop(META_KEY, None)  # tools, and what they log, never see the token
    return McpMessage(method, params, meta, context.request_id, context.request)
