# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 2 that signs each message of a task, over HTTP and stdio.

``docs/adapters/mcp.md`` has an example.  Extra: ``arx-caps[mcp]``.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mcp
from mcp.client import ClientRequestContext
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    GetPromptResult,
    ListToolsResult,
    ReadResourceResult,
    TextContent,
)

from arx_caps.agent import NO_FORM, Approval, McpSigner, SignedTransport, Task, refused_call
from arx_verifier.enforcement.mcp.messages import MCP_REFUSED
from arx_verifier.errors import ArxError
from arx_verifier.refusal_text import error_for_model


@dataclasses.dataclass
class Client(mcp.Client):
    """``mcp.Client`` with a task: each message is signed, each call is checked first, and lists have what it allows.

    A refused call of a tool is a result with ``is_error``, which the model reads; other refusals are ``MCPError``.
    With an ``elicitation_callback``, a call that needs an approval asks operators, and the callback whether to wait.

    Args:
        task: The task.
        audience: The server's audience, where neither its URL nor the task shows which one it is.

    Raises:
        AttenuationError: The task has no token for the server, or several and ``audience`` is missing.
        TypeError: The server is an object of this process.
    """

    task: Task = dataclasses.field(kw_only=True)
    audience: str | None = dataclasses.field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        """Wrap the transport."""
        server: Any = self.server
        self._signer = McpSigner(self.task, self.audience, server if isinstance(server, str) else None)
        if isinstance(server, str):
            server = streamable_http_client(server)
        elif isinstance(server, mcp.StdioServerParameters):
            server = stdio_client(server)
        elif not hasattr(server, "__aenter__"):
            raise TypeError("server: expected a URL, StdioServerParameters or a transport, got an object of a server")
        self.server = SignedTransport(server, self._signer)
        super().__post_init__()

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *args: Any,
        approvals: Sequence[Approval] = (),
        **more: Any,
    ) -> CallToolResult:
        """Call a tool as ``mcp.Client`` does.

        Args:
            name: The tool's name.
            arguments: Its arguments.
            args: As ``mcp.Client``.
            approvals: What operators have approved of this call, or were asked to.
            more: As ``mcp.Client``.
        """
        try:
            elicit = (lambda *asked: ask_user(self.session, *asked)) if self.elicitation_callback else None
            approvals = await self._signer.approved(name, arguments or {}, approvals, elicit)
            with self._signer.call("tools/call", {"name": name, "arguments": arguments}, approvals):
                return await super().call_tool(name, arguments, *args, **more)
        except ArxError as error:
            text, meta = refused_call(name, error)
            return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True, _meta=meta)

    async def read_resource(self, uri: str, **more: Any) -> ReadResourceResult:
        """Read a resource as ``mcp.Client`` does.

        Args:
            uri: The resource.
            more: As ``mcp.Client``.

        Raises:
            MCPError: The task does not allow it, or the server refuses.
        """
        with checked(self._signer, "resources/read", {"uri": uri}):
            return await super().read_resource(uri, **more)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None, **more: Any) -> GetPromptResult:
        """Get a prompt as ``mcp.Client`` does.

        Args:
            name: The prompt.
            arguments: Its arguments.
            more: As ``mcp.Client``.

        Raises:
            MCPError: The task does not allow it, or the server refuses.
        """
        params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
        with checked(self._signer, "prompts/get", params):
            return await super().get_prompt(name, arguments, **more)

    async def list_tools(self, **more: Any) -> ListToolsResult:
        """List the tools that the task can allow.

        Args:
            more: As ``mcp.Client``.
        """
        found = await super().list_tools(**more)
        return found.model_copy(update={"tools": [tool for tool in found.tools if self._signer.offers(tool.name)]})


async def ask_user(session: mcp.ClientSession, text: str, meta: Any) -> str:
    """Ask the client's user whether to wait for an approval, and return the user's action.

    Args:
        session: The session of the SDK, with an elicitation callback.
        text: The question.
        meta: The ``_meta`` of the elicitation.
    """
    context = ClientRequestContext(session=session, request_id=text, meta=meta)
    params = ElicitRequestFormParams(message=text, requested_schema=NO_FORM, _meta=meta)
    answer = await session.dispatch_input_request(context, ElicitRequest(params=params))
    return answer.action if isinstance(answer, ElicitResult) else "cancel"


@contextmanager
def checked(signer: McpSigner, method: str, params: Mapping[str, Any]) -> Iterator[None]:
    """Send a message in this context, which is no call of a tool.

    Args:
        signer: The task's messages to the server.
        method: The method.
        params: Its parameters.

    Raises:
        MCPError: The task does not allow it.
    """
    try:
        with signer.call(method, params):
            yield
    except ArxError as error:
        text = error_for_model(method, error)
        raise MCPError(code=MCP_REFUSED, message=text, data={"code": error.code}) from None
