# SPDX-License-Identifier: Apache-2.0
"""A2A: the desk sends messages to a worker, which has the tools.  tenuo's server and client are its own."""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final

from a2a.client import ClientConfig, create_client
from a2a.helpers import get_artifact_text, get_message_text, new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Role, SendMessageRequest
from starlette.applications import Starlette

from benchmarks.compare import http_desk, stage
from benchmarks.compare.http_desk import Call
from benchmarks.compare.stage import Desk, Framework, get_order, refund

OURS: Final = ("", b'"SendMessage"')
THEIRS: Final = ("", b'"task/send"')


class Worker(AgentExecutor):
    """Does the call that a message names."""

    def __init__(self, tools: dict[str, Any]) -> None:
        self._tools = tools

    async def execute(self, context: Any, event_queue: Any) -> None:
        """Do it."""
        await event_queue.enqueue_event(new_task_from_user_message(context.message))
        tool, args = json.loads(context.get_user_input())
        text = self._tools[tool](**args)
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.add_artifact([new_text_part(text)])
        await updater.complete()

    async def cancel(self, context: Any, event_queue: Any) -> None:
        """Cancel it."""
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def _card(url: str) -> AgentCard:
    interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")
    return AgentCard(
        name="worker",
        description="Refunds orders.",
        version="1",
        supported_interfaces=[interface],
        capabilities=AgentCapabilities(streaming=False),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[AgentSkill(id="refund", name="refund", description="Refund a part of an order.", tags=["orders"])],
    )


def bare(url: str) -> Any:
    """Return the worker's application without a product."""
    card, worker = _card(url), Worker({"get_order": get_order, "refund": refund})
    handler = DefaultRequestHandler(worker, InMemoryTaskStore(), card)
    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])


def arx_worker(url: str) -> tuple[Any, Any]:
    """Return the worker's application."""
    from arx_caps.agent import local_tool
    from arx_caps.integrations.a2a import ArxContextBuilder, ArxReceiver, arx_card
    from arx_verifier import open_verifier

    verifier = open_verifier("orders.json")
    verifier.start()
    read = local_tool(verifier, "orders.get")(get_order)
    pay = local_tool(verifier, "orders.refund")(refund)
    card = arx_card(_card(url), "acme/worker")
    receiver = ArxReceiver("acme/worker", Worker({"get_order": read, "refund": pay}))
    handler = DefaultRequestHandler(receiver, InMemoryTaskStore(), card, request_context_builder=receiver)
    routes = create_jsonrpc_routes(handler, "/", context_builder=ArxContextBuilder())
    return Starlette(routes=[*create_agent_card_routes(card), *routes]), verifier


def arx_desk() -> tuple[Any, Any]:
    """Return what delegates to the worker, and what delegates less."""
    from arx_caps.agent import Agent
    from arx_caps.integrations.a2a import ArxA2AInterceptor

    task = Agent.from_key_file("desk.json").open_session().start_task("desk")
    all_of_it = ArxA2AInterceptor(task, to="acme/worker")
    part = ArxA2AInterceptor(task, to="acme/worker", tools=["orders.refund"], args={"amount": {"max": 10}})
    return all_of_it, part


def tenuo_worker(url: str, root: Any) -> Any:
    """Return the worker's application."""
    from tenuo import HolderIdentity, Runtime, SigningKey
    from tenuo.a2a import A2AServerBuilder

    key = SigningKey.generate()
    runtime = Runtime(HolderIdentity(key), [root]).install()  # what takes lists of revoked warrants
    server = A2AServerBuilder().name("worker").url(url).key(key).accept_warrants_from(root).runtime(runtime).build()

    @server.skill("get_order")
    async def read(order_id: str, note: str) -> str:
        return get_order(order_id, note)

    @server.skill("refund")
    async def pay(order_id: str, amount: int, note: str) -> str:
        return refund(order_id, amount, note)

    return server.app


def tenuo_desk(root: Any) -> tuple[Any, Any, Any]:
    """Return what sends a message with a warrant of its own, and one with a narrower warrant."""
    from tenuo import Exact, Range, SigningKey, Warrant, Wildcard
    from tenuo.a2a import A2AClient

    key = SigningKey.generate()
    warrant = (
        Warrant.mint_builder()
        .capability("get_order", order_id=Exact("o-1"), note=Wildcard())
        .capability("refund", order_id=Exact("o-1"), amount=Range(1, 20), note=Wildcard())
        .holder(key.public_key)
        .ttl(600)
        .mint(root)
    )

    async def send(client: A2AClient, tool: str, args: dict[str, Any], most: int) -> str:
        part = (  # a server takes each warrant once
            warrant.grant_builder()
            .capability("get_order", order_id=Exact("o-1"), note=Wildcard())
            .capability("refund", order_id=Exact("o-1"), amount=Range(1, most), note=Wildcard())
            .holder(key.public_key)
            .ttl(300)
            .grant(key)
        )
        sent = {"skill": tool, "arguments": args, "warrant_chain": [warrant], "signing_key": key}
        return str((await client.send_task("work", part, **sent)).output)

    return A2AClient, send, warrant


def _client(url: str, *interceptors: Any) -> AbstractAsyncContextManager[Call]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Call]:
        async with await create_client(url, ClientConfig(streaming=False), list(interceptors)) as client:

            async def call(tool: str, args: dict[str, Any]) -> str:
                message = new_text_message(json.dumps([tool, args]), role=Role.ROLE_USER)
                async for answer in client.send_message(SendMessageRequest(message=message)):
                    task = answer.task
                    said = [get_artifact_text(each) for each in task.artifacts]
                    return "\n".join(said or [get_message_text(task.status.message)])
                return ""

            yield call

    return opened()


def without() -> AbstractContextManager[Desk]:
    """The desk without a product."""
    port = stage.free_port()
    app = bare(f"http://127.0.0.1:{port}")
    return http_desk.desk(app, _client, _client, port=port, kind=OURS)


@contextlib.contextmanager
def with_arx() -> Any:
    """The desk with ARx."""
    all_of_it, part = arx_desk()
    app, verifier = arx_worker(f"http://127.0.0.1:{stage.SERVICE_PORT}")
    opens = (lambda url: _client(url, all_of_it), lambda url: _client(url, part))
    with contextlib.closing(verifier), http_desk.desk(app, *opens, port=stage.SERVICE_PORT, kind=OURS) as desk:
        yield desk


@contextlib.contextmanager
def with_tenuo() -> Any:
    """The desk with tenuo."""
    from tenuo import SigningKey
    from tenuo.a2a.errors import A2AError

    root, port = SigningKey.generate(), stage.free_port()
    client, send, warrant = tenuo_desk(root)

    def opens(most: int) -> http_desk.Opens:
        @contextlib.asynccontextmanager
        async def opened(url: str) -> AsyncIterator[Call]:
            async with client(url) as made:

                async def call(tool: str, args: dict[str, Any]) -> str:
                    try:
                        return str(await send(made, tool, args, most))
                    except A2AError as error:
                        return f"{error} {json.dumps(error.data)}"

                yield call

        return opened

    app = tenuo_worker(f"http://127.0.0.1:{port}", root.public_key)
    with http_desk.desk(app, opens(20), opens(10), port=port, kind=THEIRS) as desk:
        yield desk._replace(kill=lambda: stage.revoke(root, warrant))


if __name__ == "__main__":
    examples = ((arx_worker, arx_desk), (tenuo_worker, tenuo_desk))
    stage.main(Framework(without, with_arx, with_tenuo, examples, ("a2a-sdk",)))
