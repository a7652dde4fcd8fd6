# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 1.30 that signs each message of a task, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example.  Extra: ``arx-caps[mcp-v1]``.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.context import RequestContext
from pydantic import AnyUrl

from arx_caps.agent import NO_FORM, Approval, McpSigner, SignedTransport, Task, refused_call
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED
from arx_verifier.errors import ArxError
from arx_verifier.refusal_text import error_for_model


@asynccontextmanager
async def arx_session(
    task: Task, server: str | StdioServerParameters, *, audience: str | None = None, **options: Any
) -> AsyncIterator["ArxSession"]:
    """Connect to a server, and give an initialized session that signs each message and checks each call first.

    Args:
        task: The task.
        server: The server's URL, or the command that runs it.
        audience: The server's audience, where neither its URL nor the task shows which one it is.
        options: As ``mcp.ClientSession``.

    Raises:
        AttenuationError: The task has no token for the server, or several and ``audience`` is missing.
    """
    signer = McpSigner(task, audience, server if isinstance(server, str) else None)
    transport: Any = streamable_http_client(server) if isinstance(server, str) else stdio_client(server)
    async with (
        SignedTransport(transport, signer) as (read, write),
        ArxSession(signer, read, write, **options) as session,
    ):
        await session.initialize()
        yield session


class ArxSession(ClientSession):
    """``mcp.ClientSession`` with a task; ``arx_session`` makes it.

    A refused call of a tool is a result with ``isError``, which the model reads; other refusals are ``McpError``.
    With an ``elicitation_callback``, a call that needs an approval asks operators, and the callback whether to wait.
    """

    def __init__(self, signer: McpSigner, read: Any, write: Any, **options: Any) -> None:
        super().__init__(read, write, **options)
        self._signer, self._asks = signer, "elicitation_callback" in options

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *args: Any,
        approvals: Sequence[Approval] = (),
        **more: Any,
    ) -> types.CallToolResult:
        """Call a tool as ``mcp.ClientSession`` does.

        Args:
            name: The tool's name.
            arguments: Its arguments.
            args: As ``mcp.ClientSession``.
            approvals: What operators have approved of this call, or were asked to.
            more: As ``mcp.ClientSession``.
        """
        try:
            elicit = self._elicit if self._asks else None
            approvals = await self._signer.approved(name, arguments or {}, approvals, elicit)
            with self._signer.call("tools/call", {"name": name, "arguments": arguments}, approvals):
                return await super().call_tool(name, arguments, *args, **more)
        except ArxError as error:
            text, meta = refused_call(name, error)
            return types.CallToolResult(content=[types.TextContent(type="text", text=text)], isError=True, _meta=meta)

    async def read_resource(self, uri: AnyUrl) -> types.ReadResourceResult:
        """Read a resource as ``mcp.ClientSession`` does.

        Raises:
            McpError: The task does not allow it, or the server refuses.
        """
        with self._checked("resources/read", {"uri": str(uri)}):
            return await super().read_resource(uri)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None) -> types.GetPromptResult:
        """Get a prompt as ``mcp.ClientSession`` does.

        Raises:
            McpError: The task does not allow it, or the server refuses.
        """
        with self._checked("prompts/get", {"name": name, "arguments": arguments}):
            return await super().get_prompt(name, arguments)

    async def list_tools(self, *args: Any, **more: Any) -> types.ListToolsResult:
        """List the tools that the task can allow."""
        found = await super().list_tools(*args, **more)
        return found.model_copy(update={"tools": [tool for tool in found.tools if self._signer.offers(tool.name)]})

    async def _elicit(self, text: str, meta: dict[str, Any]) -> str:
        about = types.RequestParams.Meta(**meta)
        context = RequestContext[ClientSession, Any](text, about, self, lifespan_context=None)
        params = types.ElicitRequestFormParams(message=text, requestedSchema=NO_FORM, _meta=about)
        answer = await self._elicitation_callback(context, params)
        return answer.action if isinstance(answer, types.ElicitResult) else "cancel"

    @contextmanager
    def _checked(self, method: str, params: Mapping[str, Any]) -> Iterator[None]:
        try:
            with self._signer.call(method, params):
                yield
        except ArxError as error:
            data = types.ErrorData(code=MCP_REFUSED, message=error_for_model(method, error), data={"code": error.code})
            raise McpError(data) from None
