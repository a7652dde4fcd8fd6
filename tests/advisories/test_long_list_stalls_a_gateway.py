# SPDX-License-Identifier: Apache-2.0
"""An MCP server with one long list held up all other callers of a gateway: its event loop read the list.

12 MiB took most of a second.  Now what is long is read in a thread, one message after the other, and the event loop
goes on with calls and the rechecks of streams.
"""

import asyncio
import json

import pytest

from arx_caps.gateway.base.bound_ids import BoundIds
from arx_caps.gateway.mcp.answers import AnsweredMessage, McpAnswers
from arx_caps.gateway.mcp.schemas import input_schema
from arx_caps.gateway.mcp.tasks import TaskIds
from arx_caps.http.event_stream import fields_of
from arx_verifier import Rule
from arx_verifier.enforcement.mcp.messages import McpMessage, Messages
from arx_verifier.testing import UnsafeTestRealm

TOOLS = [{"name": f"tool-{number}", "description": "x" * 200} for number in range(5_000)] + [{"name": "get"}]
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": TOOLS}}).encode()
SHORT = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": TOOLS[-1:]}}).encode()


async def turns_of(work: "asyncio.Future[bytes]") -> int:
    """Return how often the event loop runs until the work is done."""
    turns = 0
    while not work.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


@pytest.mark.parametrize("streams", [False, True])
def test_the_loop_goes_on(streams: bool) -> None:
    """While a list is filtered, whole and in a stream."""
    realm = UnsafeTestRealm("files")
    messages, keys = Messages(realm.verifier), realm.verifier.keys
    answers = McpAnswers("files", messages, TaskIds(keys), BoundIds(keys, "event"), 16_777_216, lists_tasks=False)

    async def events(asked: AnsweredMessage, text: bytes) -> bytes:
        async def parts():  # type: ignore[no-untyped-def]
            yield b"data: " + text + b"\n\n"

        return b"".join([event async for event in answers.stream(parts(), asked)])

    async def turns_for(text: bytes) -> int:
        token = realm.caller(Rule(tool="files.get")).token("", method="tools/list")
        screened = await messages.recognize(McpMessage("tools/list", {}, {"dev.arx/cap": token}))
        assert screened is not None
        asked = AnsweredMessage(screened.proven.facts, "tools/list", 1, screened)
        work = asyncio.ensure_future(events(asked, text) if streams else answers.whole(200, text, asked))
        turns = await turns_of(work)
        data = fields_of(work.result()).data if streams else work.result()
        assert json.loads(data)["result"]["tools"] == [{"name": "get"}]
        return turns

    async def use() -> None:
        assert await turns_for(LIST) > await turns_for(SHORT)  # which the loop itself reads

    asyncio.run(use())


@pytest.mark.parametrize("streams", [False, True])
def test_the_loop_goes_on_while_a_schema_is_looked_for(streams: bool) -> None:
    """Which a call with JSON in a text needs."""

    async def turns_for(text: bytes) -> int:
        async def listed(_: object) -> tuple[bool, bytes]:
            return streams, b"data: " + text + b"\n\n" if streams else text

        work = asyncio.ensure_future(input_schema("get", listed))
        turns = await turns_of(work)  # type: ignore[arg-type]
        assert work.result() == {"properties": {}}
        return turns

    async def use() -> None:
        assert await turns_for(LIST) > await turns_for(SHORT)  # which the loop itself reads

    asyncio.run(use())
