# SPDX-License-Identifier: Apache-2.0
"""An agent on an event loop, against a real mint: the loop goes on meanwhile, and a cancelled call leaves nothing."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from arx_caps.agent import Agent, ArxAuth, AsyncAgent, Workload
from arx_caps.agent.tasks.approval import FIRST_PAUSE_S
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.errors import AttenuationError, GrantError, RevokedError, SettingsError
from tests.agent.live import LiveMint, judged, live_mint
from tests.servers import free_ports

pytestmark = pytest.mark.servers

REFUND = {"order_id": "o-1", "amount": 20}
PATIENCE_S = 60


@pytest.fixture(scope="module")
def mint(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMint]:
    """One running mint for this file."""
    (port,) = free_ports(1)
    with live_mint(tmp_path_factory.mktemp("async"), store_url=valkey.url, name="async", port=port) as live:
        yield live


class Gate:
    """Holds each answer of the mint on its way to the agent, while it is shut."""

    def __init__(self) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        self._open.set()

    def __call__(self, response: httpx.Response) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE_S), "the event loop did not open the gate"

    async def arrived(self) -> None:
        """Wait until an answer is at the gate."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S), "no answer came"

    def shut(self) -> None:
        self._open.clear()
        self._reached.clear()

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def agent_of(mint: LiveMint, name: str, gate: Gate | None = None) -> AsyncIterator[AsyncAgent]:
    """An agent of this test alone, whose answers pass a gate."""
    key = KeyFile.load(mint.enrol(f"acme/support/{name}"))
    client = httpx.Client(event_hooks={"response": [gate] if gate else []})
    async with AsyncAgent(Agent(key, client=client)) as agent:
        yield agent


async def cancelled(gate: Gate, call: Awaitable[Any]) -> None:
    """Cancel a call whose answer is on its way, and let it arrive."""
    gate.shut()
    running = asyncio.ensure_future(call)
    await gate.arrived()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.open()


def test_a_run(mint: LiveMint) -> None:
    """Session, task, extension, attenuation and delegation: what the mint grants, a service accepts."""

    async def run() -> None:
        with mint.service("orders") as orders, mint.service("payments") as payments:
            async with agent_of(mint, "run") as agent:
                async with await agent.open_session(purpose="a refund") as session:
                    assert (session.session.purpose, session.id) == ("a refund", session.session.id)
                    async with await session.start_task("refund", order_id="o-1", amount=50) as task:
                        worker = task.delegate("acme/worker", args={"amount": {"max": 20}})
                        assert judged(payments, worker, "payments.refund", REFUND) == "ok"
                        assert isinstance(task.auth(), ArxAuth)
                        assert task.attenuate(tools=["orders.get"]).task.tools == ("orders.get",)
                        left = await task.attenuate_for_all(args={"amount": {"max": 30}})
                        assert judged(payments, worker, "payments.refund", REFUND) == "revoked"
                        more = await left.extend("look", order_id="o-2")
                        assert judged(orders, more.task, "orders.get", {"order_id": "o-2"}) == "ok"
                        with pytest.raises(GrantError, match="it would take"):
                            await left.extend(amount=500)
                    await session.renew()
                with pytest.raises(RevokedError):
                    await session.start_task("look", order_id="o-1")
            assert judged(orders, more.task, "orders.get", {"order_id": "o-2"}) == "revoked"

    asyncio.run(run())


def test_the_loop_goes_on(mint: LiveMint) -> None:
    """While the mint answers, other tasks run: one of them lets the answer through."""

    async def run() -> None:
        gate = Gate()
        async with agent_of(mint, "loop", gate) as agent:
            gate.shut()
            opening = asyncio.ensure_future(agent.open_session())
            await gate.arrived()
            gate.open()
            async with await opening as session:
                tasks = await asyncio.gather(*[session.start_task("look", order_id=f"o-{n}") for n in range(8)])
                assert len({task.id for task in tasks}) == 8

    asyncio.run(run())


def sessions_of(mint: LiveMint, agent: str) -> list[dict[str, Any]]:
    listed = mint.operator("GET", "/v1/sessions")["sessions"]
    return [session for session in listed if session["agent"] == f"acme/support/{agent}"]


@pytest.mark.spec("CONTROL 1")
def test_a_cancelled_session_is_ended(mint: LiveMint) -> None:
    """It was opened for a caller that is gone; closing the agent waits until it is ended."""

    async def run() -> None:
        gate = Gate()
        async with agent_of(mint, "gone", gate) as agent:
            await cancelled(gate, agent.open_session())

    asyncio.run(run())
    assert [session["state"] for session in sessions_of(mint, "gone")] == ["ended"]


@pytest.mark.spec("CONTROL 2.1")
def test_a_cancelled_task_is_finished(mint: LiveMint) -> None:
    """Whether the cancellation comes before its answer or with it; the session goes on."""

    async def run() -> None:
        gate = Gate()
        async with agent_of(mint, "half", gate) as agent, await agent.open_session() as session:
            await cancelled(gate, session.start_task("look", order_id="o-1"))
            await agent._threads.wait()
            starting = asyncio.ensure_future(session.start_task("look", order_id="o-2"))
            # Its thread has ended before the loop gives its result to the caller.
            await asyncio.sleep(0)
            (running,) = agent._threads._running
            running.add_done_callback(lambda _: starting.cancel())
            with pytest.raises(asyncio.CancelledError):
                await starting
            await agent._threads.wait()
            listed = mint.operator("GET", f"/v1/sessions/{session.id}")
            assert [task["state"] for task in listed["tasks"]] == ["ended"] * 2
            await session.start_task("look", order_id="o-1")

    asyncio.run(run())


@pytest.mark.spec("CONTROL 2.1")
def test_a_cancelled_end_is_done(mint: LiveMint) -> None:
    """A block that is cancelled, and cancelled again while it ends, ends its task and its session."""

    async def run() -> None:
        gate, entered = Gate(), asyncio.Event()

        async def work() -> None:
            async with await agent.open_session() as session, await session.start_task("look", order_id="o-1"):
                gate.shut()
                entered.set()
                await asyncio.Event().wait()

        async with agent_of(mint, "twice", gate) as agent:
            working = asyncio.ensure_future(work())
            await entered.wait()
            working.cancel()
            await gate.arrived()
            working.cancel()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await working

    asyncio.run(run())
    assert [session["state"] for session in sessions_of(mint, "twice")] == ["ended"]


@pytest.mark.spec("CONTROL 2.7")
def test_an_approval_is_waited_for(mint: LiveMint) -> None:
    """A cancelled wait may be begun again; the approval goes with the call, and only with its arguments."""

    async def run() -> None:
        async with agent_of(mint, "asks") as agent, await agent.open_session() as session:
            task = await session.start_task("payout", order_id="o-1")
            asked = await task.ask_approval("payments.refund", REFUND, why="charged twice")
            with pytest.raises(TimeoutError):
                await asked.wait(timeout_s=0)
            waiting = asyncio.ensure_future(asked.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await asked.look(), (await session.approval(asked.id)).id) == ("waiting", asked.id)
            body = {"approval": asked.id, "outcome": "approve", "why": None}
            answering = asyncio.get_running_loop().call_later(
                FIRST_PAUSE_S / 4, lambda: mint.operator("POST", "/v1/approvals", body=body)
            )
            approval = await asked.wait(timeout_s=PATIENCE_S)
            assert answering.when() < asyncio.get_running_loop().time()
            with mint.service("payments") as payments:
                assert judged(payments, task.task, "payments.refund", REFUND | {"amount": 21}, approval) != "ok"
                assert judged(payments, task.task, "payments.refund", REFUND, approval) == "ok"

    asyncio.run(run())


def test_a_restart(mint: LiveMint, tmp_path: Path) -> None:
    """Session and task are taken up again by another loop, and cancelled ones stay open for the next attempt."""
    files = tmp_path / "session", tmp_path / "task"
    key = mint.enrol("acme/support/again")

    async def first() -> None:
        async with AsyncAgent.from_key_file(key) as agent:
            session = await agent.open_session()
            await session.save(files[0])
            (await session.start_task("look", order_id="o-1")).task.save(files[1])

    async def second() -> str:
        async with AsyncAgent.from_key_file(key) as agent:
            resuming = asyncio.ensure_future(agent.resume_session(files[0]))
            await asyncio.sleep(0)
            resuming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await resuming
        async with (
            AsyncAgent.from_key_file(key) as agent,
            await agent.resume_session(files[0]) as session,
            await session.resume_task(files[1]) as task,
        ):
            return task.id

    asyncio.run(first())
    assert asyncio.run(second()).startswith("t-")


def test_what_it_shows_and_refuses(mint: LiveMint, tmp_path: Path) -> None:
    """Mistakes are the errors of the synchronous library, and nothing shows a secret."""

    async def run() -> str:
        async with agent_of(mint, "shown") as agent, await agent.open_session() as session:
            task = await session.start_task("look", order_id="o-1")
            with pytest.raises(AttenuationError):
                task.delegate("acme/worker", tools=["payments.refund"])
            with pytest.raises(AttenuationError, match="needs no approval"):
                await task.ask_approval("orders.get", {"order_id": "o-1"})
            shown = f"{agent!r} {session!r} {task!r}"
            assert session.session._token not in shown
            await task.finish()
            return shown

    assert "arx1_" not in asyncio.run(run())

    async def workload() -> None:
        async with AsyncAgent(Workload.from_token_file(tmp_path / "none", mint.realm.issuer)) as agent:
            with pytest.raises(SettingsError, match="No such file"):
                await agent.open_session()

    asyncio.run(workload())
    gc.collect()


def test_the_client_of_an_async_run_is_signed(mint: LiveMint) -> None:
    """``auth`` is that of the task, for asynchronous clients too."""
    seen: list[str] = []

    async def service(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["authorization"])
        return httpx2.Response(200)

    async def run() -> None:
        async with agent_of(mint, "signs") as agent, await agent.open_session() as session:
            task = await session.start_task("look", order_id="o-1", keep=True)
            transport = httpx2.MockTransport(service)
            async with httpx2.AsyncClient(auth=task.auth(), transport=transport) as client:
                await client.get("http://127.0.0.1:9001/orders/o-1")

    asyncio.run(run())
    assert seen[0].startswith("Bearer arx1_")
