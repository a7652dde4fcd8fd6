# SPDX-License-Identifier: Apache-2.0
"""What a guarded MCP server must do, called by the SDK's own client over stdio and streamable HTTP, in both eras.

A test file of a server sets ``SERVER`` and imports the tests.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from arx_verifier import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.mcp.messages import BUDGET_KEY, META_KEY, REFUSAL_KEY
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.caveats import Caveat, spend_caveats
from arx_verifier.token.macaroon import Macaroon
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_rules import RULES
from tests.servers import until

SERVER: Any = None  # the module with the server, set by the fixture of a test file
ROOT = Path(__file__).resolve().parents[2]
KEY = META_KEY
WAYS = [(transport, era) for transport in ("stdio", "http") for era in ("auto", "legacy")]
TOOLS = ["wait.long", "wait.blocking"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in the ways, and on the tools that run for long, of the file that imports it."""
    module: Any = metafunc.module
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", module.WAYS, ids="-".join)
    if "tool" in metafunc.fixturenames:
        metafunc.parametrize("tool", module.TOOLS)


class Opened(NamedTuple):
    """A connected client, the holder of a token for its server, and what kills the holder."""

    client: Client
    caller: UnsafeCaller
    kill: Callable[[], None]

    def meta(self, tool: str, /, **args: Any) -> Any:
        """The token of one call, as a message carries it."""
        return {KEY: self.caller.token(tool and f"orders.{tool}", **args)}

    async def call(self, tool: str, /, **args: Any) -> tuple[bool, str]:
        """Call a tool; whether it failed, and what the model reads."""
        result = await self.client.call_tool(tool, args, meta=self.meta(tool, **args))
        return bool(result.is_error), result.content[0].text  # type: ignore[union-attr]


@contextlib.asynccontextmanager
async def opened(way: tuple[str, str], folder: Path, ran: list[str] | None = None) -> AsyncIterator[Opened]:
    """Connect to a server: a process of its own over stdio, or one behind real HTTP."""
    transport, era = way
    if transport == "stdio":
        command = ["-m", SERVER.__name__, str(folder)]
        environment = {"PYTHONPATH": str(ROOT)}
        server = StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=environment)
        async with Client(server, mode=era) as client:
            pid, text = (folder / "token").read_text("ascii").split()
            caller = UnsafeCaller(Macaroon.parse(text), "orders")
            yield Opened(client, caller, lambda: os.kill(int(pid), signal.SIGUSR1))
        return
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES)
    with serving(SERVER.make_app(realm.verifier, [] if ran is None else ran)) as port:
        async with httpx2.AsyncClient(auth=caller, timeout=60) as http:
            over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(over, mode=era) as client:
                yield Opened(client, caller, lambda: realm.epochs.kill("agent:test/agent"))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_tool_runs_with_a_grant_or_not_at_all(way: tuple[str, str], tmp_path: Path) -> None:
    """What the token allows runs; the model reads why another call does not, with the id of the decision."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            assert await server.call("get", order_id="o-1") == (False, "o-1 is on its way")
            assert await server.call("refund", order_id="o-1", amount=20) == (False, "20 for o-1")
            assert await server.call("whoami") == (False, getattr(SERVER, "WHO", "test/agent"))
            failed, text = await server.call("refund", order_id="o-1", amount=50)
            assert failed
            assert text.startswith("refund was refused: amount must be at most 20, got 50. Do not repeat this call.")
            assert "(decision " in text
            failed, text = await server.call("drop", order_id="o-1")
            assert failed
            assert text.startswith("drop was refused: the tool must be orders.get or orders.refund or")

    run(test())


def test_lists_show_what_the_token_could_ever_allow(way: tuple[str, str], tmp_path: Path) -> None:
    """Of tools, resources, templates and prompts; no client and no proxy may share such a list."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            client, meta = server.client, lambda method: server.meta("", method=method)
            tools = await client.list_tools(meta=meta("tools/list"))
            names = ["get", "refund", "find", "whoami", "wait.long", "wait.blocking"]
            assert [tool.name for tool in tools.tools] in (names, names[:-1])
            resources = (await client.list_resources(meta=meta("resources/list"))).resources
            assert [str(each.uri) for each in resources] == ["orders://terms"]
            templates = await client.list_resource_templates(meta=meta("resources/templates/list"))
            assert [each.uri_template for each in templates.resource_templates] == ["orders://{order_id}"]
            prompts = (await client.list_prompts(meta=meta("prompts/list"))).prompts
            assert [prompt.name for prompt in prompts] == ["brief"]
            if way[1] == "auto":
                assert tools.cache_scope == "private"
                assert tools.ttl_ms <= 1000

    run(test())


@pytest.mark.spec("12.8")
@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_server_records_the_effects_of_named_tools(era: str) -> None:
    """Of a tool that answers, and of none that is not named."""
    realm = UnsafeTestRealm("orders")
    app = SERVER.make_app(realm.verifier, [], effects=["orders.refund"])

    async def test(port: int) -> None:
        async with httpx2.AsyncClient(auth=realm.caller(*RULES), timeout=60) as http:
            over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(over, mode=era) as client:
                for name, args in (("get", {"order_id": "o-1"}), ("refund", {"order_id": "o-1", "amount": 5})):
                    result = await client.call_tool(name, args)
                    assert not result.is_error, result

    with serving(app) as port:
        run(test(port))
    [record] = [each for each in realm.decisions.decisions if each.outcome == "effect"]
    [decision] = [each for each in realm.decisions.decisions if each.effect is not None and each.outcome == "allow"]
    assert record.effect is not None
    assert (record.effect.result, record.effect.of, decision.tool) == ("done", decision.id, "orders.refund")


@pytest.mark.spec("12.7")
@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_server_that_watches_lets_messages_go_on(era: str) -> None:
    """Without a token, and beyond a rule; lists are not filtered, and a kill holds."""
    realm, ran = UnsafeTestRealm("orders"), list[str]()
    soon = datetime.now(UTC) + timedelta(days=1)
    app = SERVER.make_app(realm.verifier, ran, mode="watch", until=soon)

    async def test(port: int, caller: UnsafeCaller | None) -> None:
        async with httpx2.AsyncClient(auth=caller, timeout=60) as http:
            over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(over, mode=era) as client:
                names = [tool.name for tool in (await client.list_tools()).tools]
                assert "drop" in names
                for name, args in (("get", {"order_id": "x-1"}), ("refund", {"order_id": "o-1", "amount": 50})):
                    result = await client.call_tool(name, args)
                    assert not result.is_error, result

    with serving(app) as port:
        caller = realm.caller(*RULES)
        run(test(port, caller))
        run(test(port, None))
        assert ran == ["get", "refund"] * 2
        realm.epochs.kill("agent:test/agent")
        with pytest.raises(BaseException):  # noqa: B017 - each SDK has its own for a session that is refused
            run(test(port, caller))
        assert ran == ["get", "refund"] * 2
    outcomes = {each.outcome for each in realm.decisions.decisions if not each.counts}
    assert "would_refuse" in outcomes
    assert any(each.watched for each in realm.decisions.decisions if each.counts)


@pytest.mark.spec("17.4")
def test_results_and_refusals_have_what_a_budget_has_left(way: tuple[str, str], tmp_path: Path) -> None:
    """In ``_meta``, of a refusal with pool, hop, remaining and required; nothing of a token without a budget."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            # Of the same holder: a gateway has a session for each.
            (pool,) = spend_caveats("small", {"calls": 2}, "task", time.time_ns() // 1_000_000)
            client, limited = server.client, UnsafeCaller(server.caller.macaroon.attenuate(pool), "orders")
            short = {"pool": "small", "hop": "test/agent", "unit": "calls", "remaining": "0", "required": "1"}

            def meta(tool: str, **args: Any) -> Any:
                return {KEY: limited.token(f"orders.{tool}", **args)}

            order, uri = {"order_id": "o-1"}, "orders://o-1"
            result = await client.call_tool("get", order, meta=meta("get", **order))
            assert (result.is_error, (result.meta or {}).get(BUDGET_KEY)) == (False, {"calls": "1"})
            read = await client.read_resource(uri, meta=meta("resources.read", uri=uri))
            assert (read.meta or {}).get(BUDGET_KEY) == {"calls": "0"}
            refused = await client.call_tool("get", order, meta=meta("get", **order))
            assert refused.is_error
            found = (refused.meta or {})[REFUSAL_KEY]
            assert (found["code"], found["retry"], found["budget"]) == ("budget_exhausted", "no", short)
            assert found["decision"] in refused.content[0].text  # type: ignore[union-attr]
            with pytest.raises(MCPError) as error:
                await client.read_resource(uri, meta=meta("resources.read", uri=uri))
            assert error.value.error.data["budget"] == short
            plain = await client.call_tool("get", order, meta=server.meta("get", **order))
            assert BUDGET_KEY not in (plain.meta or {})

    run(test())


@pytest.mark.spec("21.4", "19.1")
def test_a_call_after_a_mark_is_refused(way: tuple[str, str], tmp_path: Path) -> None:
    """The model reads the mark, and which call set it."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            order = {"order_id": "o-1", "amount": 2}
            rows = Caveat(
                marks=(("call", "seen", "session", ("orders.get",)),),
                after=((("seen",), ("orders.refund",)),),
                opened=time.time_ns() // 1_000_000,
            )
            holder = UnsafeCaller(server.caller.macaroon.attenuate(rows), "orders")

            async def call(caller: UnsafeCaller, tool: str, **args: Any) -> Any:
                token = caller.token(f"orders.{tool}", **args)
                return await server.client.call_tool(tool, args, meta={KEY: token})

            assert not (await call(holder, "refund", **order)).is_error
            assert not (await call(holder, "get", order_id="o-1")).is_error
            refused = await call(holder, "refund", **order)
            assert refused.is_error
            assert (refused.meta or {})[REFUSAL_KEY]["code"] == "after_mark"
            text = refused.content[0].text
            began = "refund was refused: the session must not have seen, got seen by orders.get at orders, 20"
            assert text.startswith(began)
            assert "Do not repeat this call." in text
            assert not (await call(server.caller, "refund", **order)).is_error  # whose token has no row

    run(test())


def test_resources_and_prompts_are_tools_of_the_policy(way: tuple[str, str], tmp_path: Path) -> None:
    """``resources.read`` with its URI and ``prompts.get`` with its name; refusals are protocol errors."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            for uri, answer in [("orders://o-1", "order o-1"), ("orders://terms", "thirty days")]:
                read = await server.client.read_resource(uri, meta=server.meta("resources.read", uri=uri))
                assert read.contents[0].text == answer  # type: ignore[union-attr]
            about = {"order_id": "o-1"}
            got = await server.client.get_prompt(
                "brief", about, meta=server.meta("prompts.get", name="brief", arguments=about)
            )
            assert got.messages[0].content.text == "Describe o-1"  # type: ignore[union-attr]
            for uri, code in [("orders://secret", "argument_not_allowed"), ("orders://%6f-1", "malformed_request")]:
                with pytest.raises(MCPError) as refused:
                    await server.client.read_resource(uri, meta=server.meta("resources.read", uri=uri))
                assert refused.value.error.data["code"] == code
            with pytest.raises(MCPError) as refused:
                await server.client.get_prompt("hidden", meta=server.meta("prompts.get", name="hidden"))
            assert refused.value.error.data["code"] == "argument_not_allowed"
            assert "decision" in refused.value.error.data

    run(test())


def test_a_failed_identity_is_a_protocol_error(way: tuple[str, str], tmp_path: Path) -> None:
    """A token of another call, one that was used, one of no key, and one that carries no proof: none is for a model."""

    async def test() -> None:
        async with opened(way, tmp_path) as server:
            args = {"order_id": "o-1"}
            used = server.meta("get", **args)
            await server.client.call_tool("get", args, meta=used)
            stranger = UnsafeTestRealm("orders").caller(*RULES)
            for meta, code in [
                (used, "replayed"),
                (server.meta("get", order_id="o-2"), "proof_invalid"),
                (server.meta("", method="tools/list"), "proof_invalid"),
                ({KEY: stranger.token("orders.get", **args)}, "bad_signature"),
                ({KEY: server.caller.macaroon.encode()}, "proof_missing"),
                ({KEY: "arx1_junk"}, "malformed"),
                ({KEY: {"a": 1}}, "malformed"),
            ]:
                with pytest.raises(MCPError) as refused:
                    await server.client.call_tool("get", args, meta=meta)
                assert (refused.value.code, refused.value.error.data["code"]) == (-32010, code)
            for meta, code in [
                (server.meta("get", **args), "proof_invalid"),
                ({KEY: stranger.token("", method="tools/list")}, "bad_signature"),
                ({KEY: server.caller.macaroon.encode()}, "proof_missing"),
                ({KEY: 7}, "malformed"),
            ]:
                with pytest.raises(MCPError) as refused:
                    await server.client.list_tools(meta=meta)
                assert refused.value.error.data["code"] == code

    run(test())


def test_a_kill_ends_a_running_tool(way: tuple[str, str], tool: str, tmp_path: Path) -> None:
    """The model reads that it has to stop, at once and for each later call; a list is refused as well."""

    async def test() -> None:
        ran: list[str] = []
        async with opened(way, tmp_path, ran) as server:
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(
                server.client.call_tool(tool, {}, progress_callback=progress, meta=server.meta(tool))
            )
            await begun.wait()
            server.kill()
            result = await call
            assert result.is_error
            assert "Stop now, call no other tool" in result.content[0].text  # type: ignore[union-attr]
            failed, text = await server.call("get", order_id="o-1")
            assert failed
            assert text.startswith("An operator ended this work")
            with pytest.raises(MCPError) as refused:
                await server.client.list_tools(meta=server.meta("", method="tools/list"))
            assert refused.value.error.data["code"] == "revoked"
        if way[0] == "http":
            assert ran[:1] == [tool]
            assert ran[1:] == (["cancelled"] if tool == "wait.long" else ["ended"])

    run(test())


def test_text_that_the_sdk_reads_as_json_does_not_reach_a_tool(way: tuple[str, str], tmp_path: Path) -> None:
    """The SDK turns the text ``null`` into no value where a tool takes one; the token's rule has judged a text."""

    async def test() -> None:
        ran: list[str] = []
        async with opened(way, tmp_path, ran) as server:
            assert await server.call("find", note="blue") == (False, "orders with 'blue'")
            failed, text = await server.call("find", note="null")
            assert failed
            assert "'note' is JSON in a text" in text
            assert ran in ([], ["find"])

    run(test())


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_over_http_the_header_of_any_client_counts(era: str, tmp_path: Path) -> None:
    """A client that signs its HTTP requests needs nothing else: lists are filtered, calls are judged by their body."""

    async def test() -> None:
        async with opened(("http", era), tmp_path) as server:
            names = [tool.name for tool in (await server.client.list_tools()).tools]
            assert "get" in names
            assert "drop" not in names
            result = await server.client.call_tool("get", {"order_id": "o-1"})
            assert not result.is_error
            result = await server.client.call_tool("get", {"order_id": "o-2"})
            assert "order_id must be" in result.content[0].text  # type: ignore[union-attr]

    run(test())


ENVELOPE = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


def call_of(order_id: str) -> dict[str, Any]:
    params = {"name": "get", "arguments": {"order_id": order_id}, "_meta": ENVELOPE}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def test_a_signed_http_request_is_accepted_once_and_for_its_body() -> None:
    """The same request again is a replay, and its header on another body is no proof; without one nothing passes."""
    realm = UnsafeTestRealm("orders")
    caller, ran = realm.caller(*RULES), []
    with serving(SERVER.make_app(realm.verifier, ran)) as port, httpx2.Client(timeout=60) as http:
        base = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": "get",
        }
        url = f"http://127.0.0.1:{port}/mcp"

        def code(order_id: str, headers: dict[str, str]) -> str:
            answer = http.post(url, json=call_of(order_id), headers=base | headers).json()
            return str(answer["error"]["data"]["code"]) if "error" in answer else str(answer["result"]["content"])

        signed = caller(http.build_request("POST", url, json=call_of("o-1"), headers=base)).headers["authorization"]
        assert "o-1 is on its way" in code("o-1", {"authorization": signed})
        assert code("o-1", {"authorization": signed}) == "replayed"
        signed = caller(http.build_request("POST", url, json=call_of("o-2"), headers=base)).headers["authorization"]
        assert code("o-1", {"authorization": signed}) == "proof_invalid"
        assert code("o-1", {}) == "missing_token"
        assert code("o-1", {"authorization": "Basic YTpi"}) == "missing_token"
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
        initialize["params"] = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }  # type: ignore[assignment]
        answer = http.post(url, json=initialize, headers={"accept": base["accept"]})
        assert '"missing_token"' in answer.text
    assert ran == ["get"]


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_method_that_is_not_known_is_refused(era: str, tmp_path: Path) -> None:
    """With any token: only the methods of the specification have a meaning."""

    async def test() -> None:
        async with opened(("stdio", era), tmp_path) as server:
            with pytest.raises(MCPError) as refused:
                await server.client.session._dispatcher.send_raw_request(  # the client has no method for it
                    "orders/purge", {"_meta": ENVELOPE | server.meta("orders.purge")} if era == "auto" else {}
                )
            assert refused.value.error.data["code"] == "malformed_request"

    run(test())


@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_through_a_pipe_the_session_needs_no_token_and_shows_nothing(era: str, tmp_path: Path) -> None:
    """A client of the SDK opens a session and lists tools by itself, where it can carry none."""

    async def test() -> None:
        async with opened(("stdio", era), tmp_path) as server:
            assert (await server.client.list_tools()).tools == []
            assert (await server.client.list_resources()).resources == []
            with pytest.raises(MCPError) as refused:
                await server.client.call_tool("get", {"order_id": "o-1"})
            assert refused.value.error.data["code"] == "missing_token"

    run(test())


def test_the_verifier_lives_as_long_as_the_server() -> None:
    """The server's lifespan starts it and closes it."""
    realm = UnsafeTestRealm("orders")
    with serving(SERVER.make_app(realm.verifier, [])):
        assert realm.verifier.readiness().ready
    assert realm.verifier.readiness().why == "closed"


def test_notifications_of_the_specification_pass_and_others_are_dropped() -> None:
    """None of them has a token; 2026-07-28 has none from a client."""
    realm = UnsafeTestRealm("orders")
    came: list[str] = []
    known = asyncio.Event()

    async def record(context: Any, call_next: Any) -> Any:
        came.append(context.method)
        if context.method == "notifications/roots/list_changed":
            known.set()
        return await call_next(context)

    async def test(port: int) -> None:
        async with httpx2.AsyncClient(auth=realm.caller(*RULES)) as http:
            over = streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)
            async with Client(over, mode="legacy") as client:
                for method in ("notifications/orders/purge", "notifications/roots/list_changed"):
                    await client.session._dispatcher.notify(method, {})  # the client has no method for it
                await asyncio.to_thread(until, known.is_set)

    with serving(SERVER.make_app(realm.verifier, [], record)) as port:
        run(test(port))
    assert "notifications/orders/purge" not in came


def test_a_token_is_not_passed_on_by_another_guard() -> None:
    """``ArxMiddleware`` around the application takes the token from the header: the guard inside finds none."""
    realm = UnsafeTestRealm("orders")
    caller, ran = realm.caller(*RULES, Rule(tool="orders.mcp", open=True)), []
    inside = SERVER.make_app(realm.verifier, ran)
    url, headers = "http://127.0.0.1:{}/mcp", {"accept": "application/json, text/event-stream"}
    headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "get"}
    with (
        serving(ArxMiddleware(inside, verifier=realm.verifier, tools={"POST /mcp": "orders.mcp"})) as port,
        httpx2.Client(auth=caller) as http,
    ):
        answer = http.post(url.format(port), json=call_of("o-1"), headers=headers).json()
        assert answer["error"]["data"]["code"] == "missing_token"
    assert ran == []
