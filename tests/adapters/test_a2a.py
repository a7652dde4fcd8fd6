# SPDX-License-Identifier: Apache-2.0
"""A2A between real agents over HTTP, with a real mint and a real service: docs/adapters/a2a.md."""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.client import ClientCallContext
from a2a.client.interceptors import BeforeArgs
from a2a.types import AgentCard, AgentInterface, TaskStatus
from a2a.types import Task as A2ATask
from a2a.utils.errors import InvalidRequestError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette

from arx_caps.agent import Agent, Session, StartedTask, Task
from arx_caps.agent.tools.running_task import running
from arx_caps.integrations.a2a import ArxA2AInterceptor, asked_call, with_approvals
from arx_caps.integrations.a2a_server import arx_card
from arx_verifier import ArxError, AttenuationError
from tests.adapters.a2a_agent import (
    ASKS,
    COMPLETED,
    FAILED,
    Raw,
    Serve,
    Served,
    asend,
    desk,
    found,
    results,
    send,
    send_to,
    serve,
    session,
    status_text,
    task,
)
from tests.adapters.agent_world import World, at_its_loudest, secrets_in
from tests.agent.live import serving
from tests.agent.test_kept_task import MINUTE, Night, night
from tests.house.pages import ROOT, blocks
from tests.servers import free_ports, until

__all__ = ["desk", "night", "serve", "session", "task"]  # fixtures

PAGE = (ROOT / "docs" / "adapters" / "a2a.md").read_text(encoding="utf-8")
SPANS = InMemorySpanExporter()  # everything that the SDK traces


traces = TracerProvider()
traces.add_span_processor(SimpleSpanProcessor(SPANS))
trace.set_tracer_provider(traces)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_works_with_its_part_of_the_task(
    desk: World, serve: Serve, task: StartedTask, streaming: bool, binding: str
) -> None:
    """An allowed call passes at the service, and its record names both agents; one delegation serves both messages."""
    served, before = serve(binding=binding), len(desk.records.decisions)
    delegates = ArxA2AInterceptor(task, tools=["orders.refund"], args={"amount": {"max": 10}}, ttl="5m")
    for amount in (10, 5):
        done = send(served, f"refund o-1 {amount}", delegates, streaming=streaming)
        assert (done.status.state, results(done)) == (COMPLETED, [f'{{"refunded":{amount}}}'])
    # A call within the service's first second is signed anew.
    records = [each for each in desk.records.decisions[before:] if each.allowed]
    assert [(each.agent, each.named) for each in records] == [("acme/boss", ("acme/worker",))] * 2
    assert len({each.links for each in records}) == 1
    refused = send(served, "refund o-1 15", delegates, streaming=streaming)
    assert refused.status.state == FAILED
    assert status_text(refused).startswith(
        "orders.refund was refused: amount must be at most 10, got 15. Do not repeat"
    )


def test_a_card_of_another_agent_gets_a_task_for_that_one(serve: Serve, task: StartedTask) -> None:
    """What a card names is what a receiver of that name takes; a caller may insist on the name."""
    with pytest.raises(InvalidRequestError, match="was delegated to acme/other"):
        send(serve(named="acme/other"), "get o-1", ArxA2AInterceptor(task))
    with pytest.raises(AttenuationError, match='cannot delegate to "acme/worker": its card names "acme/other"'):
        send(serve(named="acme/other"), "get o-1", ArxA2AInterceptor(task, to="acme/worker"))


def test_callers_beside_each_other_never_mix(desk: World, serve: Serve, session: Session) -> None:
    """One client, one interceptor and one context serve many tasks; each works on its own order alone."""
    served, orders, shared = serve(), [f"o-{number}" for number in range(1, 6)], ClientCallContext()
    before = len(desk.calls)

    async def one(order: str, value: str) -> A2ATask:
        with running(session.start_task("refund", order_id=order, amount=20)):
            return await asend(served, value, ArxA2AInterceptor(tools=["orders.refund"]), context=shared)

    async def all_of_them() -> list[A2ATask]:
        own = [one(order, f"plain refund {order} 5") for order in orders]
        others = [one(order, f"plain refund {order}0 5") for order in orders]
        return await asyncio.gather(*own, *others)

    done = asyncio.run(all_of_them())
    assert [each.status.state for each in done] == [COMPLETED] * 5 + [FAILED] * 5
    assert sorted(desk.calls[before:]) == sorted(f"orders.refund {order} 5" for order in orders)
    assert shared == ClientCallContext()


def test_the_caller_asks_for_an_approval(desk: World, serve: Serve, session: Session) -> None:
    """The A2A task waits and names the call; with the approval it goes on; other arguments wait again."""
    served, task = serve(), session.start_task("payout", order_id="o-1")
    before, delegates = len(desk.calls), ArxA2AInterceptor(task)
    waits = send(served, "get o-1, refund o-1 500", delegates)
    assert waits.status.state == ASKS
    assert "Do not repeat this call before an operator has approved it." in status_text(waits)
    assert status_text(waits).endswith("ask where the task was started, and send the message again with the approval.")
    tool, args = asked_call(waits.status) or pytest.fail("names no call")
    assert (tool, args) == ("orders.refund", {"order_id": "o-1", "amount": 500})
    approval = task.ask_approval(tool, args)
    desk.answer(approval.id)
    context = with_approvals(approval.wait())
    again = send(served, "get o-1, refund o-1 501", delegates, context=context, to=waits)
    assert (again.status.state, asked_call(again.status)) == (ASKS, (tool, {**args, "amount": 501}))
    done = send(served, "get o-1, refund o-1 500", delegates, context=context, to=again)
    assert (done.status.state, results(done)[-1]) == (COMPLETED, '{"refunded":500}')
    assert [each for each in desk.calls[before:] if "refund" in each] == ["orders.refund o-1 500"]
    assert asked_call(done.status) is None
    unnamed = send(served, "plain refund o-1 500", delegates)
    assert (unnamed.status.state, asked_call(unnamed.status)) == (ASKS, None)
    assert not secrets_in(waits, again, done, unnamed, context)


@pytest.mark.parametrize(
    "expected", [7, "", "[]", '{"tool": "t"}', '{"tool": "t", "args": 7}', '{"tool": "t", "tool": "u"}']
)
def test_what_another_agent_asks_for_is_read_with_care(expected: Any) -> None:
    """A status that names no call in its form names none."""
    status = TaskStatus(state=ASKS)
    status.message.metadata["arx"] = expected
    assert asked_call(status) is None


@pytest.mark.parametrize(
    ("url", "named", "held", "why"),
    [
        ("http://worker.example", True, True, "an address without TLS"),
        ("https://worker.example", False, True, "its card names no agent path"),
        ("https://worker.example", True, False, "no task runs here"),
    ],
)
def test_nothing_is_sent_where_a_task_cannot_go(task: StartedTask, url: str, named: bool, held: bool, why: str) -> None:
    """An address that others read, a card without the scheme, a call outside of a task."""
    card = AgentCard(name="worker", supported_interfaces=[AgentInterface(url=url)])
    args = BeforeArgs(input=None, method="send_message", agent_card=arx_card(card, "acme/worker") if named else card)
    with pytest.raises(ArxError, match=why):
        asyncio.run(ArxA2AInterceptor(task if held else None).before(args))
    assert args.context is None


def test_no_task_is_seen_anywhere(desk: World, serve: Serve, session: Session) -> None:
    """Stored tasks, contexts, the card, errors, traces, and the logs of all libraries at their loudest."""
    served, seen = serve(), []
    SPANS.clear()
    task = session.start_task("payout", order_id="o-1")

    class Shows(ArxA2AInterceptor):
        async def before(self, args: BeforeArgs) -> None:
            seen.extend([repr(args), str(args.context)])

    with at_its_loudest() as loud:
        for streaming in (False, True):
            delegates = ArxA2AInterceptor(task)
            send(served, "get o-1", delegates, Shows(), streaming=streaming)
            send(served, "get o-2", delegates, Shows(), streaming=streaming)
            waits = send(served, "refund o-1 500", delegates, streaming=streaming)
            approval = task.ask_approval(*asked_call(waits.status) or ())
            desk.answer(approval.id)
            send(served, "refund o-1 500", delegates, Shows(), context=with_approvals(approval.wait()), to=waits)
        with pytest.raises(InvalidRequestError) as caught:
            send(served, "get o-1", Raw(f"Bearer {task.encode()}"))
        with pytest.raises(InvalidRequestError) as broken:
            send(served, "get o-1", Raw(f"Bearer {task.encode()[:-4]}"))
    assert len(served.stored) == 6
    assert any("call_context: " in line for line in loud.lines)
    assert any("<Task " in line for line in loud.lines)  # what the SDK logs of a context is looked at
    card = httpx.get(f"{served.url}/.well-known/agent-card.json").text
    assert "arx-task acme/worker" in card
    kept = [part for context in served.worker.contexts for part in (repr(context), context.state["headers"])]
    traced = [span.to_json() for span in SPANS.get_finished_spans()]
    assert any("JsonRpcDispatcher" in text for text in traced)
    shown = [*loud.lines, *traced, *served.stored, *seen, *kept, caught.value, broken.value]
    assert not [each for each in shown if secrets_in(each)]
    assert all(mark not in card for mark in ("arxb1_", "arx1_"))


def test_a_part_is_sent_again_while_it_has_its_time(night: Night) -> None:
    """Each message brings nine tenths of the ``ttl`` or more; another agent or task gets a part of its own."""
    parts: list[Task] = []

    class Shows(ArxA2AInterceptor):
        async def before(self, args: BeforeArgs) -> None:
            if args.method == "send_message" and args.context is not None and args.context.service_parameters:
                header = args.context.service_parameters["Authorization"]
                parts.append(Task.from_text(header.removeprefix("Bearer ")))

    delegates, ports = ArxA2AInterceptor(tools=["orders.get"], ttl="5m"), free_ports(2)
    workers = [
        Served(night.url.removesuffix("/orders/o-1"), port, agent)
        for port, agent in zip(ports, ("acme/worker", "acme/helper"), strict=True)
    ]

    def ask(task: Task, served: Served) -> Task:
        with running(task):
            assert send(served, "get o-1", delegates, Shows()).status.state == COMPLETED
        return parts[-1]

    first, other = night.start(), night.start()
    with serving(workers[0].app, ports[0]), serving(workers[1].app, ports[1]):
        part = ask(first, workers[0])
        night.clock.advance(29_000)
        assert ask(first, workers[0]).link == part.link
        night.clock.advance(2_000)
        later = ask(first, workers[0])
        assert (later.link != part.link, later.expires_at >= part.expires_at + 31_000) == (True, True)
        assert ask(first, workers[0]).link == later.link
        assert (ask(first, workers[1]).holder, ask(other, workers[0]).id) == ("acme/helper", other.id)
    assert len({each.link for each in parts}) == 4
    with pytest.raises(AttenuationError, match="ttl: "):
        ArxA2AInterceptor(ttl="soon")


def test_a_run_of_hours(night: Night) -> None:
    """One client and one interceptor: the session is renewed, the task extended, and messages bring the newest part."""
    task, (port,) = night.start(), free_ports(1)
    served = Served(night.url.removesuffix("/orders/o-1"), port)
    delegates, first, ends = ArxA2AInterceptor(task), task.expires_at, set[int]()
    with serving(served.app, port):
        for _ in range(40):
            assert send(served, "get o-1", delegates).status.state == COMPLETED
            night.pass_time(3 * MINUTE, task)
            ends.add(task.expires_at)
        assert (len(ends) > 10, max(ends) - first > 100 * MINUTE) == (True, True)


def ask_and_end(key: str, url: str, folder: str) -> None:
    """Send a message that needs an approval, and ask for that; all in a process that ends then."""
    with Agent.from_key_file(key) as agent:
        session = agent.open_session()
        task = session.start_task("payout", order_id="o-1")
        session.save(Path(folder) / "session")
        task.save(Path(folder) / "task")
        waits = asyncio.run(send_to(url, "refund o-1 500", ArxA2AInterceptor(task)))
        asked = task.ask_approval(*(asked_call(waits.status) or pytest.fail("names no call")))
    (Path(folder) / "waits").write_text(f"{waits.id} {asked.id}")


@contextlib.contextmanager
def agent_process(port: int, desk: World, file: Path) -> Iterator[str]:
    """Serve the agent in a process of its own, whose A2A tasks are in a file; end it as a crash would."""
    words = [sys.executable, "-m", "tests.adapters.a2a_agent", str(port), desk.url, str(file)]
    process, url = subprocess.Popen(words, cwd=ROOT), f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or answers(url))
        yield url
    finally:
        process.kill()
        process.wait(60)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/.well-known/agent-card.json").is_success
    return False


def test_an_approval_outlives_both_processes(desk: World, tmp_path: Path) -> None:
    """The A2A task waits in its store, the caller's task and session in files; changed arguments wait again."""
    (port,), key, before = free_ports(1), desk.mint.enrol("acme/night"), len(desk.calls)
    words = "import sys; from tests.adapters.test_a2a import ask_and_end; ask_and_end(*sys.argv[1:])"
    with agent_process(port, desk, tmp_path / "tasks") as url:
        subprocess.run([sys.executable, "-c", words, str(key), url, str(tmp_path)], cwd=ROOT, check=True, timeout=240)
    waiting, asked = (tmp_path / "waits").read_text().split()
    desk.answer(asked)
    with (
        agent_process(port, desk, tmp_path / "tasks") as url,
        Agent.from_key_file(key) as agent,
        agent.resume_session(tmp_path / "session") as session,
        session.resume_task(tmp_path / "task") as task,
    ):
        context, delegates = with_approvals(session.approval(asked).wait()), ArxA2AInterceptor(task)
        waits = asyncio.run(found(url, waiting))
        assert asked_call(waits.status) == ("orders.refund", {"order_id": "o-1", "amount": 500})
        for value, state in (("refund o-1 501", ASKS), ("refund o-1 500", COMPLETED)):
            waits = asyncio.run(send_to(url, value, delegates, context=context, to=waits))
            assert waits.status.state == state
    assert desk.calls[before:] == ["orders.refund o-1 500"]
    kept = (tmp_path / "tasks").read_bytes()
    assert b"orders.refund" in kept
    assert not secrets_in(kept.decode("latin-1"))


def test_the_page_is_this_adapter(desk: World, task: Task) -> None:
    """The two examples of the page run as they are shown; the lines of ARx a side are few."""
    receiving, calling = [block.text for block in blocks(PAGE) if block.language == "python"][:2]
    for source in (receiving, calling):
        assert (
            len([line for line in source.splitlines() if re.search(r"arx|Arx|tool_call|Auth|part|receiver", line)])
            <= 15
        )
    (port,) = free_ports(1)
    names: dict[str, Any] = {"ORDERS": desk.url, "URL": f"http://127.0.0.1:{port}", "task": task}
    exec(compile(receiving, "worker.py", "exec"), names)
    exec(compile(calling, "caller.py", "exec"), names)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await names["orders"].aclose()

    names["app"].router.lifespan_context = lifespan
    with serving(names["app"], port):
        done = asyncio.run(names["ask"]("o-1 15"))
        assert (done.status.state, results(done)) == (COMPLETED, ['{"refunded":15}'])
        failed = asyncio.run(names["ask"]("o-1 50"))
        assert failed.status.state == FAILED
        shown = re.search(r"`(orders\.refund was refused: [^…]*) …`", PAGE)
        assert shown is not None
        assert status_text(failed).startswith(shown[1])
    (shown_size,) = re.findall(r"about (\d\.\d) KB", PAGE)
    part = task.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 20}}, ttl="5m")
    assert float(shown_size) * 1000 == pytest.approx(len(part.encode()), rel=0.1)
