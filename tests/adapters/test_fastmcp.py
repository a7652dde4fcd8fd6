# SPDX-License-Identifier: Apache-2.0
"""A client of ``fastmcp`` 4 with a task of a real mint, against a guarded server over stdio and HTTP."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from fastmcp.exceptions import ToolError
from mcp import MCPError, StdioServerParameters

from arx_caps.agent import Task
from arx_caps.integrations.fastmcp import arx_client
from arx_verifier import AttenuationError, open_verifier
from tests.adapters.asgi_server import serving
from tests.adapters.fastmcp_server import make_app
from tests.adapters.mcp_realm import TOKEN, Shop, open_shop, page_names

everywhere = pytest.mark.parametrize("way", ["stdio", "http"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), "fastmcp.md", "FastMCP(") as shop:
        yield shop


def served(shop: Shop, way: str) -> contextlib.AbstractContextManager[Any]:
    return shop.served(way, "http_app")


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(test)


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    example = page_names("fastmcp.md", "import arx_client")
    with shop.task("refund", order_id="o-1", amount=20) as task, served(shop, way) as server:
        offered, failed, text = run(example["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")


@everywhere
def test_a_sub_agent_gets_less_and_the_model_reads_what(shop: Shop, way: str) -> None:
    """Its allowed call passes in its own name; another one is refused here, and by a server that is asked at once."""

    async def test(worker: Task, server: Any) -> None:
        async with arx_client(worker, server) as client:
            assert [tool.name for tool in await client.list_tools()] == ["get"]
            answer: Any = await client.call_tool("get", {"order_id": "o-1"})
            assert answer.content[0].text == "o-1 is on its way, acme/worker"
            with pytest.raises(ToolError, match=r'get was refused: order_id must be "o-1", got "o-2"\. Do not repeat'):
                await client.call_tool("get", {"order_id": "o-2"})
            refused: Any = await client.call_tool("refund", {"order_id": "o-1"}, raise_on_error=False)
            assert refused.is_error
            assert refused.content[0].text.startswith("refund was refused: the tool must be orders.get")
            asked: Any = await client.session.call_tool("get", {"order_id": "o-2"})
            assert asked.is_error
            assert "(decision " in asked.content[0].text
            with pytest.raises(MCPError) as no:
                await client.read_resource("orders://terms")
            assert no.value.error.data == {"code": "tool_not_allowed"}

    with shop.task("refund", order_id="o-1", amount=20) as task, served(shop, way) as server:
        run(test(task.delegate("acme/worker", tools=["orders.get"]), server))


def test_a_kill_ends_the_running_tool_and_the_run(shop: Shop) -> None:
    """The mint's kill reaches the server's verifier; the model reads that it has to stop."""
    ran: list[str] = []

    async def test(task: Task, url: str) -> None:
        begun = asyncio.Event()

        async def progress(*_: object) -> None:
            begun.set()

        async with arx_client(task, url, progress_handler=progress) as client:
            call = asyncio.ensure_future(client.call_tool("wait.long", {}, raise_on_error=False))
            await begun.wait()
            await asyncio.to_thread(shop.kill, f"task:{task.id}")
            for result in (await call, await client.call_tool("whoami", {}, raise_on_error=False)):
                assert result.is_error
                assert "Stop now, call no other tool" in result.content[0].text  # type: ignore[union-attr]

    app = make_app(open_verifier(shop.service_file), ran)
    with shop.task("waiting", agent="acme/ended") as task, serving(app, shop.port):
        run(test(task, shop.url))
    assert ran == ["wait.long", "cancelled"]


def test_runs_beside_each_other_never_mix_their_tokens(shop: Shop) -> None:
    """Calls of three holders at once: each is made in the name of its own."""

    async def test(tasks: list[Task], url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(arx_client(task, url)) for task in tasks]
            calls = [client.call_tool("whoami", {}) for _ in range(5) for client in clients]
            answers = [answer.content[0].text for answer in await asyncio.gather(*calls)]  # type: ignore[union-attr]
            assert answers == [task.holder for task in tasks] * 5

    app = make_app(open_verifier(shop.service_file), [])
    with shop.task("waiting", agent="acme/mixed") as task, serving(app, shop.port):
        run(test([task, task.delegate("acme/one"), task.delegate("acme/two")], shop.url))


def test_a_token_goes_to_its_own_server_alone(shop: Shop) -> None:
    """Another origin, and a task of several audiences without a URL, are refused at once."""
    with shop.task("both", agent="acme/both") as task:
        with pytest.raises(AttenuationError, match="belongs to no audience"):
            arx_client(task, "http://127.0.0.1:9/mcp")
        with pytest.raises(AttenuationError, match="expected one of orders, payments"):
            arx_client(task, StdioServerParameters(command="true"))


@everywhere
def test_no_log_and_no_answer_has_a_token(shop: Shop, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything is logged, calls pass, are refused here and there, and fail: no text has a token or a key."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("fastmcp").propagate = True
    seen: list[str] = []

    async def test(task: Task, server: Any) -> None:
        async with arx_client(task, server) as client:
            seen.append(repr(client))
            seen.append(repr(await client.list_tools()))
            seen.append(repr(await client.call_tool("get", {"order_id": "o-1"})))
            seen.append(repr(await client.session.call_tool("get", {"order_id": "o-2"})))
            with pytest.raises(ToolError) as refused:
                await client.call_tool("get", {"order_id": "o-2"})
            seen.extend([repr(refused.value), str(refused.getrepr())])

    with shop.task("refund", order_id="o-1", amount=20) as task, served(shop, way) as server:
        secrets = [*task.tokens.values(), task.encode()]
        run(test(task, server))
    logs = "\n".join([*caplog.messages, caplog.text, *seen])
    assert TOKEN.search(logs) is None
    assert not [secret for secret in secrets if secret[-40:] in logs]
