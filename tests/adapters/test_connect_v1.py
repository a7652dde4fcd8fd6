# SPDX-License-Identifier: Apache-2.0
"""``arx connect`` between a stock client of the SDK 1.30 and a server of it, guarded or behind the gateway."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.adapters.connect_shop import BEHIND, Shop, app_maker, open_shop
from tests.adapters.mcp_rules import RULES
from tests.adapters.mcp_v1_server import make_app


def text_of(result: Any) -> str:
    return result.content[0].text


@pytest.mark.parametrize("behind", BEHIND)
def test_a_stock_client_lists_and_calls_what_it_may(behind: str, tmp_path: Path) -> None:
    """A call, a refused argument, a hidden tool, progress, and a kill that ends the running call."""

    async def test(shop: Shop) -> None:
        server = StdioServerParameters(command=sys.executable, args=shop.words())
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            tools = [tool.name for tool in (await session.list_tools()).tools]
            assert tools == ["get", "refund", "find", "whoami", "wait.long"]
            assert text_of(await session.call_tool("get", {"order_id": "o-1"})) == "o-1 is on its way"
            refused = await session.call_tool("refund", {"order_id": "o-1", "amount": 50})
            assert refused.isError
            assert text_of(refused).startswith("refund was refused: amount must be at most 20, got 50.")
            assert (await session.call_tool("drop", {"order_id": "o-1"})).isError
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(session.call_tool("wait.long", {}, progress_callback=progress))
            await begun.wait()
            shop.realm.epochs.kill("task:t-test")
            for result in (await call, await session.call_tool("whoami", {})):
                assert result.isError
                assert "Stop now, call no other tool" in text_of(result)

    with open_shop(tmp_path, app_maker(behind, make_app), *RULES) as shop:
        asyncio.run(test(shop))
    # A process that the gateway ends may end before it notes that.
    assert shop.ran[:2] == ["get", "wait.long"]
    assert shop.ran[2:] == ["cancelled"] or behind == "gateway_stdio_server"
