# SPDX-License-Identifier: Apache-2.0
"""The life of a granted call: every order of its events, and its drivers while threads race."""

import asyncio
import threading
import time
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from arx_verifier.enforcement.grants.grant_life import GrantLife
from arx_verifier.enforcement.grants.loop_calls import TaskCut
from arx_verifier.enforcement.grants.running_calls import RunningCalls
from arx_verifier.errors import ArxError, RequestError, refusal
from arx_verifier.request import AccessRequest
from tests.verifier.serving import Realm
from tests.verifier.streaming import SESSION, realm

pytestmark = pytest.mark.spec("11")

__all__ = ["realm"]  # fixtures

LONGEST_S = 0.25
RARELY = st.sampled_from([False, False, False, False, True])  # each of these ends a call
EVERY = settings(
    max_examples=150, stateful_step_count=30, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
)


class Life(RuleBasedStateMachine):
    """One granted call, in a world with a clock, a lease, kills and freezes, and a model of what it did."""

    @initialize(left=st.sampled_from([0.1, 0.3, 1.0]))
    def grant(self, left: float) -> None:
        self.now, self.lease_ends, self.killed, self.frozen, self.fenced = 100.0, 100.0 + left, False, False, False
        self.life = GrantLife(due=self.now + self._pause())
        self.sends = False  # whether a part left, and not yet the whole answer
        self.refused: ArxError | None = None  # by the last recheck
        self.seen = False  # whether a recheck has found a kill or a freeze
        self.ends: list[ArxError | None] = []

    def _pause(self) -> float:
        return max(min(LONGEST_S, self.lease_ends - self.now), 0)

    @property
    def _is_leased(self) -> bool:
        return self.now < self.lease_ends and not self.fenced

    def _recheck(self) -> None:
        """Recheck as each driver does."""
        refused = None
        if self.killed or self.frozen:
            refused = refusal("revoked" if self.killed else "frozen")
        elif not self._is_leased:
            refused = refusal("stale")
        self.refused = refused
        if self.life.take(refused, self.now, self._pause()):
            self.ends.append(refused)
        self.seen = self.seen or (refused is not None and refused.code != "stale")

    @rule(span=st.sampled_from([0.001, 0.1, 0.25, 1.0]))
    def wait(self, span: float) -> None:
        self.now += span

    @rule()
    def lose_lease(self) -> None:
        """The store is silent until the lease has ended."""
        self.now = max(self.now, self.lease_ends)

    @rule()
    def fence_and_look(self) -> None:
        """The store contradicts within the lease what it said before, and a recheck sees that."""
        self.fenced = True
        self.timer()
        self.fenced = False

    @rule(left=st.sampled_from([0.1, 0.3, 1.0]))
    def renew(self, left: float) -> None:
        self.lease_ends = max(self.lease_ends, self.now + left)

    @rule(happens=RARELY)
    def kill(self, happens: bool) -> None:
        self.killed = self.killed or happens

    @rule(happens=RARELY)
    def freeze(self, happens: bool) -> None:
        self.frozen = self.frozen or happens

    @rule()
    def thaw(self) -> None:
        self.frozen = False

    @rule()
    def timer(self) -> None:
        """A recheck by the clock: without a lease it stops nothing that sends nothing, and a kill stops everything."""
        before = self.life.state
        self._recheck()
        if before == "ended":
            return
        if self.killed or self.frozen:
            assert self.life.state == "ended"
        elif not self._is_leased:
            assert self.life.state is ("ended" if self.sends else "due")
        else:
            assert self.life.state is ("open" if self.sends else "granted")

    @rule()
    def send(self) -> None:
        """A part leaves: within the time that a recheck allowed it, and under a lease."""
        if self.life.leave(self.now):
            self._recheck()
        if self.life.state == "ended":
            return
        assert not self.seen
        assert self.refused is None
        assert self.now < self.lease_ends
        assert self.life.state == "open"
        self.sends = True

    @precondition(lambda self: self.sends)
    @rule()
    def answer(self) -> None:
        """The last part has left."""
        self.life.answered()
        self.sends = False

    @rule(happens=RARELY)
    def end(self, happens: bool) -> None:
        """An adapter ends it, as its arguments are not those of the decision."""
        reason = RequestError("another argument")
        if happens and self.life.finish(reason):
            self.ends.append(reason)

    @rule(happens=RARELY)
    def finish(self, happens: bool) -> None:
        """The work is over, or its caller has gone."""
        if happens and self.life.finish():
            self.ends.append(None)

    @invariant()
    def has_one_end(self) -> None:
        """An end is final, is reported once, and has the reason that was first."""
        if not hasattr(self, "life"):
            return
        assert len(self.ends) == (self.life.state == "ended")
        if self.ends:
            assert self.life.reason is self.ends[0]
        else:
            assert self.life.reason is None


def test_every_order_of_events_keeps_the_rules() -> None:
    """A kill that was seen lets nothing leave, a lease that ran out stops no silent work, and there is one end."""
    run_state_machine_as_test(Life, settings=EVERY)


def running(realm: Realm, cut: Any, recheck_ms: int = 1) -> Any:
    """Return one running call of a server with threads."""
    calls = RunningCalls(realm.verifier, recheck_ms)
    request = AccessRequest("orders.get", {}, time.time_ns() // 1_000_000, None)
    return calls.begin(realm.verifier.decide(realm.token().encode(), request), cut)


def race(killed: bool) -> None:
    """Let senders, an adapter, the recheck and the end of the work meet in one call."""
    realm, cuts = Realm(), list[bool]()
    call, begin, late = running(realm, cuts.append), threading.Barrier(4), list[object]()

    def send() -> None:
        begin.wait()
        while call.check() is None and call.state != "ended":
            pass
        late.append(call.check())

    def end() -> None:
        begin.wait()
        call.end(RequestError("another argument"))

    threads = [threading.Thread(target=target) for target in (send, send, end)]
    for thread in threads:
        thread.start()
    begin.wait()
    if killed:
        realm.epochs.kill(SESSION)
    else:
        call.close()
    for thread in threads:
        thread.join(10)
    call.close()
    ends = [decision for decision in realm.sink.decisions if decision.outcome == "end"]
    assert len(ends) == len(cuts) == (call.reason is not None)
    assert late == [call.reason, call.reason]


@pytest.mark.parametrize("killed", [True, False])
def test_threads_that_race_record_one_end(killed: bool) -> None:
    """One end, one cut, one record, and the same reason for each sender."""
    for _ in range(30):
        race(killed)


def test_what_is_over_has_no_end_after_it(realm: Realm) -> None:
    """A kill after the work is no end of it, also if the recheck had begun before."""
    cuts: list[bool] = []
    call = running(realm, cuts.append, recheck_ms=60_000)
    realm.epochs.kill(SESSION)
    call.close()
    call.look()
    assert (call.reason, cuts, [decision.outcome for decision in realm.sink.decisions]) == (None, [], ["allow"])


async def cut_task(events: list[str]) -> tuple[asyncio.Task[None], TaskCut]:
    """Return a task that waits for ever, and what cancels it."""
    made: asyncio.Future[TaskCut] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        made.set_result(cut := TaskCut())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not cut.close():
                raise
            events.append("taken")

    task = asyncio.create_task(work())
    return task, await made


def test_a_cut_differs_from_another_cancellation() -> None:
    """The end of a call lets its task go on to answer; what else cancels the task does not."""

    async def run() -> None:
        events: list[str] = []
        task, cut = await cut_task(events)
        cut()
        await task
        assert (events, task.cancelling()) == (["taken"], 0)
        for ends in ([], [cut]):
            task, cut = await cut_task(events)
            for end in ends:
                end()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert events == ["taken"]

    asyncio.run(run())


def test_a_task_is_cut_after_what_holds_it_and_not_after_its_end() -> None:
    """As the first write of gRPC, which must not be cancelled half-way."""

    async def run() -> None:
        events: list[str] = []
        task, cut = await cut_task(events)
        with cut.held():
            cut()
            await asyncio.sleep(0)
            assert task.cancelling() == 0
        await task
        assert events == ["taken"]
        task, cut = await cut_task(events)
        assert not cut.close()
        cut()
        await asyncio.sleep(0)
        assert task.cancelling() == 0
        task.cancel()

    asyncio.run(run())
