# SPDX-License-Identifier: Apache-2.0
"""The agent that is called over A2A: what it takes, and how its work ends; with a real mint and a real service."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from a2a.client import ClientConfig, create_client
from a2a.helpers import get_message_text
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.types import AgentCard, CancelTaskRequest, GetTaskRequest, TaskState
from a2a.types import Task as A2ATask
from a2a.utils.errors import InvalidRequestError
from starlette.applications import Starlette

from arx_caps.agent import StartedTask, ToolCalls
from arx_caps.agent.tools import received_part
from arx_caps.integrations.a2a import ArxA2AInterceptor
from arx_caps.integrations.a2a_server import ArxReceiver, arx_card
from arx_verifier import SettingsError
from tests.adapters.a2a_agent import (
    COMPLETED,
    FAILED,
    WORKS,
    Raw,
    Serve,
    Served,
    asend,
    desk,
    results,
    send,
    serve,
    session,
    status_text,
    task,
)
from tests.adapters.agent_world import World, secrets_in
from tests.agent.live import serving
from tests.servers import free_ports, until

__all__ = ["desk", "serve", "session", "task"]  # fixtures


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("refund o-1 50", "orders.refund was refused: amount must be between 1 and 20, got 50."),
        ("early refund o-1 50", "orders.refund was refused: amount must be between 1 and 20, got 50."),
        ("plain refund o-1 50", "The call was refused: amount must be between 1 and 20, got 50."),
        ("get o-1, get o-2", "orders.get was refused: order_id must be"),
    ],
)
def test_a_refusal_ends_the_a2a_task_in_words(
    desk: World, serve: Serve, task: StartedTask, message: str, words: str
) -> None:
    """Whether the first check refuses, or the service; also before the executor has sent any event."""
    before = len(desk.calls)
    failed = send(serve(), message, ArxA2AInterceptor(task))
    assert failed.status.state == FAILED
    assert status_text(failed).startswith(words)
    assert [get_message_text(each) for each in failed.history][:1] == [message]
    assert desk.calls[before:] == (["orders.get o-1"] if "get" in message else [])


def test_other_errors_stay_the_executors(serve: Serve, task: StartedTask) -> None:
    """An error that is no refusal is left to the SDK."""
    with pytest.raises(Exception, match="not enough values"):
        send(serve(), "refund", ArxA2AInterceptor(task))


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
    monkeypatch.setattr(received_part, "now_ms", lambda: task.expires_at)
    with pytest.raises(InvalidRequestError, match="expired"):
        send(served, "refund o-1 5", ArxA2AInterceptor(task))
    assert (served.worker.ran, served.stored) == (0, [])
    monkeypatch.undo()
    assert send(served, "refund o-1 5", Raw(f"Bearer {whole}")).status.state == COMPLETED


def test_a_receiver_without_its_builder_runs_nothing(desk: World, task: StartedTask) -> None:
    """A server that was put together wrongly refuses."""
    (port,) = free_ports(1)
    served = Served(desk.url, port)
    receiver = ArxReceiver("acme/worker", served.worker)
    for more in ({}, {"request_context_builder": receiver}):
        handler = DefaultRequestHandler(receiver, served.store, served.card, **more)
        app = Starlette(routes=[*create_agent_card_routes(served.card), *create_jsonrpc_routes(handler, "/")])
        with serving(app, port), pytest.raises(InvalidRequestError, match="context_builder=ArxContextBuilder"):
            send(served, "get o-1", ArxA2AInterceptor(task))
    assert served.worker.ran == 0


def test_a_kill_ends_work_in_the_background(desk: World, serve: Serve, task: StartedTask) -> None:
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
    assert status_text(failed).startswith("An operator ended this work")
    assert desk.calls[before:] == ["orders.get o-1"]


def test_a_cancelled_a2a_task_makes_no_call(desk: World, serve: Serve, task: StartedTask) -> None:
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


@pytest.mark.parametrize("streaming", [False, True])
def test_a_kill_ends_a_running_stream(desk: World, serve: Serve, task: StartedTask, streaming: bool) -> None:
    """What the agent reads from a service ends within the lease, and with it the A2A task, in words."""
    served, before = serve(), len(desk.calls)

    def kill() -> None:
        until(lambda: any(each.artifacts for each in served.stored))
        desk.kill(f"task:{task.id}")

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        ended = send(served, "watch o-1", ArxA2AInterceptor(task), streaming=streaming)
        killed.result()
    assert (ended.status.state, results(ended)) == (FAILED, ["watching"])
    assert status_text(ended).startswith("An operator ended this work")
    assert desk.calls[before:] == ["orders.watch o-1"]
