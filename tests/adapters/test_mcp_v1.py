# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 1.30 with a task of a real mint, against a guarded server over stdio and HTTP."""

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from mcp import McpError
from pydantic import AnyUrl

from arx_caps.agent import Task
from tests.adapters.mcp_realm import TOKEN, Shop, open_shop, page_names

everywhere = pytest.mark.parametrize("way", ["stdio", "http"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), "mcp.md", "integrations.mcp_v1 import guard") as shop:
        yield shop


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(test)


def client() -> dict[str, Any]:
    """What the page's client defines."""
    return page_names("mcp.md", "import arx_session")


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        offered, failed, text = run(client()["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")


@everywhere
def test_a_sub_agent_gets_less_and_no_text_has_a_token(shop: Shop, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its call passes in its own name, others are refused here and there; everything is logged, and no token is."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    async def test(worker: Task, server: Any) -> None:
        async with client()["arx_session"](worker, server) as session:
            assert [tool.name for tool in (await session.list_tools()).tools] == ["get"]
            answer = await session.call_tool("get", {"order_id": "o-1"})
            assert answer.content[0].text == "o-1 is on its way, acme/worker"
            refused = await session.call_tool("get", {"order_id": "o-2"})
            assert refused.isError
            assert refused.content[0].text.startswith('get was refused: order_id must be "o-1", got "o-2".')
            asked = await super(type(session), session).call_tool("get", {"order_id": "o-2"})
            assert asked.isError
            assert "(decision " in asked.content[0].text
            with pytest.raises(McpError) as no:
                await session.read_resource(AnyUrl("orders://terms"))
            assert no.value.error.data == {"code": "tool_not_allowed"}
            seen.extend(map(repr, (session, answer, refused, asked, no.value)))

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        secrets = [*task.tokens.values(), task.encode()]
        run(test(task.delegate("acme/worker", tools=["orders.get"]), server))
    logs = "\n".join([*caplog.messages, caplog.text, *seen])
    assert TOKEN.search(logs) is None
    assert not [secret for secret in secrets if secret[-40:] in logs]
