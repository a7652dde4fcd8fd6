# SPDX-License-Identifier: Apache-2.0
"""LangChain and LangGraph: the model calls of a run are paid from its task's budgets.

``agent.invoke(…, {"callbacks": [ArxModelCallback(budget, task)]})``, for an agent, a graph of your own, or a model.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from arx_caps.agent import ModelBudget, ReservedCall, Task, TokenUsage


class ArxModelCallback(BaseCallbackHandler):
    """Reserve the highest cost of each model call of a run before it, and commit the actual one after.

    A run whose budget does not cover the highest cost ends with ``BudgetError``, and the model is not called.

    Args:
        budget: What the calls cost, and who decides.  The model's own settings limit its output to ``budget.most``.
        task: The task that pays.  A sub-agent's part of it pays for the sub-agent.  None for the running task.
    """

    raise_error = True  # otherwise a refusal would be a line in the log, and the model would be called

    def __init__(self, budget: ModelBudget, task: Task | None = None) -> None:
        self._budget, self._task = budget, task
        self._open: dict[UUID, ReservedCall] = {}
        self._begun: set[UUID] = set()

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **more: Any
    ) -> None:
        """Reserve.

        Args:
            serialized: The model.
            messages: The messages.
            run_id: The call.
            more: What else LangChain gives.

        Raises:
            ArxError: As ``ModelBudget.reserve``; the model is not called.
        """
        self._reserve(run_id, [message for part in messages for message in part])

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **more: Any) -> None:
        """Reserve for a model that completes a text.

        Args:
            serialized: The model.
            prompts: The text.
            run_id: The call.
            more: What else LangChain gives.

        Raises:
            ArxError: As ``ModelBudget.reserve``; the model is not called.
        """
        self._reserve(run_id, prompts)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **more: Any) -> None:
        """Note that the model has begun to answer.

        Args:
            token: The part.
            run_id: The call.
            more: What else LangChain gives.
        """
        self._begun.add(run_id)

    def on_stream_event(self, event: Any, *, run_id: UUID, **more: Any) -> None:
        """Note the same of a stream of events.

        Args:
            event: The event.
            run_id: The call.
            more: What else LangChain gives.
        """
        self._begun.add(run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **more: Any) -> None:
        """Commit what the model reports as used.

        Args:
            response: The answer.
            run_id: The call.
            more: What else LangChain gives.

        Raises:
            ArxError: As ``ReservedCall.commit``.
        """
        if (call := self._ended(run_id)[0]) is not None:
            call.commit(_usage(response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **more: Any) -> None:
        """Release the reservation; what a broken stream has cost is not known.

        Args:
            error: The error.
            run_id: The call.
            more: What else LangChain gives.

        Raises:
            ArxError: As ``ReservedCall.fail``.
        """
        call, begun = self._ended(run_id)
        if call is not None:
            call.fail(error, begun=begun, used=_usage(more.get("response")))

    def _reserve(self, run_id: UUID, messages: Sequence[Any]) -> None:
        self._open[run_id] = self._budget.reserve(self._task, messages)

    def _ended(self, run_id: UUID) -> tuple[ReservedCall | None, bool]:
        begun = run_id in self._begun
        self._begun.discard(run_id)
        return self._open.pop(run_id, None), begun


def _usage(response: LLMResult | None) -> TokenUsage | None:
    """Return what a call used: its candidates have one usage, which LangChain gives with the first."""
    parts = [part for candidates in (response.generations if response is not None else ()) for part in candidates]
    for part in parts:
        usage = getattr(getattr(part, "message", None), "usage_metadata", None)
        if usage:
            of_input = usage.get("input_token_details") or {}
            cached, written = of_input.get("cache_read") or 0, of_input.get("cache_creation") or 0
            return TokenUsage(usage["input_tokens"], usage["output_tokens"], cached, written)
    return None
