# SPDX-License-Identifier: Apache-2.0
"""Model calls of OpenAI's Agents SDK with a budget: docs/adapters/model-costs.md."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent, ModelSettings, Runner, Usage, function_tool, set_tracing_disabled
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseTextDeltaEvent

from arx_caps.agent import ModelBudget, SubAgent, Task
from arx_caps.integrations.openai_agents import ArxTools
from arx_caps.integrations.openai_agents_model import ArxModel
from tests.adapters.model_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.model_contract import AGENT, MOST_USD, PAGE, Broken, Drive, ModelWorld, Pool, Ran, Used

PART = SubAgent(f"{AGENT}/worker", tools=["llm.complete"], budget={"usd": "0.04"})
LINKS = ("previous_response_id", "conversation_id", "prompt")  # of a response to another one
DELTA = ResponseTextDeltaEvent(
    content_index=0,
    delta="a",
    item_id="m",
    logprobs=[],
    output_index=0,
    sequence_number=1,
    type="response.output_text.delta",
)


def usage(tokens_in: int, tokens_out: int) -> Usage:
    """What the model reports."""
    return Usage(requests=1, input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)


@function_tool
def note(input: str) -> str:  # noqa: A002 - as a sub-agent's tool has it
    """Take a note."""
    return f"noted {input}"


def scripted(steps: Any) -> ScriptedModel:
    """A model that calls ``note`` after each step but the last one."""

    def made(number: int, step: Any) -> ModelStep:
        if isinstance(step, Exception):
            return ModelStep.raise_error(step)
        if isinstance(step, Broken):

            async def events(_: Any) -> AsyncIterator[Any]:
                yield DELTA
                raise step.error

            return ModelStep.stream(events)
        last = number == len(steps) - 1
        said = assistant_message("done") if last else function_call("note", {"input": "go"}, call_id=f"c{number}")
        if step.input is None:
            return ModelStep(output=[said])
        used = usage(step.input, step.output)
        return ModelStep(output=[said], usage=used)

    def respond(number: int) -> Any:
        # In a thread: a step may call the mint.
        async def step(_: Any) -> ModelStep:
            found = steps[number]
            return made(number, await asyncio.to_thread(found) if callable(found) else found)

        return step

    return ScriptedModel(
        [
            made(number, step) if isinstance(step, Broken | Exception) else ModelStep.respond(respond(number))
            for number, step in enumerate(steps)
        ]
    )


@pytest.fixture(autouse=True)
def untraced() -> None:
    set_tracing_disabled(True)


@pytest.fixture
def drive() -> Drive:
    """An agent of the SDK, and a sub-agent in a tool."""

    async def run(task: Task, budget: ModelBudget, steps: Any, stream: bool, part: Any) -> Ran:
        model = scripted(steps)
        tools: list[Any] = [note]
        if part:
            worker = Agent(name="worker", model=ArxModel(scripted(part), budget, task), tools=[note])
            asked = worker.as_tool("note", "Ask the worker.", failure_error_function=None)
            tools = ArxTools(task, sub_agents={"note": PART}).guard([asked])
        agent = Agent(name="research", model=ArxModel(model, budget, task), tools=tools)
        if stream:
            result: Any = Runner.run_streamed(agent, "go")
            async for _ in result.stream_events():
                pass
        else:
            result = await Runner.run(agent, "go")
        read = [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]
        return Ran(len(model.calls), read)

    return lambda task, budget, *steps, stream=False, part=None: asyncio.run(run(task, budget, steps, stream, part))


def test_the_page_s_agent(world: ModelWorld) -> None:
    """
    The example: its answer has no more output than was reserved, and is paid.
    """
    model = ScriptedModel([ModelStep(output=[assistant_message("done")], usage=usage(1000, 200))])
    names: dict[str, Any] = {"budget": world.budget, "session": world.session, "model": model}
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        exec(compile(PAGE[1], "agent.py", "exec"), names)
        asyncio.set_event_loop(None)
    assert names["result"].final_output == "done"
    assert world.pool(names["task"]).committed == Used(1000, 200).usd
    assert model.calls[0].model_settings.max_tokens == 1000


def test_a_lower_limit_of_the_application_stays(world: ModelWorld) -> None:
    """
    The budget lowers the most output of an answer, and never raises it.
    """

    async def limit_of(settings: ModelSettings) -> int | None:
        model = scripted([Used(1, 1)])
        agent = Agent(name="research", model=ArxModel(model, world.budget, world.start()), model_settings=settings)
        await Runner.run(agent, "go")
        return model.calls[0].model_settings.max_tokens

    assert asyncio.run(limit_of(ModelSettings(max_tokens=7))) == 7
    assert asyncio.run(limit_of(ModelSettings(max_tokens=7000))) == 1000


def test_a_stream_that_is_left_early_costs_all_that_was_reserved(world: ModelWorld) -> None:
    """
    The application leaves it after the first event, or cancels the run while the model works.
    """

    async def leave() -> Task:
        task = world.start()
        model = ArxModel(scripted([Used(1, 1)]), world.budget, task)
        events = model.stream_response(None, "go", ModelSettings(), [], None, [], None, **dict.fromkeys(LINKS))
        async for _ in events:
            break
        await events.aclose()  # type: ignore[attr-defined]  # it is an asynchronous generator
        return task

    async def cancel() -> Task:
        task, working = world.start(), asyncio.Event()

        async def step(_: Any) -> Any:
            working.set()
            await asyncio.Event().wait()

        model = ArxModel(ScriptedModel([ModelStep.respond(step)]), world.budget, task)
        running = asyncio.create_task(Runner.run(Agent(name="research", model=model), "go"))
        await working.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return task

    for work in (leave, cancel):
        assert world.pool(asyncio.run(work())) == Pool(MOST_USD, 0, 100_000 - MOST_USD)
