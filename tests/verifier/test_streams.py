# SPDX-License-Identifier: Apache-2.0
"""What runs under a grant ends with it: open streams, awaited answers, long calls.  Real servers are in ``faults``."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arx_verifier.asgi import ArxMiddleware
from arx_verifier.caveats import Caveat
from arx_verifier.decisions import InMemoryDecisions
from arx_verifier.epochs import Lease
from arx_verifier.errors import ArxError, RevokedError, SettingsError, StaleEpochError, ValidityError
from arx_verifier.grant import Grant
from arx_verifier.guard import current_grant, protect
from tests.support import MovedEpochs, access, mint, verifier
from tests.verifier.serving import RULES, TOOLS, Realm, Slow

SESSION = "session:s-aaaaaaaaaaaaaaaa"
START = {"type": "http.response.start", "status": 200, "headers": []}
App = Callable[[Any, Any, Any], Awaitable[None]]


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Call:
    """One request through the middleware, and all that was sent back."""

    def __init__(self, realm: Realm, app: App, *, recheck_ms: int = 5, caveats: tuple[Caveat, ...] = ()) -> None:
        self.sent: list[Any] = []
        self._middleware = ArxMiddleware(app, verifier=realm.verifier, tools=TOOLS, recheck_ms=recheck_ms)
        token = b"Bearer " + realm.token(*caveats, rules=RULES).encode().encode()
        self._scope = {"type": "http", "method": "GET", "path": "/orders/A-1", "raw_path": b"/orders/A-1"}
        self._scope |= {"query_string": b"", "headers": [(b"authorization", token)], "client": ("10.0.0.7", 1)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def once(self) -> None:
        await self._middleware(dict(self._scope), self.receive, self.send)

    async def __call__(self) -> None:
        await asyncio.wait_for(self.once(), 10)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def realm() -> Realm:
    return Realm()


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
    """Whoever is done was not ended."""

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
            with pytest.raises(OSError, match="no longer stands"):
                await send(part(b"after all"))
            raise

    call = Call(realm, app)
    asyncio.run(call())
    assert seen == ["the call was ended: its token no longer stands"] or seen == []  # or it was cancelled in its sleep
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
    """The next look is never later than the lease: an interval of an hour does not lengthen the bound."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.Event().wait()

    epochs = realm.epochs
    soon = epochs.boot_ns() + 50_000_000
    epochs._state.lease = Lease(soon, 2**62, epochs.boot_ns())
    call = Call(realm, app, recheck_ms=3_600_000)
    call._middleware._started = True  # a start would grant a lease without end
    asyncio.run(call())
    assert call.sent == [START]
    assert epochs.boot_ns() >= soon


def test_a_stream_ends_with_its_token(realm: Realm) -> None:
    """An hour-long response to a token of a moment ends after that moment."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["arx"].on_end(lambda reason: ends.append(reason.code))
        await send(START)
        await asyncio.Event().wait()

    ends: list[str] = []
    asyncio.run(Call(realm, app, caveats=(Caveat(exp=time.time_ns() // 1_000_000 + 200),))())
    assert ends == ["expired"]


def test_a_short_response_costs_no_task(realm: Realm) -> None:
    """The application runs in the server's own task, and nothing is left of its watch."""
    tasks: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"done", more=False))
        tasks.append(len(asyncio.all_tasks()))

    async def main() -> None:
        await call()
        realm.epochs.kill(SESSION)
        await asyncio.sleep(0.02)

    call = Call(realm, app)
    asyncio.run(main())
    assert tasks == [1 if sys.version_info >= (3, 12) else 2]  # ours, and before 3.12 that of wait_for
    assert call.sent == [START, part(b"done", more=False)]


def test_short_calls_share_one_timer(realm: Realm) -> None:
    """Calls that are over before anybody looks again pay for no timer each."""
    timers: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(part(b"done", more=False))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        loop.call_later = lambda delay, *rest, **more: timers.append(delay) or call_later(delay, *rest, **more)  # type: ignore[method-assign, func-returns-value]
        for _ in range(20):
            await call.once()

    call = Call(realm, app, recheck_ms=60_000)
    asyncio.run(main())
    assert len(timers) == 1
    assert call.body == b"done" * 20


def test_calls_that_share_a_timer_end_each_with_its_own_grant(realm: Realm) -> None:
    """Of calls that began together each is looked at, again and again, until it is over by itself or is ended."""
    began, ended = iter(range(3)), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        if next(began) < 2:
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)  # several looks
        await send(part(b"done", more=False))

    async def one() -> None:
        await call()
        ended.append(realm.epochs.seq)

    async def main() -> None:
        running = [asyncio.ensure_future(one()) for _ in range(3)]
        await running[2]
        realm.epochs.kill(SESSION)
        await asyncio.gather(*running)

    call = Call(realm, app)
    asyncio.run(main())
    assert ended == [0, 1, 1]
    assert call.sent == [START] * 3 + [part(b"done", more=False)]


def test_a_call_that_its_server_cancels_stays_cancelled(realm: Realm) -> None:
    """A cancellation that did not come from the watch is passed on, also when the grant ends at the same time."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        begun.set()
        await asyncio.Event().wait()

    async def main(killed: bool) -> None:
        running = asyncio.ensure_future(Call(realm, app, recheck_ms=60_000).once())
        await begun.wait()
        begun.clear()
        if killed:
            realm.epochs.kill(SESSION)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    async def both() -> None:
        await main(killed=False)
        await main(killed=True)

    begun = asyncio.Event()
    asyncio.run(both())


def test_an_error_of_the_application_stays_one(realm: Realm) -> None:
    """Only what an ended call raises is swallowed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(Call(realm, app)())


def test_an_interval_of_nothing_is_refused(realm: Realm) -> None:
    """A mistake in a setting is found at the start."""
    with pytest.raises(SettingsError):
        ArxMiddleware(lambda *_: asyncio.sleep(0), verifier=realm.verifier, tools=TOOLS, recheck_ms=0)


def test_who_asks_late_is_told_at_once(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """A callback given after the end is called; one that fails does not keep the others from being told."""
    told: list[ArxError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        grant: Grant = scope["arx"]
        grant.on_end(lambda _: 1 // 0)
        grant.on_end(told.append)
        realm.epochs.kill(SESSION)
        try:
            await asyncio.Event().wait()
        finally:
            grant.on_end(told.append)
            assert isinstance(grant.ended, RevokedError)

    asyncio.run(Call(realm, app)())
    assert [type(error) for error in told] == [RevokedError, RevokedError]
    assert "the call is ended all the same" in caplog.text


def test_a_long_call_stops_at_its_checkpoint(realm: Realm) -> None:
    """``grant.checkpoint()`` before each irreversible step: the steps after the kill are not made."""
    steps: list[int] = []

    @protect(realm.verifier, "orders.get")
    def work() -> None:
        for step in range(5):
            grant = current_grant()
            assert grant is not None
            grant.checkpoint()
            steps.append(step)
            if step == 2:
                realm.epochs.kill(SESSION)

    with pytest.raises(RevokedError):
        work(arx_token=realm.token().encode())
    assert steps == [0, 1, 2]


def test_a_checkpoint_says_why() -> None:
    """Killed, out of touch, out of time; and a token that asks for a fresh view has it asked for at each."""
    epochs = MovedEpochs()
    checked = verifier(epochs=epochs)
    grant = checked.verify(mint().encode(), access())
    at = 1_700_000_000_000  # the tests' clock is not today's
    old = checked.verify(mint(iat=at, exp=at + 60_000).encode(), access(at=at))
    with pytest.raises(ValidityError):
        old.checkpoint()
    grant.checkpoint()
    epochs.move(1_001)
    with pytest.raises(StaleEpochError):
        grant.checkpoint()
    epochs.probe()
    grant.checkpoint()
    fresh = checked.verify(mint().attenuate(Caveat(fresh=0)).encode(), access())
    asked = epochs.asked
    epochs.move(1)
    fresh.checkpoint()
    assert epochs.asked == asked + 1
    epochs.move(1)
    asyncio.run(fresh.checkpoint_async())
    assert epochs.asked == asked + 2
