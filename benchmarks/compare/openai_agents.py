# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK, its tools functions of the agent's process; the worker is an agent as a tool."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from benchmarks.compare import stage
from benchmarks.compare.stage import Desk, Framework, get_order, refund

NAMES: Final = {"get_order": "orders.get", "refund": "orders.refund"}


def arx() -> tuple[Agent[Any], Agent[Any], Any]:
    """Return the desk's agent and its worker, with a narrower task."""
    from arx_caps.agent import Agent as ArxAgent
    from arx_caps.agent import ToolCalls, local_tool
    from arx_caps.integrations.openai_agents import delegated_agent, guarded_tools
    from arx_verifier import open_verifier

    verifier = open_verifier("orders.json")
    verifier.start()
    read = function_tool(local_tool(verifier, "orders.get")(get_order))
    pay = function_tool(local_tool(verifier, "orders.refund")(refund))
    task = ArxAgent.from_key_file("desk.json").open_session().start_task("desk")
    calls = ToolCalls(task, tools=NAMES)
    worker = Agent(name="worker", tools=[pay])
    worker = delegated_agent(calls, worker, "acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})
    tools = guarded_tools(calls, [read, pay])
    agent = Agent(name="desk", tools=[*tools, worker.as_tool("ask_worker", "Hand a request to the worker.")])
    return agent, worker, verifier


def tenuo() -> tuple[Agent[Any], Agent[Any], Any, Any]:
    """Return the desk's agent and its worker, with a narrower warrant."""
    from tenuo import Exact, HolderIdentity, Range, Runtime, SigningKey, Warrant, Wildcard
    from tenuo.openai import guard_agent

    root, key, worker_key = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
    roots = [root.public_key]
    Runtime(HolderIdentity(key), roots).install()  # what takes lists of revoked warrants
    warrant = (
        Warrant.mint_builder()
        .capability("get_order", order_id=Exact("o-1"), note=Wildcard())
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 20), note=Wildcard())
        .capability("ask_worker")
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
    pay = function_tool(refund)
    worker = Agent(name="worker", tools=[pay])
    guard_agent(worker, warrant=part, signing_key=worker_key, trusted_roots=roots, warrant_chain=[warrant])
    pass_to_worker = worker.as_tool("ask_worker", "Hand a request to the worker.")
    agent = Agent(name="desk", tools=[function_tool(get_order), pay, pass_to_worker])
    guard_agent(agent, warrant=warrant, signing_key=key, trusted_roots=roots)
    return agent, worker, root, warrant


def bare() -> tuple[Agent[Any], Agent[Any]]:
    """Return the desk's agent without a product."""
    pay = function_tool(refund)
    worker = Agent(name="worker", tools=[pay])
    pass_to_worker = worker.as_tool("ask_worker", "Hand a request to the worker.")
    return Agent(name="desk", tools=[function_tool(get_order), pay, pass_to_worker]), worker


def _model(calls: list[tuple[str, dict[str, Any]]]) -> ScriptedModel:
    said = [function_call(tool, args, call_id=f"c-{number}") for number, (tool, args) in enumerate(calls)]
    return ScriptedModel([ModelStep(output=said), [assistant_message("ok")]])


def _outputs(items: Any) -> str:
    """Return what a request shows a model of its tools."""
    return "\n".join(
        str(item["output"]) for item in items if isinstance(item, dict) and item.get("type") == "function_call_output"
    )


def _desk(agent: Agent[Any], worker: Agent[Any]) -> Desk:
    loop = asyncio.new_event_loop()

    def turn(calls: list[tuple[str, dict[str, Any]]]) -> str:
        agent.model = _model(calls)
        result = loop.run_until_complete(Runner.run(agent, "go"))
        return "\n".join(str(item.output) for item in result.new_items if item.type == "tool_call_output_item")

    def pass_to_worker(amount: int) -> str:
        worker.model = model = _model([stage.pay(amount)])
        turn([("ask_worker", {"input": "refund o-1"})])
        return _outputs(model.last_call.input if model.last_call else [])

    return Desk(lambda *call: turn([call]), pass_to_worker, turn=turn)


@contextlib.contextmanager
def with_arx() -> Iterator[Desk]:
    """The desk with ARx."""
    agent, worker, verifier = arx()
    with contextlib.closing(verifier):
        yield _desk(agent, worker)


@contextlib.contextmanager
def with_tenuo() -> Iterator[Desk]:
    """The desk with tenuo."""
    agent, worker, root, warrant = tenuo()
    yield _desk(agent, worker)._replace(kill=lambda: stage.revoke(root, warrant))


@contextlib.contextmanager
def without() -> Iterator[Desk]:
    """The desk without a product."""
    yield _desk(*bare())


if __name__ == "__main__":
    set_tracing_disabled(True)
    stage.main(Framework(without, with_arx, with_tenuo, ((arx,), (tenuo,)), ("openai-agents",)))
