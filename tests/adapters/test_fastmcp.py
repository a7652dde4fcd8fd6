# SPDX-License-Identifier: Apache-2.0
"""A client of ``fastmcp`` 4 with a task of a real mint, against a guarded server over stdio and HTTP."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastmcp.client.elicitation import ElicitResult
from mcp import MCPError, StdioServerParameters

from arx_caps.agent import Task
from arx_caps.integrations.fastmcp import ArxClient, arx_client
from arx_verifier import AttenuationError
from tests.adapters import fastmcp_server, mcp_clients
from tests.adapters.mcp_clients import *  # noqa: F403 - its tests run in this file
from tests.adapters.mcp_clients import Answer, Elicit, everywhere, run
from tests.adapters.mcp_realm import Shop, open_shop, page_names


class Connected:
    """A client of this SDK, as ``mcp_clients`` calls it."""

    def __init__(self, client: ArxClient) -> None:
        self._client = client

    async def offered(self) -> list[str]:
        return [tool.name for tool in await self._client.list_tools()]

    async def call(self, name: str, args: Any = None, *, approvals: Any = (), begun: Any = None) -> Answer:
        async def progress(*_: object) -> None:
            begun.set()

        more = {} if begun is None else {"progress_handler": progress}
        return answer_of(await self._client.call_tool_mcp(name, args or {}, approvals=approvals, **more))

    async def asked(self, name: str, args: Any) -> Answer:
        return answer_of(await self._client.session.call_tool(name, args))

    async def read(self, uri: str) -> str:
        return str((await self._client.read_resource(uri))[0])


def answer_of(result: Any) -> Answer:
    return Answer(bool(result.is_error), result.content[0].text, result.meta or {})


@contextlib.asynccontextmanager
async def connect(task: Task, server: Any, elicit: Elicit | None = None) -> AsyncIterator[Connected]:
    async def handler(message: str, _: Any, params: Any, __: Any) -> ElicitResult[Any]:
        assert elicit is not None
        return ElicitResult(action=await elicit(message, params.meta["dev.arx/approval"]))  # type: ignore[arg-type]

    options: dict[str, Any] = {"elicitation_handler": handler} if elicit else {}
    async with arx_client(task, server, **options) as client:
        yield Connected(client)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client and the server of this file."""
    monkeypatch.setattr(mcp_clients, "CLIENT", connect)
    monkeypatch.setattr(mcp_clients, "REFUSED", MCPError)
    monkeypatch.setattr(mcp_clients, "SERVER", fastmcp_server)
    monkeypatch.setattr(mcp_clients, "MAKE_APP", "http_app")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), "mcp.md", "from fastmcp import FastMCP") as shop:
        yield shop


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    example = page_names("mcp.md", "import arx_client")
    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way, mcp_clients.MAKE_APP) as server:
        offered, failed, text = run(example["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")


def test_a_token_goes_to_its_own_server_alone(shop: Shop) -> None:
    """Another origin, and a task of several audiences without a URL, are refused at once."""
    with shop.task("both", agent="acme/both") as task:
        with pytest.raises(AttenuationError, match="belongs to no audience"):
            arx_client(task, "http://127.0.0.1:9/mcp")
        with pytest.raises(AttenuationError, match="expected one of orders, payments"):
            arx_client(task, StdioServerParameters(command="true"))
