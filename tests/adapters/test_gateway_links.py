# SPDX-License-Identifier: Apache-2.0
"""A client of the SDK 2 opens the link for a person's account, and its call goes on by itself."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from tests.adapters.people_server import Ann, served

TRANSCRIPT: Final = Path(__file__).with_name("link_transcript.txt")  # what a call's messages are on the wire
WAITS: Final = 'gateway {"requestState": "STATE", "resultType": "input_required"}'
OTHER_EACH_TIME: Final = {
    r"http://127\.0\.0\.1:\d+/connect/[\w-]+": "LINK",
    r"arxl1\.[\w.-]+": "STATE",
}


class Wire:
    """The messages of a client's calls, as they were sent and answered."""

    def __init__(self) -> None:
        self._lines = list[str]()

    async def __call__(self, response: Any) -> None:
        """Note a request with its answer, if it is a call."""
        asked = json.loads(response.request.content) if response.request.method == "POST" else {}
        if asked.get("method") == "tools/call":
            await response.aread()
            text = response.text
            answer = json.loads(text.partition("data: ")[2].partition("\n")[0] if "data: " in text else text)
            self._lines += [f"client  {self._shown(asked['params'])}", f"gateway {self._shown(answer['result'])}"]

    @staticmethod
    def _shown(part: dict[str, Any]) -> str:
        text = json.dumps({name: value for name, value in part.items() if name != "_meta"}, sort_keys=True)
        for pattern, name in OTHER_EACH_TIME.items():
            text = re.sub(pattern, name, text)
        return text

    def transcript(self) -> str:
        """Return it, without answers that have the client wait on: on a slow machine a person takes longer."""
        pairs = zip(self._lines[::2], self._lines[1::2], strict=True)
        return "".join(f"{asked}\n{answer}\n" for asked, answer in pairs if answer != WAITS)


@contextlib.asynccontextmanager
async def connected(url: str, auth: Any, wire: Wire | None = None, **options: Any) -> AsyncIterator[Client]:
    hooks = {"response": [] if wire is None else [wire]}
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, event_hooks=hooks) as http,
        Client(streamable_http_client(url, http_client=http), mode="2026-07-28", **options) as client,
    ):
        yield client


def test_a_call_waits_until_its_person_has_connected_the_account(tmp_path: Path) -> None:
    """After a no, and where the client declares no elicitation, the model reads the link."""
    with served(tmp_path) as world, world.task("ann") as task:
        ann, wire = Ann(world), Wire()

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
            async with connected(ann.url, task.auth("tracker"), wire, elicitation_callback=opens) as client:
                done: Any = await client.call_tool("get")
                assert (done.is_error, done.content[0].text) == (False, "done")
                await client.call_tool("get")
            await ann.finish()
            assert len(ann.links) == 1

        asyncio.run(run())
        assert {account for account, _ in world.tracker.seen} == {ann.account}
        assert wire.transcript() == TRANSCRIPT.read_text()
