# SPDX-License-Identifier: Apache-2.0
"""A guarded MCP server of the SDK 1.30, called by the SDK's own client over stdio and streamable HTTP."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from mcp import ClientSession, McpError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ClientRequest,
    GetPromptRequest,
    GetPromptRequestParams,
    GetPromptResult,
    PaginatedRequestParams,
    ReadResourceRequest,
    ReadResourceRequestParams,
    ReadResourceResult,
)
from pydantic import AnyUrl

from arx_verifier.enforcement.mcp.messages import BUDGET_KEY, META_KEY, REFUSAL_KEY
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_rules import RULES
from tests.adapters.mcp_v1_server import make_app

ROOT = Path(__file__).resolve().parents[2]
everywhere = pytest.mark.parametrize("way", ["stdio", "http"])


class Opened(NamedTuple):
    """An initialized session, the holder of a token for its server, and what kills the holder."""

    session: ClientSession
    caller: UnsafeCaller
    kill: Callable[[], None]

    def meta(self, tool: str, /, **args: Any) -> Any:
        """The token of one call, as a message carries it."""
        return {META_KEY: self.caller.token(tool and f"orders.{tool}", **args)}

    async def send(self, tool: str, args: dict[str, Any], meta: Any) -> CallToolResult:
        """Call a tool with this ``_meta``."""
        params = CallToolRequestParams(name=tool, arguments=args, _meta=meta)
        request = ClientRequest(CallToolRequest(method="tools/call", params=params))
        return await self.session.send_request(request, CallToolResult)

    async def call(self, tool: str, /, **args: Any) -> tuple[bool, str]:
        """Call a tool; whether it failed, and what the model reads."""
        result = await self.send(tool, args, self.meta(tool, **args))
        return bool(result.isError), result.content[0].text  # type: ignore[union-attr]

    async def read(self, uri: str) -> str:
        """Read a resource."""
        params = ReadResourceRequestParams(uri=AnyUrl(uri), _meta=self.meta("resources.read", uri=uri))
        request = ClientRequest(ReadResourceRequest(method="resources/read", params=params))
        return (await self.session.send_request(request, ReadResourceResult)).contents[0].text  # type: ignore[union-attr]

    async def prompt(self, name: str, **about: str) -> str:
        """Get a prompt."""
        args: dict[str, Any] = {"name": name, "arguments": about} if about else {"name": name}
        params = GetPromptRequestParams(**args, _meta=self.meta("prompts.get", **args))
        request = ClientRequest(GetPromptRequest(method="prompts/get", params=params))
        return (await self.session.send_request(request, GetPromptResult)).messages[0].content.text  # type: ignore[union-attr]


@contextlib.asynccontextmanager
async def opened(way: str, folder: Path, ran: list[str] | None = None) -> AsyncIterator[Opened]:
    """Connect to a server: a process of its own over stdio, or one behind real HTTP."""
    if way == "stdio":
        command = ["-m", "tests.adapters.mcp_v1_server", str(folder)]
        server = StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            pid, text = (folder / "token").read_text("ascii").split()
            caller = UnsafeCaller(Macaroon.parse(text), "orders")
            yield Opened(session, caller, lambda: os.kill(int(pid), signal.SIGUSR1))
        return
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES)
    with serving(make_app(realm.verifier, [] if ran is None else ran)) as port:
        async with (
            httpx.AsyncClient(auth=caller) as http,
            streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            yield Opened(session, caller, lambda: realm.epochs.kill("agent:test/agent"))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


@everywhere
def test_a_tool_runs_with_a_grant_or_not_at_all(way: str, tmp_path: Path) -> None:
    """What the token allows runs; the model reads why another call does not, with the id of the decision."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            assert await server.call("get", order_id="o-1") == (False, "o-1 is on its way")
            assert await server.call("refund", order_id="o-1", amount=20) == (False, "20 for o-1")
            assert await server.call("whoami") == (False, "test/agent")
            failed, text = await server.call("refund", order_id="o-1", amount=50)
            assert failed
            assert text.startswith("refund was refused: amount must be at most 20, got 50. Do not repeat this call.")
            assert "(decision " in text
            failed, text = await server.call("drop", order_id="o-1")
            assert failed
            assert text.startswith("drop was refused: the tool must be orders.get or")
            failed, text = await server.call("find", note="null")
            assert failed
            assert "'note' is JSON in a text" in text

    run(test())


@everywhere
def test_lists_show_what_the_token_could_ever_allow(way: str, tmp_path: Path) -> None:
    """Of tools, resources, templates and prompts; through a pipe, a list without a token is empty."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            session = server.session

            def params(method: str) -> PaginatedRequestParams:
                return PaginatedRequestParams(_meta=server.meta("", method=method))

            tools = (await session.list_tools(params=params("tools/list"))).tools
            assert [tool.name for tool in tools] == ["get", "refund", "find", "whoami", "wait.long"]
            resources = (await session.list_resources(params=params("resources/list"))).resources
            assert [str(each.uri) for each in resources] == ["orders://terms"]
            templates = await session.list_resource_templates(params=params("resources/templates/list"))
            assert [each.uriTemplate for each in templates.resourceTemplates] == ["orders://{order_id}"]
            prompts = (await session.list_prompts(params=params("prompts/list"))).prompts
            assert [prompt.name for prompt in prompts] == ["brief"]
            unsigned = [tool.name for tool in (await session.list_tools()).tools]
            assert unsigned == ([] if way == "stdio" else [tool.name for tool in tools])  # over HTTP the header counts

    run(test())


@everywhere
def test_resources_and_prompts_are_tools_of_the_policy(way: str, tmp_path: Path) -> None:
    """``resources.read`` with its URI and ``prompts.get`` with its name; refusals are protocol errors."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            assert [await server.read(f"orders://{name}") for name in ("o-1", "terms")] == ["order o-1", "thirty days"]
            assert await server.prompt("brief", order_id="o-1") == "Describe o-1"
            for refused in (server.read("orders://secret"), server.prompt("hidden")):
                with pytest.raises(McpError) as no:
                    await refused
                assert no.value.error.data["code"] == "argument_not_allowed"

    run(test())


@everywhere
def test_a_failed_identity_is_a_protocol_error(way: str, tmp_path: Path) -> None:
    """A token of another call, one that was used, one of no key, and one that carries no proof: none is for a model."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            args = {"order_id": "o-1"}
            used = server.meta("get", **args)
            await server.send("get", args, used)
            for meta, code in [
                (used, "replayed"),
                (server.meta("get", order_id="o-2"), "proof_invalid"),
                ({META_KEY: UnsafeTestRealm("orders").caller(*RULES).token("orders.get", **args)}, "bad_signature"),
                ({META_KEY: server.caller.macaroon.encode()}, "proof_missing"),
                ({META_KEY: {"a": 1}}, "malformed"),
            ]:
                with pytest.raises(McpError) as refused:
                    await server.send("get", args, meta)
                assert (refused.value.error.code, refused.value.error.data["code"]) == (-32010, code)

    run(test())


@everywhere
def test_a_kill_ends_a_running_tool(way: str, tmp_path: Path) -> None:
    """The model reads that it has to stop, at once and for each later call."""

    async def test() -> None:
        ran: list[str] = []
        async with opened(way, tmp_path, ran) as server:
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(
                server.session.call_tool("wait.long", {}, progress_callback=progress, meta=server.meta("wait.long"))
            )
            await begun.wait()
            server.kill()
            result = await call
            assert result.isError
            assert "Stop now, call no other tool" in result.content[0].text  # type: ignore[union-attr]
            failed, text = await server.call("get", order_id="o-1")
            assert failed
            assert text.startswith("An operator ended this work")
        assert ran == ([] if way == "stdio" else ["wait.long", "cancelled"])

    run(test())


@pytest.mark.spec("17.4")
@everywhere
def test_results_and_refusals_have_what_a_budget_has_left(way: str, tmp_path: Path) -> None:
    """
    In ``_meta``, of a refusal with pool, hop, remaining and required.
    """

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            worker, order = server.caller.delegate("orders/worker", budget={"calls": 1}), {"order_id": "o-1"}
            allowed, refused = [
                await server.send("get", order, {META_KEY: worker.token("orders.get", **order)}) for _ in range(2)
            ]
            assert (allowed.isError, (allowed.meta or {}).get(BUDGET_KEY)) == (False, {"calls": "0"})
            assert (refused.meta or {})[REFUSAL_KEY]["budget"] == {
                "pool": "worker",
                "hop": "orders/worker",
                "unit": "calls",
                "remaining": "0",
                "required": "1",
            }

    run(test())


@pytest.mark.spec("21.4", "19.1")
@everywhere
def test_a_call_after_what_another_has_read_is_refused(way: str, tmp_path: Path) -> None:
    """
    A holder above and one below it share the session; the model reads the mark, and which call set it.
    """

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            order = {"order_id": "o-1", "amount": 2}
            rows = Caveat(
                marks=(("call", "seen", "session", ("orders.get",)),),
                after=((("seen",), ("orders.refund",)),),
                opened=time.time_ns() // 1_000_000,
            )
            holder = UnsafeCaller(server.caller.macaroon.attenuate(rows), "orders")
            helper = holder.delegate("test/helper")
            token = holder.token("orders.refund", **order)
            assert not (await server.send("refund", order, {META_KEY: token})).isError
            got = {"order_id": "o-1"}
            assert not (await server.send("get", got, {META_KEY: helper.token("orders.get", **got)})).isError
            refused = await server.send("refund", order, {META_KEY: holder.token("orders.refund", **order)})
            assert (refused.meta or {})[REFUSAL_KEY]["code"] == "after_mark"
            text: Any = refused.content[0]
            assert text.text.startswith("refund was refused: the session must not have seen, got seen by orders.get")

    run(test())
