# SPDX-License-Identifier: Apache-2.0
"""The watch over running calls: what it costs, what it must not swallow, whom it calls; and what a checkpoint has."""

import asyncio
import json
import sys
from typing import Any

import pytest

from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.guard import current_grant, protect
from arx_verifier.errors import ArxError, RevokedError, SettingsError, StaleEpochError, ValidityError
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.grant import Grant
from tests.support import MovedEpochs, access, mint, verifier
from tests.verifier.serving import TOOLS, Realm
from tests.verifier.streaming import SESSION, START, Call, part, realm

pytestmark = pytest.mark.spec("11")

__all__ = ["realm"]  # fixtures


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
    """Calls that are over before the next look pay for no timer each."""
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
        # Not the third of them: each starts the verifier in a thread, and goes on in the order of the threads.
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
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


def test_who_asks_late_hears_at_once(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """A callback given after the end is called; one that fails does not keep the others from being called."""
    notices: list[ArxError] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        grant: Grant = scope["arx"]
        grant.on_end(lambda _: 1 // 0)
        grant.on_end(notices.append)
        realm.epochs.kill(SESSION)
        try:
            await asyncio.Event().wait()
        finally:
            grant.on_end(notices.append)
            assert isinstance(grant.ended, RevokedError)

    asyncio.run(Call(realm, app)())
    assert [type(error) for error in notices] == [RevokedError, RevokedError]
    assert "the call is ended all the same" in caplog.text


def test_a_long_call_stops_at_its_checkpoint(realm: Realm) -> None:
    """``grant.recheck()`` before each irreversible step: the steps after the kill are not made."""
    steps: list[int] = []

    @protect(realm.verifier, "orders.get")
    def work() -> None:
        for step in range(5):
            grant = current_grant()
            assert grant is not None
            grant.recheck()
            steps.append(step)
            if step == 2:
                realm.epochs.kill(SESSION)

    with pytest.raises(RevokedError):
        work(arx_token=realm.token().encode())
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("answers", [True, False], ids=["answers 500", "raises"])
def test_a_call_that_fails_at_its_checkpoint_is_refused(realm: Realm, answers: bool) -> None:
    """The caller gets the reason code, and not the framework's 500, also before the middleware rechecks by itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        realm.epochs.kill(SESSION)
        try:
            scope["arx"].recheck()
        except RevokedError:
            if not answers:
                raise
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"failed"})

    call = Call(realm, app, recheck_ms=3_600_000)
    asyncio.run(call())
    assert (call.sent[0]["status"], json.loads(call.body)["code"]) == (401, "revoked")
    assert realm.codes == ["ok", "revoked"]


def test_a_recheck_says_why() -> None:
    """Killed, out of touch, out of time; and a token that asks for a fresh view has it asked for at each."""
    epochs = MovedEpochs()
    checked = verifier(epochs=epochs)
    grant = checked.verify(mint().encode(), access())
    at = 1_700_000_000_000  # the tests' clock is not today's
    old = checked.verify(mint(iat=at, exp=at + 60_000).encode(), access(at=at))
    with pytest.raises(ValidityError):
        old.recheck()
    grant.recheck()
    epochs.move(1_001)
    with pytest.raises(StaleEpochError):
        grant.recheck()
    epochs.probe()
    grant.recheck()
    fresh = checked.verify(mint().attenuate(Caveat(fresh=0)).encode(), access())
    asked = epochs.asked
    epochs.move(1)
    fresh.recheck()
    assert epochs.asked == asked + 1
    epochs.move(1)
    asyncio.run(fresh.recheck_async())
    assert epochs.asked == asked + 2
