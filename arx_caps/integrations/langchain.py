# SPDX-License-Identifier: Apache-2.0
"""LangChain and LangGraph: the tools of an agent run with a task.

``create_agent(…, middleware=[ArxAgentMiddleware(task)])``; in a graph of your own, its methods wrap a ``ToolNode``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Unpack

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, ToolCallRequest
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Command, Interrupt, interrupt

from arx_caps.agent import Approval, RunToolCalls, Task, ToolCalls, ToolTables
from arx_caps.agent.tasks.approval import WAITING
from arx_caps.agent.tools.tool_calls import ENDED

MARK: Final = "arx"  # in a message's artifact, which no model sees: the reason code of a refusal
Ask = ModelRequest[Any]
Answer = ModelResponse[Any] | AIMessage
Outcome = ToolMessage | Command[Any]


class ArxAgentMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Offer the tools that the task has, run each with the task, and answer a refusal as a tool's error.

    It is the last one of ``middleware``: another one behind it could change a call after it was checked.

    Args:
        task: The task; or a function that returns a run's task from its context; or None where the agent is called in a
            tool of ``sub_agents``, for the part of the task that this tool was given.
        tables: ``tools``, ``public`` and ``sub_agents``; see ``ToolTables``.

    Raises:
        SettingsError: As ``ToolCalls``.
    """

    def __init__(self, task: Task | Callable[[Any], Task] | None = None, **tables: Unpack[ToolTables]) -> None:
        super().__init__()
        self._runs = RunToolCalls(task, **tables)

    def offered(self, tools: Iterable[Any], context: Any = None) -> list[Any]:
        """Return those of these tools that the task has; for ``bind_tools`` in a graph of your own.

        Args:
            tools: Tools, functions, or a provider's own tools as dictionaries.
            context: The run's context.
        """
        calls = self._runs.of(context)
        return [tool for tool in tools if calls.offers(_name_of(tool))]

    def wrap_model_call(self, request: Ask, handler: Callable[[Ask], ModelResponse[Any]]) -> Answer:
        """Offer the tools that the task has; end the run where its work was ended."""
        words = last_words(request.messages)
        return handler(self._limited(request)) if words is None else AIMessage(words)

    async def awrap_model_call(self, request: Ask, handler: Callable[[Ask], Awaitable[ModelResponse[Any]]]) -> Answer:
        """Do the same in an event loop."""
        words = last_words(request.messages)
        return await handler(self._limited(request)) if words is None else AIMessage(words)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Outcome]) -> Outcome:
        """Run a tool with the task, or answer why not."""
        calls, call = self._runs.of(request.runtime.context), request.tool_call
        try:
            approvals = _approvals(calls, call) if calls.needs_approval(call["name"], call["args"]) else ()
            with calls.call(call["name"], call["args"], approvals):
                return handler(request)
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            return _refused(calls, call, error)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Outcome]]
    ) -> Outcome:
        """Do the same in an event loop."""
        calls, call = self._runs.of(request.runtime.context), request.tool_call
        try:
            asks = calls.needs_approval(call["name"], call["args"])
            approvals = await asyncio.to_thread(_approvals, calls, call) if asks else ()  # it calls the mint
            with calls.call(call["name"], call["args"], approvals):
                return await handler(request)
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            return _refused(calls, call, error)

    def _limited(self, request: Ask) -> Ask:
        return request.override(tools=self.offered(request.tools, request.runtime.context))


def last_words(messages: Sequence[AnyMessage]) -> str | None:
    """Return the last words of a run whose work an operator ended in the last tool calls; None if it may go on.

    Args:
        messages: The run's messages; a graph of your own goes to its end instead of to the model.
    """
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        if isinstance(message.artifact, dict) and message.artifact.get(MARK) in ENDED:
            return ENDED[message.artifact[MARK]]
    return None


def resume(interrupts: Iterable[Interrupt]) -> Command[Any]:
    """Return what a suspended run goes on with: the operators' answers, as the mint has them then.

    Args:
        interrupts: Of the run, also of one that another process suspended: ``graph.get_state(config).interrupts``.
    """
    return Command(resume={each.id: each.value["approval"] for each in interrupts if MARK in each.value})


def _approvals(calls: ToolCalls, call: Any) -> list[Approval]:
    """Suspend the run until operators have answered; LangGraph calls this again from the start when it goes on."""
    question: dict[str, Any] = {MARK: "approval", "tool": call["name"], "args": call["args"]}
    while True:
        try:
            approval = calls.find_approval(str(interrupt(question)))
        except GraphInterrupt:
            # Only now: a run that goes on must not ask again.  What is suspended holds this very dictionary.
            if "approval" not in question:
                question["approval"] = calls.ask_approval(call["name"], call["args"]).id
            raise
        question["approval"] = approval.id
        if approval.state != WAITING:
            return [approval]


def _refused(calls: ToolCalls, call: Any, error: Exception) -> ToolMessage:
    refused = None if isinstance(error, GraphBubbleUp) else calls.refusal_of(call["name"], error)
    if refused is None:
        raise error
    about = {"name": call["name"], "tool_call_id": call["id"], "status": "error", "artifact": {MARK: refused.code}}
    return ToolMessage(refused.text, **about)


def _name_of(tool: Any) -> str:
    if isinstance(tool, dict):  # a provider runs it by itself, so that only its offer can be refused
        return str(tool.get("name") or (tool.get("function") or {}).get("name") or tool.get("type"))
    return str(getattr(tool, "name", None) or getattr(tool, "__name__", None))
