# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK: tools that a task guards, sub-agents with a narrower task, approvals that suspend a run."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from agents import Agent, FunctionTool, RunContextWrapper, RunState, function_tool
from agents.items import ToolApprovalItem
from agents.tool import resolve_function_tool_failure_error_function, set_function_tool_failure_error_function
from agents.tool_context import ToolContext

from arx_caps.agent import ToolCalls
from arx_caps.agent.approval import WAITING
from arx_verifier import ArxError, GrantError, SettingsError
from arx_verifier.errors import RequestError
from arx_verifier.refusal_text import error_for_model
from arx_verifier.request import read_json_object

Calls = ToolCalls | Callable[[RunContextWrapper[Any]], ToolCalls]


def guarded_tools(calls: Calls, tools: Iterable[FunctionTool | Callable[..., Any]]) -> list[FunctionTool]:
    """Return tools that run with a task alone.

    Args:
        calls: The task's tool calls; or a function of the run's context that returns them, for an agent of many runs.
        tools: Function tools, which are copied, or functions.

    Raises:
        SettingsError: A tool is neither: a hosted tool runs at the model's provider, where no task can guard it.
    """
    listed = list(tools)
    for tool in listed:
        if not isinstance(tool, FunctionTool) and not callable(tool):
            raise SettingsError(f"a {type(tool).__name__} cannot be guarded: give a function or a function tool")
    return [_guarded(calls, tool if isinstance(tool, FunctionTool) else function_tool(tool)) for tool in listed]


def delegated_agent(calls: ToolCalls, agent: Agent[Any], to: str, **limits: Any) -> Agent[Any]:
    """Return a sub-agent whose tools run with a narrower task: for ``handoffs``, or ``as_tool``.

    Args:
        calls: The tool calls of the task that is delegated.
        agent: The sub-agent, with its tools unguarded.
        to: Its agent path, which the record names.
        limits: What is left of the task: ``tools``, ``args``, ``ttl``, ``depth``, ``audiences`` of ``Task.delegate``.

    Raises:
        ArxError: As ``Task.delegate`` and ``guarded_tools``.
    """
    return agent.clone(tools=guarded_tools(calls.delegate(to, **limits), agent.tools))  # type: ignore[arg-type]  # another kind is refused there


async def ask_approvals(calls: ToolCalls, interruptions: Iterable[ToolApprovalItem]) -> dict[str, str]:
    """Ask operators to approve the calls that suspended a run: ``result.interruptions``.

    Returns:
        The id of each approval by the id of its call.  They are no secrets: keep them beside the run's state.

    Raises:
        ArxError: As ``StartedTask.ask_approval``.
    """
    asked = {}
    for item in interruptions:
        name, args = item.tool_name or "", _read(item.arguments)
        if args is not None and calls.needs_approval(name, args):
            asked[item.call_id or ""] = (await asyncio.to_thread(calls.ask_approval, name, args)).id
    return asked


async def answer_approvals(calls: ToolCalls, state: RunState[Any, Any], asked: Mapping[str, str]) -> bool:
    """Look at the operators' answers, and pass them on to a suspended run, also after a restart.

    Returns:
        Whether every call is answered, so that the run can go on.

    Raises:
        TokenError: The session was ended, frozen or killed.
        UnavailableError: The mint cannot say now.
    """
    answered = True
    for item in state.get_interruptions():
        call = item.call_id or ""
        if call not in asked:
            state.approve(item)  # no operator has to: the task decides when it is called
            continue
        try:
            approval = await asyncio.to_thread(calls.find_approval, asked[call])
        except GrantError as error:
            state.reject(item, rejection_message=error_for_model(item.tool_name or "", error))
            continue
        if approval.state != WAITING:
            calls.approvals[call] = approval
            state.approve(item)
        answered = answered and approval.state != WAITING
    return answered


def _guarded(calls: Calls, tool: FunctionTool) -> FunctionTool:
    guarded, enabled = copy.copy(tool), tool.is_enabled
    told_before = resolve_function_tool_failure_error_function(tool)

    def of(context: RunContextWrapper[Any]) -> ToolCalls:
        return calls if isinstance(calls, ToolCalls) else calls(context)

    async def is_enabled(context: RunContextWrapper[Any], agent: Any) -> bool:
        found = enabled(context, agent) if callable(enabled) else enabled
        return (await found if isinstance(found, Awaitable) else found) and of(context).offers(tool.name)

    async def needs_approval(context: RunContextWrapper[Any], args: dict[str, Any], call: str) -> bool:
        held = of(context)
        return call not in held.approvals and held.needs_approval(tool.name, args)

    async def tell(context: RunContextWrapper[Any], error: Exception) -> str:
        refused = of(context).refusal_of(tool.name, error)
        if refused is not None:
            return refused.text
        if told_before is None:
            raise error
        told = told_before(context, error)
        return await told if isinstance(told, Awaitable) else told

    set_function_tool_failure_error_function(guarded, tell)
    guarded = copy.copy(guarded)  # a copy calls what is set on it
    invoke = guarded.on_invoke_tool

    async def on_invoke_tool(context: ToolContext[Any], arguments: str) -> Any:
        held, args = of(context), _read(arguments)
        approval = held.approvals.get(context.tool_call_id)
        try:
            if args is None:  # the SDK reads JSON less strictly, such as the last one of two members of a name
                raise RequestError("the arguments are no JSON object with one meaning")
            with held.call(tool.name, args, [] if approval is None else [approval]):
                return await invoke(context, arguments)
        except ArxError as error:
            return await tell(context, error)

    guarded.is_enabled, guarded.on_invoke_tool = is_enabled, on_invoke_tool
    if not isinstance(calls, ToolCalls) or calls.task.needs_approval(calls.tool_of(tool.name)):
        guarded.needs_approval = needs_approval
    return guarded


def _read(arguments: str | None) -> dict[str, Any] | None:
    """Return what a model wrote, or None where it is no JSON object with one meaning."""
    with suppress(RequestError):
        return read_json_object((arguments or "{}").encode())
    return None
