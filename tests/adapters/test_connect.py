# SPDX-License-Identifier: Apache-2.0
"""``arx connect`` between the SDK's stock client and a server of it, guarded or behind the gateway.

A client speaks stdio with the bridge, and the bridge signed HTTP with the server.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.server import MCPServer
from mcp.server.mcpserver import Elicit, Resolve
from mcp.types import ElicitResult
from pydantic import BaseModel

from arx_caps.agent import make_holder_key
from arx_verifier import Rule, Verifier
from arx_verifier.integrations.mcp import ArxMcpMiddleware
from tests.adapters.connect_shop import BEHIND, TOOLS, Shop, app_maker, open_shop
from tests.adapters.mcp_rules import RULES
from tests.adapters.mcp_server import make_app
from tests.servers import until

eras = pytest.mark.parametrize("era", ["auto", "legacy"])


@contextlib.asynccontextmanager
async def connected(shop: Shop, era: str, *options: str, **more: Any) -> AsyncIterator[Client]:
    """A stock client of the SDK that starts the bridge."""
    server = StdioServerParameters(command=sys.executable, args=shop.words(*options))
    async with Client(server, mode=era, **more) as client:
        yield client


@pytest.fixture
def behind() -> str:
    """Which server it is: the guarded one, unless a test tries all."""
    return BEHIND[0]


@pytest.fixture
def shop(tmp_path: Path, behind: str) -> Iterator[Shop]:
    """The tests' server of the SDK."""
    with open_shop(tmp_path, app_maker(behind, make_app), *RULES) as shop:
        yield shop


class Answer(BaseModel):
    """What a tool asks the person."""

    sure: bool


async def question() -> Elicit[Answer]:
    """Ask the person, in the way of the revision."""
    return Elicit("Are you sure?", Answer)


def guarded(verifier: Verifier) -> MCPServer[Any]:
    """A guarded server without tools."""
    arx = ArxMcpMiddleware(verifier)
    return MCPServer("orders", middleware=[arx], lifespan=arx.lifespan)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def text_of(result: Any) -> str:
    return result.content[0].text


@pytest.mark.parametrize("behind", BEHIND)
@eras
def test_a_stock_client_lists_and_calls_what_it_may(tmp_path: Path, behind: str, era: str) -> None:
    """Tools, a resource and a prompt; what it may not is refused, and the model reads why."""

    async def test(shop: Shop) -> None:
        async with connected(shop, era) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            assert tools == [*TOOLS, "wait.blocking"] if behind == "guarded" else TOOLS
            assert text_of(await client.call_tool("get", {"order_id": "o-1"})) == "o-1 is on its way"
            who = "test/agent" if behind == "guarded" else "anonymous"
            assert text_of(await client.call_tool("whoami", {})) == who
            refused = await client.call_tool("refund", {"order_id": "o-1", "amount": 50})
            assert refused.is_error
            assert text_of(refused).startswith("refund was refused: amount must be at most 20, got 50.")
            hidden = await client.call_tool("drop", {"order_id": "o-1"})
            assert hidden.is_error
            read: Any = await client.read_resource("orders://terms")
            assert read.contents[0].text == "thirty days"
            with pytest.raises(MCPError) as no:
                await client.read_resource("orders://secret")
            assert no.value.error.data == {"code": "argument_not_allowed"}
            prompt = await client.get_prompt("brief", {"order_id": "o-1"})
            assert prompt.messages[0].content.text == "Describe o-1"  # type: ignore[union-attr]

    with open_shop(tmp_path, app_maker(behind, make_app), *RULES) as shop:
        run(test(shop))
    assert shop.ran == ["get"]


@eras
def test_a_bound_task_is_called_with_its_holder_s_key(tmp_path: Path, era: str) -> None:
    """The client passes no key: the bridge has its file, and signs with it."""
    key = make_holder_key(tmp_path / "worker.key")

    async def test(shop: Shop) -> None:
        async with connected(shop, era, "--holder-key", str(tmp_path / "worker.key")) as client:
            assert text_of(await client.call_tool("get", {"order_id": "o-1"})) == "o-1 is on its way"

    with open_shop(tmp_path, app_maker(BEHIND[0], make_app), *RULES, key=key) as shop:
        run(test(shop))
        (record,) = [each for each in shop.realm.decisions.decisions if each.tool == "orders.get"]
    assert (shop.ran, record.facts.assurance, record.facts.holders[-1].key) == (["get"], "bound", key.public)


@eras
def test_only_narrows_what_the_client_gets(shop: Shop, era: str) -> None:
    """The server sees a narrower token, so that it refuses the same."""

    async def test() -> None:
        async with connected(shop, era, "--only", "orders.whoami") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["whoami"]
            assert (await client.call_tool("get", {"order_id": "o-1"})).is_error

    run(test())


@pytest.mark.parametrize("behind", BEHIND[:2])  # what runs over stdio is known at the end
@eras
def test_a_kill_ends_the_running_call_and_the_next(shop: Shop, era: str) -> None:
    """The progress of the call has arrived before; the model reads that it has to stop."""

    async def test() -> None:
        async with connected(shop, era) as client:
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(client.call_tool("wait.long", {}, progress_callback=progress))
            await begun.wait()
            shop.realm.epochs.kill("task:t-test")
            for result in (await call, await client.call_tool("whoami", {})):
                assert result.is_error
                assert "Stop now, call no other tool" in text_of(result)

    run(test())
    assert shop.ran == ["wait.long", "cancelled"]


@eras
def test_a_cancelled_call_is_cancelled_at_the_server(shop: Shop, era: str) -> None:
    """As with a server that the client calls itself; other calls go on."""

    async def test() -> None:
        async with connected(shop, era) as client:
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(client.call_tool("wait.long", {}, progress_callback=progress))
            await begun.wait()
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await asyncio.to_thread(until, lambda: "cancelled" in shop.ran)
            assert text_of(await client.call_tool("whoami", {})) == "test/agent"

    run(test())


@eras
def test_a_question_to_the_person_passes(era: str, tmp_path: Path) -> None:
    """An elicitation of the server reaches the client, and the answer the tool, in the way of each revision."""

    def make(verifier: Verifier, _: list[str]) -> Any:
        server = guarded(verifier)

        @server.tool()
        async def ask(answer: Annotated[Answer, Resolve(question)]) -> str:
            return "sure" if answer.sure else "not sure"

        return server.streamable_http_app()

    async def elicited(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"sure": True})

    async def test(shop: Shop) -> None:
        async with connected(shop, era, elicitation_callback=elicited) as client:
            assert text_of(await client.call_tool("ask", {})) == "sure"

    with open_shop(tmp_path, make, Rule(tool="orders.ask")) as shop:
        run(test(shop))


@eras
def test_a_call_names_its_marked_arguments(era: str, tmp_path: Path) -> None:
    """The server demands `Mcp-Param-Order` of a call of 2026-07-28, which a client over stdio does not send."""

    def make(verifier: Verifier, _: list[str]) -> Any:
        server = guarded(verifier)

        @server.tool()
        async def get(order_id: str) -> str:
            return order_id

        tool: Any = server._tool_manager.get_tool("get")
        tool.parameters["properties"]["order_id"]["x-mcp-header"] = "Order"
        return server.streamable_http_app()

    async def test(shop: Shop) -> None:
        async with connected(shop, era) as client:
            await client.list_tools()
            assert text_of(await client.call_tool("get", {"order_id": "o-ü"})) == "o-ü"

    with open_shop(tmp_path, make, Rule(tool="orders.get")) as shop:
        run(test(shop))
