# SPDX-License-Identifier: Apache-2.0
"""Effects of gRPC calls: a record before the end of the answer leaves, over a real channel."""

import asyncio
import hashlib
from typing import Any

import grpc
import pytest

from arx_verifier import Rule, current_grant
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.grpc_service import Call, stub
from tests.adapters.test_grpc_server import AioService, Service, served
from tests.verifier.test_effects import effects_in

pytestmark = [pytest.mark.spec("12.8"), pytest.mark.servers]


BEHIND = {3: grpc.StatusCode.DEADLINE_EXCEEDED, 4: grpc.StatusCode.UNAVAILABLE}


def answer(request: Any, context: Any) -> Any:
    grant = current_grant()
    assert grant is not None
    grant.effect(external_id="re_9")
    if request.amount == 1:
        raise ValueError("the tool broke")
    if request.amount == 2:
        context.set_code(grpc.StatusCode.NOT_FOUND)
    if request.amount in BEHIND:
        context.set_code(BEHIND[request.amount])
    if request.amount == 5:
        return None  # no message: gRPC cannot write it
    return Call(order_id="o-1", amount=request.amount)


class Threads(Service):
    def unary(self, request: Any, context: Any) -> Any:
        return answer(request, context)

    def watch(self, request: Any, context: Any) -> Any:
        for amount in range(3):
            yield Call(amount=amount)

    def idle(self, request: Any, context: Any) -> Any:
        if not request.amount:
            yield Call()
        raise ValueError("the tool broke")


class Loop(AioService):
    async def unary(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return answer(request, context)

    async def watch(self, request: Any, context: Any) -> Any:
        for amount in range(3):
            yield Call(amount=amount)

    async def idle(self, request: Any, context: Any) -> Any:
        if not request.amount:
            yield Call()
        raise ValueError("the tool broke")


class Writer(Loop):
    """Its streaming methods are coroutines that send through the context, and return nothing."""

    async def watch(self, request: Any, context: Any) -> Any:
        for amount in range(3):
            await context.write(Call(amount=amount))

    async def idle(self, request: Any, context: Any) -> Any:
        if not request.amount:
            await context.write(Call())
        raise ValueError("the tool broke")


RESULTS = [(7, "done", 0), (1, "failed", 0), (2, "failed", 5), (3, "unknown", 4), (4, "unknown", 14), (5, "unknown", 0)]


@pytest.mark.parametrize("service", [Threads, Loop])
@pytest.mark.parametrize(("amount", "result", "status"), RESULTS)
def test_the_end_of_a_method_is_the_effect(service: Any, amount: int, result: str, status: int) -> None:
    """It returns, raises, sets a status, or returns what is no answer."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(Rule(tool="*")).token("orders.refund", order_id="o-1", amount=amount)
    sent = (("authorization", f"Bearer {token}"),)
    with served(service(), realm, effects=["orders.refund"]) as channel:
        call = stub(channel, "Refund")
        if result == "done":
            call(Call(order_id="o-1", amount=amount), metadata=sent, timeout=30)
        else:
            with pytest.raises(grpc.RpcError):
                call(Call(order_id="o-1", amount=amount), metadata=sent, timeout=30)
    [(record, decision)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.status, record.external_id) == (result, status, "re_9")
    assert decision.tool == "orders.refund"
    if result == "done":
        raw = Call(order_id="o-1", amount=amount).SerializeToString()
        assert record.effect.size == len(raw)
        assert record.effect.digest == hashlib.sha256(record.salt + raw).digest()


@pytest.mark.parametrize("service", [Threads, Loop, Writer])
def test_a_stream_s_end_is_the_effect(service: Any) -> None:
    """Once, behind its last message; its parts are not seen."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(Rule(tool="*")).token("orders.watch")
    with served(service(), realm, effects=["orders.*"]) as channel:
        answers = stub(channel, "Watch")(Call(), metadata=(("authorization", f"Bearer {token}"),), timeout=30)
        assert [each.amount for each in answers] == [0, 1, 2]
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.size) == ("done", -1)


@pytest.mark.parametrize("service", [Threads, Loop, Writer])
@pytest.mark.parametrize(("amount", "result"), [(0, "unknown"), (1, "failed")])
def test_a_stream_that_breaks_off_is_unknown(service: Any, amount: int, result: str) -> None:
    """A part of it has left when the method raises, as of an answer over HTTP; before the first part it has failed."""
    realm = UnsafeTestRealm("orders")
    token = realm.caller(Rule(tool="*")).token("orders.idle", **({"amount": amount} if amount else {}))
    with served(service(), realm, effects=["orders.*"]) as channel:
        answers = stub(channel, "Idle")(
            Call(amount=amount), metadata=(("authorization", f"Bearer {token}"),), timeout=30
        )
        with pytest.raises(grpc.RpcError):
            list(answers)
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.size) == (result, -1)
