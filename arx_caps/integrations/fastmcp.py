# SPDX-License-Identifier: Apache-2.0
"""A client of ``fastmcp`` 4 that signs each message of a task, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example.  Extra: ``arx-caps[fastmcp]``.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from fastmcp import Client
from fastmcp.client.transports import ClientTransport
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from arx_caps.agent import Approval, McpSigner, SignedTransport, Task, refused_call
from arx_caps.integrations.mcp import ask_user, checked
from arx_verifier.errors import ArxError


def arx_client(
    task: Task, server: str | StdioServerParameters, *, audience: str | None = None, **options: Any
) -> "ArxClient":
    """Return a client that signs each message, checks each call first, and lists what the task allows.

    Args:
        task: The task.
        server: The server's URL, or the command that runs it.
        audience: The server's audience, where neither its URL nor the task shows which one it is.
        options: As ``fastmcp.Client``.

    Raises:
        AttenuationError: The task has no token for the server, or several and ``audience`` is missing.
    """
    signer = McpSigner(task, audience, server if isinstance(server, str) else None)
    return ArxClient(_Signed(server, signer), signer, **options)


class _Signed(ClientTransport):
    """A transport whose messages are signed."""

    def __init__(self, server: str | StdioServerParameters, signer: McpSigner) -> None:
        self._server, self._signer = server, signer

    @asynccontextmanager
    async def connect_session(self, **options: Any) -> AsyncGenerator[ClientSession, None]:
        """Connect to the server, and give a session that is not initialized."""
        options.pop("transport_options", None)
        server = self._server
        transport: Any = streamable_http_client(server) if isinstance(server, str) else stdio_client(server)
        async with (
            SignedTransport(transport, self._signer) as (read, write),
            ClientSession(read, write, **options) as session,
        ):
            yield session


class ArxClient(Client[_Signed]):
    """``fastmcp.Client`` with a task; ``arx_client`` makes it.

    A refused call of a tool is a ``ToolError``, or a result with ``is_error`` where ``raise_on_error`` is false.
    With an ``elicitation_handler``, a call that needs an approval asks operators, and the handler whether to wait.
    """

    def __init__(self, transport: _Signed, signer: McpSigner, **options: Any) -> None:
        super().__init__(transport, **options)
        self._signer = signer

    async def call_tool_mcp(
        self, name: str, arguments: dict[str, Any], *args: Any, approvals: Sequence[Approval] = (), **more: Any
    ) -> types.CallToolResult:
        """Call a tool as ``fastmcp.Client`` does.

        Args:
            name: The tool's name.
            arguments: Its arguments.
            args: As ``fastmcp.Client``.
            approvals: What operators have approved of this call, or were asked to.
            more: As ``fastmcp.Client``.
        """
        try:
            elicit = (lambda *asked: ask_user(self.session, *asked)) if self._elicitation_callback else None
            approvals = await self._signer.approved(name, arguments, approvals, elicit)
            with self._signer.call("tools/call", {"name": name, "arguments": arguments}, approvals):
                return await super().call_tool_mcp(name, arguments, *args, **more)
        except ArxError as error:
            text, about = refused_call(name, error)
            content = types.TextContent(type="text", text=text)
            return types.CallToolResult(content=[content], is_error=True, _meta=about)

    async def read_resource_mcp(self, uri: Any, meta: dict[str, Any] | None = None) -> types.ReadResourceResult:
        """Read a resource as ``fastmcp.Client`` does.

        Raises:
            MCPError: The task does not allow it, or the server refuses.
        """
        with checked(self._signer, "resources/read", {"uri": str(uri)}):
            return await super().read_resource_mcp(uri, meta)

    async def get_prompt_mcp(
        self, name: str, arguments: dict[str, Any] | None = None, meta: dict[str, Any] | None = None
    ) -> types.GetPromptResult:
        """Get a prompt as ``fastmcp.Client`` does.

        Raises:
            MCPError: The task does not allow it, or the server refuses.
        """
        with checked(self._signer, "prompts/get", {"name": name, "arguments": arguments}):
            return await super().get_prompt_mcp(name, arguments, meta)

    async def list_tools(self, *args: Any, **more: Any) -> list[types.Tool]:
        """List the tools that the task can allow."""
        return [tool for tool in await super().list_tools(*args, **more) if self._signer.offers(tool.name)]
