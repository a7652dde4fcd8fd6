# SPDX-License-Identifier: Apache-2.0
"""A2A between real agents over HTTP, with a real mint and a real service: docs/adapters/a2a.md."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from a2a.client import ClientCallContext, ClientConfig, create_client
from a2a.client.interceptors import BeforeArgs
from a2a.helpers import get_artifact_text, get_message_text, new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    Role,
    SendMessageRequest,
    TaskState,
    TaskStatus,
)
from a2a.types import Task as A2ATask
from a2a.utils.errors import InvalidRequestError
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette

from arx_caps.agent import CurrentTaskAuth, Session, StartedTask, Task, ToolCalls
from arx_caps.agent.running_task import running
from arx_caps.integrations import a2a
from arx_caps.integrations.a2a import (
    ArxA2AInterceptor,
    ArxContextBuilder,
    ArxReceiver,
    arx_card,
    asked_call,
    tool_call,
    with_approvals,
)
from arx_verifier import ArxError, AttenuationError, SettingsError
from tests.adapters.desk import Desk, at_its_loudest, open_desk, secrets_in
from tests.agent.live import serving
from tests.house.pages import ROOT, blocks
from tests.servers import free_ports

PAGE = (ROOT / "docs" / "adapters" / "a2a.md").read_text(encoding="utf-8")
SPANS = InMemorySpanExporter()  # everything that the SDK traces
COMPLETED, FAILED = TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED
ASKS, WORKS = TaskState.TASK_STATE_AUTH_REQUIRED, TaskState.TASK_STATE_WORKING


traces = TracerProvider()
traces.add_span_processor(SimpleSpanProcessor(SPANS))
trace.set_tracer_provider(traces)


class Worker(AgentExecutor):
    """Does the calls that a message lists, ``get o-1, refund o-1 5``; ``plain`` ones are not checked before."""

    def __init__(self, url: str) -> None:
        self.url, self.ran, self.gate = url, 0, threading.Event()
        self.contexts: list[Any] = []
        self.gate.set()

    async def execute(self, context: Any, event_queue: Any) -> None:
        self.ran += 1
        self.contexts.append(context.call_context)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        said = context.get_user_input()
        if context.current_task is None and "early" not in said:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
            await updater.start_work()
        async with httpx.AsyncClient(base_url=self.url, auth=CurrentTaskAuth()) as client:
            for call in said.split(", "):
                verb, order, *amount = call.removeprefix("plain ").removeprefix("early ").split()
                if verb == "wait":
                    await asyncio.to_thread(self.gate.wait, 60)
                    continue
                args = {"order_id": order, **({"amount": int(amount[0])} if amount else {})}
                checked = contextlib.nullcontext() if "plain" in call else tool_call(context, f"orders.{verb}", args)
                with checked:
                    send = client.get(f"/orders/{order}") if verb == "get" else None
                    send = send or client.post(f"/orders/{order}/refund", json={"amount": int(amount[0])})
                    text = (await send).raise_for_status().text
                await updater.add_artifact([new_text_part(text)])
        await updater.complete()

    async def cancel(self, context: Any, event_queue: Any) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class Served:
    """A served agent: its address, its executor, its stored tasks."""

    def __init__(self, desk: Desk, port: int, agent: str, named: str, binding: str) -> None:
        self.url, self.worker, self.store = f"http://127.0.0.1:{port}", Worker(desk.url), InMemoryTaskStore()
        interface = AgentInterface(url=self.url, protocol_binding=binding, protocol_version="1.0")
        card = AgentCard(
            name="worker", supported_interfaces=[interface], capabilities=AgentCapabilities(streaming=True)
        )
        self.card = arx_card(card, named)
        receiver = ArxReceiver(agent, self.worker)
        handler = DefaultRequestHandler(receiver, self.store, self.card, request_context_builder=receiver)
        builder = ArxContextBuilder()
        if binding == "JSONRPC":
            routes = create_jsonrpc_routes(handler, "/", context_builder=builder)
        else:
            routes = create_rest_routes(handler, context_builder=builder)
        self.app = Starlette(routes=[*create_agent_card_routes(self.card), *routes])

    @property
    def stored(self) -> list[A2ATask]:
        return [task for tasks in self.store._impl.tasks.values() for task in tasks.values()]


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp("desk")) as running_desk:
        yield running_desk


@pytest.fixture(scope="module")
def session(desk: Desk) -> Iterator[Session]:
    with desk.agent("boss") as agent, agent.open_session() as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    return session.start_task("refund", order_id="o-1", amount=20)


@pytest.fixture
def serve(desk: Desk) -> Iterator[Serve]:
    with contextlib.ExitStack() as held:

        def start(agent: str = "acme/worker", *, named: str | None = None, binding: str = "JSONRPC") -> Served:
            (port,) = free_ports(1)
            served = Served(desk, port, agent, named or agent, binding)
            held.enter_context(serving(served.app, port))
            return served

        yield start


async def asend(
    served: Served, said: str, *interceptors: Any, context: Any = None, to: A2ATask | None = None, **config: Any
) -> A2ATask:
    """Send one message as a client does that begins with the card, and return the A2A task as it then stands."""
    config = {"streaming": False, "supported_protocol_bindings": ["JSONRPC", "HTTP+JSON"], **config}
    client = await create_client(served.url, ClientConfig(**config), list(interceptors))
    more = {} if to is None else {"task_id": to.id, "context_id": to.context_id}
    message = new_text_message(said, role=Role.ROLE_USER, **more)
    async with client:
        found = ""
        async for answer in client.send_message(SendMessageRequest(message=message), context=context):
            found = answer.task.id or answer.status_update.task_id or found
        return await client.get_task(GetTaskRequest(id=found))


def send(*args: Any, **more: Any) -> A2ATask:
    return asyncio.run(asend(*args, **more))


def told(task: A2ATask) -> str:
    """What the status of an A2A task says."""
    return get_message_text(task.status.message)


def results(task: A2ATask) -> list[str]:
    return [get_artifact_text(each) for each in task.artifacts]


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_agent_works_with_its_part_of_the_task(
    desk: Desk, serve: Serve, task: StartedTask, streaming: bool, binding: str
) -> None:
    """An allowed call passes at the service, and its record names both agents; each message is delegated anew."""
    served, before = serve(binding=binding), len(desk.records.decisions)
    delegates = ArxA2AInterceptor(task, tools=["orders.refund"], args={"amount": {"max": 10}}, ttl="5m")
    for amount in (10, 5):
        done = send(served, f"refund o-1 {amount}", delegates, streaming=streaming)
        assert (done.status.state, results(done)) == (COMPLETED, [f'{{"refunded":{amount}}}'])
    # A call within the service's first second is signed anew.
    records = [each for each in desk.records.decisions[before:] if each.allowed]
    assert [(each.agent, each.named) for each in records] == [("acme/boss", ("acme/worker",))] * 2
    assert len({each.links for each in records}) == 2
    refused = send(served, "refund o-1 15", delegates, streaming=streaming)
    assert refused.status.state == FAILED
    assert told(refused).startswith("orders.refund was refused: amount must be at most 10, got 15. Do not repeat")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("refund o-1 50", "orders.refund was refused: amount must be between 1 and 20, got 50."),
        ("early refund o-1 50", "orders.refund was refused: amount must be between 1 and 20, got 50."),
        ("plain refund o-1 50", "The call was refused: amount must be between 1 and 20, got 50."),
        ("get o-1, get o-2", "orders.get was refused: order_id must be"),
    ],
)
def test_a_refusal_ends_the_a2a_task_in_words(
    desk: Desk, serve: Serve, task: StartedTask, said: str, words: str
) -> None:
    """Whether the first check refuses, or the service; also before the executor has sent any event."""
    before = len(desk.calls)
    failed = send(serve(), said, ArxA2AInterceptor(task))
    assert failed.status.state == FAILED
    assert told(failed).startswith(words)
    assert [get_message_text(each) for each in failed.history][:1] == [said]
    assert desk.calls[before:] == (["orders.get o-1"] if "get" in said else [])


def test_other_errors_stay_the_executors(serve: Serve, task: StartedTask) -> None:
    """An error that is no refusal is left to the SDK."""
    with pytest.raises(Exception, match="not enough values"):
        send(serve(), "refund", ArxA2AInterceptor(task))


class Raw(ArxA2AInterceptor):
    """Sends a header as it is."""

    def __init__(self, *values: str) -> None:
        self._values = values

    async def before(self, args: BeforeArgs) -> None:
        args.context = ClientCallContext(service_parameters={"Authorization": ",".join(self._values)})


def test_a_message_without_a_task_of_this_agent_is_refused(
    serve: Serve, task: StartedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is run or stored, and the caller reads why: no task, a broken one, another agent's, an ended one."""
    served = serve()
    whole = task.delegate("acme/worker").encode()
    for header, why in (
        (None, "no token"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "no token"),
        (f"Bearer {whole[:-9]}", "cut short or altered"),
        (f"Bearer {next(iter(task.tokens.values()))}", "a single token"),
        (f"Bearer {task.delegate('acme/other').encode()}", "the task was delegated to acme/other"),
        (f"Bearer {task.encode()}", "the task was delegated to acme/boss"),
        (f"Bearer {whole},{whole}", ""),
    ):
        with pytest.raises(InvalidRequestError, match="acme/worker refused the message") as caught:
            send(served, "refund o-1 5", *([] if header is None else [Raw(header)]))
        assert why in str(caught.value)
        assert not secrets_in(str(caught.value).replace("arxb1_…", "its beginning"))
    monkeypatch.setattr(a2a, "now_ms", lambda: task.expires_at)
    with pytest.raises(InvalidRequestError, match="expired"):
        send(served, "refund o-1 5", ArxA2AInterceptor(task))
    assert (served.worker.ran, served.stored) == (0, [])
    monkeypatch.undo()
    assert send(served, "refund o-1 5", Raw(f"Bearer {whole}")).status.state == COMPLETED


def test_a_card_of_another_agent_gets_a_task_for_that_one(serve: Serve, task: StartedTask) -> None:
    """What a card names is what a receiver of that name takes; a caller may insist on the name."""
    with pytest.raises(InvalidRequestError, match="was delegated to acme/other"):
        send(serve(named="acme/other"), "get o-1", ArxA2AInterceptor(task))
    with pytest.raises(AttenuationError, match='cannot delegate to "acme/worker": its card names "acme/other"'):
        send(serve(named="acme/other"), "get o-1", ArxA2AInterceptor(task, to="acme/worker"))


def test_a_receiver_without_its_builder_runs_nothing(desk: Desk, task: StartedTask) -> None:
    """A server that was put together wrongly refuses."""
    (port,) = free_ports(1)
    served = Served(desk, port, "acme/worker", "acme/worker", "JSONRPC")
    receiver = ArxReceiver("acme/worker", served.worker)
    for more in ({}, {"request_context_builder": receiver}):
        handler = DefaultRequestHandler(receiver, served.store, served.card, **more)
        app = Starlette(routes=[*create_agent_card_routes(served.card), *create_jsonrpc_routes(handler, "/")])
        with serving(app, port), pytest.raises(InvalidRequestError, match="context_builder=ArxContextBuilder"):
            send(served, "get o-1", ArxA2AInterceptor(task))
    assert served.worker.ran == 0


def test_a_kill_ends_work_in_the_background(desk: Desk, serve: Serve, task: StartedTask) -> None:
    """The answer came at once; the task stays the current one, until the kill of the caller's task ends it."""
    served = serve()
    served.worker.gate.clear()
    before = len(desk.calls)

    async def run() -> A2ATask:
        begun = await asend(
            served, "get o-1, wait -, plain refund o-1 5", ArxA2AInterceptor(ToolCalls(task)), polling=True
        )
        assert begun.status.state not in (COMPLETED, FAILED)
        client = await create_client(served.url, ClientConfig(streaming=False))
        async with client:
            found = begun
            while not found.artifacts:
                found = await client.get_task(GetTaskRequest(id=begun.id))
            assert found.status.state == WORKS
            await asyncio.to_thread(desk.kill, f"task:{task.id}")
            served.worker.gate.set()
            while found.status.state == WORKS:
                found = await client.get_task(GetTaskRequest(id=begun.id))
            return found

    failed = asyncio.run(run())
    assert failed.status.state == FAILED
    assert told(failed).startswith("An operator ended this work")
    assert desk.calls[before:] == ["orders.get o-1"]


def test_a_cancelled_a2a_task_makes_no_call(desk: Desk, serve: Serve, task: StartedTask) -> None:
    """Cancelling reaches the executor, and needs no task."""
    served, before = serve(), len(desk.calls)
    served.worker.gate.clear()

    async def run() -> A2ATask:
        begun = await asend(served, "wait -, plain refund o-1 5", ArxA2AInterceptor(task), polling=True)
        async with await create_client(served.url, ClientConfig(streaming=False)) as client:
            return await client.cancel_task(CancelTaskRequest(id=begun.id))

    try:
        assert asyncio.run(run()).status.state == TaskState.TASK_STATE_CANCELED
    finally:
        served.worker.gate.set()
    assert desk.calls[before:] == []


def test_callers_beside_each_other_never_mix(desk: Desk, serve: Serve, session: Session) -> None:
    """One client, one interceptor and one context serve many tasks; each works on its own order alone."""
    served, orders, shared = serve(), [f"o-{number}" for number in range(1, 6)], ClientCallContext()
    before = len(desk.calls)

    async def one(order: str, said: str) -> A2ATask:
        with running(session.start_task("refund", order_id=order, amount=20)):
            return await asend(served, said, ArxA2AInterceptor(tools=["orders.refund"]), context=shared)

    async def all_of_them() -> list[A2ATask]:
        own = [one(order, f"plain refund {order} 5") for order in orders]
        others = [one(order, f"plain refund {order}0 5") for order in orders]
        return await asyncio.gather(*own, *others)

    done = asyncio.run(all_of_them())
    assert [each.status.state for each in done] == [COMPLETED] * 5 + [FAILED] * 5
    assert sorted(desk.calls[before:]) == sorted(f"orders.refund {order} 5" for order in orders)
    assert shared == ClientCallContext()


def test_the_caller_asks_for_an_approval(desk: Desk, serve: Serve, session: Session) -> None:
    """The A2A task waits and names the call; with the approval it goes on; other arguments wait again."""
    served, task = serve(), session.start_task("payout", order_id="o-1")
    before, delegates = len(desk.calls), ArxA2AInterceptor(task)
    waits = send(served, "get o-1, refund o-1 500", delegates)
    assert waits.status.state == ASKS
    assert "Do not repeat this call before an operator has approved it." in told(waits)
    assert told(waits).endswith("ask where the task was started, and send the message again with the approval.")
    tool, args = asked_call(waits.status) or pytest.fail("names no call")
    assert (tool, args) == ("orders.refund", {"order_id": "o-1", "amount": 500})
    approval = task.ask_approval(tool, args)
    desk.approve(approval.id)
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
    "said", [7, "", "[]", '{"tool": "t"}', '{"tool": "t", "args": 7}', '{"tool": "t", "tool": "u"}']
)
def test_what_another_agent_asks_for_is_read_with_care(said: Any) -> None:
    """A status that names no call in its form names none."""
    status = TaskStatus(state=ASKS)
    status.message.metadata["arx"] = said
    assert asked_call(status) is None


def test_a_card_requires_the_task_beside_what_it_required(task: StartedTask) -> None:
    """Requirements are alternatives, so each gets ours; the card that was given stays as it was."""
    card = AgentCard(name="a")
    card.security_requirements.add().schemes["mtls"].SetInParent()
    card.security_requirements.add()
    made = arx_card(card, "acme/worker")
    assert [sorted(each.schemes) for each in made.security_requirements] == [["arx", "mtls"], ["arx"]]
    assert not card.security_schemes
    with pytest.raises(SettingsError, match="expected a path such as acme/worker, got"):
        arx_card(card, "Acme Worker")


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


def test_no_task_is_seen_anywhere(desk: Desk, serve: Serve, session: Session) -> None:
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
            desk.approve(approval.id)
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
    assert not secrets_in(*loud.lines, *traced, *served.stored, *seen, *kept, caught.value, broken.value)
    assert all(mark not in card for mark in ("arxb1_", "arx1_"))


def test_the_page_is_this_adapter(desk: Desk, task: Task) -> None:
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
        assert told(failed).startswith(shown[1])
    (shown_size,) = re.findall(r"about (\d\.\d) KB", PAGE)
    part = task.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 20}}, ttl="5m")
    assert float(shown_size) * 1000 == pytest.approx(len(part.encode()), rel=0.1)
