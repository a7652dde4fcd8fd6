# SPDX-License-Identifier: Apache-2.0
"""A client of the ``mcp`` SDK 2 with a task of a real mint, against a guarded server over stdio and HTTP."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError, StdioServerParameters
from mcp.server import MCPServer
from mcp_types import HEADER_MISMATCH

from arx_caps.agent import Agent, Approval, Task
from arx_caps.integrations.mcp import Client
from arx_verifier import AttenuationError, open_verifier
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_realm import TOKEN, Shop, open_shop, page_names
from tests.adapters.mcp_server import make_app

everywhere = pytest.mark.parametrize("way", ["stdio", "http"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_shop(tmp_path_factory.mktemp("shop"), "mcp.md", "MCPServer(") as shop:
        yield shop


@contextlib.contextmanager
def waiting_server(shop: Shop, ran: list[str], *inner: Any) -> Iterator[str]:
    """The tests' own server, with tools that wait, behind HTTP."""
    with serving(make_app(open_verifier(shop.service_file), ran, *inner), shop.port):
        yield shop.url


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(test)


def text_of(result: Any) -> str:
    return str(result.content[0].text)


@everywhere
def test_the_page(shop: Shop, way: str) -> None:
    """The page's client calls the page's server with a task of the page's policy."""
    example = page_names("mcp.md", "integrations.mcp import Client")
    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        offered, failed, text = run(example["work"](task, server))
        assert (offered, failed, text) == (["get", "refund"], False, "15 refunded for o-1")


@everywhere
def test_a_sub_agent_gets_less_and_the_model_reads_what(shop: Shop, way: str) -> None:
    """Its allowed call passes in its own name; another one is refused here, and by a server that is asked at once."""

    async def test(worker: Task, server: Any) -> None:
        async with Client(server, task=worker) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["get"]
            assert text_of(await client.call_tool("get", {"order_id": "o-1"})) == "o-1 is on its way, acme/worker"
            for send, recorded in ((client.call_tool, False), (client.session.call_tool, True)):
                refused: Any = await send("get", {"order_id": "o-2"})
                assert refused.is_error
                assert text_of(refused).startswith('get was refused: order_id must be "o-1", got "o-2". Do not repeat')
                assert ("(decision " in text_of(refused)) is recorded
            refused = await client.call_tool("refund", {"order_id": "o-1", "amount": 15})
            assert text_of(refused).startswith("refund was refused: the tool must be orders.get")
            with pytest.raises(MCPError) as no:
                await client.read_resource("orders://terms")
            assert no.value.error.data == {"code": "tool_not_allowed"}

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        run(test(task.delegate("acme/worker", tools=["orders.get"]), server))


@everywhere
def test_a_resource_is_read_with_the_task(shop: Shop, way: str) -> None:
    async def test(task: Task, server: Any) -> None:
        async with Client(server, task=task) as client:
            assert [str(each.uri) for each in (await client.list_resources()).resources] == ["orders://terms"]
            read: Any = await client.read_resource("orders://terms")
            assert "thirty days" in read.contents[0].text

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        run(test(task, server))


def test_a_kill_ends_the_running_tool_and_the_run(shop: Shop) -> None:
    """The mint's kill reaches the server's verifier; the model reads that it has to stop."""
    ran: list[str] = []

    async def test(task: Task, url: str) -> None:
        async with Client(url, task=task) as client:
            begun = asyncio.Event()

            async def progress(*_: object) -> None:
                begun.set()

            call = asyncio.ensure_future(client.call_tool("wait.long", {}, progress_callback=progress))
            await begun.wait()
            await asyncio.to_thread(shop.kill, f"task:{task.id}")
            for result in (await call, await client.call_tool("whoami", {})):
                assert result.is_error
                assert "Stop now, call no other tool" in text_of(result)

    with shop.task("waiting", agent="acme/ended") as task, waiting_server(shop, ran) as url:
        run(test(task, url))
    assert ran == ["wait.long", "cancelled"]


def test_runs_beside_each_other_never_mix_their_tokens(shop: Shop) -> None:
    """Calls of three holders at once: each is made in the name of its own."""

    async def test(tasks: list[Task], url: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(url, task=task)) for task in tasks]
            calls = [client.call_tool("whoami", {}) for _ in range(5) for client in clients]
            answers = [text_of(answer) for answer in await asyncio.gather(*calls)]
            assert answers == [task.holder for task in tasks] * 5

    with shop.task("waiting", agent="acme/mixed") as task, waiting_server(shop, []) as url:
        run(test([task, task.delegate("acme/one"), task.delegate("acme/two")], url))


def test_a_retry_of_the_sdk_signs_anew(shop: Shop) -> None:
    """The SDK sends a call again after a header mismatch: its first token is used, so the second has another."""
    answered: list[str] = []

    async def mismatch_once(ctx: Any, call_next: Any) -> Any:
        if ctx.method == "tools/call" and not answered:
            answered.append("mismatch")
            raise MCPError(code=HEADER_MISMATCH, message="list the tools again")
        return await call_next(ctx)

    async def test(task: Task, url: str) -> None:
        async with Client(url, task=task) as client:
            assert text_of(await client.call_tool("whoami", {})) == task.holder

    with shop.task("waiting", agent="acme/retrying") as task, waiting_server(shop, [], mismatch_once) as url:
        run(test(task, url))
    assert answered == ["mismatch"]


def test_a_token_goes_to_its_own_server_alone(shop: Shop) -> None:
    """Another origin, a task of several audiences without a URL, and a server in this process are refused at once."""
    with shop.task("both", agent="acme/both") as task:
        assert Client(shop.url, task=task).audience is None
        with pytest.raises(AttenuationError, match=r"origin http://127\.0\.0\.1:9 belongs to no audience"):
            Client("http://127.0.0.1:9/mcp", task=task)
        with pytest.raises(AttenuationError, match="belongs to no audience"):
            Client(shop.url, task=task, audience="payments")
        with pytest.raises(AttenuationError, match="expected one of orders, payments"):
            Client(StdioServerParameters(command="true"), task=task)
        with pytest.raises(AttenuationError, match=r"no token for .stores"):
            Client(StdioServerParameters(command="true"), task=task, audience="stores")
        with pytest.raises(TypeError, match="got an object of a server"):
            Client(MCPServer("orders"), task=task, audience="orders")


@everywhere
def test_no_log_and_no_answer_has_a_token(shop: Shop, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Everything is logged, calls pass, are refused here and there, and fail: no text has a token or a key."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    async def test(task: Task, server: Any) -> None:
        async with Client(server, task=task) as client:
            seen.append(repr(client))
            seen.append(repr(await client.list_tools()))
            seen.append(repr(await client.call_tool("get", {"order_id": "o-1"})))
            seen.append(repr(await client.call_tool("get", {"order_id": "o-2"})))
            seen.append(repr(await client.session.call_tool("get", {"order_id": "o-2"})))
            with pytest.raises(MCPError) as refused:
                await client.session.read_resource("orders://other")
            seen.extend([repr(refused.value), str(refused.getrepr())])

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way) as server:
        secrets = [*task.tokens.values(), task.encode()]
        run(test(task, server))
    logs = "\n".join([*caplog.messages, caplog.text, *seen])
    assert "tools/call" in logs or way == "stdio"
    assert TOKEN.search(logs) is None
    assert not [secret for secret in secrets if secret[-40:] in logs]


def test_an_approval_suspends_a_call_and_outlives_the_process(shop: Shop, tmp_path: Path) -> None:
    """The model reads that an operator must approve; the next process resumes the call, once and unchanged."""
    key, args = shop.mint.enrol("acme/night"), {"order_id": "o-1", "amount": 15}

    async def refund(task: Task, url: str, amount: int, *approvals: Approval) -> Any:
        async with Client(url, task=task) as client:
            if approvals:
                return await client.call_tool("refund", args | {"amount": amount}, approvals=approvals)
            return await client.session.call_tool("refund", args | {"amount": amount})  # asked of the server at once

    with shop.served("http") as url:
        with Agent.from_key_file(key) as first:
            session = first.open_session()
            task = session.start_task("approved")
            refused = run(refund(task, url, 15))
            assert refused.is_error
            assert "before an operator has approved it" in text_of(refused)
            asked = task.ask_approval("orders.refund", args).id
            session.save(tmp_path / "session.json")
            task.save(tmp_path / "task")
        shop.mint.operator("POST", "/v1/approvals", body={"approval": asked, "outcome": "approve", "why": None})
        with (
            Agent.from_key_file(key) as second,
            second.resume_session(tmp_path / "session.json") as session,
            session.resume_task(tmp_path / "task") as task,
        ):
            approval = session.approval(asked).wait(timeout_s=30)
            changed = run(refund(task, url, 16, approval))
            assert changed.is_error
            assert "amount" in text_of(changed)
            assert text_of(run(refund(task, url, 15, approval))) == "15 refunded for o-1"
            again = run(refund(task, url, 15, approval))
            assert again.is_error
            assert "must be used for one call only" in text_of(again)
