# SPDX-License-Identifier: Apache-2.0
"""pydantic-ai with tasks: a real mint, a guarded service, an operator, and models that follow a script.

The agents are those of docs/adapters/pydantic-ai.md.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ModelMessagesTypeAdapter, ToolApproved
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from arx_caps.agent import Agent as ArxAgent
from arx_caps.agent import Task
from arx_caps.integrations.pydantic_ai import MARK, Arx, resume
from arx_verifier import ArxError, AttenuationError
from tests.adapters.agent_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.agent_contract import TOOLS, Drive, Ran, played
from tests.adapters.agent_world import BOSS, WORKER, Served, World, at_its_loudest, run_block
from tests.house.pages import ROOT, blocks

AGENTS, RUN, SUSPEND, GO_ON = (
    block.text
    for block in blocks((ROOT / "docs" / "adapters" / "pydantic-ai.md").read_text(encoding="utf-8"))
    if block.language == "python"
)
REFUND = {"order_id": "o-1", "amount": 500}
LAST_WORDS = ("An operator ended this work, or its session ended.", "An operator froze this work.")
CLIENTS: list[httpx.Client] = []  # of this test


@pytest.fixture
def drive() -> Drive:
    """An agent of the framework."""

    def run(task: Task, functions: Any, *steps: Any) -> Ran:
        def scripted(number: int) -> Callable[[list[ModelMessage]], Any]:
            step: Callable[[], Any] = partial(played, steps, number)
            return lambda _: found if isinstance(found := step(), str) else ToolCallPart(*found)

        script = Script(*[scripted(number) for number in range(len(steps))])
        agent = Agent(script.model, tools=functions, capabilities=[Arx(task, tools=TOOLS)])
        messages = asyncio.run(agent.run("go")).all_messages()
        return Ran([str(each.content) for each in answers(messages)], len(script.seen))

    return run


@pytest.fixture(autouse=True)
def clients(acme: World) -> Iterator[list[httpx.Client]]:
    """Nothing is served yet; at the end all clients, and the loop of ``run_sync``, are closed."""
    acme.service.served.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield CLIENTS
    loop.close()
    asyncio.set_event_loop(None)
    while CLIENTS:
        CLIENTS.pop().close()


def call(tool: str, **args: Any) -> ToolCallPart:
    """Return the step in which the model calls a tool."""
    return ToolCallPart(tool, args)


class Script:
    """A model that answers with the next step since the last prompt, and keeps what it was shown."""

    def __init__(self, *steps: Any) -> None:
        self.steps, self.seen, self.offered = steps, list[list[ModelMessage]](), list[list[str]]()
        self.model = FunctionModel(self._answer)

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.seen.append(list(messages))
        self.offered.append([tool.name for tool in info.function_tools])
        step = self.steps[sum(isinstance(each, ModelResponse) for each in messages)]
        step = step(messages) if callable(step) else step
        return ModelResponse(parts=[TextPart(step) if isinstance(step, str) else step])


def prompt(messages: list[ModelMessage]) -> str:
    """Return what the run was asked for."""
    return next(str(part.content) for each in messages for part in each.parts if isinstance(part, UserPromptPart))


def answers(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    """Return what a model saw of its tools."""
    return [part for each in messages for part in each.parts if isinstance(part, ToolReturnPart)]


def agents(url: str, script: Script, worker: Script | None = None) -> dict[str, Any]:
    """Return the names of the page's file, with these models."""
    names: dict[str, Any] = {"ORDERS": url, "model": script.model, "worker_model": (worker or Script("idle")).model}
    exec(compile(AGENTS, "agents.py", "exec", dont_inherit=True), names)
    CLIENTS.append(names["orders"])
    return names


PAGE_NAMES: dict[str, Any] = {"ArxAgent": ArxAgent, "Path": Path, "TypeAdapter": TypeAdapter, "resume": resume}
PAGE_NAMES |= {"ModelMessagesTypeAdapter": ModelMessagesTypeAdapter}


def test_a_sub_agent_has_its_part_of_the_task(acme: World, tmp_path: Path) -> None:
    """The page's agents: the worker's call passes, one out of bounds is refused in words, and each sees its tools."""
    worker = Script(
        call("refund", order_id="o-1", amount=15),
        call("refund", order_id="o-1", amount=50),
        lambda messages: str(answers(messages)[-1].content),
    )
    script = Script(call("ask_worker", request="refund o-1"), call("refund", order_id="o-1", amount=50), "ok")
    names = agents(acme.url, script, worker)
    with acme.session() as session:
        names["session"] = session
        run_block(RUN, tmp_path, names)
    refused = (
        "refund was refused: amount must be at most 20, got 50."
        " Do not repeat this call. Make one that is allowed, or say that this is not permitted."
    )
    seen = answers(names["result"].all_messages())
    assert [each.content for each in seen] == [refused, '{"refunded":50}']
    assert [(each.outcome, each.content) for each in answers(worker.seen[-1])] == [
        ("success", '{"refunded":15}'),
        ("failed", refused),
    ]
    assert script.offered[0] == ["ask_worker", "get_order", "refund"]
    assert worker.offered[0] == ["get_order", "refund"]
    assert acme.service.served == [
        Served("orders.refund", WORKER, names["task"].id, "o-1", 15),
        Served("orders.refund", BOSS, names["task"].id, "o-1", 50),
    ]


def test_a_model_is_offered_what_its_task_has_and_nothing_else_runs(acme: World) -> None:
    """A tool that the task lacks is hidden and does not run when it is called all the same."""

    def drop(order_id: str) -> str:
        """Drop an order."""
        raise AssertionError("it ran")

    def clock() -> str:
        """Return the time."""
        return "noon"

    script = Script(call("drop", order_id="o-1"), call("clock"), "ok")
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        arx = Arx(task, tools={"drop": "orders.drop"}, public=["clock"])
        result = Agent(script.model, tools=[drop, clock], capabilities=[arx]).run_sync("go")
    assert (result.output, script.offered[0]) == ("ok", ["clock"])
    assert [each.content for each in answers(result.all_messages())][-1] == "noon"


@pytest.mark.parametrize("target", ["agent", "task"])
def test_a_run_ends_after_a_kill(acme: World, target: str) -> None:
    """The next call is refused, the model is not called again, and the output says why."""
    kills: list[Callable[[], None]] = []

    def killed(messages: list[ModelMessage]) -> Any:
        kills.pop()()
        return call("get_order", order_id="o-1")

    class Report(BaseModel):
        """An output that is no text."""

        words: str

    path = f"acme/killed/{target}"
    with acme.session(path) as session:
        for output in (str, Report):
            if output is Report and target == "agent":
                continue
            task = session.start_task("desk", order_id="o-1")
            name = f"{target}:{path if target == 'agent' else task.id}"
            kills.append(lambda name=name: acme.kill(name))  # type: ignore[misc]
            script = Script(call("get_order", order_id="o-1"), killed, "the model goes on")
            agent: Any = Agent(
                script.model,
                output_type=output,
                tools=[agents(acme.url, script)["get_order"]],
                capabilities=[Arx(task, tools={"get_order": "orders.get"})],
            )
            if output is str:
                result = agent.run_sync("go")
                assert result.output in LAST_WORDS
                assert [each.outcome for each in answers(result.all_messages())] == ["success", "failed"]
            else:
                with pytest.raises(ArxError) as ended:
                    agent.run_sync("go")
                assert ended.value.code == "revoked"
            assert len(script.seen) == 2


@pytest.mark.parametrize("outcome", ["approve", "deny", "change", "claim", "wait"])
def test_an_approval_survives_a_restart(acme: World, tmp_path: Path, outcome: str) -> None:
    """Suspended here, resumed by another process from files; a changed call, a denied or a claimed one is refused."""
    key = acme.key(f"acme/support/{outcome}")
    names = agents(acme.url, Script(call("refund", **REFUND), "done")) | PAGE_NAMES
    with ArxAgent.from_key_file(key) as boss:
        session = boss.open_session(purpose="a payout")
        task = session.start_task("payout", order_id="o-1")
        names |= {"session": session, "task": task}
        run_block(SUSPEND, tmp_path, names)
        (waiting,) = acme.waiting(task)
        assert list(names["result"].output.metadata.values()) == [{MARK: waiting["id"]}]
        assert (waiting["args"], acme.service.served) == (REFUND, [])
        acme.know(session)
        session.save(tmp_path / "desk.session")
    if outcome != "wait":
        acme.answer(waiting["id"], "deny" if outcome == "deny" else "approve")
    words = [sys.executable, "-m", "tests.adapters.test_pydantic_ai", str(key), acme.url, str(tmp_path), outcome]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    files = [(tmp_path / name).read_text() for name in ("history.json", "requests.json")]
    acme.require_secrecy("\n".join([done.stdout, done.stderr, *files]))
    if outcome == "approve":
        assert output == {"tools": [["success", '{"refunded":500}']], "suspended": []}
        assert acme.service.served == [Served("orders.refund", f"acme/support/{outcome}", task.id, "o-1", 500)]
        return
    assert acme.service.served == []
    if outcome == "wait":
        assert output == {"tools": [], "suspended": [waiting["id"]]}
        return
    assert [each[0] for each in output["tools"]] == ["failed"]


def go_on(key: str, url: str, folder: str, outcome: str) -> None:
    """Resume as another process, as the page says or with something else, and write what came of it."""

    def changed(requests: DeferredToolRequests) -> DeferredToolResults:
        results = resume(requests)
        if outcome == "change":
            results.approvals = {
                each: ToolApproved(override_args=REFUND | {"amount": 501}) for each in results.approvals
            }
        if outcome == "claim":
            results.metadata = {}
        return results

    names = agents(url, Script(call("refund", **REFUND), "done")) | PAGE_NAMES | {"resume": changed}
    Path(folder, "boss.json").symlink_to(key)
    run_block(GO_ON, Path(folder), names)
    output = names["result"].output
    suspended = [each[MARK] for each in output.metadata.values()] if isinstance(output, DeferredToolRequests) else []
    tools = [[each.outcome, each.content] for each in answers(names["result"].all_messages())]
    sys.stdout.write(json.dumps({"tools": tools, "suspended": suspended}))


def test_runs_beside_each_other_never_mix_their_tasks(acme: World) -> None:
    """One agent, many tasks in one event loop, sub-agents included."""
    count = 6
    worker = Script(*[lambda messages: call("get_order", order_id=prompt(messages))] * 2, "done")
    script = Script(*[lambda messages: call("ask_worker", request=prompt(messages))] * 2, "done")
    names = agents(acme.url, script, worker)

    async def together(tasks: dict[str, Task]) -> None:
        await asyncio.gather(*[names["agent"].run(order, deps=task) for order, task in tasks.items()])

    with acme.session() as session:
        tasks = {f"o-{place}": session.start_task("desk", order_id=f"o-{place}") for place in range(count)}
        asyncio.run(together(tasks))
    assert len(acme.service.served) == count * 4
    assert all(tasks[each.order_id].id == each.task for each in acme.service.served)
    assert len(set(acme.service.credentials)) == len(acme.service.credentials)


def test_an_error_that_is_no_refusal_is_the_frameworks(acme: World) -> None:
    """A broken tool ends the run as it does without ARx; a run without a task does not begin."""
    names = agents(acme.url, Script(call("get_order", order_id="o-1"), "done"))
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        acme.service.failures = 1
        with pytest.raises(httpx.HTTPStatusError, match="502"):
            names["agent"].run_sync("go", deps=task)
    with pytest.raises(AttenuationError, match="this run has no task"):
        names["agent"].run_sync("go")


def test_no_credential_is_seen_outside(acme: World) -> None:
    """Prompts, histories, the framework's traces with all content, and logs of runs that pass, are refused or fail."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from pydantic_ai.models.instrumented import InstrumentationSettings

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    worker = Script(call("refund", order_id="o-1", amount=15), call("refund", order_id="o-1", amount=50), "done")
    script = Script(call("ask_worker", request="refund"), call("refund", order_id="o-2", amount=9), "done")
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider, include_content=True))
    seen: list[Any] = []
    try:
        with at_its_loudest() as log, acme.session() as session:
            names = agents(acme.url, script, worker)
            with session.start_task("desk", order_id="o-1") as task:
                seen.append(names["agent"].run_sync("go", deps=task, metadata={"task": repr(task)}))
                acme.service.failures = 1
                with pytest.raises(httpx.HTTPStatusError) as broken:
                    names["agent"].run_sync("go", deps=task)
                seen += [repr(broken.value), *getattr(broken.value, "__notes__", ())]
            with session.start_task("payout", order_id="o-1") as task:
                payout = agents(acme.url, Script(call("refund", **REFUND), "done"))
                first = payout["agent"].run_sync("go", deps=task)
                acme.answer(acme.waiting(task)[0]["id"])
                history, results = first.all_messages(), resume(first.output)
                seen += [
                    first,
                    payout["agent"].run_sync(message_history=history, deferred_tool_results=results, deps=task),
                ]
    finally:
        Agent.instrument_all(False)
    traced = [each.to_json() for each in spans.get_finished_spans()]
    assert len(acme.service.served) >= 2
    assert any("amount must be at most 20" in each for each in traced)
    assert "httpcore" in "".join(log.lines)
    shown = [repr(vars(each)) if hasattr(each, "__dict__") else each for each in seen]
    shown += [each.all_messages_json().decode() for each in seen if hasattr(each, "all_messages_json")]
    prompts = [repr(each) for each in (script.seen, worker.seen)]
    acme.require_secrecy(*shown, *prompts, *traced, *log.lines)


def test_the_page_is_short() -> None:
    """At most fifteen lines of the first example are about ARx."""
    about = ("arx_caps", "CurrentTaskAuth", "Arx(", "SubAgent", "TOOLS", "WORKER", "Task", "acme/")
    assert sum(any(word in line for word in about) for line in AGENTS.splitlines()) <= 15


if __name__ == "__main__":
    go_on(*sys.argv[1:])
