# SPDX-License-Identifier: Apache-2.0
"""LangChain's ``create_agent``, its tools functions of the agent's process."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

from langchain.agents import AgentState, create_agent
from langchain.tools import tool
from langchain_core.messages import ToolMessage

from benchmarks.compare import stage
from benchmarks.compare.stage import Desk, Framework, get_order, refund
from tests.adapters.scripted_model import ScriptedModel

Run = Callable[[], dict[str, Any]]
NAMES: Final = {"get_order": "orders.get", "refund": "orders.refund"}


def arx(model: Any, worker_model: Any) -> tuple[Run, Any]:
    """Return a run of the desk's agent; the worker works with its part of the task."""
    from arx_caps.agent import Agent, SubAgent, local_tool
    from arx_caps.integrations.langchain import ArxAgentMiddleware
    from arx_verifier import open_verifier

    verifier = open_verifier("orders.json")
    verifier.start()
    read = tool(local_tool(verifier, "orders.get")(get_order))
    pay = tool(local_tool(verifier, "orders.refund")(refund))
    worker = create_agent(worker_model, [pay], middleware=[ArxAgentMiddleware(tools=NAMES)])
    part = SubAgent("acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})

    @tool
    def ask_worker(request: str) -> str:
        """Hand a request to the worker."""
        return str(worker.invoke({"messages": [("user", request)]})["messages"][-1].text)

    task = Agent.from_key_file("desk.json").open_session().start_task("desk")
    agent = create_agent(
        model,
        [read, pay, ask_worker],
        middleware=[ArxAgentMiddleware(task, tools=NAMES, sub_agents={"ask_worker": part})],
    )
    return lambda: agent.invoke({"messages": [("user", "go")]}), verifier


def tenuo(model: Any, worker_model: Any, **more: Any) -> tuple[Run, Any, Any]:
    """Return a run of the desk's agent; the worker works with a narrower warrant."""
    from tenuo import Exact, HolderIdentity, KeyRegistry, Range, Runtime, SigningKey, Warrant, Wildcard
    from tenuo.langgraph import TenuoMiddleware

    root, key, worker_key = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
    roots = [root.public_key]

    class Warranted(AgentState[Any]):
        warrant: str

    KeyRegistry.get_instance().register("desk", key)
    KeyRegistry.get_instance().register("worker", worker_key)
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
    pay = tool(refund)
    worker = create_agent(
        worker_model,
        [pay],
        state_schema=Warranted,
        middleware=[TenuoMiddleware(key_id="worker", trusted_roots=roots, warrant_chain=[warrant])],
    )

    @tool
    def ask_worker(request: str) -> str:
        """Hand a request to the worker."""
        return str(worker.invoke({"messages": [("user", request)], "warrant": str(part)})["messages"][-1].text)

    agent = create_agent(
        model,
        [tool(get_order), pay, ask_worker],
        state_schema=Warranted,
        middleware=[TenuoMiddleware(key_id="desk", trusted_roots=roots, **more)],
    )
    return lambda: agent.invoke({"messages": [("user", "go")], "warrant": str(warrant)}), root, warrant


def bare(model: Any) -> Run:
    """Return a run of the desk's agent without a product."""
    agent = create_agent(model, [tool(get_order), tool(refund)])
    return lambda: agent.invoke({"messages": [("user", "go")]})


def _desk(make: Callable[..., Any]) -> tuple[Desk, Any]:
    model, worker_model = ScriptedModel(script=[]), ScriptedModel(script=[])
    run, *more = make(model, worker_model)

    def turn(calls: list[tuple[str, dict[str, Any]]]) -> str:
        model.script = [calls, "ok"]
        return _seen(run()["messages"])

    def pass_to_worker(amount: int) -> str:
        worker_model.script = [[stage.pay(amount)], "ok"]
        turn([("ask_worker", {"request": "refund o-1"})])
        return _seen(worker_model.seen[-1])

    return Desk(lambda *call: turn([call]), pass_to_worker, turn=turn), more


def _seen(messages: list[Any]) -> str:
    return "\n".join(message.text for message in messages if isinstance(message, ToolMessage))


@contextlib.contextmanager
def with_arx() -> Iterator[Desk]:
    """The desk with ARx."""
    desk, (verifier,) = _desk(arx)
    with contextlib.closing(verifier):
        yield desk


@contextlib.contextmanager
def with_tenuo() -> Iterator[Desk]:
    """The desk with tenuo."""
    told = _desk(functools.partial(tenuo, debug=True))[0].ask(*stage.pay(50))
    desk, (root, warrant) = _desk(tenuo)
    yield desk._replace(kill=lambda: stage.revoke(root, warrant), detailed=lambda: told)


@contextlib.contextmanager
def without() -> Iterator[Desk]:
    """The desk without a product."""
    desk, _ = _desk(lambda model, _: (bare(model),))
    yield desk


if __name__ == "__main__":
    stage.main(Framework(without, with_arx, with_tenuo, ((arx,), (tenuo,)), ("langchain", "langgraph")))
