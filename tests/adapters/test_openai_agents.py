# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK with a scripted model, a real mint and a real service: docs/adapters/openai-agents.md."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    RunConfig,
    Runner,
    UserError,
    WebSearchTool,
    function_tool,
    set_trace_processors,
)
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import Span, Trace, TracingProcessor

from arx_caps.agent import Agent as Holder
from arx_caps.agent import Bundle, CurrentTaskAuth, Session, StartedTask, SubAgent, Task
from arx_caps.integrations.openai_agents import ArxTools
from arx_verifier import Constraint, Rule, SettingsError
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.agent_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.agent_contract import TOOLS, Drive, Ran, get_order_at, played
from tests.adapters.agent_world import WORKER, World, at_its_loudest, whole
from tests.house.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "adapters" / "openai-agents.md").read_text(encoding="utf-8")


class Spans(TracingProcessor):
    """Everything that the SDK traces, as text."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_trace_start(self, trace: Trace) -> None:
        self.texts.append(json.dumps(trace.export()))

    def on_trace_end(self, trace: Trace) -> None:
        self.texts.append(json.dumps(trace.export()))

    def on_span_start(self, span: Span[Any]) -> None:
        self.texts.append(json.dumps(span.export()))

    def on_span_end(self, span: Span[Any]) -> None:
        self.texts.append(json.dumps(span.export()))

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


@pytest.fixture(autouse=True)
def spans() -> Spans:
    found = Spans()
    set_trace_processors([found])
    return found


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    """The loop that ``Runner.run_sync`` takes is closed at the end; one that it makes is left open."""
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield
    made.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def session(acme: World) -> Iterator[Session]:
    with acme.session() as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    return session.start_task("refund", order_id="o-1", amount=20)


def tools_of(url: str) -> list[Any]:
    """Tools that are written once: they sign with whatever task runs them."""

    @function_tool
    async def get_order(order_id: str) -> str:
        """Look an order up."""
        async with httpx.AsyncClient(base_url=url, auth=CurrentTaskAuth()) as client:
            return (await client.get(f"/orders/{order_id}")).raise_for_status().text

    def refund(order_id: str, amount: int) -> str:
        """Pay an order back."""
        with httpx.Client(base_url=url, auth=CurrentTaskAuth()) as client:
            return client.post(f"/orders/{order_id}/refund", json={"amount": amount}).raise_for_status().text

    return [get_order, refund]


def calling(*steps: Any) -> ScriptedModel:
    """A model that calls these tools, one a turn, and then ends."""
    values = [[function_call(name, args, call_id=f"call-{number}")] for number, (name, args) in enumerate(steps)]
    return ScriptedModel([*[ModelStep(output=each) for each in values], [assistant_message("done")]])


def answers(result: Any) -> list[str]:
    """What the model read of its tools."""
    return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]


@pytest.fixture
def drive() -> Drive:
    """An agent of the framework."""

    def go(task: Task, functions: Any, *steps: Any) -> Ran:
        def scripted(number: int, _: Any) -> Any:
            step = played(steps, number)
            answer = assistant_message(step) if isinstance(step, str) else function_call(*step, call_id=f"c{number}")
            return [answer]

        tools = [function_tool(each, failure_error_function=None) for each in functions]  # an error ends the run
        model = ScriptedModel([ModelStep.respond(partial(scripted, number)) for number in range(len(steps))])
        result = run(Agent(name="a", model=model, tools=ArxTools(task, tools=TOOLS).guard(tools)), max_turns=20)
        return Ran(answers(result), len(model.calls))

    return go


def run(agent: Agent[Any], given: Any = "go", **more: Any) -> Any:
    return asyncio.run(Runner.run(agent, given, **more))


def test_the_model_reads_what_would_be_allowed(acme: World, task: StartedTask) -> None:
    """Allowed calls pass; one beyond the task is refused without a call, and in words."""
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("refund", {"order_id": "o-1", "amount": 50}),
        ("refund", {"order_id": "o-1", "amount": 20}),
    )
    before = len(acme.calls)
    result = run(Agent(name="a", model=model, tools=ArxTools(task, tools=TOOLS).guard(tools_of(acme.url))))
    looked, refused, refunded = answers(result)
    assert "kettle" in looked
    assert refused.startswith("refund was refused: amount must be between 1 and 20, got 50. Do not repeat this call.")
    assert refunded == '{"refunded":20}'
    assert acme.calls[before:] == ["orders.get o-1", "orders.refund o-1 20"]


def test_a_sub_agent_has_the_tools_it_was_given(acme: World, task: StartedTask) -> None:
    """A hand-off delegates: the sub-agent is offered less, may do less, and the service's record names it."""
    model = ScriptedModel(
        [
            [function_call("transfer_to_worker", {}, call_id="h")],
            [function_call("refund", {"order_id": "o-1", "amount": 15}, call_id="r1")],
            [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r2")],
            [assistant_message("done")],
        ]
    )
    part = task.delegate(WORKER, tools=["orders.refund"], args={"amount": {"max": 10}})
    worker = Agent(name="worker", model=model, tools=ArxTools(part, tools=TOOLS).guard(tools_of(acme.url)))
    guarded = ArxTools(task, tools=TOOLS).guard(tools_of(acme.url))
    result = run(Agent(name="a", model=model, tools=guarded, handoffs=[worker]))
    offered = [[tool.name for tool in call.tools] for call in model.calls]
    assert offered == [["get_order", "refund"], ["refund"], ["refund"], ["refund"]]
    assert answers(result)[-2].startswith("refund was refused: amount must be at most 10, got 15.")
    assert answers(result)[-1] == '{"refunded":5}'


def test_a_kill_ends_the_run(acme: World, task: StartedTask) -> None:
    """The next call is refused by the service; the model reads that it must stop, and is offered no tool any more."""

    def killed(_: Any) -> Any:
        acme.kill(f"task:{task.id}")
        return [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r")]

    model = ScriptedModel(
        [
            [function_call("get_order", {"order_id": "o-1"}, call_id="g")],
            ModelStep.respond(killed),
            [assistant_message("stopped")],
        ]
    )
    before = len(acme.calls)
    result = run(Agent(name="a", model=model, tools=ArxTools(task, tools=TOOLS).guard(tools_of(acme.url))))
    assert acme.calls[before:] == ["orders.get o-1"]
    assert answers(result)[-1].startswith("An operator ended this work")
    assert [len(call.tools) for call in model.calls] == [2, 2, 0]
    assert result.final_output == "stopped"


def test_a_run_goes_on_after_a_tool_that_its_task_lacks(acme: World, task: StartedTask) -> None:
    """A model remembers a tool that it is not offered: it reads why, also in a sub-agent and after a kill."""
    looks = task.attenuate(tools=["orders.get"])
    arx = ArxTools(lambda held: held, tools=TOOLS)
    worker_model = calling(("refund", {"order_id": "o-1", "amount": 5}), ("get_order", {"order_id": "o-1"}))
    worker = Agent(name="worker", model=worker_model, tools=arx.guard(tools_of(acme.url)))

    def killed(_: Any) -> Any:
        acme.kill(f"task:{task.id}")
        return [function_call("get_order", {"order_id": "o-1"}, call_id="killed")]

    model = ScriptedModel(
        [
            [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r1")],
            [function_call("invented", {}, call_id="i")],
            [function_call("ask_worker", {"input": "refund"}, call_id="w")],
            ModelStep.respond(killed),
            [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r2")],
            [assistant_message("done")],
        ]
    )
    tools = [*arx.guard(tools_of(acme.url)), worker.as_tool("ask_worker", "Ask the worker.")]
    own = RunConfig(tool_error_formatter=lambda given: f"{given.tool_name}: {given.kind}", workflow_name="kept")
    config, before = arx.run_config(own), len(acme.calls)
    result = run(Agent(name="a", model=model, tools=tools), context=looks, run_config=config)
    lacked, invented, worked, ended, over = answers(result)
    assert lacked.startswith("refund was refused: the tool must be orders.get, got ")
    assert invented == "invented: tool_not_found"
    assert worked == "done"
    assert "refund was refused: the tool must be" in str(worker_model.calls[-1].input)
    assert ended.startswith("An operator ended this work")
    assert over.startswith("An operator ended this work")
    assert acme.calls[before:] == ["orders.get o-1"]
    assert config.workflow_name == "kept"
    assert own.tool_not_found_behavior == "raise_error"
    with pytest.raises(ModelBehaviorError, match="Tool refund not found in agent"):
        run(Agent(name="a", model=calling(("refund", {})), tools=tools), context=looks)


def test_runs_beside_each_other_use_their_own_tasks(acme: World, session: Session) -> None:
    """One agent serves many runs: each run's context has its task, and none refunds another's order."""
    model_of = {
        order: calling(("refund", {"order_id": order, "amount": 5}), ("refund", {"order_id": "o-x", "amount": 5}))
        for order in ("o-1", "o-2", "o-3", "o-4")
    }
    tools = ArxTools(lambda held: held, tools=TOOLS).guard(tools_of(acme.url))

    async def all_of_them() -> list[Any]:
        runs = []
        for order, model in model_of.items():
            held = session.start_task("refund", order_id=order, amount=20)
            agent = Agent(name="a", model=model, tools=tools)
            runs.append(Runner.run(agent, "go", context=held))
        return await asyncio.gather(*runs)

    for result in asyncio.run(all_of_them()):
        passed, refused = answers(result)
        assert passed == '{"refunded":5}'
        assert "order_id must be" in refused


AFTER_RESTART = """
import asyncio, json, sys
from pathlib import Path
from agents import Agent, ModelBehaviorError, Runner, RunState, set_tracing_disabled
from arx_caps.agent import Agent as Holder
from arx_caps.integrations.openai_agents import ArxTools
from tests.adapters.test_openai_agents import TOOLS, calling, tools_of, answers
set_tracing_disabled(True)

async def main(folder, url):
    with Holder.from_key_file(folder / "key.json") as holder:
        session = holder.resume_session(folder / "session.json")
        arx = ArxTools(session.resume_task(folder / "task"), tools=TOOLS)
        agent = Agent(name="a", model=calling(), tools=arx.guard(tools_of(url)))
        asked = json.loads((folder / "asked.json").read_text())
        state = await RunState.from_string(agent, (folder / "state.json").read_text())
        ready = await arx.ask_operators(state, asked)
        if not ready:
            return {"ready": False}
        try:
            changed = state.to_string().replace("500", "501")
            changed = await RunState.from_string(agent, changed)
            await arx.ask_operators(changed, asked)
            return {"ready": True, "answers": answers(await Runner.run(agent, changed))}
        except ModelBehaviorError as error:
            assert "different invocation" in str(error)
        return {"ready": True, "answers": answers(await Runner.run(agent, state))}

print(json.dumps(asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))))
"""


def after_restart(folder: Path, url: str) -> Any:
    """What another process makes of the files of this one."""
    words = [sys.executable, "-c", AFTER_RESTART, str(folder), url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ("approve", '{"refunded":500}'),
        ("deny", "denied"),
        ("another", "amount must be 5, got 500"),
    ],
)
def test_an_approval_survives_a_restart(acme: World, tmp_path: Path, outcome: str, message: str) -> None:
    """The run suspends, its process ends, an operator answers, another process goes on.

    Not with the approval of other arguments; other arguments of the suspended call are refused by the SDK itself.
    """
    name = f"night-{outcome}"
    (tmp_path / "key.json").write_bytes(acme.mint.enrol(f"acme/{name}").read_bytes())
    (tmp_path / "key.json").chmod(0o600)
    with Holder.from_key_file(tmp_path / "key.json") as holder:
        session = holder.open_session()
        task = session.start_task("payout", order_id="o-1")
        task.save(tmp_path / "task")
        acme.know(session)
        session.save(tmp_path / "session.json")
        arx = ArxTools(task, tools=TOOLS)
        model = calling(("refund", {"order_id": "o-1", "amount": 500}))
        agent = Agent(name="a", model=model, tools=arx.guard(tools_of(acme.url)))

        async def until_suspended() -> None:
            result = await Runner.run(agent, "go")
            assert [item.name for item in result.interruptions] == ["refund"]
            state, asked = result.to_state(), dict[str, str]()
            assert not await arx.ask_operators(state, asked)
            if outcome == "another":
                asked = {
                    call: task.ask_approval("orders.refund", {"order_id": "o-1", "amount": 5}).id for call in asked
                }
            (tmp_path / "state.json").write_text(state.to_string(), encoding="utf-8")
            (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")

        asyncio.run(until_suspended())
    state = (tmp_path / "state.json").read_text(encoding="utf-8")
    acme.require_secrecy(state, (tmp_path / "asked.json").read_text(encoding="utf-8"))
    before = len(acme.calls)
    assert after_restart(tmp_path, acme.url) == {"ready": False}
    (asked,) = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8")).values()
    acme.answer(asked, "deny" if outcome == "deny" else "approve")
    found = after_restart(tmp_path, acme.url)
    assert message in found["answers"][-1]
    assert acme.calls[before:] == (["orders.refund o-1 500"] if outcome == "approve" else [])


def test_no_token_is_seen_anywhere(acme: World, session: Session, spans: Spans) -> None:
    """Prompts, history, traces with sensitive data, logs at their loudest, errors, and the state of a suspended run."""
    task = session.start_task("payout", order_id="o-1")
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("get_order", {"order_id": "o-2"}),
        ("refund", {"order_id": "o-1", "amount": 500}),
    )
    arx = ArxTools(task, tools=TOOLS)
    agent = Agent(name="a", model=model, tools=arx.guard(tools_of(acme.url)))
    broken = calling(("get_order", {"order_id": "o-1"}))
    strict = function_tool(get_order_at(acme.url), failure_error_function=None)
    with at_its_loudest() as loud:
        config = RunConfig(trace_include_sensitive_data=True)
        result = run(agent, run_config=config)
        state = result.to_state().to_string()
        acme.service.failures = 1
        with pytest.raises(UserError) as failed:
            run(Agent(name="b", model=broken, tools=arx.guard([strict])), run_config=config)
    assert any("get_order was refused" in text for text in spans.texts)
    assert any("httpcore" in line for line in loud.lines)
    assert "502 Bad Gateway" in whole(failed.value)
    prompts = [call.input for call in (*model.calls, *broken.calls)]
    acme.require_secrecy(state, *loud.lines, *spans.texts, *prompts, result.to_input_list(), whole(failed.value))
    acme.require_secrecy(*[repr(each) for each in (arx, task, agent, *agent.tools)])


def test_a_sub_agent_in_a_tool(acme: World, session: Session) -> None:
    """It works with its part of the run's task; its call that needs an approval suspends the run that called it."""
    task = session.start_task("payout", order_id="o-1")
    worker_model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("refund", {"order_id": "o-1", "amount": 15}),
        ("refund", {"order_id": "o-1", "amount": 50}),
    )
    worker = Agent(name="worker", model=worker_model, tools=ArxTools(tools=TOOLS).guard(tools_of(acme.url)))
    part = SubAgent(WORKER, tools=["orders.*"], args={"orders.refund": {"amount": {"max": 20}}})
    arx = ArxTools(lambda held: held, tools=TOOLS, sub_agents={"ask_worker": part})
    model = calling(("ask_worker", {"input": "refund"}))
    agent = Agent(name="a", model=model, tools=arx.guard([worker.as_tool("ask_worker", "Ask the worker.")]))
    acme.service.served.clear()

    async def go() -> Any:
        result = await Runner.run(agent, "go", context=task)
        state, asked = result.to_state(), dict[str, str]()
        assert not await arx.ask_operators(state, asked, task)
        (waiting,) = acme.waiting(task)
        assert list(asked.values()) == [waiting["id"]]
        acme.answer(waiting["id"])
        assert await arx.ask_operators(state, asked, task)
        return await Runner.run(agent, state)

    assert answers(asyncio.run(go())) == ["done"]
    assert [(each.holder, str(each)) for each in acme.service.served] == [
        (WORKER, "orders.get o-1"),
        (WORKER, "orders.refund o-1 15"),
    ]
    refused = str(worker_model.calls[-1].input)
    assert "refund was refused: amount must be at most 20, got 50." in refused


def test_what_another_asks_about_a_tool_is_the_applications(acme: World, session: Session) -> None:
    """A tool's own ``needs_approval`` is asked too, and is not answered for the application."""
    asks = function_tool(tools_of(acme.url)[1], needs_approval=True)
    for template, waits in (("desk", 0), ("payout", 1)):
        task, model = (
            session.start_task(template, order_id="o-1"),
            calling(("refund", {"order_id": "o-1", "amount": 5})),
        )
        arx = ArxTools(task, tools=TOOLS)
        agent = Agent(name="a", model=model, tools=arx.guard([asks]))

        async def go(
            arx: ArxTools = arx, agent: Agent[Any] = agent, task: StartedTask = task, waits: int = waits
        ) -> Any:
            state, asked = (await Runner.run(agent, "go")).to_state(), dict[str, str]()
            assert await arx.ask_operators(state, asked) is (waits == 0)
            assert len(asked) == len(acme.waiting(task)) == waits
            for approval in asked.values():
                acme.answer(approval)
            assert await arx.ask_operators(state, asked)
            again = await Runner.run(agent, state)
            assert len(again.interruptions) == 1
            state = again.to_state()
            await arx.ask_operators(state, asked)
            state.approve(again.interruptions[0])
            return await Runner.run(agent, state)

        assert answers(asyncio.run(go())) == ['{"refunded":5}']


def test_arguments_with_two_meanings_are_refused() -> None:
    """The SDK takes the last member of a name: the check must not be made on less than the function gets."""
    realm, ran = UnsafeTestRealm("here"), []

    def write(number: int = 1) -> str:
        """Write a note."""
        ran.append(number)
        return f"note {number}"

    rule = Rule(tool="write", args={"number": Constraint(max=7, optional=True)})
    fields = {"agent": "test/agent", "issuer": "http://127.0.0.1:1", "realm": "test", "task": "t-test"}
    task = Task(Bundle(**fields, origins={"here": ()}, tokens={"here": realm.caller(rule).macaroon}))
    sent = ('{"number": 5, "number": 5000}', '{"number": 9007199254740993}', '{"number": 6}', "")
    model = calling(*(("write", raw) for raw in sent))
    with pytest.raises(SettingsError, match="a WebSearchTool cannot be guarded"):
        ArxTools(task).guard([WebSearchTool()])  # type: ignore[list-item]  # as the page says
    result = run(Agent(name="a", model=model, tools=ArxTools(task).guard([function_tool(write)])))
    *refused, six, default = answers(result)
    assert all("cannot be read in exactly one way" in text for text in refused)
    assert (six, default, ran) == ("note 6", "note 1", [6, 1])


def test_the_page_is_this_adapter(acme: World, session: Session) -> None:
    """The example of the page runs as it is shown."""
    source = next(block.text for block in blocks(PAGE) if block.language == "python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    model = calling(("refund", {"order_id": "o-1", "amount": 50}), ("refund", {"order_id": "o-1", "amount": 20}))
    names: dict[str, Any] = {"session": session, "model": model, "DESK": acme.url}
    exec(compile(source, "openai-agents.md", "exec"), names)
    names["desk"].close()
    assert names["result"].final_output == "done"
    assert "amount must be between 1 and 20" in answers(names["result"])[0]
