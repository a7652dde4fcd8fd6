# SPDX-License-Identifier: Apache-2.0
"""A call could go on after the end that the log had of it, or have a second end there.

Each adapter kept its own marks of what a call may do.  An MCP tool that was cancelled while its agent was frozen could
answer once the freeze was lifted.  A kill that met the last moment of a call in a thread was recorded as its end.
"""

import asyncio
import time
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.enforcement.base.enforcement import RefusedCall
from arx_verifier.enforcement.grants.running_calls import RunningCalls
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.verifier.serving import Realm
from tests.verifier.streaming import SESSION

pytestmark = pytest.mark.spec("11")


def ends(realm: Any) -> list[str]:
    """Return the codes of the recorded ends."""
    return [decision.code for decision in realm.sink.decisions if decision.outcome == "end"]


def test_a_tool_does_not_answer_after_its_end() -> None:
    """It caught its cancellation, and the freeze was lifted before it returned."""
    realm = UnsafeTestRealm("orders")
    messages = Messages(realm.verifier, recheck_ms=1)
    token = realm.caller(Rule(tool="orders.get")).token("orders.get")
    seen: list[str] = []

    async def tool() -> str:
        realm.epochs.freeze("agent:test/agent")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
        realm.epochs.thaw("agent:test/agent")
        return "the order"

    async def schema() -> dict[str, Any]:
        return {}

    with pytest.raises(RefusedCall) as refused:
        asyncio.run(messages.run(McpMessage("tools/call", {"name": "get"}, {META_KEY: token}), schema, tool))
    assert (refused.value.code, seen) == ("frozen", ["cancelled"])


def test_a_call_that_is_over_has_no_end() -> None:
    """The recheck has it on its list when the call is over, and finds a kill."""
    realm, cuts = Realm(), list[bool]()
    request = AccessRequest("orders.get", {}, time.time_ns() // 1_000_000, None)
    calls = RunningCalls(realm.verifier, 1_000)
    call = calls.begin(realm.verifier.decide(realm.token().encode(), request), lambda *_: cuts.append(True))
    call.close()
    realm.epochs.kill(SESSION)
    call.look()
    assert (ends(realm), cuts) == ([], [])
