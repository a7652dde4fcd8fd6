# SPDX-License-Identifier: Apache-2.0
"""Google's ADK: a toolset that a task guards.  An approval is a confirmation, which suspends the call."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.adk.agents.readonly_context import ReadonlyContext
from google.adk.models.llm_request import LlmRequest
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.base_toolset import BaseToolset
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from arx_caps.agent import ToolCalls
from arx_caps.agent.approval import WAITING, Approval
from arx_verifier import SettingsError

Calls = ToolCalls | Callable[[ReadonlyContext], ToolCalls]


class ArxToolset(BaseToolset):
    """Tools that run with a task alone: ``LlmAgent(…, tools=[ArxToolset(calls, [refund])])``.

    Args:
        calls: The task's tool calls; or a function of the run's context that returns them, for an agent of many runs.
            A sub-agent's toolset takes ``calls.delegate("acme/worker", …)``.
        tools: Tools of the ADK, or functions.

    Raises:
        SettingsError: A tool is neither.
    """

    def __init__(self, calls: Calls, tools: Iterable[BaseTool | Callable[..., Any]]) -> None:
        super().__init__()
        self._tools: list[BaseTool] = []
        for tool in tools:
            if not isinstance(tool, BaseTool) and not callable(tool):
                raise SettingsError(f"a {type(tool).__name__} cannot be guarded: give a function or a tool")
            self._tools.append(_GuardedTool(calls, tool if isinstance(tool, BaseTool) else FunctionTool(tool)))

    async def get_tools(self, readonly_context: ReadonlyContext | None = None) -> list[BaseTool]:
        """Return all tools; each adds itself to a request to the model only where the task allows it."""
        return list(self._tools)


class _GuardedTool(BaseTool):
    """One tool, guarded."""

    def __init__(self, calls: Calls, inner: BaseTool) -> None:
        super().__init__(
            name=inner.name,
            description=inner.description,
            is_long_running=inner.is_long_running,
            custom_metadata=inner.custom_metadata,
            behavior=inner.behavior,
            response_scheduling=inner.response_scheduling,
        )
        self._calls, self._inner = calls, inner

    def _of(self, context: ReadonlyContext) -> ToolCalls:
        return self._calls if isinstance(self._calls, ToolCalls) else self._calls(context)

    def _get_declaration(self) -> types.FunctionDeclaration | None:
        return self._inner._get_declaration()  # noqa: SLF001 - what each tool of the ADK overrides

    async def process_llm_request(self, *, tool_context: ToolContext, llm_request: LlmRequest) -> None:
        """Offer the tool to the model, if the task can allow some call of it."""
        if self._of(tool_context).offers(self.name):
            await super().process_llm_request(tool_context=tool_context, llm_request=llm_request)

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """Run the tool; a refusal is its answer."""
        calls = self._of(tool_context)
        try:
            approvals = await self._approvals(calls, args, tool_context)
            if approvals is None:
                return {"status": "this call waits for an operator's approval"}
            with calls.call(self.name, args, approvals):
                return await self._inner.run_async(args=args, tool_context=tool_context)
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            refused = calls.refusal_of(self.name, error)
            if refused is None:
                raise
            return {"error": refused.text}

    async def _approvals(self, calls: ToolCalls, args: dict[str, Any], context: ToolContext) -> list[Approval] | None:
        """Return the approvals to send; None where an operator has to answer first."""
        if not calls.needs_approval(self.name, args):
            return []
        payload = context.tool_confirmation.payload if context.tool_confirmation else None
        # The answer to a confirmation comes from outside: it only names an approval, which binds the arguments.
        if isinstance(payload, Mapping) and isinstance(named := payload.get("approval"), str):
            approval = await asyncio.to_thread(calls.find_approval, named)
        else:
            approval = await asyncio.to_thread(calls.ask_approval, self.name, args)
        if approval.state != WAITING:
            return [approval]
        context.request_confirmation(
            hint=f"{approval} waits for an operator: confirm when it is answered", payload={"approval": approval.id}
        )
        context.actions.skip_summarization = True
        return None
