# SPDX-License-Identifier: Apache-2.0
"""The interceptors of gRPC channels: each call is signed for the task, in threads and on an event loop."""

import asyncio
import logging
import runpy
import traceback
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from arx_caps.agent import Approval, Bundle, Task
from arx_caps.agent.running_task import running
from arx_caps.integrations.grpc import ArxClientInterceptor, aio_interceptors
from arx_verifier import Constraint, Rule, current_grant
from arx_verifier.errors import AttenuationError
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token import Caveat, ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge
from tests.adapters.grpc_service import Call, handlers, stub
from tests.house.pages import ROOT, blocks

RULES = (
    Rule(tool="orders.get", args={"order_id": "o-1"}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    Rule(tool="orders.upload", args={"order_id": "o-1"}),
)


def task_of(realm: UnsafeTestRealm, agent: str = "test/agent") -> Task:
    caller = realm.caller(*RULES, agent=agent, task="t-aaaaaaaaaaaaaaaa", session="s-aaaaaaaaaaaaaaaa")
    bundle = {"issuer": "http://127.0.0.1:1", "origins": {"orders": ("http://127.0.0.1:2",)}, "realm": "test"}
    tokens = {"orders": caller.macaroon}
    return Task(Bundle(agent=agent, task="t-aaaaaaaaaaaaaaaa", tokens=tokens, **bundle))  # type: ignore[arg-type]


def holder() -> str:
    grant = current_grant()
    return grant.holder if grant else "nobody"


METHODS = {
    "Get": lambda request, context: Call(order_id=holder()),
    "Refund": lambda request, context: Call(order_id=holder(), amount=request.amount),
    "Health": lambda request, context: Call(order_id=str("authorization" in dict(context.invocation_metadata()))),
    "Upload": lambda requests, context: Call(chunk=b"".join(request.chunk for request in requests)),
}


class World:
    """The page's service on a real socket, and the page's client."""

    def __init__(self, realm: UnsafeTestRealm, folder: Path) -> None:
        page = (ROOT / "docs" / "adapters" / "grpc.md").read_text(encoding="utf-8")
        server, client = (block.text for block in blocks(page) if block.language == "python")
        for name, text in (("server", server), ("client", client)):
            (folder / f"{name}.py").write_text(text)
        self.server = runpy.run_path(str(folder / "server.py"))["make_server"](realm.verifier)
        self.server.add_generic_rpc_handlers((handlers(METHODS),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        self.client = runpy.run_path(str(folder / "client.py"))

    def channel(self, task: Task | None) -> Any:
        return self.client["make_channel"](self.address, task)


@pytest.fixture
def realm() -> UnsafeTestRealm:
    return UnsafeTestRealm("orders")


@pytest.fixture
def world(realm: UnsafeTestRealm, tmp_path: Path) -> Iterator[World]:
    world = World(realm, tmp_path)
    yield world
    world.server.stop(0).wait()


def test_each_call_is_signed_for_the_task(realm: UnsafeTestRealm, world: World) -> None:
    """Also for a sub-agent, a stream, and again and again; a public method gets no token."""
    with world.channel(task_of(realm).delegate("acme/worker", tools=["orders.get", "orders.upload"])) as channel:
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
    task = task_of(realm)
    with world.channel(task) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            stub(channel, "Refund")(Call(order_id="o-1", amount=50), timeout=60)
        assert "amount must be at most 20" in caught.value.details()
        realm.epochs.kill("task:t-aaaaaaaaaaaaaaaa")
        with pytest.raises(grpc.RpcError) as killed:
            stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
    assert killed.value.code() == grpc.StatusCode.UNAUTHENTICATED
    shown = "".join(traceback.format_exception(caught.value)) + repr(ArxClientInterceptor("orders", {}, task=task))
    assert "arx1_" not in shown + caplog.text


def test_tasks_beside_each_other_never_mix(realm: UnsafeTestRealm, world: World) -> None:
    tasks = {name: task_of(realm, name) for name in ("test/one", "test/two")}
    with futures.ThreadPoolExecutor(4) as pool:

        def ask(name: str) -> bool:
            with world.channel(tasks[name]) as channel:
                return bool(stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == name)

        assert all(pool.map(ask, [*tasks] * 8))


def test_a_call_without_a_task_is_not_sent(realm: UnsafeTestRealm, world: World) -> None:
    """Neither one that has an authorization already."""
    with (
        grpc.intercept_channel(
            grpc.insecure_channel(world.address), ArxClientInterceptor("orders", world.client["TOOLS"])
        ) as channel,
        pytest.raises(AttenuationError, match="no task"),
    ):
        stub(channel, "Get")(Call(order_id="o-1"), timeout=60)
    with world.channel(task_of(realm)) as channel, pytest.raises(AttenuationError, match="already"):
        stub(channel, "Get")(Call(order_id="o-1"), metadata=[("authorization", "Basic x")], timeout=60)
    assert not realm.decisions.decisions


def test_the_approval_of_the_running_call_is_sent(realm: UnsafeTestRealm, world: World) -> None:
    """Where the tool asks for one, and with no other call; without it the service refuses."""
    required = ThirdPartyCaveat(id="k1.0:t-aaaaaaaaaaaaaaaa", tools=("orders.refund",))
    key = caveat_key(realm._key, required.id)
    plain = task_of(realm)
    token = require_discharge(plain.bundle.tokens["orders"], required.encode(), key)
    task = Task(plain.bundle.with_tokens({"orders": token}))
    said = Caveat(allow=(Rule(tool="orders.refund", args={"order_id": "o-1", "amount": 5}),), task="a-aaaaaaaaaaaaaaaa")
    made = issue_discharge(required.encode(), key, realm="test", caveats=(said,))
    with world.channel(task) as own, world.channel(None) as shared:
        for channel in (own, shared):
            with running(task, [Approval.from_text(made.encode())]):
                assert stub(channel, "Refund")(Call(order_id="o-1", amount=5), timeout=60).amount == 5
                assert stub(channel, "Get")(Call(order_id="o-1"), timeout=60).order_id == "test/agent"
            with running(task), pytest.raises(grpc.RpcError) as caught:
                stub(channel, "Refund")(Call(order_id="o-1", amount=5), timeout=60)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert [each.code for each in realm.decisions.decisions] == ["ok", "ok", "missing_discharge"] * 2


def test_an_asyncio_channel_signs_as_well(realm: UnsafeTestRealm, world: World) -> None:
    """Unary calls, and streams from an iterator or an async iterator."""

    async def run() -> None:
        interceptors = aio_interceptors("orders", world.client["TOOLS"], task=task_of(realm), data=world.client["DATA"])
        async with grpc.aio.insecure_channel(world.address, interceptors=interceptors) as channel:
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
