# SPDX-License-Identifier: Apache-2.0
"""What an MCP client with a task must do, against guarded servers over stdio and HTTP, with a real mint.

A test file of a client sets the names in capitals, has the fixture ``shop`` and imports the tests.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from arx_caps.agent import Agent, Approval, SubAgent, Task, ToolCalls, current_task
from arx_caps.mint.api.app import create_app
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.adapters.agent_world import at_its_loudest, secrets_in
from tests.adapters.asgi_server import serving
from tests.adapters.mcp_realm import Shop
from tests.adapters.mcp_rules import hear_all
from tests.agent.live import LiveMint
from tests.agent.live import serving as serving_mint
from tests.agent.test_kept_task import AGENT, HOUR, MINUTE, Clock, Night, realm_in
from tests.mint.harness import local_mint
from tests.servers import free_ports

everywhere = pytest.mark.parametrize("way", ["stdio", "http"])
Elicit = Callable[[str, str], Awaitable[str]]  # the text and the approval's id, to the user's action


class Answer(NamedTuple):
    """What a client returned for a call of a tool."""

    failed: bool
    text: str
    meta: dict[str, Any]


class Connected(Protocol):
    """A connected client of some SDK."""

    async def offered(self) -> list[str]: ...

    async def call(
        self, name: str, args: Any = None, *, approvals: list[Approval] = ..., begun: asyncio.Event | None = None
    ) -> Answer: ...

    async def asked(self, name: str, args: Any) -> Answer:
        """Call without a check before: the server refuses."""

    async def read(self, uri: str) -> str: ...


# Set by the fixture of a test file.
CLIENT: Any = None  # returns a context manager, whose value is `Connected`, for a task, a server and an `Elicit`
REFUSED: Any = None  # what refuses a resource; its `error.data` has the code
SERVER: Any = None  # the module with the tests' own server
MAKE_APP = "streamable_http_app"


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(test)


@everywhere
def test_a_sub_agent_gets_less_and_the_model_reads_what(shop: Shop, way: str) -> None:
    """Its allowed call passes in its own name; another one is refused here, and by a server that is asked at once."""

    async def test(worker: Task, server: Any) -> None:
        async with CLIENT(worker, server) as client:
            assert await client.offered() == ["get"]
            assert (await client.call("get", {"order_id": "o-1"}))[:2] == (False, "o-1 is on its way, acme/worker")
            for send, recorded in ((client.call, False), (client.asked, True)):
                refused = await send("get", {"order_id": "o-2"})
                assert refused.failed
                assert refused.text.startswith('get was refused: order_id must be "o-1", got "o-2". Do not repeat')
                assert ("(decision " in refused.text) is recorded
            refused = await client.call("refund", {"order_id": "o-1", "amount": 15})
            assert refused.failed
            assert refused.text.startswith("refund was refused: the tool must be orders.get")
            with pytest.raises(REFUSED) as no:
                await client.read("orders://terms")
            assert no.value.error.data == {"code": "tool_not_allowed"}

    with shop.task("refund", order_id="o-1", amount=20) as task, shop.served(way, MAKE_APP) as server:
        run(test(task.delegate("acme/worker", tools=["orders.get"]), server))


@everywhere
def test_a_kill_ends_the_running_tool_and_the_run(shop: Shop, way: str) -> None:
    """The mint's kill reaches the server's verifier; the model reads that it has to stop."""
    ran: list[str] = []

    async def test(task: Task, server: Any) -> None:
        async with CLIENT(task, server) as client:
            begun = asyncio.Event()
            call = asyncio.ensure_future(client.call("wait.long", begun=begun))
            await begun.wait()
            await asyncio.to_thread(shop.kill, f"task:{task.id}")
            for answer in (await call, await client.call("whoami")):
                assert answer.failed
                assert "Stop now, call no other tool" in answer.text

    with shop.task("waiting", agent="acme/ended") as task, shop.serving(way, SERVER, ran) as server:
        run(test(task, server))
    assert ran == ([] if way == "stdio" else ["wait.long", "cancelled"])


@everywhere
def test_an_approval_suspends_a_call_until_it_is_answered(shop: Shop, way: str) -> None:
    """The client's user is asked whether to wait; a denied call does not run; a sub-agent's call is approved alike."""
    answers = iter(["approve", "deny", "approve"])
    notices: list[str] = []

    async def elicit(text: str, approval: str) -> str:
        notices.append(text)
        assert approval in text
        await asyncio.to_thread(shop.answer, approval, next(answers))
        return "accept"

    async def test(task: Task, server: Any) -> None:
        async with CLIENT(task, server, elicit) as client:
            args = {"order_id": "o-1", "amount": 15}
            assert (await client.call("refund", args))[:2] == (False, "15 refunded for o-1")
            denied = await client.call("refund", args)
            assert denied.failed
            assert "denied" in denied.text
            beyond = await client.call("refund", args | {"amount": 101})
            assert "amount must be at most 100, got 101" in beyond.text
        async with CLIENT(current_task(), server, elicit) as client:
            assert (await client.call("refund", args))[:2] == (False, "15 refunded for o-1")

    with shop.task("approved", agent="acme/asking") as task, shop.served(way, MAKE_APP) as server:
        calls = ToolCalls(task, sub_agents={"ask": SubAgent("acme/worker", tools=["orders.refund"])})
        with calls.call("ask", {}):
            assert current_task() is not task
            run(test(task, server))
    assert len(notices) == 3


def test_a_suspended_call_outlives_the_process(shop: Shop, tmp_path: Path) -> None:
    """The next process takes the approval up by its id; it is for the call once and unchanged."""
    key = shop.mint.enrol(f"acme/night{len(shop.agents)}")
    args = {"order_id": "o-1", "amount": 15}

    async def suspend(text: str, approval: str) -> str:
        return "cancel"

    async def approve(text: str, approval: str) -> str:
        await asyncio.to_thread(shop.answer, approval)
        return "accept"

    async def refund(task: Task, url: str, elicit: Elicit | None, amount: int, *approvals: Approval) -> Answer:
        async with CLIENT(task, url, elicit) as client:
            return await client.call("refund", args | {"amount": amount}, approvals=list(approvals))

    with shop.served("http", MAKE_APP) as url:
        with Agent.from_key_file(key) as first:
            session = first.open_session()
            task = session.start_task("approved")
            unasked = run(refund(task, url, None, 15))
            assert "before an operator has approved it" in unasked.text
            suspended = run(refund(task, url, suspend, 15))
            assert suspended.failed
            asked = suspended.meta["dev.arx/approval"]
            assert suspended.text == (
                f"refund waits for an operator to approve it ({asked}). Do not repeat this call before that."
            )
            session.save(tmp_path / "session.json")
            task.save(tmp_path / "task")
        with (
            Agent.from_key_file(key) as second,
            second.resume_session(tmp_path / "session.json") as session,
            session.resume_task(tmp_path / "task") as task,
        ):
            approval = session.approval(asked)
            still = run(refund(task, url, suspend, 15, approval))
            assert still.meta["dev.arx/approval"] == asked
            changed = run(refund(task, url, approve, 16, approval))
            assert changed.failed
            assert "amount" in changed.text
            assert run(refund(task, url, None, 15, approval)).text == "15 refunded for o-1"
            again = run(refund(task, url, None, 15, approval))
            assert again.failed
            assert "must be used for one call only" in again.text


@everywhere
def test_runs_beside_each_other_never_mix_their_tokens(shop: Shop, way: str) -> None:
    """Calls of three holders at once: each is made in the name of its own."""

    async def test(tasks: list[Task], server: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(CLIENT(task, server)) for task in tasks]
            calls = [client.call("whoami") for _ in range(5) for client in clients]
            answers = [answer.text for answer in await asyncio.gather(*calls)]
            assert answers == [task.holder for task in tasks] * 5

    with shop.task("waiting", agent="acme/mixed") as task, shop.serving(way, SERVER, []) as server:
        run(test([task, task.delegate("acme/one"), task.delegate("acme/two")], server))


@everywhere
def test_a_call_that_is_made_again_is_signed_anew(shop: Shop, way: str) -> None:
    """The same call passes after its tool has failed: the token of the first attempt is used."""

    async def test(task: Task, server: Any) -> None:
        async with CLIENT(task, server) as client:
            failed = await client.call("flaky")
            assert failed.failed
            assert "refused" not in failed.text
            assert (await client.call("flaky"))[:2] == (False, "found")

    with shop.task("waiting", agent="acme/again") as task, shop.serving(way, SERVER, []) as server:
        run(test(task, server))


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Night]:
    """A mint, the tests' own server behind HTTP and an agent's session, with the test's clock."""
    clock = Clock(monkeypatch)
    port, service = free_ports(2)
    with contextlib.ExitStack() as stack:
        mint = stack.enter_context(contextlib.closing(local_mint(realm_in(tmp_path / "realm", port, service))))
        stack.enter_context(serving_mint(create_app(mint), port, lifespan="off"))  # or it would look for its store
        live = stack.enter_context(contextlib.closing(LiveMint(mint.realm, tmp_path)))
        file = live.service_file("orders")
        keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=file["realm"])
        verifier = Verifier(audience="orders", keys=keys, epochs=mint.epochs, decisions=InMemoryDecisions())
        stack.enter_context(serving(SERVER.make_app(verifier, []), service))
        agent = stack.enter_context(live.agent(AGENT))
        yield Night(clock, mint, live, agent.open_session(), f"http://127.0.0.1:{service}/mcp")


def test_a_client_stays_connected_through_a_run_of_hours(night: Night) -> None:
    """Its session is renewed and its task extended, until the session may live no longer."""
    task = night.start()

    async def test() -> None:
        async with CLIENT(task, night.url) as client:
            begun = task.expires_at
            for _ in range(8 * HOUR // (4 * MINUTE) - 1):
                answer = await client.call("get", {"order_id": "o-1"})
                assert answer[:2] == (False, "o-1 is on its way")
                await asyncio.to_thread(night.pass_time, 4 * MINUTE, task)
            assert task.expires_at > begun + 7 * HOUR
            night.pass_time(HOUR, task)
            ended = await client.call("get", {"order_id": "o-1"})
            assert ended.failed

    run(test())


@contextlib.contextmanager
def traced() -> Iterator[list[str]]:
    """Give the spans of SDKs that trace, as JSON; none of one that does not."""
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        yield []
        return
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, spans = trace.get_tracer_provider(), InMemorySpanExporter()
    if not isinstance(provider, TracerProvider):  # a process has one
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    found: list[str] = []
    yield found
    found += [span.to_json() for span in spans.get_finished_spans()]
    assert any("tools/call" in span for span in found)


@everywhere
def test_no_text_has_a_token(shop: Shop, way: str) -> None:
    """All is logged and traced; calls pass, are refused here and there, fail, wait for an operator, are killed."""
    seen: list[Any] = []

    async def suspend(text: str, approval: str) -> str:
        seen.append(text)
        return "cancel"

    async def test(task: Task, payout: Task, server: Any) -> None:
        async with CLIENT(payout, server, suspend) as client:
            seen.extend([repr(client), await client.call("refund", {"order_id": "o-1", "amount": 15})])
        async with CLIENT(task, server) as client:
            begun = asyncio.Event()
            seen.append(await client.offered())
            seen.append(handed := await client.call("handed"))
            assert "orders" in handed.text or "request_id" in handed.text
            seen.append(await client.call("get", {"order_id": "o-2"}))
            seen.append(await client.asked("get", {"order_id": "o-2"}))
            seen.append(await client.call("flaky"))
            for uri in ("orders://terms", "orders://%6f"):
                with pytest.raises(REFUSED) as refused:
                    await client.read(uri)
                seen.extend([repr(refused.value), str(refused.getrepr(showlocals=True))])
            call = asyncio.ensure_future(client.call("wait.long", begun=begun))
            await begun.wait()
            await asyncio.to_thread(shop.kill, f"task:{task.id}")
            seen.append(await call)

    hear_all()
    with (
        shop.task("waiting", agent="acme/canary") as task,
        shop.task("approved", agent="acme/canary") as payout,
        at_its_loudest() as log,
        traced() as spans,
        shop.serving(way, SERVER, []) as server,
    ):
        run(test(task, payout, server))
    written = shop.service_file.with_suffix(".log").read_text("utf-8") if way == "stdio" else ""
    texts = list(map(str, [*seen, *log.lines, *spans, written]))
    assert "mcp.server" in written or any(line.startswith("mcp.server") for line in log.lines)
    assert [text for text in texts if secrets_in(text)] == []
    secrets = [held.encode() for held in (task, payout)] + [*task.tokens.values(), *payout.tokens.values()]
    assert not [secret for secret in secrets if secret[-40:] in "".join(texts)]
