# SPDX-License-Identifier: Apache-2.0
"""pydantic-ai: the tools of an agent run with a task: ``Agent(…, capabilities=[Arx(task)])``."""

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final, Unpack

from pydantic_ai import DeferredToolRequests, DeferredToolResults, RunContext
from pydantic_ai.capabilities import (
    AbstractCapability,
    CapabilityOrdering,
    ValidatedToolArgs,
    WrapModelRequestHandler,
    WrapToolExecuteHandler,
)
from pydantic_ai.exceptions import (
    ApprovalRequired,
    CallDeferred,
    ModelRetry,
    SkipToolExecution,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
)
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from arx_caps.agent import Approval, RunToolCalls, Task, ToolCalls, ToolRefusal, ToolTables
from arx_caps.agent.tasks.approval import WAITING
from arx_caps.agent.tools.tool_calls import ENDED
from arx_verifier.errors import refusal

MARK: Final = "arx"  # in a deferred call's metadata: the approval's id
# What a tool or another hook says to the framework; none of it is an error.
_SIGNALS: Final = (
    ApprovalRequired,
    CallDeferred,
    ModelRetry,
    SkipToolExecution,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
)


class Arx(AbstractCapability[Any]):
    """Offer the tools that the task has, run each with the task, and answer a refusal as a failed tool.

    Args:
        task: The task; or a function that returns a run's task from its ``deps``; or None where the agent is run in a
            tool of ``sub_agents``, for the part of the task that this tool was given.
        tables: ``tools``, ``public`` and ``sub_agents``; see ``ToolTables``.

    Raises:
        SettingsError: As ``ToolCalls``.
    """

    def __init__(self, task: Task | Callable[[Any], Task] | None = None, **tables: Unpack[ToolTables]) -> None:
        self._runs = RunToolCalls(task, **tables)
        self._calls: ToolCalls | None = None
        self._over: ToolRefusal | None = None

    def get_ordering(self) -> CapabilityOrdering:
        """Stand next to the tool: another capability must not change a call after it was checked."""
        return CapabilityOrdering(position="innermost")

    async def for_run(self, ctx: RunContext[Any]) -> "Arx":
        """Return this for one run, with the task of the run."""
        of_run = copy(self)
        of_run._calls = self._runs.of(ctx.deps)  # noqa: SLF001 - of the same class
        return of_run

    async def prepare_tools(self, ctx: RunContext[Any], tool_defs: list[ToolDefinition]) -> list[ToolDefinition]:
        """Offer the tools that the task has; the framework runs no other one."""
        calls = self._calls or self._runs.of(ctx.deps)
        return [each for each in tool_defs if calls.offers(each.name)]

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """End the run where its work was ended, without the model."""
        if self._over is None:
            return await handler(request_context)
        # A run whose output has another form cannot end with words.
        form = request_context.model_request_parameters
        if not form.allow_text_output or form.output_mode not in ("text", "tool"):
            raise refusal(self._over.code)
        return ModelResponse(parts=[TextPart(ENDED[self._over.code])])

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Run a tool with the task, or say why not."""
        calls, asked = self._calls or self._runs.of(ctx.deps), call.args_as_dict()
        try:
            approvals: Sequence[Approval] = ()
            if calls.needs_approval(call.tool_name, asked):
                approvals = await asyncio.to_thread(_approvals, calls, call.tool_name, asked, ctx)  # calls the mint
            with calls.call(call.tool_name, asked, approvals):
                return await handler(args)
        except _SIGNALS:
            raise
        except Exception as error:  # an HTTP client's error may bring a service's refusal; any other is raised again
            refused = calls.refusal_of(call.tool_name, error)
            if refused is None:
                raise
            self._over = refused if refused.over else self._over
            raise ToolFailed(refused.text) from error


def resume(requests: DeferredToolRequests) -> DeferredToolResults:
    """Return what the next run goes on with: the operators' answers, as the mint has them then.

    Args:
        requests: The output of the run that was suspended; other deferred calls in it are the application's.
    """
    asked = {each: about for each, about in requests.metadata.items() if MARK in about}
    return DeferredToolResults(approvals=dict.fromkeys(asked, True), metadata=asked)


def _approvals(calls: ToolCalls, name: str, args: dict[str, Any], ctx: RunContext[Any]) -> list[Approval]:
    """Ask operators and suspend the run, or read their answer in the run that goes on."""
    if not ctx.tool_call_approved:
        raise ApprovalRequired({MARK: calls.ask_approval(name, args).id})
    approval = calls.find_approval(str((ctx.tool_call_metadata or {}).get(MARK)))
    if approval.state == WAITING:
        raise ApprovalRequired({MARK: approval.id})
    return [approval]
