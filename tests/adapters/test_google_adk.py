# SPDX-License-Identifier: Apache-2.0
"""Google's ADK with a scripted model, a real mint and a real service: docs/adapters/google-adk.md."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import InMemoryRunner, Runner
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.adk.tools.agent_tool import AgentTool
from google.genai import types
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from arx_caps.agent import Agent as Holder
from arx_caps.agent import CurrentTaskAuth, Session, StartedTask, SubAgent, Task
from arx_caps.integrations.google_adk import ArxToolset
from tests.adapters.agent_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.agent_contract import TOOLS, Drive, Ran, played
from tests.adapters.agent_world import WORKER, World, at_its_loudest, whole
from tests.house.pages import ROOT, blocks

pytestmark = pytest.mark.filterwarnings("ignore")  # the ADK warns of its own experimental parts

PAGE = (ROOT / "docs" / "adapters" / "google-adk.md").read_text(encoding="utf-8")
CONFIRM = "adk_request_confirmation"
SPANS = InMemorySpanExporter()  # everything that the ADK traces, with the content of requests and tools

traces = TracerProvider()
traces.add_span_processor(SimpleSpanProcessor(SPANS))
trace.set_tracer_provider(traces)


class Script(BaseLlm):
    """A model that calls these tools, one a turn, and then ends.  A step may be a function that returns one."""

    steps: list[Any]
    offered: list[list[str]]
    read: list[str]

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Say the next step."""
        self.offered.append(sorted(llm_request.tools_dict))
        self.read.append(llm_request.model_dump_json(exclude={"tools_dict"}, fallback=str))
        step: Any = self.steps.pop(0) if self.steps else "done"
        step = step() if callable(step) else step
        if isinstance(step, str):
            part = types.Part(text=step)
        else:
            part = types.Part(function_call=types.FunctionCall(name=step[0], args=step[1]))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def calling(*steps: Any) -> Script:
    """A model with a script of its own."""
    return Script(model="script", steps=list(steps), offered=[], read=[])


@pytest.fixture
def session(acme: World) -> Iterator[Session]:
    with acme.session() as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    return session.start_task("refund", order_id="o-1", amount=20)


def tools_of(url: str) -> list[Callable[..., Any]]:
    """Tools that are written once: they sign with whatever task runs them."""

    async def get_order(order_id: str) -> str:
        """Look an order up."""
        async with httpx.AsyncClient(base_url=url, auth=CurrentTaskAuth()) as client:
            return (await client.get(f"/orders/{order_id}")).raise_for_status().text

    async def refund(order_id: str, amount: int) -> str:
        """Pay an order back."""
        async with httpx.AsyncClient(base_url=url, auth=CurrentTaskAuth()) as client:
            return (await client.post(f"/orders/{order_id}/refund", json={"amount": amount})).raise_for_status().text

    return [get_order, refund]


def responses(events: list[Any]) -> list[dict[str, Any]]:
    """What the tools of these names returned."""
    found = [response for event in events for response in event.get_function_responses()]
    return [response.response for response in found if response.name in {*TOOLS, "worker"}]


def answers(events: list[Any]) -> list[str]:
    """What the model read of its tools."""
    return [json.dumps(each) for each in responses(events)]


async def events_of(runner: Runner, session_id: str, message: types.Content) -> list[Any]:
    return [each async for each in runner.run_async(user_id="u", session_id=session_id, new_message=message)]


def text(words: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=words)])


async def run_async(agent: LlmAgent, state: dict[str, Any] | None = None) -> list[Any]:
    runner = InMemoryRunner(agent=agent, app_name="desk")
    opened = await runner.session_service.create_session(app_name="desk", user_id="u", state=state)
    return await events_of(runner, opened.id, text("go"))


@pytest.fixture
def drive() -> Drive:
    """An agent of the framework."""

    def go(task: Task, functions: Any, *steps: Any) -> Ran:
        model = calling(*[partial(played, steps, number) for number in range(len(steps))])
        events = run(LlmAgent(name="a", model=model, tools=[ArxToolset(functions, task, tools=TOOLS)]))
        return Ran([each.get("result") or each["error"] for each in responses(events)], len(model.read))

    return go


def run(agent: LlmAgent) -> list[Any]:
    return asyncio.run(run_async(agent))


def test_the_model_reads_what_would_be_allowed(acme: World, task: StartedTask) -> None:
    """Allowed calls pass; one beyond the task is refused without a call, and in words."""
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("refund", {"order_id": "o-1", "amount": 50}),
        ("refund", {"order_id": "o-1", "amount": 20}),
    )
    before = len(acme.calls)
    toolset = ArxToolset(tools_of(acme.url), task, tools=TOOLS)
    looked, refused, refunded = answers(run(LlmAgent(name="a", model=model, tools=[toolset])))
    assert "kettle" in looked
    assert "refund was refused: amount must be between 1 and 20, got 50. Do not repeat this call." in refused
    assert "refunded" in refunded
    assert acme.calls[before:] == ["orders.get o-1", "orders.refund o-1 20"]


def test_a_sub_agent_has_the_tools_it_was_given(acme: World, task: StartedTask) -> None:
    """A transfer delegates: the sub-agent is offered less, and may do less."""
    less = task.delegate(WORKER, tools=["orders.refund"], args={"amount": {"max": 10}})
    model = calling(
        ("transfer_to_agent", {"agent_name": "worker"}),
        ("refund", {"order_id": "o-1", "amount": 15}),
        ("refund", {"order_id": "o-1", "amount": 5}),
    )
    theirs, ours = (ArxToolset(tools_of(acme.url), held, tools=TOOLS) for held in (less, task))
    worker = LlmAgent(name="worker", model=model, description="pays", tools=[theirs])
    agent = LlmAgent(name="a", model=model, tools=[ours], sub_agents=[worker])
    found = answers(run(agent))
    assert [[name for name in names if name in TOOLS] for names in model.offered[:2]] == [
        ["get_order", "refund"],
        ["refund"],
    ]
    assert "amount must be at most 10, got 15." in found[0]
    assert "refunded" in found[1]


def test_a_kill_ends_the_run(acme: World, task: StartedTask) -> None:
    """The next call is refused by the service; the model reads that it must stop, and is offered no tool any more."""

    def killed() -> Any:
        acme.kill(f"task:{task.id}")
        return ("refund", {"order_id": "o-1", "amount": 5})

    model = calling(("get_order", {"order_id": "o-1"}), killed, "stopped")
    before = len(acme.calls)
    events = run(LlmAgent(name="a", model=model, tools=[ArxToolset(tools_of(acme.url), task, tools=TOOLS)]))
    assert acme.calls[before:] == ["orders.get o-1"]
    assert "An operator ended this work" in answers(events)[-1]
    assert model.offered == [["get_order", "refund"], ["get_order", "refund"], []]
    assert events[-1].content.parts[0].text == "stopped"


def test_runs_beside_each_other_use_their_own_tasks(acme: World, session: Session) -> None:
    """One toolset serves many runs: each run's session has its task, and none refunds another's order."""
    held = {order: session.start_task("refund", order_id=order, amount=20) for order in ("o-1", "o-2", "o-3", "o-4")}
    toolset = ArxToolset(tools_of(acme.url), lambda context: held[context.state["order"]], tools=TOOLS)

    async def all_of_them() -> list[Any]:
        runs = []
        for order in held:
            model = calling(("refund", {"order_id": order, "amount": 5}), ("refund", {"order_id": "o-x", "amount": 5}))
            runs.append(run_async(LlmAgent(name="a", model=model, tools=[toolset]), {"order": order}))
        return await asyncio.gather(*runs)

    for events in asyncio.run(all_of_them()):
        passed, refused = answers(events)
        assert "refunded" in passed
        assert "order_id must be" in refused


async def turn(folder: Path, url: str, task: Task, model: Script, message: types.Content) -> list[Any]:
    """One turn of a conversation that is kept on disk."""
    service = SqliteSessionService(str(folder / "sessions.db"))
    agent = LlmAgent(name="a", model=model, tools=[ArxToolset(tools_of(url), task, tools=TOOLS)])
    runner = Runner(app=App(name="desk", root_agent=agent), session_service=service)
    if await service.get_session(app_name="desk", user_id="u", session_id="s") is None:
        await service.create_session(app_name="desk", user_id="u", session_id="s")
    return await events_of(runner, "s", message)


AFTER_RESTART = """
import asyncio, json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from google.genai import types
from arx_caps.agent import Agent as Holder
from tests.adapters.test_google_adk import CONFIRM, answers, calling, turn

folder, url, asked = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
with Holder.from_key_file(folder / "key.json") as holder:
    session = holder.resume_session(folder / "session.json")
    task = session.resume_task(folder / "task")
    answer = {"confirmed": True, "payload": {"approval": asked["approval"]}}
    response = types.FunctionResponse(id=asked["id"], name=CONFIRM, response=answer)
    message = types.Content(role="user", parts=[types.Part(function_response=response)])
    print(json.dumps(answers(asyncio.run(turn(folder, url, task, calling(), message)))))
"""


def after_restart(folder: Path, url: str, asked: dict[str, str]) -> Any:
    """What another process makes of the files of this one."""
    words = [sys.executable, "-c", AFTER_RESTART, str(folder), url, json.dumps(asked)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("outcome", "answer"),
    [("approve", "refunded"), ("deny", "denied"), ("another", "amount must be 5, got 500")],
)
def test_an_approval_survives_a_restart(acme: World, tmp_path: Path, outcome: str, answer: str) -> None:
    """The call waits for a confirmation, its process ends, an operator answers, another process goes on."""
    (tmp_path / "key.json").write_bytes(acme.mint.enrol(f"acme/night-{outcome}").read_bytes())
    (tmp_path / "key.json").chmod(0o600)
    with Holder.from_key_file(tmp_path / "key.json") as holder:
        session = holder.open_session()
        task = session.start_task("payout", order_id="o-1")
        acme.know(session)
        session.save(tmp_path / "session.json")
        task.save(tmp_path / "task")
        model = calling(("refund", {"order_id": "o-1", "amount": 500}))
        events = asyncio.run(turn(tmp_path, acme.url, task, model, text("go")))
        (wanted,) = [call for event in events for call in event.get_function_calls() if call.name == CONFIRM]
        asked = {"id": wanted.id, "approval": wanted.args["toolConfirmation"]["payload"]["approval"]}
        if outcome == "another":
            asked["approval"] = task.ask_approval("orders.refund", {"order_id": "o-1", "amount": 5}).id
    (status,) = [each["status"] for each in responses(events)]
    assert status.startswith("refund waits: an operator has to approve this call with exactly these arguments")
    acme.require_secrecy((tmp_path / "sessions.db").read_bytes().decode("latin-1"))
    before = len(acme.calls)
    acme.answer(asked["approval"], "deny" if outcome == "deny" else "approve")
    assert answer in after_restart(tmp_path, acme.url, asked)[-1]
    assert acme.calls[before:] == (["orders.refund o-1 500"] if outcome == "approve" else [])


def test_a_sub_agent_in_a_tool(acme: World, session: Session) -> None:
    """An agent that is a tool works with its part of the run's task, and its answers are the tool's."""
    worker_model = calling(("refund", {"order_id": "o-1", "amount": 15}), ("refund", {"order_id": "o-1", "amount": 50}))
    theirs = ArxToolset(tools_of(acme.url), tools=TOOLS)
    worker = LlmAgent(name="worker", model=worker_model, description="pays", tools=[theirs])
    part = SubAgent(WORKER, tools=["orders.refund"], args={"orders.refund": {"amount": {"max": 20}}})
    task = session.start_task("desk", order_id="o-1")
    ours = ArxToolset([AgentTool(worker)], task, tools=TOOLS, sub_agents={"worker": part})
    acme.service.served.clear()
    found = answers(run(LlmAgent(name="a", model=calling(("worker", {"request": "refund"})), tools=[ours])))
    assert found == ['{"result": "done"}']
    assert worker_model.offered[0] == ["refund"]
    assert [(each.holder, str(each)) for each in acme.service.served] == [(WORKER, "orders.refund o-1 15")]
    assert "amount must be at most 20, got 50." in worker_model.read[-1]


def test_no_token_is_seen_anywhere(acme: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts, events, spans with all content, logs at their loudest, errors, and what objects show of themselves."""
    task, seen = session.start_task("payout", order_id="o-1"), list[Any]()
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("get_order", {"order_id": "o-2"}),
        ("refund", {"order_id": "o-1", "amount": 500}),
    )
    broken = calling(("get_order", {"order_id": "o-1"}))
    toolset = ArxToolset(tools_of(acme.url), task, tools=TOOLS)
    SPANS.clear()
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    with at_its_loudest() as loud:
        seen += run(LlmAgent(name="a", model=model, tools=[toolset]))
        acme.service.failures = 1
        with pytest.raises(httpx.HTTPStatusError) as failed:
            run(LlmAgent(name="a", model=broken, tools=[toolset]))
    traced = [span.to_json() for span in SPANS.get_finished_spans()]
    assert any("execute_tool get_order" in span for span in traced)
    assert any("get_order was refused" in span for span in traced)
    assert any("502 Bad Gateway" in span for span in traced)
    assert any("httpcore" in line for line in loud.lines)
    acme.require_secrecy(*loud.lines, *model.read, *broken.read, *seen, *traced, whole(failed.value), toolset, task)


def test_the_page_is_this_adapter(acme: World, session: Session) -> None:
    """The example of the page runs as it is shown."""
    source = next(block.text for block in blocks(PAGE) if block.language == "python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    model = calling(("refund", {"order_id": "o-1", "amount": 50}), ("refund", {"order_id": "o-1", "amount": 20}))
    names: dict[str, Any] = {
        "task": session.start_task("refund", order_id="o-1", amount=20),
        "model": model,
        "DESK": acme.url,
    }
    exec(compile(source, "google-adk.md", "exec"), names)
    refused, refunded = answers(run(names["agent"]))
    names["desk"].close()
    assert "amount must be between 1 and 20" in refused
    assert "refunded" in refunded
