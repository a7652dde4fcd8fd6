# SPDX-License-Identifier: Apache-2.0
"""A killed agent could still get a list from a slow MCP server behind the gateway, or open a session at it.

The token of a message that calls no tool was checked before the gateway asked the server, and not again when the
answer came.  Now the answer is dropped, at once after a kill.
"""

import asyncio
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream


@pytest.mark.spec("11")
@pytest.mark.parametrize("method", ["tools/list", "initialize", "tasks/result"])
@pytest.mark.parametrize("comes", [False, True])
def test_what_comes_after_a_kill_does_not_leave(method: str, comes: bool) -> None:
    """Also if the server never answers."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))

    async def answer() -> Answer:
        realm.epochs.kill("agent:test/agent")
        await (asyncio.sleep(0.3) if comes else asyncio.Event().wait())  # longer than the time between two rechecks
        return Answer(b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"get"}]}}')

    params: dict[str, Any] = {}
    task = Answer(b'{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t"}}}')
    upstream = Upstream(lambda asked: answer() if asked == method else task)
    door = Door(realm, upstream)
    if method == "tasks/result":
        params = door.message(caller, "tools/call", {"name": "get"})["result"]["task"]
    refused = door.message(caller, method, params)
    assert refused["error"]["data"]["code"] == "revoked"
    assert upstream.got[-1] == method
