# SPDX-License-Identifier: Apache-2.0
"""``arx connect`` between a stock client of ``fastmcp`` and a server, guarded or behind the gateway."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError

from tests.adapters.connect_shop import BEHIND, TOOLS, Shop, app_maker, open_shop
from tests.adapters.fastmcp_server import make_app
from tests.adapters.mcp_rules import RULES


@pytest.mark.parametrize("behind", BEHIND)
def test_a_stock_client_lists_and_calls_what_it_may(behind: str, tmp_path: Path) -> None:
    """A call, a refused argument, a hidden tool and a kill."""

    async def test(shop: Shop) -> None:
        async with Client(StdioTransport(command=sys.executable, args=shop.words())) as client:
            tools = [tool.name for tool in await client.list_tools()]
            assert tools == [*TOOLS, "wait.blocking"] if behind == "guarded" else TOOLS
            got: Any = await client.call_tool("get", {"order_id": "o-1"})
            assert got.content[0].text == "o-1 is on its way"
            with pytest.raises(ToolError, match="amount must be at most 20, got 50"):
                await client.call_tool("refund", {"order_id": "o-1", "amount": 50})
            with pytest.raises(ToolError, match="drop was refused"):
                await client.call_tool("drop", {"order_id": "o-1"})
            shop.realm.epochs.kill("task:t-test")
            with pytest.raises(ToolError, match="Stop now, call no other tool"):
                await client.call_tool("whoami", {})

    with open_shop(tmp_path, app_maker(behind, make_app), *RULES) as shop:
        asyncio.run(test(shop))
    assert shop.ran == ["get"]
