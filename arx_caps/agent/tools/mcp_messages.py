# SPDX-License-Identifier: Apache-2.0
"""Sign the messages of an MCP client for one service, on any transport, and ask beforehand what the task allows.

The adapters of MCP clients use this.  It imports no framework: it sees messages as the SDK's versions share them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from arx_caps.agent.tasks.approval import WAITING, Approval
from arx_caps.agent.tasks.origins import origin_of, read_origin
from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.running_task import current_approvals, running
from arx_caps.agent.tools.tool_calls import ToolCalls
from arx_verifier.enforcement.mcp.messages import META_KEY, mcp_meaning
from arx_verifier.errors import ArxError, AttenuationError, GrantError, RequestError, refusal, shorten
from arx_verifier.names import matches_tool
from arx_verifier.refusal_text import error_for_model

APPROVAL_KEY: Final = "dev.arx/approval"  # the member of `_meta` with the id of an approval that a call waits for
NO_FORM: Final[dict[str, Any]] = {"type": "object", "properties": {}}  # of an elicitation that asks for no data
# Asks the client's user whether to wait: the text, and the `_meta` of the elicitation.  Returns the user's action.
Elicit = Callable[[str, dict[str, Any]], Awaitable[str]]


class SuspendedCall(GrantError):  # noqa: N818 - a state of a call, and no failure of the program
    """A call waits for an operator's answer.

    Attributes:
        approval: The id of the approval.
    """

    def __init__(self, approval: Approval) -> None:
        super().__init__(f"{approval} waits for an operator's answer", code="missing_discharge")
        self.approval = approval.id


class _Token(str):
    """The token in a message, which a log of the message does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(token)'"


class McpSigner:
    """The messages of a task to one MCP server.

    Args:
        task: The task.
        audience: The server's audience; None if the URL's origin or a task of one audience shows it.
        url: The server's URL; None for a transport without one.

    Raises:
        AttenuationError: The task has no token for the server, or has several and none is chosen.
    """

    def __init__(self, task: Task, audience: str | None = None, url: str | None = None) -> None:
        origins = task.bundle.origins
        found = [audience] if audience is not None else list(task.audiences)
        if url is not None:
            # A token must not leave its audience: the server of another origin could use it at the right one.
            parts = urlsplit(url)
            origin = origin_of(parts.scheme, parts.hostname or "", parts.port)
            found = [each for each in found if origin in map(read_origin, origins.get(each, ()))]
            if not found:
                known = ", ".join(
                    f"{each} at {' and '.join(origins.get(each, ())) or 'no address'}" for each in task.audiences
                )
                raise AttenuationError(
                    f"origin {origin} belongs to no audience of this task: {known}", code="unknown_origin"
                )
        if len(found) != 1:
            raise AttenuationError(f"audience: expected one of {', '.join(found)}, got none")
        self.task, self.audience = task, found[0]
        if self.audience not in task.audiences:
            raise AttenuationError(f"this task has no token for {shorten(self.audience)}")

    def offers(self, tool: str) -> bool:
        """Return whether the task can allow some call of a tool of this server.

        Args:
            tool: Its name.
        """
        name = f"{self.audience}.{tool}"
        return any(matches_tool(allowed, name) for allowed in self.task.bundle.outlines[self.audience].tools)

    async def approved(
        self, name: str, args: Mapping[str, Any], approvals: Sequence[Approval], elicit: Elicit | None
    ) -> Sequence[Approval]:
        """Return what operators have approved of a call; one that needs an approval and has none waits for it.

        Args:
            name: The tool.
            args: The call's arguments.
            approvals: What operators have approved, or were asked to: also before a restart.
            elicit: Asks the client's user; without it no operator is asked, and no call waits.

        Raises:
            SuspendedCall: The user does not wait.
            ArxError: As ``StartedTask.ask_approval`` and ``Approval.wait``.
        """
        waiting = next((each for each in approvals if each.state == WAITING), None)
        calls, tool = ToolCalls(self.task), f"{self.audience}.{name}"
        if elicit is None or (waiting is None and not calls.needs_approval(tool, args, approvals)):
            return approvals
        others = [each for each in approvals if each is not waiting]
        if waiting is None:
            waiting = await asyncio.to_thread(calls.ask_approval, tool, args)
        text = f"{name} waits for an operator to approve it ({waiting.id}). Accept to wait here for the answer."
        if await elicit(text, {APPROVAL_KEY: waiting.id}) != "accept":
            raise SuspendedCall(waiting)
        pauses = waiting.pauses()
        while True:
            pause_s = await asyncio.to_thread(next, pauses, None)
            if pause_s is None:
                return [*others, waiting]
            await asyncio.sleep(pause_s)

    @contextmanager
    def call(self, method: str, params: Mapping[str, Any], approvals: Sequence[Approval] = ()) -> Iterator[None]:
        """Send a message in this context; it is checked here, and refused without being sent.

        Args:
            method: The method, such as ``tools/call``.
            params: Its parameters.
            approvals: What operators have approved of it.

        Raises:
            ArxError: The task does not allow it.
        """
        tool, args = mcp_meaning(self.audience, method, params)
        answer = self.task.allows(tool, args, audience=self.audience, approvals=approvals)
        if not answer:
            raise refusal(answer.code, answer.failures)
        with running(self.task, approvals):
            yield

    def signed(self, message: Any) -> Any:
        """Return a message with a token of its own in ``_meta``; an answer and a notification as they are.

        Args:
            message: A ``SessionMessage`` of the SDK.
        """
        outer = message.message
        # ``vars``: pydantic takes long to find that it has no such member.
        inner = request = vars(outer).get("root", outer)
        fields = vars(request)
        if fields.get("id") is None or "method" not in fields:
            return message
        params = dict(request.params or {})
        try:
            tool, args = mcp_meaning(self.audience, request.method, params)
        except RequestError:
            return message  # the server refuses a method that ARx does not know
        token = self.task.call_token(self.audience, tool, args, approvals=current_approvals(self.task) if tool else ())
        params["_meta"] = {**(params.get("_meta") or {}), META_KEY: _Token(token)}
        request = request.model_copy(update={"params": params})
        return type(message)(request if outer is inner else type(outer)(request), message.metadata)


def refused_call(name: str, error: ArxError) -> tuple[str, dict[str, Any] | None]:
    """Return the text of a refused call's result for the model, and its ``_meta``.

    Args:
        name: The tool.
        error: Why it was refused.
    """
    if isinstance(error, SuspendedCall):
        text = f"{name} waits for an operator to approve it ({error.approval}). Do not repeat this call before that."
        return text, {APPROVAL_KEY: error.approval}
    return error_for_model(name, error), None


class SignedTransport(AbstractAsyncContextManager[tuple[Any, Any]]):
    """A transport of the SDK whose messages are signed.

    Args:
        transport: The transport.
        signer: Signs.
    """

    def __init__(self, transport: AbstractAsyncContextManager[Any], signer: McpSigner) -> None:
        self._transport, self._signer = transport, signer

    async def __aenter__(self) -> tuple[Any, Any]:
        """Open the transport, and return its streams."""
        read, write, *_ = await self._transport.__aenter__()
        return read, _SignedStream(write, self._signer)

    async def __aexit__(self, *error: Any) -> bool | None:
        """Close the transport."""
        return await self._transport.__aexit__(*error)


class _SignedStream(AbstractAsyncContextManager["_SignedStream"]):
    def __init__(self, stream: Any, signer: McpSigner) -> None:
        self._stream, self._signer = stream, signer

    async def send(self, message: Any) -> None:
        # Here, and not once a call: the SDK sends a call again after some answers, and each attempt needs a signature.
        await self._stream.send(self._signer.signed(message))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> "_SignedStream":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return bool(await self._stream.__aexit__(*error))
