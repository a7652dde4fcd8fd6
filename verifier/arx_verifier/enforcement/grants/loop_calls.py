# SPDX-License-Identifier: Apache-2.0
"""Granted calls in an event loop: timers recheck their grants, and the end of a call cancels its task.  SPEC 11.

``grant_life`` has the rules.  ``running_calls`` does the same in a thread.
"""

import asyncio
from asyncio import get_running_loop
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Literal, TypeAlias

from arx_verifier.enforcement.grants.call_effect import EffectResult
from arx_verifier.enforcement.grants.grant_life import GrantLife
from arx_verifier.errors import ArxError
from arx_verifier.journal.decision import Decision
from arx_verifier.verification.freshness import recheck_pause
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall


class LoopCalls:
    """The granted calls of one event loop, with one timer for all of them before their first recheck.

    Args:
        verifier: Made the decisions.
        recheck_ms: The longest time between two rechecks, ms.
        loop: The event loop; None before there is one, see ``here``.

    Attributes:
        verifier: As given.
        recheck_s: The longest time between two rechecks, s.
    """

    # Nearly every call is over before the timer fires: a timer for each would cost more than the call's own work.

    __slots__ = ("_due", "_loop", "_new", "_recheck_ms", "recheck_s", "verifier")

    def __init__(self, verifier: Verifier, recheck_ms: int, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.verifier, self._recheck_ms, self.recheck_s, self._loop = verifier, recheck_ms, recheck_ms / 1000, loop
        self._new: set[LoopCall] = set()
        self._due: float | None = None  # when the timer fires, monotonic clock, s

    def here(self) -> "LoopCalls":
        """Return the calls of the running event loop; one loop's timers and sets are not safe in another's thread."""
        loop = get_running_loop()
        return self if self._loop is loop else LoopCalls(self.verifier, self._recheck_ms, loop)

    def join(self, call: "LoopCall") -> float:
        """Recheck a call when the timer fires; return when that is, monotonic clock, s."""
        due = self._due
        if due is None:
            # A lease that is granted meanwhile ends later, so the timer never fires too late.
            pause = self.pause()
            self._due = due = monotonic() + pause
            get_running_loop().call_later(pause, self._look)
        self._new.add(call)
        return due

    def discard(self, call: "LoopCall") -> None:
        """Let the timer pass a call."""
        self._new.discard(call)

    def pause(self) -> float:
        """Return the time to the next recheck, s."""
        return recheck_pause(self.verifier.epochs, self.recheck_s)

    def _look(self) -> None:
        calls, self._new, self._due = self._new, set(), None
        for number, call in enumerate(calls):
            # From here on each call has its own timer.  They are spread over half of the interval, so that not all
            # rechecks run at the same moment.
            get_running_loop().call_soon(call.look, 1 - number / len(calls) / 2)


class LoopCall(GrantLife, eq=False):
    """One granted call, or other work under a live token, in an event loop.  Only the loop's thread may use it.

    Attributes:
        decision: The decision that allowed the call; None of work that no call has begun.
        grant: Its grant, or the call that goes on in watch mode without one; None without a decision.
    """

    _calls: LoopCalls
    _look_again: Callable[[], ArxError | None]  # as ``Grant.look_again``
    decision: Decision | None = None
    grant: Grant | WatchedCall | None = None
    _cut: Callable[[], object] | None = None
    _timer: asyncio.TimerHandle | None = None

    def begin(self, cut: Callable[[], object]) -> None:
        """Recheck the grant from now on.

        Args:
            cut: Cancels the call's task, after the event loop's present step.
        """
        self._cut, self.due = cut, self._calls.join(self)

    def check(self, *, anew: bool = False) -> ArxError | None:
        """Return why a part of the answer may not leave, or None; recheck if that is due.

        Args:
            anew: Recheck also if that is not due.
        """
        if self.leave(monotonic()) or anew or (self.grant is not None and self.grant.unset() is not None):
            self.look()
        return self.reason

    def look(self, part: float = 1.0) -> None:
        """Recheck the grant, plan the next recheck, and end the call if its token was revoked, frozen or expired.

        Args:
            part: The time to the next recheck, as a part of the longest time.
        """
        if self.state == "ended":
            return
        refused, pause = self._look_again(), self._calls.pause() * part
        if self.take(refused, monotonic(), pause):
            if self._cut is not None:
                self._cut()
            self._stop(self.reason)
        elif self._cut is not None:
            self._unplan()
            # Without a lease its end sets no pace.
            self._timer = get_running_loop().call_later(self._calls.recheck_s if refused else pause, self.look)

    def end(self, reason: ArxError) -> bool:
        """End the call without cancelling its task, and record that; return whether it had not ended before.

        Args:
            reason: Why.
        """
        ends = self.finish(reason)
        if ends:
            self._stop(reason)
            self._settle_soon("failed")  # nothing has run yet
        return ends

    def close(self) -> None:
        """Recheck no longer: the call is over."""
        self.finish()
        self._unplan()
        self._settle_soon("unknown")

    async def settle(self, result: EffectResult | None = None) -> None:
        """Record the effect of the call before the end of its answer leaves, where it gets a record.

        Args:
            result: As ``CallEffect.settle`` takes it.
        """
        if self.effect is not None:
            await self.effect.settle_async(result)

    def _settle_soon(self, result: EffectResult) -> None:
        if self.effect is not None and not self.effect.is_settled:  # at shutdown no thread takes a needless job
            self._record(self.effect.settle, result)

    def _record(self, write: Callable[..., object], *values: object) -> None:
        if self._calls.verifier.decisions.waits:  # the event loop must not wait for a disk
            get_running_loop().run_in_executor(None, write, *values)
        else:
            write(*values)

    def _unplan(self) -> None:
        if self._timer is None:
            self._calls.discard(self)
        else:
            self._timer.cancel()

    def _stop(self, reason: ArxError | None) -> None:
        self._unplan()
        if self.grant is None or self.decision is None or reason is None:
            return
        self.grant.end(reason)
        self._record(self._calls.verifier.record_end, self.decision, reason)


CutState: TypeAlias = Literal["ready", "held", "wanted", "cut", "over"]
"""What a ``TaskCut`` does with its task.

``ready``: it cancels the task when it is called.  ``held``: it must not cancel it yet.  ``wanted``: it was called while
it was held.  ``cut``: it has cancelled it.  ``over``: it cancels nothing any more.
"""


class TaskCut:
    """Cancels the task that runs here, when called from any thread, until it is closed."""

    __slots__ = ("_cancelling", "_state", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._state: CutState = "ready"

    def __call__(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and runs the task no more
            self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._state == "held":
            self._state = "wanted"
        elif self._state == "ready" and self._task.cancel():
            self._state = "cut"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Return a context in which the task is not cancelled, but after it."""
        if self._state == "ready":
            self._state = "held"
        try:
            yield
        finally:
            if self._state == "wanted":
                self()
            if self._state in ("held", "wanted"):
                self._state = "ready"

    def close(self) -> bool:
        """Cancel nothing any more; return whether this alone has cancelled the task, as ``asyncio.timeout`` does."""
        was_cut, self._state = self._state == "cut", "over"
        return was_cut and self._task.uncancel() <= self._cancelling
