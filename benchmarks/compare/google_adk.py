# SPDX-License-Identifier: Apache-2.0
"""Google's ADK, its tools functions of the agent's process; the worker is an agent that a tool runs."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner
from google.adk.tools.agent_tool import AgentTool
from google.genai import types

from benchmarks.compare import stage
from benchmarks.compare.stage import Desk, Framework, get_order, refund

NAMES: Final = {"get_order": "orders.get", "refund": "orders.refund"}


class Script(BaseLlm):
    """A model that makes calls, and then ends; it keeps what it was shown of the calls."""

    calls: list[tuple[str, dict[str, Any]]]
    seen: str = ""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Say the call, or the end."""
        told = [part.function_response for part in llm_request.contents[-1].parts or () if part.function_response]
        parts = [types.Part(text="ok")]
        if told:
            self.seen = "\n".join(json.dumps(each.response, ensure_ascii=False) for each in told)
        else:
            parts = [types.Part(function_call=types.FunctionCall(name=name, args=args)) for name, args in self.calls]
        yield LlmResponse(content=types.Content(role="model", parts=parts))


def arx(model: Script, worker_model: Script) -> tuple[LlmAgent, Any]:
    """Return the desk's agent; its worker works with a narrower task."""
    from arx_caps.agent import Agent, ToolCalls, local_tool
    from arx_caps.integrations.google_adk import ArxToolset
    from arx_verifier import open_verifier

    verifier = open_verifier("orders.json")
    verifier.start()
    read = local_tool(verifier, "orders.get")(get_order)
    pay = local_tool(verifier, "orders.refund")(refund)
    calls = ToolCalls(Agent.from_key_file("desk.json").open_session().start_task("desk"), tools=NAMES)
    part = calls.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})
    worker = LlmAgent(name="worker", model=worker_model, tools=[ArxToolset(part, [pay])])
    agent = LlmAgent(name="desk", model=model, tools=[ArxToolset(calls, [read, pay]), AgentTool(worker)])
    return agent, verifier


def tenuo(model: Script, worker_model: Script) -> tuple[LlmAgent, Any, Any]:
    """Return the desk's agent; its worker works with a narrower warrant."""
    from tenuo import Exact, HolderIdentity, Range, Runtime, SigningKey, Warrant, Wildcard
    from tenuo.google_adk import TenuoGuard

    root, key, worker_key = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
    roots = [root.public_key]
    Runtime(HolderIdentity(key), roots).install()  # what takes lists of revoked warrants
    warrant = (
        Warrant.mint_builder()
        .capability("get_order", order_id=Exact("o-1"), note=Wildcard())
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 20), note=Wildcard())
        .capability("worker")
        .holder(key.public_key)
        .ttl(600)
        .mint(root)
    )
    part = (
        warrant.grant_builder()
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 10), note=Wildcard())
        .holder(worker_key.public_key)
        .ttl(300)
        .grant(key)
    )
    held = TenuoGuard(part, worker_key, roots, warrant_chain=[warrant])
    worker = LlmAgent(
        name="worker", model=worker_model, tools=held.filter_tools([refund]), before_tool_callback=held.before_tool
    )
    guard = TenuoGuard(warrant, key, roots)
    agent = LlmAgent(
        name="desk",
        model=model,
        tools=guard.filter_tools([get_order, refund, AgentTool(worker)]),
        before_tool_callback=guard.before_tool,
    )
    return agent, root, warrant


def bare(model: Script, worker_model: Script) -> tuple[LlmAgent]:
    """Return the desk's agent without a product."""
    worker = LlmAgent(name="worker", model=worker_model, tools=[refund])
    return (LlmAgent(name="desk", model=model, tools=[get_order, refund, AgentTool(worker)]),)


def _desk(make: Any) -> tuple[Desk, Any]:
    model, worker_model = (Script(model="script", calls=[]) for _ in range(2))
    agent, *more = make(model, worker_model)
    loop = asyncio.new_event_loop()

    async def run() -> None:
        runner = InMemoryRunner(agent=agent, app_name="desk")
        opened = await runner.session_service.create_session(app_name="desk", user_id="u")
        message = types.Content(role="user", parts=[types.Part(text="go")])
        async for _ in runner.run_async(user_id="u", session_id=opened.id, new_message=message):
            pass

    def turn(calls: list[tuple[str, dict[str, Any]]]) -> str:
        model.calls, model.seen = calls, ""
        loop.run_until_complete(run())
        return model.seen

    def pass_to_worker(amount: int) -> str:
        worker_model.calls, worker_model.seen = [stage.pay(amount)], ""
        turn([("worker", {"request": "refund o-1"})])
        return worker_model.seen

    return Desk(lambda *call: turn([call]), pass_to_worker, turn=turn), more


@contextlib.contextmanager
def with_arx() -> Iterator[Desk]:
    """The desk with ARx."""
    desk, (verifier,) = _desk(arx)
    with contextlib.closing(verifier):
        yield desk


@contextlib.contextmanager
def with_tenuo() -> Iterator[Desk]:
    """The desk with tenuo."""
    desk, (root, warrant) = _desk(tenuo)
    yield desk._replace(kill=lambda: stage.revoke(root, warrant))


@contextlib.contextmanager
def without() -> Iterator[Desk]:
    """The desk without a product."""
    desk, _ = _desk(bare)
    yield desk


if __name__ == "__main__":
    stage.main(Framework(without, with_arx, with_tenuo, ((arx,), (tenuo,)), ("google-adk",)))
