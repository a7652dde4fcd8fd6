# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK: a model paid from a task's budgets: ``Agent(…, model=ArxModel(model, budget, task))``."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from agents import Model, ModelResponse, ModelSettings
from agents.items import TResponseStreamEvent
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest

from arx_caps.agent import ModelBudget, ReservedCall, Task, TokenUsage


class ArxModel(Model):
    """A model whose calls reserve their highest cost before, and commit the actual one after.

    A run whose budget does not cover the highest cost ends with ``BudgetError``, and the model is not called.  No
    answer has more output than ``budget.most``.

    Args:
        model: The model.
        budget: What its calls cost, and who decides.
        task: The task that pays; None for the running task, as in a sub-agent's tool.
    """

    def __init__(self, model: Model, budget: ModelBudget, task: Task | None = None) -> None:
        self._model, self._budget, self._task = model, budget, task

    async def get_response(
        self,
        system_instructions: str | None,
        input: Any,  # noqa: A002 - the SDK names it
        model_settings: ModelSettings,
        *given: Any,
        **named: Any,
    ) -> ModelResponse:
        """Reserve, call the model, and commit.

        Args:
            system_instructions: As for the model, like all that follow.
            input: The items.
            model_settings: The settings.
            given: The rest.
            named: The rest.

        Raises:
            ArxError: As ``ModelBudget.reserve`` and ``ReservedCall.commit``.
        """
        call = await self._reserve(system_instructions, input)
        try:
            answer = await self._model.get_response(
                system_instructions, input, _limited(model_settings, call), *given, **named
            )
        except BaseException as error:
            await asyncio.to_thread(call.fail, error)
            raise
        await asyncio.to_thread(call.commit, _usage(answer.usage))
        return answer

    async def stream_response(
        self,
        system_instructions: str | None,
        input: Any,  # noqa: A002 - the SDK names it
        model_settings: ModelSettings,
        *given: Any,
        **named: Any,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Reserve, stream the model's events, and commit at the end, also of a stream that is left early.

        Args:
            system_instructions: As for the model, like all that follow.
            input: The items.
            model_settings: The settings.
            given: The rest.
            named: The rest.

        Raises:
            ArxError: As ``ModelBudget.reserve`` and ``ReservedCall.commit``.
        """
        call = await self._reserve(system_instructions, input)
        events: Any = self._model.stream_response(
            system_instructions, input, _limited(model_settings, call), *given, **named
        )
        begun, used = False, None
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    begun, used = True, _usage(getattr(getattr(event, "response", None), "usage", None)) or used
                    yield event
        except BaseException as error:
            await asyncio.to_thread(call.fail, error, begun=begun, used=used)
            raise
        await asyncio.to_thread(call.commit, used)

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Return the model's advice.

        Args:
            request: The failed call.
        """
        return self._model.get_retry_advice(request)

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()

    async def _reserve(self, instructions: str | None, items: Any) -> ReservedCall:
        given = [{"role": "user", "content": items}] if isinstance(items, str) else list(items)
        system = [{"role": "system", "content": instructions}] if instructions else []
        return await asyncio.to_thread(self._budget.reserve, self._task, [*system, *given])


def _limited(settings: ModelSettings, call: ReservedCall) -> ModelSettings:
    most = call.most.output
    return replace(settings, max_tokens=min(settings.max_tokens or most, most))


def _usage(usage: Any) -> TokenUsage | None:
    if usage is None:
        return None
    details = usage.input_tokens_details
    written = getattr(details, "cache_write_tokens", 0)  # older SDKs of OpenAI do not have it
    return TokenUsage(usage.input_tokens, usage.output_tokens, getattr(details, "cached_tokens", 0) or 0, written or 0)
