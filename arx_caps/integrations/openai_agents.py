# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK: the tools of an agent run with a task: ``Agent(…, tools=ArxTools(task).guard([refund]))``."""

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Unpack

from agents import FunctionTool, RunConfig, RunContextWrapper, RunState, ToolErrorFormatterArgs, function_tool
from agents.tool import resolve_function_tool_failure_error_function, set_function_tool_failure_error_function
from agents.tool_context import ToolContext

from arx_caps.agent import Approval, RunToolCalls, Task, ToolTables
from arx_caps.agent.tasks.approval import WAITING
from arx_verifier import ArxError, GrantError, SettingsError
from arx_verifier.errors import RequestError
from arx_verifier.refusal_text import error_for_model
from arx_verifier.request import read_json_object

# What operators have approved and was not called yet, by the ids of task and call: also for a sub-agent's tools.
_APPROVED: Final[dict[tuple[str, str], Approval]] = {}


class ArxTools:
    """Offer the tools that the task has, run each with the task, and answer a refusal in words.

    Args:
        task: The task; or a function that returns a run's task from its context; or None where the agent is run in a
            tool of ``sub_agents``, for the part of the task that this tool was given.  An agent that gets a hand-off
            has ``task.delegate(…)``.
        tables: ``tools``, ``public`` and ``sub_agents``; see ``ToolTables``.

    Raises:
        SettingsError: As ``ToolCalls``.
    """

    def __init__(self, task: Task | Callable[[Any], Task] | None = None, **tables: Unpack[ToolTables]) -> None:
        self._runs = RunToolCalls(task, **tables)
        self._one = self._runs.of(None) if isinstance(task, Task) else None
        self._asks: dict[str, bool] = {}  # whether a guarded tool has a ``needs_approval`` of its own

    def guard(self, tools: Iterable[FunctionTool | Callable[..., Any]]) -> list[FunctionTool]:
        """Return tools that run with the task alone.

        Args:
            tools: Function tools, which are copied, or functions.

        Raises:
            SettingsError: A tool is neither: a hosted tool runs at the model's provider, where no task can guard it.
        """
        return [self._guarded(tool) for tool in tools]

    def run_config(self, config: RunConfig | None = None) -> RunConfig:
        """Return settings with which a run goes on when its model calls a guarded tool that was not offered.

        The model reads why, as of any refused call.  Without these settings the SDK ends the run by
        ``ModelBehaviorError``.

        Args:
            config: Further settings, which are copied.
        """
        config = RunConfig() if config is None else config
        own = config.tool_error_formatter

        async def explain(given: ToolErrorFormatterArgs[Any]) -> str | None:
            name = given.tool_name
            if given.kind == "tool_not_found" and name in self._asks:
                try:
                    with self._runs.of(given.run_context.context).call(name, {}):
                        pass  # the tool's own ``is_enabled`` hid it: that is no refusal of ARx
                except ArxError as error:
                    return error_for_model(name, error)
            return None if own is None else await _value(own, given)

        changed = {"tool_not_found_behavior": "return_error_to_model", "tool_error_formatter": explain}
        return dataclasses.replace(config, **changed)  # type: ignore[arg-type]

    async def ask_operators(self, state: RunState[Any, Any], asked: dict[str, str], context: Any = None) -> bool:
        """Ask operators about the calls that suspended a run, and pass their answers on to it, also after a restart.

        Args:
            state: Of the run: ``result.to_state()``.  What a tool's own ``needs_approval`` asks is left to the
                application, which answers it by ``state.approve`` or ``state.reject``.
            asked: The id of each approval by that of its call; empty at first.  They are no secrets: keep them beside
                the state.
            context: The run's context.

        Returns:
            Whether operators have answered, so that the run can go on.  The model reads a denial.

        Raises:
            ArxError: As ``StartedTask.ask_approval`` and ``Session.approval``.
        """
        calls, answered = self._runs.of(context), True
        for item in state.get_interruptions():
            name, call = item.tool_name or "", item.call_id or ""
            try:
                if call not in asked and calls.needs_approval(name, args := _read(item.arguments)):
                    asked[call] = (await asyncio.to_thread(calls.ask_approval, name, args)).id
                if call in asked:
                    approval = await asyncio.to_thread(calls.find_approval, asked[call])
                    if approval.state == WAITING:
                        answered = False
                        continue
                    _APPROVED[calls.task.id, call] = approval
                if not self._asks.get(name, call not in asked):
                    state.approve(item)  # where no operator has to, the task decides when it is called
            except (GrantError, RequestError) as error:
                state.reject(item, rejection_message=error_for_model(name, error))
        return answered

    def _guarded(self, given: FunctionTool | Callable[..., Any]) -> FunctionTool:
        if not isinstance(given, FunctionTool) and not callable(given):
            raise SettingsError(f"a {type(given).__name__} cannot be guarded: give a function or a function tool")
        tool = given if isinstance(given, FunctionTool) else function_tool(given)
        name, enabled, approved, guarded = tool.name, tool.is_enabled, tool.needs_approval, copy.copy(tool)
        self._asks[name] = approved is not False
        explain_before = resolve_function_tool_failure_error_function(tool)

        async def is_enabled(context: RunContextWrapper[Any], agent: Any) -> bool:
            return bool(await _value(enabled, context, agent)) and self._runs.of(context.context).offers(name)

        async def needs_approval(context: RunContextWrapper[Any], args: dict[str, Any], call: str) -> bool:
            asks = self._runs.of(context.context).needs_approval(name, args)
            return asks or bool(await _value(approved, context, args, call))

        async def explain(context: RunContextWrapper[Any], error: Exception) -> str:
            refused = self._runs.of(context.context).refusal_of(name, error)
            if refused is None and explain_before is None:
                raise error
            return refused.text if refused else str(await _value(explain_before, context, error))

        set_function_tool_failure_error_function(guarded, explain)
        guarded = copy.copy(guarded)  # a copy calls what is set on it
        invoke = guarded.on_invoke_tool

        async def on_invoke_tool(context: ToolContext[Any], arguments: str) -> Any:
            calls = self._runs.of(context.context)
            approval = _APPROVED.pop((calls.task.id, context.tool_call_id), None)
            try:
                with calls.call(name, _read(arguments), [] if approval is None else [approval]):
                    return await invoke(context, arguments)
            except ArxError as error:
                return await explain(context, error)

        guarded.is_enabled, guarded.on_invoke_tool = is_enabled, on_invoke_tool
        if self._one is None or self._one.task.needs_approval(self._one.tool_of(name)):
            guarded.needs_approval = needs_approval
        return guarded


async def _value(setting: Any, *given: Any) -> Any:
    found = setting(*given) if callable(setting) else setting
    return await found if isinstance(found, Awaitable) else found


def _read(arguments: str | None) -> dict[str, Any]:
    # Not as the SDK does, which reads the last one of two members of a name.
    return read_json_object((arguments or "{}").encode())
