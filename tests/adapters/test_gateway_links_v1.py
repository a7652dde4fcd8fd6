# SPDX-License-Identifier: Apache-2.0
"""A client of the SDK 1.30 gets the link for a person's account as an error, and a notification once it was used."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import ClientSession, McpError, UrlElicitationRequiredError, types
from mcp.client.streamable_http import streamable_http_client

from tests.adapters.people_server import Ann, served


class Completed:
    """The ids of the elicitations that a client was notified of."""

    def __init__(self) -> None:
        self.ids: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification) and isinstance(message.root, types.ElicitCompleteNotification):
            self.ids.put_nowait(message.root.params.elicitationId)


async def asked(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    raise AssertionError(f"an error has the link, and no request: {params}")


@contextlib.asynccontextmanager
async def connected(url: str, auth: Any, **options: Any) -> AsyncIterator[ClientSession]:
    async with (
        httpx.AsyncClient(auth=auth, timeout=60) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write, **options) as session,
    ):
        yield session


def elicitation_in(error: McpError) -> types.ElicitRequestURLParams:
    """The one elicitation of an error, as the SDK reads it."""
    [found] = UrlElicitationRequiredError.from_error(error.error).elicitations
    return found


def text_of(result: types.CallToolResult) -> str:
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


def test_a_session_without_an_account_has_the_link_for_the_model(tmp_path: Path) -> None:
    """In its instructions, and in the error of each further request; the next session has the server's tools."""
    with served(tmp_path) as world, world.task("ann") as task:
        ann = Ann(world)

        async def run() -> None:
            async with connected(ann.url, task.auth("tracker")) as session:
                about = await session.initialize()
                with pytest.raises(McpError, match="Ask ann to open http"):
                    await session.list_tools()
            ann.open(str(about.instructions).partition("open ")[2].partition(",")[0])
            await ann.finish()
            async with connected(ann.url, task.auth("tracker")) as session:
                await session.initialize()
                assert [tool.name for tool in (await session.list_tools()).tools] == ["get"]

        asyncio.run(run())


def test_a_client_opens_the_link_and_repeats_its_call(tmp_path: Path) -> None:
    """Before the session and in it; a client that declares no elicitation gets the text for its model."""
    with served(tmp_path) as world, world.task("ann") as task:
        ann, completed = Ann(world), Completed()

        async def run() -> None:
            async with connected(ann.url, task.auth("tracker"), elicitation_callback=asked) as session:
                with pytest.raises(McpError) as opening:
                    await session.initialize()
            ann.open(elicitation_in(opening.value).url)
            await ann.finish()
            options: Any = {"elicitation_callback": asked, "message_handler": completed}
            async with (
                connected(ann.url, task.auth("tracker"), **options) as session,
                connected(ann.url, task.auth("tracker")) as plain,
            ):
                await session.initialize()
                await plain.initialize()
                assert text_of(await session.call_tool("get")) == "done"
                await ann.leave()
                result = await plain.call_tool("get")
                assert (result.isError, "Ask ann to open http" in text_of(result)) == (True, True)
                with pytest.raises(McpError) as ended:
                    await session.call_tool("get")
                about = elicitation_in(ended.value)
                assert "Ask" not in about.message
                assert completed.ids.empty()
                ann.open(about.url)
                assert await asyncio.wait_for(completed.ids.get(), 60) == about.elicitationId
                assert text_of(await session.call_tool("get")) == "done"
                assert text_of(await plain.call_tool("get")) == "done"
            await ann.finish()

        asyncio.run(run())
        assert {account for account, _ in world.tracker.seen} == {"ann-1", "ann-2"}
        assert world.tracker.seen[-1][0] == ann.account
