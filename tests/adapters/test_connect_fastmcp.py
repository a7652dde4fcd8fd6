# SPDX-License-Identifier: Apache-2.0
"""``arx connect`` between a stock client of ``fastmcp`` and a server, guarded or behind the gateway.

The client reaches the bridge over stdio and over loopback HTTP.
"""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError

from tests.adapters.connect_shop import BEHIND, TOOLS, Shop, app_maker, open_shop
from tests.adapters.fastmcp_server import make_app
from tests.adapters.mcp_rules import RULES
from tests.servers import child


@contextlib.contextmanager
def bridged(shop: Shop, way: str) -> Iterator[Any]:
    """What a client connects to: the command of the bridge, or the URL of one that runs."""
    if way == "stdio":
        yield StdioTransport(command=sys.executable, args=shop.words())
        return
    command = [sys.executable, *shop.words("--listen", "127.0.0.1:0")]
    with child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("way", ["stdio", "http"])
def test_a_stock_client_lists_and_calls_what_it_may(way: str, behind: str, tmp_path: Path) -> None:
    """A call, a refused argument, a hidden tool and a kill."""

    async def test(shop: Shop, server: Any) -> None:
        async with Client(server) as client:
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

    with open_shop(tmp_path, app_maker(behind, make_app), *RULES) as shop, bridged(shop, way) as server:
        asyncio.run(test(shop, server))
    assert shop.ran == ["get"]
