# SPDX-License-Identifier: Apache-2.0
"""LangChain and LangGraph with tasks: a real mint, a guarded service, an operator, and models that follow a script.

The agents are those of docs/adapters/langchain.md.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ToolRetryMiddleware
from langchain.tools import tool
from langchain_core.globals import set_debug
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tracers.base import BaseTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command
from langsmith import Client, tracing_context

from arx_caps.agent import Agent, CurrentTaskAuth, SubAgent, Task
from arx_caps.integrations.langchain import MARK, ArxAgentMiddleware, last_words, resume
from arx_verifier import AttenuationError
from tests.adapters.agent_contract import *  # noqa: F403 - its tests run in this file
from tests.adapters.agent_contract import TOOLS, Drive, Ran, played
from tests.adapters.agent_world import BOSS, WORKER, Served, World, at_its_loudest, run_block
from tests.adapters.scripted_model import ScriptedModel, call
from tests.house.pages import ROOT, blocks

AGENTS, RUN, SUSPEND, GO_ON, GRAPH = (
    block.text
    for block in blocks((ROOT / "docs" / "adapters" / "langchain.md").read_text(encoding="utf-8"))
    if block.language == "python"
)
ENDED = "An operator ended this work, or its session ended."
STOP = "An operator ended this work, or its session did. Stop now, call no other tool, and say so."
CLIENTS: list[httpx.Client] = []  # of this test
REFUND = {"order_id": "o-1", "amount": 500}


@pytest.fixture
def drive() -> Drive:
    """An agent of the framework."""

    def run(task: Task, functions: Any, *steps: Any) -> Ran:
        def scripted(number: int) -> Callable[[list[BaseMessage]], Any]:
            step: Callable[[], Any] = partial(played, steps, number)
            return lambda _: found if isinstance(found := step(), str) else [found]

        model = ScriptedModel(script=[scripted(number) for number in range(len(steps))])
        arx = ArxAgentMiddleware(task, tools=TOOLS)
        agent = create_agent(model, [tool(each) for each in functions], middleware=[arx])
        messages = agent.invoke({"messages": [("user", "go")]})["messages"]
        return Ran([message.text for message in answers(messages)], len(model.seen))

    return run


@pytest.fixture(autouse=True)
def clients(acme: World) -> Iterator[list[httpx.Client]]:
    """Nothing is served yet; at the end all clients are closed."""
    acme.service.served.clear()
    yield CLIENTS
    while CLIENTS:
        CLIENTS.pop().close()


class Agents:
    """The page's agents, with these models, and what they offered and saw."""

    def __init__(self, url: str, script: list[Any], worker_script: list[Any] = (), checkpointer: Any = None) -> None:  # type: ignore[assignment]
        self.model, self.worker_model = ScriptedModel(script=script), ScriptedModel(script=list(worker_script))
        self.names: dict[str, Any] = {"model": self.model, "worker_model": self.worker_model, "ORDERS": url}
        self.names |= {"checkpointer": checkpointer or InMemorySaver(), "config": {"configurable": {"thread_id": "1"}}}
        exec(compile(AGENTS, "agents.py", "exec", dont_inherit=True), self.names)
        CLIENTS.append(self.names["orders"])

    def invoke(self, task: Task, words: str = "go", thread: str = "1", **config: Any) -> dict[str, Any]:
        """Run the agent in a thread of its own."""
        config = {"configurable": {"thread_id": thread}, **config}
        context = self.names["Run"](task)
        return dict(self.names["agent"].invoke({"messages": [("user", words)]}, config, context=context))


def answers(messages: list[BaseMessage]) -> list[ToolMessage]:
    """Return what a model saw of its tools."""
    return [message for message in messages if isinstance(message, ToolMessage)]


def test_a_sub_agent_has_its_part_of_the_task(acme: World) -> None:
    """The page's agents: the worker's call passes, one out of bounds is refused in words, and each sees its tools."""
    worker_script = [
        call("refund", order_id="o-1", amount=15),
        call("refund", order_id="o-1", amount=50),
        lambda messages: answers(messages)[-1].text,
    ]
    agents = Agents(
        acme.url,
        [call("ask_worker", request="refund o-1"), call("refund", order_id="o-1", amount=50), "ok"],
        worker_script,
    )
    with acme.session() as session:
        agents.names["session"] = session
        exec(compile(RUN, "run.py", "exec", dont_inherit=True), agents.names)
        task = agents.names["task"]
    seen = answers(agents.names["result"]["messages"])
    refused = (
        "refund was refused: amount must be at most 20, got 50."
        " Do not repeat this call. Make one that is allowed, or say that this is not permitted."
    )
    assert [message.text for message in seen] == [refused, '{"refunded":50}']
    answer = answers(agents.worker_model.seen[-1])
    assert [(message.status, message.artifact) for message in answer] == [
        ("success", None),
        ("error", {MARK: "argument_not_allowed"}),
    ]
    assert answer[-1].text == refused
    assert agents.model.offered[0] == ["ask_worker", "get_order", "refund"]
    assert agents.worker_model.offered[0] == ["get_order", "refund"]
    assert acme.service.served == [
        Served("orders.refund", WORKER, task.id, "o-1", 15),
        Served("orders.refund", BOSS, task.id, "o-1", 50),
    ]


def test_a_model_is_offered_what_its_task_has_and_nothing_else_runs(acme: World) -> None:
    """A tool that is not in the task, a sub-agent without one, a provider's own tool; called all the same, refused."""

    @tool
    def drop(order_id: str) -> str:
        """Drop an order."""
        raise AssertionError("it ran")

    @tool
    def clock() -> str:
        """Return the time."""
        return "noon"

    @tool
    def mailer(request: str) -> str:
        """Mail."""
        raise AssertionError("it ran")

    model = ScriptedModel(
        script=[[("drop", {"order_id": "o-1"}), ("clock", {}), ("mailer", {"request": "x"}), ("gone", {})], "ok"]
    )
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        arx = ArxAgentMiddleware(
            task,
            tools={"drop": "orders.drop"},
            public=["clock"],
            sub_agents={"mailer": SubAgent(WORKER, tools=["mail.*"])},
        )
        assert arx.offered([{"type": "web_search"}, {"type": "function", "function": {"name": "clock"}}, clock]) == [
            {"type": "function", "function": {"name": "clock"}},
            clock,
        ]
        seen = answers(
            create_agent(model, [drop, clock, mailer], middleware=[arx]).invoke({"messages": [("user", "go")]})[
                "messages"
            ]
        )
    assert model.offered[0] == ["clock"]
    assert [message.status for message in seen] == ["error", "success", "error", "error"]
    assert seen[0].text.startswith("drop was refused: the tool must be orders.get or ")
    assert "mailer was refused: this task has none of the tools of acme/support/worker" in seen[2].text
    assert seen[3].artifact == {MARK: "tool_not_allowed"}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("target", ["agent", "task"])
def test_a_run_ends_after_a_kill(acme: World, asynchronous: bool, target: str) -> None:
    """The next call is refused, the model is not called again, and the run's last message says why."""
    kills: list[Callable[[], None]] = []

    def killed(messages: list[BaseMessage]) -> Any:
        kills.pop()()
        return call("get_order", order_id="o-1")

    path = f"acme/killed/{target}-{asynchronous}".lower()
    with acme.session(path) as session:
        task = session.start_task("desk", order_id="o-1")
        kills.append(lambda: acme.kill(f"agent:{path}" if target == "agent" else f"task:{task.id}"))
        model = ScriptedModel(script=[call("get_order", order_id="o-1"), killed, "the model goes on"])
        agent = create_agent(
            model, [get_order_of(acme)], middleware=[ArxAgentMiddleware(task, tools={"get_order": "orders.get"})]
        )
        asked: Any = {"messages": [("user", "go")]}
        messages = (asyncio.run(agent.ainvoke(asked)) if asynchronous else agent.invoke(asked))["messages"]
        assert [message.status for message in answers(messages)] == ["success", "error"]
        assert answers(messages)[-1].text.startswith((STOP, "An operator froze this work. Stop now"))
        assert isinstance(messages[-1], AIMessage)
        assert messages[-1].text in (ENDED, "An operator froze this work.")
        assert (len(model.seen), len(acme.service.served)) == (2, 1)


def get_order_of(acme: World) -> Any:
    """A tool that can be called in both ways."""
    client, in_loop = httpx.Client(base_url=acme.url, auth=CurrentTaskAuth()), CurrentTaskAuth("orders")
    CLIENTS.append(client)

    def get_order(order_id: str) -> str:
        """Return an order."""
        return client.get(f"/orders/{order_id}").raise_for_status().text

    async def get_order_in_loop(order_id: str) -> str:
        """Return an order."""
        async with httpx.AsyncClient(base_url=acme.url, auth=in_loop) as other:
            return (await other.get(f"/orders/{order_id}")).raise_for_status().text

    from langchain_core.tools import StructuredTool

    return StructuredTool.from_function(get_order, get_order_in_loop)


@pytest.mark.parametrize("outcome", ["approve", "deny", "change", "wait"])
def test_an_approval_survives_a_restart(acme: World, tmp_path: Path, outcome: str) -> None:
    """Suspended here, resumed by another process from files and SQLite; a changed call, or a denied one, is refused."""
    key, file = acme.key(f"acme/support/{outcome}"), tmp_path / "checkpoints.sqlite"
    names = {"session": tmp_path / "desk.session", "task": tmp_path / "desk.task"}
    with Agent.from_key_file(key) as boss, SqliteSaver.from_conn_string(str(file)) as checkpointer:
        agents = Agents(acme.url, [call("refund", **REFUND), "done"], checkpointer=checkpointer)
        session = boss.open_session(purpose="a payout")
        task = session.start_task("payout", order_id="o-1")
        agents.names |= {"session": session, "task": task}
        run_block(SUSPEND, tmp_path, agents.names)
        (suspended,) = agents.names["result"]["__interrupt__"]
        (waiting,) = acme.waiting(task)
        assert suspended.value == {MARK: "approval", "tool": "refund", "args": REFUND, "approval": waiting["id"]}
        assert (waiting["args"], acme.service.served) == (REFUND, [])
        acme.know(session)
        session.save(names["session"])
        if outcome == "change":
            config = agents.names["config"]
            held = agents.names["agent"].get_state(config).values["messages"][-1]
            changed = AIMessage("", id=held.id, tool_calls=[{**held.tool_calls[0], "args": {**REFUND, "amount": 501}}])
            agents.names["agent"].update_state(config, {"messages": [changed]})
    if outcome != "wait":
        acme.answer(waiting["id"], "deny" if outcome == "deny" else "approve")
    words = [sys.executable, "-m", "tests.adapters.test_langchain", str(key), acme.url, str(tmp_path)]
    # A changed call is another one, and is asked for anew; a user goes on with the approval of the first one.
    words += [waiting["id"]] if outcome == "change" else []
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    acme.require_secrecy(done.stdout + done.stderr + file.read_bytes().decode("latin-1") + _wal(file))
    if outcome == "approve":
        assert [(each["status"], each["text"]) for each in output["tools"]] == [("success", '{"refunded":500}')]
        assert acme.service.served == [Served("orders.refund", f"acme/support/{outcome}", task.id, "o-1", 500)]
        return
    assert acme.service.served == []
    if outcome == "wait":
        assert output["suspended"] == [waiting["id"]]
        assert [each["id"] for each in acme.waiting(task)] == [waiting["id"]]
        acme.answer(waiting["id"], "deny")
        return
    assert [each["status"] for each in output["tools"]] == ["error"]
    assert output["tools"][0]["code"] == ("approval_denied" if outcome == "deny" else "argument_not_allowed")


def _wal(file: Path) -> str:
    wal = file.with_name(file.name + "-wal")
    return wal.read_bytes().decode("latin-1") if wal.exists() else ""


def go_on(key: str, url: str, folder: str, claim: str | None = None) -> None:
    """Resume as another process, with a claim or as the page says, and write what came of it."""
    with SqliteSaver.from_conn_string(f"{folder}/checkpoints.sqlite") as checkpointer:
        agents = Agents(url, [call("refund", **REFUND), "done"], checkpointer=checkpointer)
        Path(folder, "boss.json").symlink_to(key)
        agents.names |= {"Agent": Agent, "resume": resume if claim is None else lambda _: Command(resume=claim)}
        run_block(GO_ON, Path(folder), agents.names)
        result = agents.names["result"]
    tools = [
        {"status": each.status, "text": each.text, "code": (each.artifact or {}).get(MARK)}
        for each in answers(result["messages"])
    ]
    suspended = [each.value["approval"] for each in result.get("__interrupt__", ())]
    sys.stdout.write(json.dumps({"tools": tools, "suspended": suspended}))


@pytest.mark.parametrize("claim", [True, "approve", "a-aaaaaaaaaaaaaaaa"])
def test_what_a_caller_claims_approves_nothing(acme: World, claim: Any) -> None:
    """Only the mint's answer counts; an approval of another task is none."""
    with acme.session() as session, session.start_task("payout", order_id="o-1") as task:
        agents = Agents(acme.url, [call("refund", **REFUND), "done"])
        agents.invoke(task)
        run = agents.names["Run"](task)
        result = agents.names["agent"].invoke(Command(resume=claim), agents.names["config"], context=run)
        assert [message.status for message in answers(result["messages"])] == ["error"]
        assert acme.service.served == []


def test_a_sub_agents_call_is_approved(acme: World) -> None:
    """The sub-agent's run is suspended with that of the agent that called it; nothing is asked for twice."""
    agents = Agents(
        acme.url, [call("ask_worker", request="refund"), "done"], [call("refund", order_id="o-1", amount=19), "paid"]
    )
    with acme.session() as session, session.start_task("payout", order_id="o-1") as task:
        result = agents.invoke(task)
        (waiting,) = acme.waiting(task)
        acme.answer(waiting["id"])
        agent, run = agents.names["agent"], agents.names["Run"](task)
        result = agent.invoke(resume(result["__interrupt__"]), agents.names["config"], context=run)
        assert answers(result["messages"])[-1].text == "paid"
        assert acme.service.served == [Served("orders.refund", WORKER, task.id, "o-1", 19)]
        assert acme.waiting(task) == []


def test_runs_beside_each_other_never_mix_their_tasks(acme: World) -> None:
    """One compiled agent, many tasks: in threads and in one event loop, sub-agents included."""
    count = 6

    def script(name: str) -> list[Any]:
        def own(messages: list[BaseMessage]) -> Any:
            return call(
                name, **({"order_id": words(messages)} if name == "get_order" else {"request": words(messages)})
            )

        return [own, own, "done"]

    def words(messages: list[BaseMessage]) -> str:
        return next(str(message.text) for message in messages if message.type == "human")

    agents = Agents(acme.url, script("ask_worker"), script("get_order"))
    in_loop = ScriptedModel(script=script("get_order"))
    with acme.session() as session:
        tasks = {f"o-{place}": session.start_task("desk", order_id=f"o-{place}") for place in range(count)}
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda each: agents.invoke(each[1], each[0], each[0]), tasks.items()))
        arx = ArxAgentMiddleware(lambda context: context, tools={"get_order": "orders.get"})
        agent: Any = create_agent(in_loop, [get_order_of(acme)], middleware=[arx], context_schema=Task)

        async def together() -> None:
            runs = [agent.ainvoke({"messages": [("user", order)]}, context=task) for order, task in tasks.items()]
            await asyncio.gather(*runs)

        asyncio.run(together())
    assert len(acme.service.served) == count * 4 + count * 2
    assert all(tasks[each.order_id].id == each.task for each in acme.service.served)
    assert len(set(acme.service.credentials)) == len(acme.service.credentials)


def test_a_retry_is_signed_anew(acme: World) -> None:
    """The framework's own retry: the service fails once, and takes the second call."""
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0)
    model = ScriptedModel(script=[call("get_order", order_id="o-1"), "done"])
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        arx = ArxAgentMiddleware(task, tools={"get_order": "orders.get"})
        agent = create_agent(model, [get_order_of(acme)], middleware=[retry, arx])
        acme.service.failures, before = 1, len(acme.service.credentials)
        result = agent.invoke({"messages": [("user", "go")]})
    assert [message.status for message in answers(result["messages"])] == ["success"]
    first, second = acme.service.credentials[before:]
    assert first != second


def test_an_error_that_is_no_refusal_is_the_frameworks(acme: World) -> None:
    """A broken tool ends the run as it does without ARx; a run without a task does not begin."""
    model = ScriptedModel(script=[call("get_order", order_id="o-1"), "done"])
    arx = ArxAgentMiddleware(lambda context: context, tools={"get_order": "orders.get"})
    agent: Any = create_agent(model, [get_order_of(acme)], middleware=[arx], context_schema=Task)
    with acme.session() as session, session.start_task("desk", order_id="o-1") as task:
        acme.service.failures = 1
        with pytest.raises(httpx.HTTPStatusError, match="502"):
            agent.invoke({"messages": [("user", "go")]}, context=task)
    with pytest.raises(AttenuationError, match="this run has no task"):
        agent.invoke({"messages": [("user", "go")]})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_graph_of_ones_own(acme: World, asynchronous: bool) -> None:
    """The page's graph: offered, refused, run and ended in the same way."""
    kills: list[Callable[[], None]] = []

    def killed(messages: list[BaseMessage]) -> Any:
        kills.pop()()
        return call("get_order", order_id="o-1")

    script = [
        call("refund", order_id="o-1", amount=500),
        call("get_order", order_id="o-1"),
        killed,
        "the model goes on",
    ]
    agents = Agents(acme.url, script)
    agents.names |= {
        "ArxAgentMiddleware": ArxAgentMiddleware,
        "last_words": last_words,
        "ToolNode": ToolNode,
        "END": END,
    }
    agents.names |= {
        "StateGraph": StateGraph,
        "MessagesState": MessagesState,
        "START": START,
        "tools_condition": tools_condition,
    }
    exec(compile(GRAPH, "graph.py", "exec", dont_inherit=True), agents.names)
    path = f"acme/killed/graph-{asynchronous}".lower()
    kills.append(lambda: acme.kill(f"agent:{path}"))
    with acme.session(path) as session:
        run = agents.names["Run"](session.start_task("desk", order_id="o-1"))
        graph, asked = agents.names["graph"].compile(), {"messages": [("user", "go")]}
        result = asyncio.run(graph.ainvoke(asked, context=run)) if asynchronous else graph.invoke(asked, context=run)
    assert [message.status for message in answers(result["messages"])] == ["error", "success", "error"]
    assert (len(agents.model.seen), agents.model.offered[0]) == (3, ["get_order", "refund"])


class Tracer(BaseTracer):
    """Keep every run with all that LangChain passes to tracers."""

    def __init__(self) -> None:
        super().__init__()
        self.traced: list[str] = []

    def _persist_run(self, run: Any) -> None:
        self.traced += [repr(run), str(run.model_dump() if hasattr(run, "model_dump") else run.dict())]


class Collector(BaseHTTPRequestHandler):
    """Stands for the server that LangChain's own tracing sends to, and keeps what comes."""

    came: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        """Answer what the client asks first."""
        self._answer()

    def do_POST(self) -> None:
        """Keep what is sent."""
        size = self.headers.get("content-length")
        if size is not None:
            self.came.append(self.rfile.read(int(size)))
        else:
            while length := int(self.rfile.readline(), 16):
                self.came.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[Client, list[bytes]]]:
    """LangChain's own tracing, sent to this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Collector.came = []
    client = Client(api_url=f"http://127.0.0.1:{server.server_port}", api_key="none")
    try:
        yield client, Collector.came
    finally:
        client.cleanup()
        server.shutdown()
        thread.join()
        server.server_close()


def test_no_credential_is_seen_outside(
    acme: World, collector: tuple[Client, list[bytes]], tmp_path: Path, capfd: Any
) -> None:
    """Prompts, histories, checkpoints, traces, debug output and logs of runs that pass, are refused or fail."""
    file, tracer, seen = tmp_path / "checkpoints.sqlite", Tracer(), list[Any]()
    worker_script = [call("refund", order_id="o-1", amount=15), call("refund", order_id="o-1", amount=50), "done"]
    script = [
        call("ask_worker", request="refund"),
        call("get_order", order_id="o-1"),
        call("refund", order_id="o-2", amount=9),
        "done",
    ]
    set_debug(True)
    try:
        with (
            tracing_context(enabled=True, client=collector[0]),
            at_its_loudest() as log,
            SqliteSaver.from_conn_string(str(file)) as checkpointer,
            acme.session() as session,
        ):
            agents = Agents(acme.url, script, worker_script, checkpointer)
            with session.start_task("desk", order_id="o-1") as task:
                seen.append(agents.invoke(task, thread="1", callbacks=[tracer], metadata={"task": task}))
                acme.service.failures = 1
                with pytest.raises(httpx.HTTPStatusError) as broken:
                    agents.invoke(task, thread="2", callbacks=[tracer])
                seen += [repr(broken.value), *map(repr, broken.value.__notes__)]
            with session.start_task("payout", order_id="o-1") as task:
                payout = Agents(acme.url, [call("refund", **REFUND), "done"], checkpointer=checkpointer)
                seen.append(payout.invoke(task, thread="3", callbacks=[tracer]))
                (waiting,) = acme.waiting(task)
                acme.answer(waiting["id"])
                config: Any = {"configurable": {"thread_id": "3"}, "callbacks": [tracer]}
                run = payout.names["Run"](task)
                seen.append(payout.names["agent"].invoke(resume(seen[-1]["__interrupt__"]), config, context=run))
                seen += list(payout.names["agent"].get_state_history(config))
            collector[0].flush()
            rows = list(checkpointer.conn.iterdump())
    finally:
        set_debug(False)
    written = capfd.readouterr()
    sent = b"".join(collector[1])
    assert len(acme.service.served) >= 3
    assert b"ask_worker" in sent
    assert b"wrap_tool_call" in sent
    assert "orders" in "".join(log.lines)
    assert any("o-1" in each for each in tracer.traced)
    assert "[chain/start]" in written.out
    texts = [*map(repr, seen), *log.lines, *tracer.traced, *rows, written.out, written.err, sent.decode("latin-1")]
    texts += [repr(each) for model in (agents.model, agents.worker_model, payout.model) for each in model.seen]
    acme.require_secrecy(*texts)


def test_the_page_is_short() -> None:
    """At most fifteen lines of the first example are about ARx."""
    about = ("arx_caps", "CurrentTaskAuth", "ArxAgentMiddleware", "SubAgent", "TOOLS", "WORKER", "task", "acme/", "Run")
    assert sum(any(word in line for word in about) for line in AGENTS.splitlines()) <= 15


if __name__ == "__main__":
    go_on(*sys.argv[1:])
