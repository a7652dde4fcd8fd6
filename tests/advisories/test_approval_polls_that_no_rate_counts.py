# SPDX-License-Identifier: Apache-2.0
"""A client whose call waited for an approval could make a gateway ask the mint as often as it liked.

Neither polls of its task, nor repeats with its state, nor the call again counted against the agent's rate.
"""

import asyncio

import pytest

from tests.gateway.test_approved_calls import CALL, Front
from tests.mint.harness import Harness


@pytest.mark.sqlite
@pytest.mark.parametrize("how", ["task", "state", "call"])
def test_each_message_about_a_waiting_call_counts(unit: Harness, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The first two are answered, and the third is refused."""
    front = Front(unit)
    front.open(agent="2/1h")

    async def run() -> None:
        begun = await front.result("tools/call", CALL, tasks=how == "task")
        if how == "task":
            method, params = "tasks/get", {"taskId": begun["taskId"]}
        else:
            method, params = "tools/call", CALL | ({"requestState": begun["requestState"]} if how == "state" else {})
        await front.send(method, params)
        status, answer = await front.send(method, params)
        assert (status, answer["error"]["data"]["code"]) == (200, "rate_limited")

    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_calls.HOLD_MS", 0)
    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_calls.HOLD_FIRST_MS", 0)
    asyncio.run(run())
