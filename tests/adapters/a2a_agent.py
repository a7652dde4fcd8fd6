# SPDX-License-Identifier: Apache-2.0
"""An A2A agent that works with its part of a task, served over HTTP, and what sends it messages.

``python -m tests.adapters.a2a_agent PORT SERVICE FILE`` serves one whose A2A tasks are in an SQLite file.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from a2a.client import ClientCallContext, ClientConfig, create_client
from a2a.client.interceptors import BeforeArgs
from a2a.helpers import get_artifact_text, get_message_text, new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import DatabaseTaskStore, InMemoryTaskStore, TaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, GetTaskRequest, Role, SendMessageRequest, TaskState
from a2a.types import Task as A2ATask
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

from arx_caps.agent import CurrentTaskAuth, Session, StartedTask
from arx_caps.integrations.a2a import ArxA2AInterceptor
from arx_caps.integrations.a2a_server import ArxContextBuilder, ArxReceiver, arx_card, tool_call
from tests.adapters.agent_world import World, world
from tests.agent.live import serving
from tests.servers import free_ports

COMPLETED, FAILED = TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED
ASKS, WORKS = TaskState.TASK_STATE_AUTH_REQUIRED, TaskState.TASK_STATE_WORKING


class Worker(AgentExecutor):
    """Does the calls that a message lists, ``get o-1, refund o-1 5``; ``plain`` ones are not checked before.

    ``watch o-1`` reads a stream, and opens it again when it breaks; ``wait -`` waits for the gate.
    """

    def __init__(self, url: str) -> None:
        self.url, self.ran, self.gate = url, 0, threading.Event()
        self.contexts: list[Any] = []
        self.gate.set()

    async def execute(self, context: Any, event_queue: Any) -> None:
        self.ran += 1
        self.contexts.append(context.call_context)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        calls_text = context.get_user_input()
        if context.current_task is None and "early" not in calls_text:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
            await updater.start_work()
        async with httpx.AsyncClient(base_url=self.url, auth=CurrentTaskAuth()) as client:
            for call in calls_text.split(", "):
                verb, order, *amount = call.removeprefix("plain ").removeprefix("early ").split()
                if verb == "wait":
                    await asyncio.to_thread(self.gate.wait, 60)
                    continue
                if verb == "watch":
                    await self._watch(client, order, updater)
                    continue
                args = {"order_id": order, **({"amount": int(amount[0])} if amount else {})}
                checked = contextlib.nullcontext() if "plain" in call else tool_call(context, f"orders.{verb}", args)
                with checked:
                    send = client.get(f"/orders/{order}") if verb == "get" else None
                    send = send or client.post(f"/orders/{order}/refund", json={"amount": int(amount[0])})
                    text = (await send).raise_for_status().text
                await updater.add_artifact([new_text_part(text)])
        await updater.complete()

    async def _watch(self, client: httpx.AsyncClient, order: str, updater: TaskUpdater) -> None:
        while True:
            with contextlib.suppress(httpx.TransportError):
                async with client.stream("GET", f"/orders/{order}/watch") as answer:
                    answer.raise_for_status()
                    await updater.add_artifact([new_text_part("watching")])
                    async for _ in answer.aiter_lines():
                        pass

    async def cancel(self, context: Any, event_queue: Any) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


class Served:
    """A served agent: its address, its executor, its stored tasks."""

    def __init__(
        self,
        service: str,
        port: int,
        agent: str = "acme/worker",
        *,
        named: str | None = None,
        binding: str = "JSONRPC",
        store: TaskStore | None = None,
    ) -> None:
        self.url, self.worker, self.store = f"http://127.0.0.1:{port}", Worker(service), store or InMemoryTaskStore()
        interface = AgentInterface(url=self.url, protocol_binding=binding, protocol_version="1.0")
        card = AgentCard(
            name="worker", supported_interfaces=[interface], capabilities=AgentCapabilities(streaming=True)
        )
        self.card = arx_card(card, named or agent)
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
        assert isinstance(self.store, InMemoryTaskStore)
        return [task for tasks in self.store._impl.tasks.values() for task in tasks.values()]


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("desk")) as running_desk:
        yield running_desk


@pytest.fixture(scope="module")
def session(desk: World) -> Iterator[Session]:
    with desk.mint.agent("acme/boss") as agent, agent.open_session() as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    return session.start_task("refund", order_id="o-1", amount=20)


@pytest.fixture
def serve(desk: World) -> Iterator[Serve]:
    with contextlib.ExitStack() as held:

        def start(agent: str = "acme/worker", *, named: str | None = None, binding: str = "JSONRPC") -> Served:
            (port,) = free_ports(1)
            served = Served(desk.url, port, agent, named=named, binding=binding)
            held.enter_context(serving(served.app, port))
            return served

        yield start


async def send_to(
    url: str, text: str, *interceptors: Any, context: Any = None, to: A2ATask | None = None, **config: Any
) -> A2ATask:
    """Send one message as a client does that begins with the card, and return the A2A task as it then stands."""
    config = {"streaming": False, "supported_protocol_bindings": ["JSONRPC", "HTTP+JSON"], **config}
    client = await create_client(url, ClientConfig(**config), list(interceptors))
    more = {} if to is None else {"task_id": to.id, "context_id": to.context_id}
    message = new_text_message(text, role=Role.ROLE_USER, **more)
    async with client:
        name = ""
        async for answer in client.send_message(SendMessageRequest(message=message), context=context):
            name = answer.task.id or answer.status_update.task_id or name
        return await client.get_task(GetTaskRequest(id=name))


async def found(url: str, task: str) -> A2ATask:
    """An A2A task as it stands."""
    async with await create_client(url, ClientConfig(streaming=False)) as client:
        return await client.get_task(GetTaskRequest(id=task))


async def asend(served: Served, *texts: Any, **more: Any) -> A2ATask:
    return await send_to(served.url, *texts, **more)


def send(*args: Any, **more: Any) -> A2ATask:
    return asyncio.run(asend(*args, **more))


def status_text(task: A2ATask) -> str:
    """What the status of an A2A task says."""
    return get_message_text(task.status.message)


def results(task: A2ATask) -> list[str]:
    return [get_artifact_text(each) for each in task.artifacts]


class Raw(ArxA2AInterceptor):
    """Sends a header as it is."""

    def __init__(self, *values: str) -> None:
        self._values = values

    async def before(self, args: BeforeArgs) -> None:
        args.context = ClientCallContext(service_parameters={"Authorization": ",".join(self._values)})


if __name__ == "__main__":
    own_port, service_url, tasks = sys.argv[1:]
    kept = DatabaseTaskStore(create_async_engine(f"sqlite+aiosqlite:///{tasks}"))
    uvicorn.run(
        Served(service_url, int(own_port), store=kept).app, host="127.0.0.1", port=int(own_port), log_config=None
    )
