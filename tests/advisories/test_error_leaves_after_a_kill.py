# SPDX-License-Identifier: Apache-2.0
"""A killed agent could still get the text of an MCP tool's error, where the tool had kept its event loop busy.

A result was looked at again before it left, and an error was not.
"""

import asyncio
import time
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.testing import UnsafeTestRealm


@pytest.mark.spec("11")
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_of_a_tool_leaves_after_a_kill(fails: bool) -> None:
    """No timer ran between the kill and the end of the tool."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(Rule(tool="orders.get")).token("orders.get")

    async def tool() -> str:
        realm.epochs.kill("agent:test/agent")
        time.sleep(0.005)  # longer than the time between two rechecks; it keeps the event loop busy  # noqa: ASYNC251
        if fails:
            raise ValueError("order A-1 is of customer 7")
        return "order A-1"

    async def schema() -> dict[str, Any]:
        return {}

    messages = Messages(realm.verifier, recheck_ms=1)
    with pytest.raises(RefusedCall) as refused:
        asyncio.run(messages.run(McpMessage("tools/call", {"name": "get"}, {META_KEY: token}), schema, tool))
    assert refused.value.code == "revoked"
