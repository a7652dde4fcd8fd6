# SPDX-License-Identifier: Apache-2.0
"""Tasks of a server of the SDK 1.30 behind the gateway, followed by its client: status, question, result and a kill."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession, McpError, types
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Mount

from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.adapters.asgi_server import serving
from tests.gateway.served_door import open_door

# The SDK drops tasks with its version 2; until then no other server and client of theirs are there.
pytestmark = pytest.mark.filterwarnings("ignore:The experimental tasks API:DeprecationWarning")
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"blue": {"type": "boolean"}}}


def make_app(asks: bool) -> Starlette:
    """Return a server whose tool becomes a task, which asks its caller or never ends."""
    server: Server[Any, Any] = Server("orders")
    server.experimental.enable_tasks()
    manager = StreamableHTTPSessionManager(server)

    @server.list_tools()
    async def tools() -> list[types.Tool]:
        optional = types.ToolExecution(taskSupport="optional")
        return [types.Tool(name="get", inputSchema={"type": "object"}, execution=optional)]

    @server.call_tool()
    async def call(_: str, arguments: dict[str, Any]) -> Any:
        async def work(task: Any) -> types.CallToolResult:
            if not asks:
                await asyncio.Event().wait()
            answer = await task.elicit("Blue?", SCHEMA)
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(answer.content))])

        return await server.request_context.experimental.run_task(work)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount("/mcp", manager.handle_request)], lifespan=lifespan)


@contextlib.contextmanager
def served(realm: UnsafeTestRealm, folder: Path, asks: bool) -> Iterator[str]:
    with (
        serving(make_app(asks)) as upstream,
        open_door(realm, folder, url=f"http://127.0.0.1:{upstream}/mcp/", server_requests=["elicitation"]) as url,
    ):
        yield url


async def answered(_: Any, question: types.ElicitRequestParams) -> types.ElicitResult:
    assert question.message == "Blue?"
    return types.ElicitResult(action="accept", content={"blue": True})


@contextlib.asynccontextmanager
async def connected(url: str, caller: UnsafeCaller) -> AsyncIterator[ClientSession]:
    async with (
        httpx.AsyncClient(auth=caller, timeout=60) as http,  # type: ignore[arg-type]
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write, elicitation_callback=answered) as session,
    ):
        await session.initialize()
        yield session


def test_a_client_follows_a_task_and_answers_its_question(tmp_path: Path) -> None:
    """The question comes in the stream of `tasks/result`; for another holder there is no such task."""
    realm = UnsafeTestRealm("orders")
    rule = Rule(tool="orders.get")

    async def run(url: str) -> None:
        async with connected(url, realm.caller(rule)) as session:
            created = await session.experimental.call_tool_as_task("get", {})
            identity = created.task.taskId
            status = await session.experimental.get_task(identity)
            assert status.taskId == identity
            result = await session.experimental.get_task_result(identity, types.CallToolResult)
            assert result.content[0].text == "{'blue': True}"  # type: ignore[union-attr]
            assert (await session.experimental.get_task(identity)).status == "completed"
            with pytest.raises(McpError):
                await session.experimental.list_tasks()
            async with connected(url, realm.caller(rule, session="s-2")) as other:
                for each in (identity, identity.split("~")[0]):
                    with pytest.raises(McpError) as refused:
                        await other.experimental.get_task(each)
                    assert refused.value.error.code == -32602

    with served(realm, tmp_path, True) as url:
        asyncio.run(asyncio.wait_for(run(url), 60))


def test_a_kill_ends_the_wait_for_a_task(tmp_path: Path) -> None:
    """The client gets the refusal in place of the result."""
    realm = UnsafeTestRealm("orders")

    async def run(url: str) -> None:
        async with connected(url, realm.caller(Rule(tool="orders.get"))) as session:
            created = await session.experimental.call_tool_as_task("get", {})
            identity = created.task.taskId
            waiting = asyncio.ensure_future(session.experimental.get_task_result(identity, types.CallToolResult))
            assert (await session.experimental.get_task(identity)).status == "working"
            realm.epochs.kill("agent:test/agent")
            with pytest.raises(McpError) as refused:
                await waiting
            assert refused.value.error.data["code"] == "revoked"  # type: ignore[index]

    with served(realm, tmp_path, False) as url:
        asyncio.run(asyncio.wait_for(run(url), 60))
