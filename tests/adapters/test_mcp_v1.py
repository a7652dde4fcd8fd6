# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 1.30 with a task of a real mint, against a guarded server over stdio and HTTP."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from mcp import McpError
from mcp.types import ElicitResult
from pydantic import AnyUrl

from arx_caps.agent import Task
from arx_caps.integrations.mcp_v1 import ArxSession, arx_session
from tests.adapters import mcp_clients, mcp_v1_server
from tests.adapters.mcp_clients import *  # noqa: F403 - its tests run in this file
from tests.adapters.mcp_clients import Answer, Elicit, everywhere, run
from tests.adapters.mcp_realm import Shop, open_shop, page_names


class Connected:
    """A client of this SDK, as ``mcp_clients`` calls it."""

    def __init__(self, client: ArxSession) -> None:
        self._client = client

    async def offered(self) -> list[str]:
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, name: str, args: Any = None, *, approvals: Any = (), begun: Any = None) -> Answer:
        async def progress(*_: object) -> None:
            begun.set()

        more = {} if begun is None else {"progress_callback": progress}
        return answer_of(await self._client.call_tool(name, args, approvals=approvals, **more))

    async def asked(self, name: str, args: Any) -> Answer:
        return answer_of(await super(ArxSession, self._client).call_tool(name, args))

    async def read(self, uri: str) -> str:
        return str((await self._client.read_resource(AnyUrl(uri))).contents[0])


def answer_of(result: Any) -> Answer:
    return Answer(bool(result.isError), result.content[0].text, result.meta or {})


@contextlib.asynccontextmanager
async def connect(task: Task, server: Any, elicit: Elicit | None = None) -> AsyncIterator[Connected]:
    async def callback(_: Any, params: Any) -> ElicitResult:
        assert elicit is not None
        approval = params.meta.model_dump()["dev.arx/approval"]
        return ElicitResult(action=await elicit(params.message, approval))  # type: ignore[arg-type]

    options: dict[str, Any] = {"elicitation_callback": callback} if elicit else {}
    async with arx_session(task, server, **options) as session:
        yield Connected(session)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client and the server of this file."""
    monkeypatch.setattr(mcp_clients, "CLIENT", connect)
    monkeypatch.setattr(mcp_clients, "REFUSED", McpError)
    monkeypatch.setattr(mcp_clients, "SERVER", mcp_v1_server)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), "mcp.md", "integrations.mcp_v1 import guard") as shop:
        yield shop


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        offered, failed, text = run(page_names("mcp.md", "import arx_session")["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")
