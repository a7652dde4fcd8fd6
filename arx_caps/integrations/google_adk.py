# SPDX-License-Identifier: Apache-2.0
"""Google's ADK: the tools of an agent run with a task: ``LlmAgent(…, tools=[ArxToolset([refund], task)])``."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

from google.adk.agents.readonly_context import ReadonlyContext
from google.adk.models.llm_request import LlmRequest
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.base_toolset import BaseToolset
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types

from arx_caps.agent import RunToolCalls, Task, ToolCalls, ToolTables
from arx_caps.agent.tasks.approval import WAITING, Approval
from arx_verifier import SettingsError
from arx_verifier.refusal_text import waiting_for_model


class ArxToolset(BaseToolset):
    """Offer the tools that the task has, run each with the task, and answer a refusal in words.

    Args:
        guarded: Tools of the ADK, or functions.
        task: The task; or a function that returns a run's task from its ``ReadonlyContext``; or None where the agent is
            run in a tool of ``sub_agents``, for the part of the task that this tool was given.  An agent that work is
            transferred to has ``task.delegate(…)``.
        tables: ``tools``, ``public`` and ``sub_agents``; see ``ToolTables``.

    Raises:
        SettingsError: As ``ToolCalls``; or what is to be guarded is no tool.
    """

    def __init__(
        self,
        guarded: Iterable[BaseTool | Callable[..., Any]],
        task: Task | Callable[[ReadonlyContext], Task] | None = None,
        **tables: Unpack[ToolTables],
    ) -> None:
        super().__init__()
        runs = RunToolCalls(task, **tables)
        self._tools: list[BaseTool] = []
        for tool in guarded:
            if not isinstance(tool, BaseTool) and not callable(tool):
                raise SettingsError(f"a {type(tool).__name__} cannot be guarded: give a function or a tool")
            self._tools.append(_GuardedTool(runs, tool if isinstance(tool, BaseTool) else FunctionTool(tool)))

    async def get_tools(self, readonly_context: ReadonlyContext | None = None) -> list[BaseTool]:
        """Return all tools; each adds itself to a request to the model only where the task allows it."""
        return list(self._tools)


class _GuardedTool(BaseTool):
    """One tool, guarded."""

    def __init__(self, runs: RunToolCalls, inner: BaseTool) -> None:
        super().__init__(
            name=inner.name,
            description=inner.description,
            is_long_running=inner.is_long_running,
            custom_metadata=inner.custom_metadata,
            behavior=inner.behavior,
            response_scheduling=inner.response_scheduling,
        )
        self._runs, self._inner = runs, inner

    def _get_declaration(self) -> types.FunctionDeclaration | None:
        return self._inner._get_declaration()  # noqa: SLF001 - what each tool of the ADK overrides

    async def process_llm_request(self, *, tool_context: ToolContext, llm_request: LlmRequest) -> None:
        """Offer the tool to the model, if the task can allow some call of it."""
        if self._runs.of(tool_context).offers(self.name):
            await super().process_llm_request(tool_context=tool_context, llm_request=llm_request)

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """Run the tool; a refusal is its answer."""
        calls = self._runs.of(tool_context)
        try:
            approvals = await self._approvals(calls, args, tool_context)
            if approvals is None:
                return {"status": waiting_for_model(self.name)}
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
