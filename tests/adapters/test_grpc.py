# SPDX-License-Identifier: Apache-2.0
"""The interceptors of gRPC channels: each call is signed for the task, in threads and on an event loop."""

import asyncio
import contextlib
import logging
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from arx_caps.agent import Approval, Bundle, Task
from arx_caps.agent.tools.running_task import running
from arx_caps.integrations.grpc import arx_aio_channel, arx_channel
from arx_caps.mint.api.app import create_app
from arx_verifier import Constraint, Rule, current_grant
from arx_verifier.clock import now_ms
from arx_verifier.errors import AttenuationError
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.adapters.grpc_service import Call, handlers, stub
from tests.agent.live import LiveMint, serving
from tests.agent.test_kept_task import AGENT, MINUTE, Clock, realm_in
from tests.house.pages import ROOT, blocks
from tests.mint.harness import local_mint
from tests.servers import free_ports

RULES = (
    Rule(tool="orders.get", args={"order_id": "o-1"}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    Rule(tool="orders.upload", args={"order_id": "o-1"}),
    Rule(tool="orders.watch", args={}),
)


def task_of(realm: UnsafeTestRealm, origin: str, agent: str = "test/agent", now: Callable[[], int] = now_ms) -> Task:
    caller = realm.caller(*RULES, agent=agent, task="t-aaaaaaaaaaaaaaaa", session="s-aaaaaaaaaaaaaaaa")
    bundle = {"issuer": "http://127.0.0.1:1", "origins": {"orders": (origin,)}, "realm": "test"}
    tokens = {"orders": caller.macaroon}
    return Task(Bundle(agent=agent, task="t-aaaaaaaaaaaaaaaa", tokens=tokens, **bundle), now=now)  # type: ignore[arg-type]


def holder() -> str:
    grant = current_grant()
    return grant.holder if grant else "anonymous"


class Calls:
    """What the service did; ``busy`` calls of ``Get`` are turned away first, all of them raise where it is negative."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.busy, self.go_on = 0, threading.Event()

    def get(self, request: Any, context: Any) -> Any:
        if self.busy < 0:
            raise ValueError("of the method")
        if self.busy:
            self.busy -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        self.ran.append(f"get {request.order_id}")
        return Call(order_id=holder())

    def watch(self, request: Any, context: Any) -> Iterator[Any]:
        self.ran.append("watch")
        yield Call(order_id=holder())
        while not self.go_on.wait(0.01):
            yield Call(order_id=holder())

    def health(self, request: Any, context: Any) -> Any:
        return Call(order_id=str("authorization" in dict(context.invocation_metadata())))

    @property
    def methods(self) -> dict[str, Any]:
        return {
            "Get": self.get,
            "Watch": self.watch,
            "Health": self.health,
            "Refund": lambda request, context: Call(order_id=holder(), amount=request.amount),
            "Upload": lambda requests, context: Call(chunk=b"".join(request.chunk for request in requests)),
        }


class Realm(UnsafeTestRealm):
    """A realm whose service started at a time that the test sets, ms since the Unix epoch."""

    def __init__(self, started: int = 0) -> None:
        super().__init__("orders")
        keys = KeyRing({"k1.0": self._key}, realm="test")
        nonces = MemoryNonces(now_ms=started)
        self.verifier = Verifier(
            audience="orders", keys=keys, epochs=self.epochs, decisions=self.decisions, nonces=nonces
        )


class World:
    """The page's service on a real socket, and the page's client."""

    def __init__(self, realm: UnsafeTestRealm, folder: Path, verifier: Verifier | None = None, port: int = 0) -> None:
        page = (ROOT / "docs" / "adapters" / "grpc.md").read_text(encoding="utf-8")
        server, client = (block.text for block in blocks(page) if block.language == "python")
        for name, text in (("server", server), ("client", client)):
            (folder / f"{name}.py").write_text(text)
        self.realm, self.calls = realm, Calls()
        self.server = runpy.run_path(str(folder / "server.py"))["make_server"](verifier or realm.verifier)
        self.server.add_generic_rpc_handlers((handlers(self.calls.methods),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port(f'127.0.0.1:{port}')}"
        self.server.start()
        self.client = runpy.run_path(str(folder / "client.py"))

    def task(self, agent: str = "test/agent", now: Callable[[], int] = now_ms) -> Task:
        return task_of(self.realm, f"http://{self.address}", agent, now)

    def channel(self, task: Task | None) -> Any:
        return self.client["make_channel"](self.address, task)

    def aio_channel(self, task: Task | None, **more: Any) -> Any:
        return arx_aio_channel(self.address, tools=self.client["TOOLS"], data=self.client["DATA"], task=task, **more)


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@contextlib.contextmanager
def served(realm: UnsafeTestRealm, folder: Path, verifier: Verifier | None = None, port: int = 0) -> Iterator[World]:
    world = World(realm, folder, verifier, port)
    try:
        yield world
    finally:
        world.calls.go_on.set()
        world.server.stop(0).wait()


@pytest.fixture
def world(realm: UnsafeTestRealm, tmp_path: Path) -> Iterator[World]:
    with served(realm, tmp_path) as world:
        yield world


def test_each_call_is_signed_for_the_task(realm: UnsafeTestRealm, world: World) -> None:
    """Also for a sub-agent, a stream, and again and again; a public method gets no token."""
    with world.channel(world.task().delegate("acme/worker", tools=["orders.get", "orders.upload"])) as channel:
        for _ in range(2):
            assert stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == "acme/worker"
        parts = [Call(order_id="o-1", chunk=b"a"), Call(chunk=b"b")]
        assert stub(channel, "Upload")(iter(parts), timeout=60).chunk == b"ab"
        assert stub(channel, "Health")(Call(), timeout=60).order_id == "False"
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel, "Refund")(Call(order_id="o-1", amount=5), timeout=60)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_refusal_and_a_kill_reach_the_caller(
    realm: UnsafeTestRealm, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The sentence is in the details; no token is in an error, a representation or a log."""
    caplog.set_level(logging.DEBUG)
    task = world.task()
    with world.channel(task) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel, "Refund")(Call(order_id="o-1", amount=50), timeout=60)
        assert "amount must be at most 20" in caught.value.details()
        realm.epochs.kill("task:t-aaaaaaaaaaaaaaaa")
        with pytest.raises(grpc.RpcError) as killed:
            stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
    assert killed.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "arx1_" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_tasks_beside_each_other_never_mix(world: World) -> None:
    """One channel serves many tasks, in threads and on an event loop."""
    tasks = {name: world.task(name) for name in ("test/one", "test/two")}
    with futures.ThreadPoolExecutor(4) as pool, world.channel(None) as channel:

        def ask(name: str) -> bool:
            with running(tasks[name]):
                return bool(stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == name)

        assert all(pool.map(ask, [*tasks] * 8))

    async def ask_all() -> list[bool]:
        async with world.aio_channel(None) as channel:

            async def ask(name: str) -> bool:
                with running(tasks[name]):
                    return bool((await stub(channel, "Get")(Call(order_id="o-1"), timeout=60)).order_id == name)

            return await asyncio.gather(*map(ask, [*tasks] * 8))

    assert all(asyncio.run(ask_all()))


def test_a_call_without_a_task_is_not_sent(realm: UnsafeTestRealm, world: World) -> None:
    """Neither one that has an authorization already."""
    with world.channel(None) as channel, pytest.raises(AttenuationError, match="no task"):
        stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
    with world.channel(world.task()) as channel, pytest.raises(AttenuationError, match="already"):
        stub(channel, "Get")(Call(order_id="o-1"), metadata=[("authorization", "Basic x")], timeout=60)
    assert not realm.decisions.decisions


def test_the_approval_of_the_running_call_is_sent(realm: UnsafeTestRealm, world: World) -> None:
    """Where the tool asks for one, and with no other call; without it and for other arguments the service refuses."""
    required = ThirdPartyCaveat(id="k1.0:t-aaaaaaaaaaaaaaaa", tools=("orders.refund",))
    key = caveat_key(realm._key, required.id)
    plain = world.task()
    token = require_discharge(plain.bundle.tokens["orders"], required.encode(), key)
    task = Task(plain.bundle.with_tokens({"orders": token}))
    caveat = Caveat(
        allow=(Rule(tool="orders.refund", args={"order_id": "o-1", "amount": 5}),), task="a-aaaaaaaaaaaaaaaa"
    )
    made = issue_discharge(required.encode(), key, realm="test", caveats=(caveat,))
    with world.channel(task) as own, world.channel(None) as shared:
        for channel in (own, shared):
            with running(task, [Approval.from_text(made.encode())]):
                assert stub(channel, "Refund")(Call(order_id="o-1", amount=5), timeout=60).amount == 5
                assert stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == "test/agent"
                with pytest.raises(grpc.RpcError) as changed:
                    stub(channel, "Refund")(Call(order_id="o-1", amount=6), timeout=60)
            with running(task), pytest.raises(grpc.RpcError) as caught:
                stub(channel, "Refund")(Call(order_id="o-1", amount=5), timeout=60)
            assert caught.value.code() == changed.value.code() == grpc.StatusCode.PERMISSION_DENIED
    found = [each.code for each in realm.decisions.decisions]
    assert found == ["ok", "ok", "argument_not_allowed", "missing_discharge"] * 2


def test_an_asyncio_channel_signs_as_well(realm: UnsafeTestRealm, world: World) -> None:
    """Unary calls, and streams from an iterator or an async iterator."""

    async def run() -> None:
        async with world.aio_channel(world.task()) as channel:
            assert (await stub(channel, "Get")(Call(order_id="o-1"), timeout=60)).order_id == "test/agent"

            async def parts() -> Any:
                yield Call(order_id="o-1", chunk=b"a")
                yield Call(chunk=b"b")

            assert (await stub(channel, "Upload")(parts(), timeout=60)).chunk == b"ab"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub(channel, "Refund")(Call(order_id="o-1", amount=50), timeout=60)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
            assert "arx1_" not in repr(caught.value)

    asyncio.run(run())


def test_no_other_origin_gets_a_token(realm: UnsafeTestRealm, world: World) -> None:
    """Neither another port, nor this one with TLS, nor an address that is no single host and port."""
    port = world.address.rpartition(":")[2]
    tls = grpc.ssl_channel_credentials()
    for target, credentials, why in (
        (f"localhost:{port}", None, "belongs to no audience of this task"),
        ("127.0.0.1:1", None, "belongs to no audience of this task"),
        ("127.0.0.1", None, "belongs to no audience of this task"),
        (world.address, tls, "https://127.0.0.1:.* belongs to no audience of this task"),
        (f"ipv4:{world.address},127.0.0.1:1", None, "expected one host and port"),
        (f"dns://127.0.0.1/{world.address}", None, "expected one host and port"),
        ("unix:/run/orders.sock", None, "expected one host and port"),
        (f"orders@{world.address}", None, "expected one host and port"),
    ):
        for make in (arx_channel, arx_aio_channel):
            with pytest.raises(AttenuationError, match=why) as caught:
                make(target, credentials, tools=world.client["TOOLS"], task=world.task())
            assert caught.value.code == "unknown_origin"
    # The current task is known with each call alone; nothing of that is sent.
    elsewhere = task_of(realm, "http://127.0.0.1:1")
    with world.channel(None) as channel, running(elsewhere):
        for ask in (
            stub(channel, "Get"),
            stub(channel, "Get").with_call,
            lambda call: next(stub(channel, "Watch")(call)),
        ):
            with pytest.raises(AttenuationError, match="belongs to no audience of this task"):
                ask(Call(order_id="o-1"))

    async def run() -> None:
        async with world.aio_channel(None) as channel:
            with running(elsewhere), pytest.raises(AttenuationError, match="belongs to no audience of this task"):
                await stub(channel, "Get")(Call(order_id="o-1"))

    asyncio.run(run())
    assert (world.calls.ran, realm.decisions.decisions) == ([], [])
    for target in (f"dns:///{world.address}", f"dns:{world.address}", f"ipv4:{world.address}"):
        with arx_channel(target, tools=world.client["TOOLS"], task=world.task()) as channel:
            assert stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == "test/agent"


class Early:
    """A clock that is before the start of the service at first, and counts how often it was asked."""

    def __init__(self, began: int, times: int = 1) -> None:
        self.began, self.times, self.asked = began, times, 0

    def __call__(self) -> int:
        self.asked += 1
        return now_ms() if self.asked > self.times else self.began - 1_000


def by_callback(channel: Any, call: Any) -> Any:
    """What a call answers to one that waits by a callback."""
    done: futures.Future[Any] = futures.Future()
    stub(channel, "Get").future(call, timeout=60).add_done_callback(done.set_result)
    return done.result(60).result()


def by_exception(channel: Any, call: Any) -> Any:
    """What a call answers to one that asks first whether it failed."""
    future = stub(channel, "Get").future(call, timeout=60)
    if (error := future.exception()) is not None:
        raise error
    return future.result()


async def aio_get(channel: Any, call: Any) -> Any:
    return await stub(channel, "Get")(call, timeout=60)


async def aio_watch(channel: Any, call: Any) -> Any:
    return await anext(aiter(stub(channel, "Watch")(Call(), timeout=60)))


async def aio_read(channel: Any, call: Any) -> Any:
    return await stub(channel, "Watch")(Call(), timeout=60).read()


WAYS: dict[str, Any] = {
    "call": lambda channel, call: stub(channel, "Get")(call, timeout=60),
    "with_call": lambda channel, call: stub(channel, "Get").with_call(call, timeout=60)[0],
    "future": lambda channel, call: stub(channel, "Get").future(call, timeout=60).result(),
    "callback": by_callback,
    "exception": by_exception,
    "stream": lambda channel, call: next(stub(channel, "Watch")(Call(), timeout=60)),
    "aio": aio_get,
    "aio stream": aio_watch,
    "aio read": aio_read,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("times", [1, 2])
def test_an_early_call_is_signed_again(tmp_path: Path, way: str, times: int) -> None:
    """A call signed before the service started runs once; a service that answers so again is not asked again."""
    began, answers = now_ms(), list[Any]()
    with served(Realm(began), tmp_path) as world:
        clock = Early(began, times)
        task = world.task(now=clock)
        with contextlib.nullcontext() if times == 1 else pytest.raises(grpc.RpcError) as caught:
            if way.startswith("aio"):

                async def run() -> Any:
                    async with world.aio_channel(task) as channel:
                        return await WAYS[way](channel, Call(order_id="o-1"))

                answers.append(asyncio.run(run()))
            else:
                with world.channel(task) as channel:
                    answers.append(WAYS[way](channel, Call(order_id="o-1")))
        ran = "watch" if way in ("stream", "aio stream", "aio read") else "get o-1"
        assert [each.code for each in world.realm.decisions.decisions] == [
            "proof_invalid",
            "ok" if times == 1 else "proof_invalid",
        ]
        if times == 1:
            assert ([each.order_id for each in answers], world.calls.ran) == (["test/agent"], [ran])
        else:
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert (world.calls.ran, clock.asked) == ([], 2)


def test_another_refusal_is_not_repeated(realm: UnsafeTestRealm, world: World) -> None:
    """What was refused for another reason, or failed by itself, is the caller's."""
    world.calls.busy = 1
    with world.channel(world.task()) as channel:
        for call in (Call(order_id="o-2"), Call(order_id="o-1")):
            with pytest.raises(grpc.RpcError):
                stub(channel, "Get")(call, timeout=60)
        with pytest.raises(grpc.RpcError):
            list(stub(channel, "Watch")(Call(order_id="o-1"), timeout=60))
    codes = [each.code for each in realm.decisions.decisions]
    assert codes == ["argument_not_allowed", "ok", "argument_not_allowed"]


def test_a_retry_signs_anew(realm: UnsafeTestRealm, world: World) -> None:
    """An interceptor around the channel repeats a call; gRPC's own policy repeats none, though it is asked to."""

    class Retry(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = continuation(details, request)
            return continuation(details, request) if call.exception() is not None else call

    class AioRetry(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)
            return await continuation(details, request) if await call.code() != grpc.StatusCode.OK else call

    async def run() -> Any:
        async with world.aio_channel(world.task(), interceptors=[AioRetry()]) as channel:
            return await stub(channel, "Get")(Call(order_id="o-1"), timeout=60)

    world.calls.busy = 1
    with grpc.intercept_channel(world.channel(world.task()), Retry()) as channel:
        assert stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == "test/agent"
    world.calls.busy = 1
    assert asyncio.run(run()).order_id == "test/agent"
    policy = '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.01s", '
    policy += '"maxBackoff": "0.01s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}'
    options = [("grpc.service_config", policy), ("grpc.enable_retries", 1)]
    world.calls.busy = 1
    with (
        arx_channel(world.address, tools=world.client["TOOLS"], task=world.task(), options=options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
    assert caught.value.details() == "busy"
    assert {each.code for each in realm.decisions.decisions} == {"ok"}


def test_a_kill_ends_a_running_stream(realm: UnsafeTestRealm, world: World) -> None:
    """The stream that an agent reads ends with the reason, and no later call runs."""
    with world.channel(world.task()) as channel:
        answers = stub(channel, "Watch")(Call(), timeout=60)
        assert next(answers).order_id == "test/agent"
        realm.epochs.kill("task:t-aaaaaaaaaaaaaaaa")
        with pytest.raises(grpc.RpcError) as ended:
            list(answers)
        assert ended.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
        with pytest.raises(grpc.RpcError) as refused:
            stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert world.calls.ran == ["watch"]


def test_a_run_of_hours(realm: UnsafeTestRealm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel for all of it: the session is renewed, the task extended, and each call is signed with the newest."""
    clock = Clock(monkeypatch)
    port, service = free_ports(2)
    with contextlib.ExitStack() as stack:
        mint = stack.enter_context(contextlib.closing(local_mint(realm_in(tmp_path / "realm", port, service))))
        stack.enter_context(serving(create_app(mint), port, lifespan="off"))
        live = stack.enter_context(contextlib.closing(LiveMint(mint.realm, tmp_path)))
        file = live.service_file("orders")
        keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=file["realm"])
        orders = Verifier(audience="orders", keys=keys, epochs=mint.epochs, decisions=realm.decisions)
        world = stack.enter_context(served(realm, tmp_path, orders, service))
        session = stack.enter_context(live.agent(AGENT)).open_session()
        task = session.start_task("look", order_id="o-1", keep=True)
        ends = set[int]()
        with world.channel(task) as channel:
            get = stub(channel, "Get")
            while time.time_ns() // 1_000_000 < session.ends_at - 3 * MINUTE:
                assert get(Call(order_id="o-1"), timeout=60).order_id == AGENT
                clock.advance(3 * MINUTE)
                session.renew_if_due()
                task.extend_if_due()
                ends.add(task.expires_at)
            assert len(ends) > 60
            clock.advance(3 * MINUTE)
            with pytest.raises(grpc.RpcError, match="expired"):
                get(Call(order_id="o-1"), timeout=60)


def canary() -> None:
    """Print all that a run shows: its logs, errors and metadata; for a process whose gRPC is at its loudest."""
    logging.basicConfig(level=logging.NOTSET, stream=sys.stdout)
    with served(UnsafeTestRealm("orders"), Path(tempfile.mkdtemp())) as world:
        task = world.task()
        with world.channel(task) as channel:
            get = stub(channel, "Get")
            for busy, order in ((0, "o-1"), (0, "o-2"), (-1, "o-1")):
                world.calls.busy = busy
                found = get.future(Call(order_id=order), timeout=60)
                sys.stdout.write(f"{found.exception()!r} {found.trailing_metadata()} {found.details()} {found!r}\n")
            answers = stub(channel, "Watch")(Call(), timeout=60)
            next(answers)
            world.realm.epochs.kill("agent:test/agent")
            try:
                list(answers)
            except grpc.RpcError as error:
                sys.stdout.write(f"{error!r} {answers.trailing_metadata()}\n")

        async def run() -> None:
            async with world.aio_channel(task) as channel:
                try:
                    await stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
                except grpc.aio.AioRpcError as error:
                    sys.stdout.write(f"{error!r} {error.trailing_metadata()}\n")

        asyncio.run(run(), debug=True)
        sys.stdout.write(f"{task!r} {channel!r}\n")


def test_no_token_is_seen_anywhere() -> None:
    """Errors, details, trailing metadata, Python's logs at DEBUG, and gRPC's own with the trace of its messages."""
    words = "from tests.adapters.test_grpc import canary; canary()"
    loud = {"GRPC_VERBOSITY": "debug", "GRPC_TRACE": "http,call,channel,client_channel_call"}
    done = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, **loud},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    seen = done.stdout + done.stderr
    # What is looked at has all of it: a trace of each call's metadata, the refusals and the errors.
    for mark in ("authorization: ", "bytes redacted", "order_id must", "of the method", "revoked", "DEBUG:asyncio"):
        assert mark in seen
    for secret in ("arx1_", "Bearer", "61 72 78 31 5f"):
        where = seen.find(secret)
        assert where < 0, seen[max(where - 300, 0) : where]
