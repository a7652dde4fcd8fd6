# SPDX-License-Identifier: Apache-2.0
"""A client of the SDK 2 opens the link for a person's account, and its call goes on by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from tests.adapters.people_server import Ann, served


@contextlib.asynccontextmanager
async def connected(url: str, auth: Any, **options: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), mode="2026-07-28", **options) as client,
    ):
        yield client


def test_a_call_waits_until_its_person_has_connected_the_account(tmp_path: Path) -> None:
    """After a no, and where the client declares no elicitation, the model reads the link."""
    with served(tmp_path) as world, world.task("ann") as task:
        ann = Ann(world)

        async def opens(_: Any, params: Any) -> ElicitResult:
            assert params.message == "An agent needs your account at tracker: connect it."
            ann.open(params.url)
            return ElicitResult(action="accept")  # the person has agreed to open it, and is not yet there

        async def declines(_: Any, params: Any) -> ElicitResult:
            return ElicitResult(action="decline")

        async def run() -> None:
            for options in ({}, {"elicitation_callback": declines}):
                async with connected(ann.url, task.auth("tracker"), **options) as client:
                    result: Any = await client.call_tool("get")
                    assert (result.is_error, "Ask ann to open http" in result.content[0].text) == (True, True)
            assert world.tracker.seen == []
            async with connected(ann.url, task.auth("tracker"), elicitation_callback=opens) as client:
                done: Any = await client.call_tool("get")
                assert (done.is_error, done.content[0].text) == (False, "done")
                await client.call_tool("get")
            await ann.finish()
            assert len(ann.links) == 1

        asyncio.run(run())
        assert {account for account, _ in world.tracker.seen} == {ann.account}
