# SPDX-License-Identifier: Apache-2.0
"""Model calls of LangChain and LangGraph with a budget: docs/adapters/model-costs.md."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import PrivateAttr

from arx_caps.agent import ModelBudget, SubAgent, Task
from arx_caps.integrations.langchain import ArxAgentMiddleware
from arx_caps.integrations.langchain_model import ArxModelCallback
from arx_verifier.errors import BudgetError
from tests.adapters.model_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.model_contract import AGENT, MOST_USD, PAGE, Broken, Drive, ModelWorld, Pool, Ran, Used

PART = SubAgent(f"{AGENT}/worker", tools=["llm.complete"], budget={"usd": "0.04"})


class PaidModel(BaseChatModel):
    """Takes these steps, and calls ``note`` after each but the last one."""

    steps: tuple[Any, ...]
    _calls: int = PrivateAttr(default=0)

    @property
    def calls(self) -> int:
        """How often it was called."""
        return self._calls

    @property
    def _llm_type(self) -> str:
        return "paid"

    def bind_tools(self, tools: Any, **more: Any) -> Any:
        """Need no tools."""
        return self

    def _next(self) -> tuple[Any, dict[str, Any]]:
        number, self._calls = self._calls, self._calls + 1
        found = self.steps[number]
        step = found() if callable(found) else found
        if isinstance(step, Exception):
            raise step
        last = number == len(self.steps) - 1
        about: dict[str, Any] = {"content": "done" if last else ""}
        if not last:
            about["tool_calls"] = [{"name": "note", "args": {}, "id": f"c{number}"}]
        if isinstance(step, Used) and step.input is not None:
            total = step.input + step.output
            about["usage_metadata"] = {"input_tokens": step.input, "output_tokens": step.output, "total_tokens": total}
        return step, about

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**self._next()[1]))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        step, about = self._next()
        if isinstance(step, Broken):
            yield ChatGenerationChunk(message=AIMessageChunk("a"))
            raise step.error
        yield ChatGenerationChunk(message=AIMessageChunk(""))
        yield ChatGenerationChunk(message=AIMessageChunk(**about))


@tool
def note() -> str:
    """Take a note."""
    return "noted"


@pytest.fixture
def drive() -> Drive:
    """An agent of LangChain, and a sub-agent in a tool."""

    def run(task: Task, budget: ModelBudget, *steps: Any, stream: bool = False, part: Any = None) -> Ran:
        model, middleware, tools = PaidModel(steps=steps), list[Any](), [note]
        if part:
            worker = create_agent(PaidModel(steps=part), [note])

            @tool("note")
            def ask_worker() -> str:
                """Ask the worker."""
                return str(worker.invoke({"messages": [("user", "go")]})["messages"][-1].text)

            tools, middleware = [ask_worker], [ArxAgentMiddleware(task, sub_agents={"note": PART})]
        agent: Any = create_agent(model, tools, middleware=middleware)
        asked, config = {"messages": [("user", "go")]}, {"callbacks": [ArxModelCallback(budget, task)]}
        if stream:
            messages = [each for each, _ in agent.stream(asked, config, stream_mode="messages")]
        else:
            messages = agent.invoke(asked, config)["messages"]
        return Ran(model.calls, [each.text for each in messages if isinstance(each, ToolMessage)])

    return run


def test_the_page_s_agent_and_graph(world: ModelWorld) -> None:
    """
    The examples: a compiled agent, and a graph of its own with one more model call.
    """
    names: dict[str, Any] = {"budget": world.budget, "session": world.session, "tools": []}
    names["model"] = PaidModel(steps=(Used(1000, 200),))
    exec(compile(PAGE[2], "agent.py", "exec"), names)
    assert world.pool(names["task"]).committed == Used(1000, 200).usd


def test_a_graph_of_your_own_in_an_event_loop(world: ModelWorld) -> None:
    """
    Nodes that call a model beside each other: each call is paid, and one that no budget covers ends the run.
    """

    async def run(task: Task, *steps: Used) -> Any:
        model = PaidModel(steps=(*steps, Used(None)))

        async def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        for number in range(len(steps)):
            graph.add_node(f"ask{number}", ask)
            graph.add_edge(START, f"ask{number}")
        config: Any = {"callbacks": [ArxModelCallback(world.budget, task)]}
        return await graph.compile().ainvoke({"messages": [("user", "go")]}, config)

    task, used = world.start(), Used(100, 10)
    asyncio.run(run(task, used, used))
    assert world.pool(task) == Pool(2 * used.usd, 0, 100_000 - 2 * used.usd)
    task = world.start()
    with pytest.raises(BudgetError):
        asyncio.run(run(task, *[Used(8000, 1000)] * 4))
    pool = world.pool(task)
    assert pool.committed + pool.reserved <= 3 * MOST_USD


def test_a_stream_that_is_left_early_costs_all_that_was_reserved(world: ModelWorld) -> None:
    """
    The application leaves it after the first part, or cancels the run while the model works.
    """
    task = world.start()
    parts = PaidModel(steps=(Used(1, 1),)).stream("go", {"callbacks": [ArxModelCallback(world.budget, task)]})
    next(parts)
    parts.close()  # type: ignore[attr-defined]  # it is a generator
    assert world.pool(task) == Pool(MOST_USD, 0, 100_000 - MOST_USD)

    async def cancel() -> Task:
        task, loop = world.start(), asyncio.get_running_loop()
        working, over = asyncio.Event(), threading.Event()

        def step() -> Used:
            loop.call_soon_threadsafe(working.set)
            over.wait(60)
            return Used(1, 1)

        model = PaidModel(steps=(step,))
        config: Any = {"callbacks": [ArxModelCallback(world.budget, task)]}
        running = asyncio.create_task(model.ainvoke("go", config))
        await working.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        over.set()
        return task

    # LangChain reports no end of a cancelled call: it stays reserved.
    assert world.pool(asyncio.run(cancel())) == Pool(0, MOST_USD, 100_000 - MOST_USD)
