# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Agents SDK with a scripted model, a real mint and a real service: docs/adapters/openai-agents.md."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from agents import Agent, RunConfig, Runner, function_tool, set_trace_processors
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.tracing import Span, Trace, TracingProcessor

from arx_caps.agent import CurrentTaskAuth, Session, StartedTask, ToolCalls, local_tool
from arx_caps.integrations.openai_agents import ask_approvals, delegated_agent, guarded_tools
from arx_verifier import Constraint, Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.desk import Desk, at_its_loudest, open_desk, secrets_in
from tests.house.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "adapters" / "openai-agents.md").read_text(encoding="utf-8")
NAMES = {"get_order": "orders.get", "refund": "orders.refund"}


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


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture(autouse=True)
def spans() -> Spans:
    found = Spans()
    set_trace_processors([found])
    return found


@pytest.fixture
def session(desk: Desk, request: pytest.FixtureRequest) -> Iterator[Session]:
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))[:24].strip("-").replace("_", "-")
    with desk.agent(name) as agent, agent.open_session() as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    return session.start_task("refund", order_id="o-1", amount=20)


def tools_of(desk: Desk) -> list[Any]:
    """Tools that are written once: they sign with whatever task runs them."""

    @function_tool
    async def get_order(order_id: str) -> str:
        """Look an order up."""
        async with httpx.AsyncClient(base_url=desk.url, auth=CurrentTaskAuth()) as client:
            return (await client.get(f"/orders/{order_id}")).raise_for_status().text

    def refund(order_id: str, amount: int) -> str:
        """Pay an order back."""
        with httpx.Client(base_url=desk.url, auth=CurrentTaskAuth()) as client:
            return client.post(f"/orders/{order_id}/refund", json={"amount": amount}).raise_for_status().text

    return [get_order, refund]


def calling(*steps: Any) -> ScriptedModel:
    """A model that calls these tools, one a turn, and then ends."""
    said = [[function_call(name, args, call_id=f"call-{number}")] for number, (name, args) in enumerate(steps)]
    return ScriptedModel([*[ModelStep(output=each) for each in said], [assistant_message("done")]])


def answers(result: Any) -> list[str]:
    """What the model read of its tools."""
    return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]


def run(agent: Agent[Any], said: Any = "go", **more: Any) -> Any:
    return asyncio.run(Runner.run(agent, said, **more))


def test_the_model_reads_what_would_be_allowed(desk: Desk, task: StartedTask) -> None:
    """Allowed calls pass; one beyond the task is refused without a call, and in words."""
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("refund", {"order_id": "o-1", "amount": 50}),
        ("refund", {"order_id": "o-1", "amount": 20}),
    )
    before = len(desk.calls)
    result = run(Agent(name="a", model=model, tools=guarded_tools(ToolCalls(task, tools=NAMES), tools_of(desk))))
    looked, refused, refunded = answers(result)
    assert '"paid":80' in looked
    assert refused.startswith("refund was refused: amount must be between 1 and 20, got 50. Do not repeat this call.")
    assert refunded == '{"refunded":20}'
    assert desk.calls[before:] == ["orders.get o-1", "orders.refund o-1 20"]


def test_a_sub_agent_has_the_tools_it_was_given(desk: Desk, task: StartedTask) -> None:
    """A hand-off delegates: the sub-agent is offered less, may do less, and the service's record names it."""
    calls = ToolCalls(task, tools=NAMES)
    model = ScriptedModel(
        [
            [function_call("transfer_to_worker", {}, call_id="h")],
            [function_call("refund", {"order_id": "o-1", "amount": 15}, call_id="r1")],
            [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r2")],
            [assistant_message("done")],
        ]
    )
    worker = delegated_agent(
        calls,
        Agent(name="worker", model=model, tools=tools_of(desk)),
        "acme/worker",
        tools=["orders.refund"],
        args={"amount": {"max": 10}},
    )
    result = run(Agent(name="a", model=model, tools=guarded_tools(calls, tools_of(desk)), handoffs=[worker]))
    offered = [[tool.name for tool in call.tools] for call in model.calls]
    assert offered == [["get_order", "refund"], ["refund"], ["refund"], ["refund"]]
    assert answers(result)[-2].startswith("refund was refused: amount must be at most 10, got 15.")
    assert answers(result)[-1] == '{"refunded":5}'


def test_a_kill_ends_the_run(desk: Desk, task: StartedTask) -> None:
    """The next call is refused by the service; the model reads that it must stop, and is offered no tool any more."""

    def killed(_: Any) -> Any:
        desk.kill(f"task:{task.id}")
        return [function_call("refund", {"order_id": "o-1", "amount": 5}, call_id="r")]

    model = ScriptedModel(
        [
            [function_call("get_order", {"order_id": "o-1"}, call_id="g")],
            ModelStep.respond(killed),
            [assistant_message("stopped")],
        ]
    )
    before = len(desk.calls)
    result = run(Agent(name="a", model=model, tools=guarded_tools(ToolCalls(task, tools=NAMES), tools_of(desk))))
    assert desk.calls[before:] == ["orders.get o-1"]
    assert answers(result)[-1].startswith("An operator ended this work")
    assert [len(call.tools) for call in model.calls] == [2, 2, 0]
    assert result.final_output == "stopped"


def test_runs_beside_each_other_use_their_own_tasks(desk: Desk, session: Session) -> None:
    """One agent serves many runs: each run's context has its task, and none refunds another's order."""
    model_of = {
        order: calling(("refund", {"order_id": order, "amount": 5}), ("refund", {"order_id": "o-x", "amount": 5}))
        for order in ("o-1", "o-2", "o-3", "o-4")
    }
    tools = guarded_tools(lambda context: context.context, tools_of(desk))

    async def all_of_them() -> list[Any]:
        runs = []
        for order, model in model_of.items():
            held = ToolCalls(session.start_task("refund", order_id=order, amount=20), tools=NAMES)
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
from arx_caps.agent import Agent as Holder, ToolCalls
from arx_caps.integrations.openai_agents import answer_approvals, guarded_tools
from tests.adapters.test_openai_agents import NAMES, calling, tools_of, answers
set_tracing_disabled(True)

async def main(folder, url):
    class desk: pass
    desk.url = url
    with Holder.from_key_file(folder / "key.json") as holder:
        session = holder.resume_session(folder / "session.json")
        calls = ToolCalls(session.resume_task(folder / "task"), tools=NAMES)
        agent = Agent(name="a", model=calling(), tools=guarded_tools(calls, tools_of(desk)))
        state = await RunState.from_string(agent, (folder / "state.json").read_text())
        ready = await answer_approvals(calls, state, json.loads((folder / "asked.json").read_text()))
        if not ready:
            return {"ready": False}
        try:
            changed = state.to_string().replace("500", "501")
            changed = await RunState.from_string(agent, changed)
            await answer_approvals(calls, changed, json.loads((folder / "asked.json").read_text()))
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
    ("outcome", "told"),
    [
        ("approve", '{"refunded":500}'),
        ("deny", "denied"),
        ("another", "amount must be 5, got 500"),
    ],
)
def test_an_approval_survives_a_restart(desk: Desk, tmp_path: Path, outcome: str, told: str) -> None:
    """The run suspends, its process ends, an operator answers, another process goes on.

    Not with the approval of other arguments; other arguments of the suspended call are refused by the SDK itself.
    """
    name = f"night-{outcome}"
    (tmp_path / "key.json").write_bytes(desk.mint.enrol(f"acme/{name}").read_bytes())
    (tmp_path / "key.json").chmod(0o600)
    from arx_caps.agent import Agent as Holder

    with Holder.from_key_file(tmp_path / "key.json") as holder:
        session = holder.open_session()
        task = session.start_task("payout", order_id="o-1")
        session.save(tmp_path / "session.json")
        task.save(tmp_path / "task")
        calls = ToolCalls(task, tools=NAMES)
        model = calling(("refund", {"order_id": "o-1", "amount": 500}))
        agent = Agent(name="a", model=model, tools=guarded_tools(calls, tools_of(desk)))

        async def until_suspended() -> None:
            result = await Runner.run(agent, "go")
            assert [item.name for item in result.interruptions] == ["refund"]
            asked = await ask_approvals(calls, result.interruptions)
            if outcome == "another":
                asked = {
                    call: task.ask_approval("orders.refund", {"order_id": "o-1", "amount": 5}).id for call in asked
                }
            (tmp_path / "state.json").write_text(result.to_state().to_string(), encoding="utf-8")
            (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")

        asyncio.run(until_suspended())
    state = (tmp_path / "state.json").read_text(encoding="utf-8")
    assert not secrets_in(state, (tmp_path / "asked.json").read_text(encoding="utf-8"))
    before = len(desk.calls)
    assert after_restart(tmp_path, desk.url) == {"ready": False}
    (asked,) = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8")).values()
    desk.approve(asked, "deny" if outcome == "deny" else "approve")
    found = after_restart(tmp_path, desk.url)
    assert told in found["answers"][-1]
    assert desk.calls[before:] == (["orders.refund o-1 500"] if outcome == "approve" else [])


def test_no_token_is_seen_anywhere(desk: Desk, session: Session, spans: Spans) -> None:
    """Prompts, history, traces with sensitive data, logs at their loudest, and the state of a suspended run."""
    calls = ToolCalls(session.start_task("payout", order_id="o-1"), tools=NAMES)
    model = calling(
        ("get_order", {"order_id": "o-1"}),
        ("get_order", {"order_id": "o-2"}),
        ("refund", {"order_id": "o-1", "amount": 500}),
    )
    agent = Agent(name="a", model=model, tools=guarded_tools(calls, tools_of(desk)))
    with at_its_loudest() as loud:
        result = run(agent, run_config=RunConfig(trace_include_sensitive_data=True))
        state = result.to_state().to_string()
    assert spans.texts
    assert any("httpcore" in line for line in loud.lines)
    seen = (state, *loud.lines, *spans.texts, *[call.input for call in model.calls], result.to_input_list())
    assert not secrets_in(*seen)
    assert not secrets_in(*[repr(each) for each in (calls, agent, *agent.tools)])


def test_a_local_function_is_decided_here() -> None:
    """A tool without a service: a verifier in the process decides on what the function receives."""
    realm, ran = UnsafeTestRealm("here"), []

    @local_tool(realm.verifier, "notes.write")
    def write(number: int, text: str = "") -> str:
        """Write a note."""
        ran.append(number)
        return f"note {number}"

    from arx_caps.agent import Bundle, Task

    rule = Rule(tool="notes.write", args={"number": 7})
    held = {"here": realm.caller(rule).macaroon}
    fields = {"agent": "test/agent", "issuer": "http://127.0.0.1:1", "realm": "test", "task": "t-test"}
    calls = ToolCalls(Task(Bundle(**fields, origins={"here": ()}, tokens=held)), tools={"write": "notes.write"})
    model = calling(("write", {"number": 7}), ("write", {"number": "7"}), ("write", {"number": 8}))
    result = run(Agent(name="a", model=model, tools=guarded_tools(calls, [write])))
    passed, *refused = answers(result)
    assert passed == "note 7"
    assert all(text.startswith("write was refused: number must be 7, got") for text in refused)
    assert ran == [7]
    assert [each.code for each in realm.decisions.decisions] == ["ok"]


def test_arguments_with_two_meanings_are_refused() -> None:
    """The SDK takes the last member of a name: the check must not be made on less than the function gets."""
    from arx_caps.agent import Bundle, Task

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
    result = run(Agent(name="a", model=model, tools=guarded_tools(ToolCalls(task), [function_tool(write)])))
    *refused, six, default = answers(result)
    assert all("cannot be read in exactly one way" in text for text in refused)
    assert (six, default, ran) == ("note 6", "note 1", [6, 1])


def test_the_page_is_this_adapter(desk: Desk, session: Session) -> None:
    """The example of the page runs as it is shown."""
    source = next(block.text for block in blocks(PAGE) if block.language == "python")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    model = calling(("refund", {"order_id": "o-1", "amount": 50}), ("refund", {"order_id": "o-1", "amount": 20}))
    names: dict[str, Any] = {"session": session, "model": model, "DESK": desk.url}
    exec(compile(source, "openai-agents.md", "exec"), names)
    names["desk"].close()
    assert names["result"].final_output == "done"
    assert "amount must be between 1 and 20" in answers(names["result"])[0]
