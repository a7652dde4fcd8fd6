# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 2 with a task of a real mint, against a guarded server over stdio and HTTP."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from mcp import MCPError, StdioServerParameters
from mcp.server import MCPServer
from mcp_types import HEADER_MISMATCH, ElicitResult

from arx_caps.agent import Task
from arx_caps.integrations.mcp import Client
from arx_verifier import AttenuationError
from tests.adapters import mcp_clients, mcp_server
from tests.adapters.mcp_clients import *  # noqa: F403 - its tests run in this file
from tests.adapters.mcp_clients import Answer, Elicit, everywhere, run
from tests.adapters.mcp_realm import Shop, open_shop, page_names


class Connected:
    """A client of this SDK, as ``mcp_clients`` calls it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def offered(self) -> list[str]:
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, name: str, args: Any = None, *, approvals: Any = (), begun: Any = None) -> Answer:
        async def progress(*_: object) -> None:
            begun.set()

        more = {} if begun is None else {"progress_callback": progress}
        return answer_of(await self._client.call_tool(name, args, approvals=approvals, **more))

    async def asked(self, name: str, args: Any) -> Answer:
        return answer_of(await self._client.session.call_tool(name, args))

    async def read(self, uri: str) -> str:
        return str((await self._client.read_resource(uri)).contents[0])


def answer_of(result: Any) -> Answer:
    return Answer(bool(result.is_error), result.content[0].text, result.meta or {})


@contextlib.asynccontextmanager
async def connect(task: Task, server: Any, elicit: Elicit | None = None) -> AsyncIterator[Connected]:
    async def callback(_: Any, params: Any) -> ElicitResult:
        assert elicit is not None
        return ElicitResult(action=await elicit(params.message, params.meta["dev.arx/approval"]))  # type: ignore[arg-type]

    async with Client(server, task=task, elicitation_callback=callback if elicit else None) as client:
        yield Connected(client)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client and the server of this file."""
    monkeypatch.setattr(mcp_clients, "CLIENT", connect)
    monkeypatch.setattr(mcp_clients, "REFUSED", MCPError)
    monkeypatch.setattr(mcp_clients, "SERVER", mcp_server)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(
        tmp_path_factory.mktemp("shop"),
        "mcp.md",
        "from mcp.server import MCPServer\n\nfrom arx_verifier import current_grant",
    ) as shop:
        yield shop


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    example = page_names("mcp.md", "async def work(task, server):\n    async with Client(")
    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        offered, failed, text = run(example["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")


def test_the_page_waits_for_an_operator(shop: Shop) -> None:
    """The page's callback gets the id of the approval, and the call goes on once an operator has approved it."""
    example = page_names("mcp.md", "async def asked")

    def answer(message: str) -> None:
        shop.answer(message.partition("(")[2].partition(")")[0])

    example["print"] = answer
    with shop.task("approved") as task, shop.served("http") as server:
        assert answer_of(run(example["refund"](task, server))).text == "15 refunded for o-1"


@everywhere
def test_a_resource_is_read_with_the_task(shop: Shop, way: str) -> None:
    async def test(task: Task, server: Any) -> None:
        async with Client(server, task=task) as client:
            assert [str(each.uri) for each in (await client.list_resources()).resources] == ["orders://terms"]
            read: Any = await client.read_resource("orders://terms")
            assert "thirty days" in read.contents[0].text

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        run(test(task, server))


def test_a_retry_of_the_sdk_signs_anew(shop: Shop) -> None:
    """The SDK sends a call again after a header mismatch: its first token is used, so the second has another."""
    answered: list[str] = []

    async def mismatch_once(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "tools/call" and not answered:
            answered.append("mismatch")
            raise MCPError(code=HEADER_MISMATCH, message="list the tools again")
        return await call_next(ctx)

    async def test(task: Task, url: str) -> None:
        async with Client(url, task=task) as client:
            assert answer_of(await client.call_tool("whoami", {})).text == task.holder

    with (
        shop.task("waiting", agent="acme/retrying") as task,
        shop.serving("http", mcp_server, [], mismatch_once) as url,
    ):
        run(test(task, url))
    assert answered == ["mismatch"]


def test_a_token_goes_to_its_own_server_alone(shop: Shop) -> None:
    """Another origin, a task of several audiences without a URL, and a server in this process are refused at once."""
    with shop.task("both", agent="acme/both") as task:
        assert Client(shop.url, task=task).audience is None
        with pytest.raises(AttenuationError, match=r"origin http://127\.0\.0\.1:9 belongs to no audience"):
            Client("http://127.0.0.1:9/mcp", task=task)
        with pytest.raises(AttenuationError, match="belongs to no audience"):
            Client(shop.url, task=task, audience="payments")
        with pytest.raises(AttenuationError, match="expected one of orders, payments"):
            Client(StdioServerParameters(command="true"), task=task)
        with pytest.raises(AttenuationError, match=r"no token for .stores"):
            Client(StdioServerParameters(command="true"), task=task, audience="stores")
        with pytest.raises(TypeError, match="got an object of a server"):
            Client(MCPServer("orders"), task=task, audience="orders")
