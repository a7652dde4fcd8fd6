# SPDX-License-Identifier: Apache-2.0
"""What runs under a grant ends with it: open streams, awaited answers, long calls.  Real servers are in ``faults``."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.epoch import Lease
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.freshness import CLOSING_NS
from tests.verifier.serving import Realm, Slow
from tests.verifier.streaming import SESSION, START, Call, part, realm

pytestmark = pytest.mark.spec("11")

__all__ = ["realm"]  # fixtures


def test_an_idle_stream_is_cut(realm: Realm) -> None:
    """Killed while nothing is sent: the application is cancelled, and its response stays unfinished."""
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["arx"].on_end(lambda reason: ends.append(reason.code))
        await send(START)
        await send(part(b"one"))
        realm.epochs.kill(SESSION)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    call = Call(realm, app)
    asyncio.run(call())
    assert ends == ["revoked", "cancelled"]
    assert call.sent == [START, part(b"one")]


@pytest.mark.parametrize("sink", [InMemoryDecisions, Slow])
def test_a_cut_stream_leaves_a_record(sink: Callable[[], InMemoryDecisions]) -> None:
    """What a kill ended is recorded with its reason and the decision it ran under, also where a sink may wait."""
    realm = Realm(sink())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        realm.epochs.kill(SESSION)
        await asyncio.Event().wait()

    asyncio.run(Call(realm, app)())
    allowed, ended = realm.sink.decisions
    assert (ended.outcome, ended.code, ended.ends) == ("end", "revoked", allowed.sequence)
    assert (ended.facts, ended.tool, ended.peer) == (allowed.facts, "orders.get", "10.0.0.7")
    assert ended.applied > allowed.applied


def test_a_stream_that_ends_by_itself_leaves_one_record(realm: Realm) -> None:
    """A call that is done was not ended."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"done", more=False))

    asyncio.run(Call(realm, app)())
    assert [decision.outcome for decision in realm.sink.decisions] == ["allow"]


def test_a_busy_stream_is_cut(realm: Realm) -> None:
    """A killed stream that is always sending sends no more; the application sees what it would of a client gone."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(part(b"-"))
                realm.epochs.kill(SESSION)
                await asyncio.sleep(0)
        except OSError as error:
            seen.append(str(error))
            with pytest.raises(OSError, match="was revoked, frozen or expired"):
                await send(part(b"after all"))
            raise

    call = Call(realm, app)
    asyncio.run(call())
    ended = "the call was ended: its token was revoked, frozen or expired"
    assert seen in ([ended], [])  # or it was cancelled in its sleep
    assert b"after all" not in call.body
    assert call.sent[-1]["more_body"]


def test_a_stream_that_blocks_its_loop_sends_nothing_late(realm: Realm) -> None:
    """The timer had no chance: the send itself looks at the clock."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        realm.epochs.kill(SESSION)
        threading.Event().wait(0.02)
        await send(part(b"late"))

    call = Call(realm, app)
    asyncio.run(call())
    assert call.sent == [START]


def test_a_killed_call_is_answered_if_nothing_was(realm: Realm) -> None:
    """Work whose answer is awaited is cancelled too, and the refusal takes the answer's place."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        realm.epochs.kill(SESSION)
        await asyncio.Event().wait()

    call = Call(realm, app)
    asyncio.run(call())
    assert call.sent[0]["status"] == 401
    assert json.loads(call.body)["code"] == "revoked"


@pytest.mark.parametrize("comes_back", [True, False])
def test_work_is_not_stopped_by_a_slow_store_but_its_answer_is(realm: Realm, comes_back: bool) -> None:
    """Stale is not killed: what has sent nothing runs on, and may answer if the lease came back meanwhile."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        lease, realm.epochs._state.lease = realm.epochs._state.lease, Lease(0, 0, 0)
        await asyncio.sleep(0.05)
        if comes_back:
            realm.epochs._state.lease = lease
        await send(START)
        await send(part(b"done", more=False))

    call = Call(realm, app)
    asyncio.run(call())
    if comes_back:
        assert call.sent == [START, part(b"done", more=False)]
    else:
        assert call.sent[0]["status"] == 503
        assert json.loads(call.body)["code"] == "stale"


def test_a_stream_ends_with_the_lease_whatever_its_interval(realm: Realm) -> None:
    """The next look is before the end of the lease: an interval of an hour does not lengthen the bound."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.Event().wait()

    epochs = realm.epochs
    soon = epochs.boot_ns() + 200_000_000
    epochs._state.lease = Lease(soon, 2**62, epochs.boot_ns())
    call = Call(realm, app, recheck_ms=3_600_000)
    call._middleware._started = True  # a start would grant a lease without end
    asyncio.run(call())
    assert call.sent == [START]
    assert epochs.boot_ns() >= soon - CLOSING_NS


@pytest.mark.parametrize(("left_ns", "goes_on"), [(2**60, True), (CLOSING_NS, False)])
def test_a_stream_has_the_end_of_a_lease_to_close(realm: Realm, left_ns: int, *, goes_on: bool) -> None:
    """A check of a running stream takes the lease to end 50 ms early, as closing the stream takes time."""
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        realm.epochs._state.lease = Lease(realm.epochs.boot_ns() + left_ns, 2**62, realm.epochs.boot_ns())
        scope["arx"].look_again() or sent.append("goes on")

    asyncio.run(Call(realm, app)())
    assert bool(sent) == goes_on


def test_a_stream_ends_with_its_token(realm: Realm) -> None:
    """An hour-long response to a token of a moment ends after that moment."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["arx"].on_end(lambda reason: ends.append(reason.code))
        await send(START)
        await asyncio.Event().wait()

    ends: list[str] = []
    asyncio.run(Call(realm, app, caveats=(Caveat(exp=time.time_ns() // 1_000_000 + 200),))())
    assert ends == ["expired"]
