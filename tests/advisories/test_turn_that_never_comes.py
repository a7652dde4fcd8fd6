# SPDX-License-Identifier: Apache-2.0
"""A service with budgets could stop for good, or queue calls without end, while its ledger was slow.

One call at a time leases from the ledger, and the others waited for their turn without a bound.  A decision in an event
loop's own thread waited for a task of that loop, which could not go on; tasks waited one time-out of the ledger each.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import PoolDraw, Short, Taken
from arx_verifier.revocation.store_steps import run_async, steps_of
from tests.faults.proxy import Proxy
from tests.ledgers import new_ledger
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.6")]

PATIENT_S, TOO_LONG_S = 10.0, 30.0


@pytest.fixture
def network(valkey: EmbeddedValkey) -> Iterator[Proxy]:
    """A network before the ledger."""
    proxy = Proxy(Path(valkey.url.removeprefix("unix://")))
    yield proxy
    proxy.close()


def leased_at(network: Proxy, realm: str, timeout_s: float) -> LeasedLedger:
    """Return a ledger that has begun."""
    ledger = new_ledger(network.url, realm, timeout_s)
    ledger.start()
    return LeasedLedger(ledger)


def a_pool(name: str) -> list[PoolDraw]:
    """Return a draw of a pool that has just been opened."""
    opened = now_ms()
    until(lambda: now_ms() > opened)
    return [PoolDraw(f"{name}/-/p/usd/task", 10**9, 0, opened, 1, 1, "s")]


def ask(leased: LeasedLedger, name: str) -> "asyncio.Task[Taken | Short]":
    """Draw in a task."""
    return asyncio.ensure_future(run_async(steps_of(leased.take, "draw", "", a_pool(name))))


async def ask_a_silent_ledger(leased: LeasedLedger, network: Proxy) -> "asyncio.Task[Taken | Short]":
    """Draw once, and return a task that has the turn while the ledger does not answer."""
    assert isinstance(await ask(leased, "first"), Taken)
    network.hold(network.from_store)
    held = ask(leased, "second")
    await asyncio.sleep(0)
    return held


def ends(work: Callable[[], Awaitable[None]]) -> None:
    """Run work in an event loop that may stop for good, and require its end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type]  # a coroutine
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TOO_LONG_S)
    assert not thread.is_alive(), "the event loop waits for itself"
    assert failures == []


def test_a_decision_in_the_thread_of_the_loop_is_refused(network: Proxy) -> None:
    """It waits for a task that has the turn, and is refused; then the task goes on, and so do later decisions."""
    leased = leased_at(network, "turn-thread", PATIENT_S)

    async def work() -> None:
        held = await ask_a_silent_ledger(leased, network)
        with pytest.raises(StoreError, match="too many calls wait"):
            leased.take("draw", "", a_pool("third"))
        network.heal()
        assert isinstance(await held, Taken)
        assert isinstance(leased.take("draw", "", a_pool("third")), Taken)

    ends(work)
    leased.close()


def test_a_ledger_is_closed_in_the_thread_of_the_loop(network: Proxy) -> None:
    """A task that waits for the ledger does not keep the loop from closing it."""
    leased = leased_at(network, "turn-close", PATIENT_S)

    async def work() -> None:
        held = await ask_a_silent_ledger(leased, network)
        network.heal()
        leased.close()
        with suppress(StoreError):
            await held

    ends(work)


def test_calls_do_not_queue_for_a_silent_ledger(network: Proxy) -> None:
    """All of them are refused in the time of some answers; the next one after the outage is accepted."""
    leased = leased_at(network, "turn-queue", 0.25)

    async def work() -> None:
        assert isinstance(await ask(leased, "first"), Taken)
        network.hold(network.from_store)
        answers = await asyncio.gather(*[ask(leased, f"p{n}") for n in range(40)], return_exceptions=True)
        texts = [str(answer) for answer in answers if isinstance(answer, StoreError)]
        assert len(texts) == 40
        assert sum("too many calls wait" in text for text in texts) > 20
        network.heal()

    ends(work)
    leased.close()
