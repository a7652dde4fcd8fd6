# SPDX-License-Identifier: Apache-2.0
"""Running calls outside of an event loop: one thread rechecks their grants and ends them after a kill.  SPEC 11.

For WSGI and gRPC.  A thread cannot be cancelled, so the adapter cuts its connection or its stream.  ``grant_life`` has
the rules; ``loop_calls`` does the same in an event loop.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from arx_verifier._platform import reset_at_fork
from arx_verifier.enforcement.grants.call_effect import CallEffect, EffectResult
from arx_verifier.enforcement.grants.grant_life import RECHECK_MS, GrantLife
from arx_verifier.errors import ArxError, SettingsError
from arx_verifier.journal.decision import Decision
from arx_verifier.verification.freshness import recheck_pause
from arx_verifier.verification.grant import Grant
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import WatchedCall

_log = logging.getLogger(__name__)
_SHORTEST_S: Final = 0.005  # between two rechecks of calls that wait for a lease


class RunningCalls:
    """The running calls of one process, and the thread that rechecks them; safe across fork.

    The thread runs while there are calls.

    Args:
        verifier: Made the decisions.
        recheck_ms: The longest time between two rechecks of a grant, ms; at least 1.

    Raises:
        SettingsError: ``recheck_ms`` is below 1.
    """

    def __init__(self, verifier: Verifier, recheck_ms: int = RECHECK_MS) -> None:
        if recheck_ms < 1:
            raise SettingsError(f"invalid recheck_ms: expected at least 1, got {recheck_ms}")
        self.verifier, self._recheck_s = verifier, recheck_ms / 1000
        self._forget()
        _RUNNING_CALLS.add(self)

    def _forget(self) -> None:
        """Start empty: at construction, and in a forked child, which has no thread of its parent."""
        # One for all: no step under it waits.  Reentrant, as the garbage collector may close a call of the same thread.
        self.lock = threading.RLock()
        self._calls: set[RunningCall] = set()
        self._thread: threading.Thread | None = None
        self._due = 0.0

    def begin(self, decision: Decision, cut: Callable[[bool], object]) -> "RunningCall":
        """Recheck the grant of a decision from now on.

        Args:
            decision: An allow, or a refusal whose call goes on in watch mode.
            cut: Called once, in any thread, after the grant was ended, with whether a part of the response may have
                left; it must not block.
        """
        grant = decision.grant or decision.watch
        assert isinstance(grant, (Grant, WatchedCall))
        effect = CallEffect.of(self.verifier, decision)
        with self.lock:
            if self._thread is None:
                self._plan()
                self._thread = threading.Thread(target=self._run, name="arx-recheck", daemon=True)
                self._thread.start()
            # A lease that is granted meanwhile ends later, so the thread never rechecks too late.
            call = RunningCall(self, decision, grant, cut, due=self._due, effect=effect)
            self._calls.add(call)
        return call

    def discard(self, call: "RunningCall") -> None:
        """Recheck a call no longer; the lock is held."""
        self._calls.discard(call)

    def pause(self) -> float:
        """Return the time to the next recheck, s."""
        return recheck_pause(self.verifier.epochs, self._recheck_s)

    def _plan(self) -> None:
        """Set the time of the next recheck of all calls, monotonic clock, s."""
        self._due = time.monotonic() + self.pause()

    def _run(self) -> None:
        while True:
            time.sleep(max(self._due - time.monotonic(), _SHORTEST_S))
            with self.lock:
                calls = list(self._calls)
                if not calls:
                    self._thread = None
                    return
                self._plan()
            for call in calls:
                try:
                    call.look()
                except Exception:  # of an adapter's cut or of a sink: the other calls are rechecked all the same
                    _log.exception("a running call was ended, and not cut or not recorded")


class RunningCall(GrantLife, eq=False):
    """One granted call while it runs; safe for threads.

    Attributes:
        grant: Its grant, or the call that goes on in watch mode without one.
        decision: Its decision.
    """

    _calls: RunningCalls
    decision: Decision
    grant: Grant | WatchedCall
    _cut: Callable[[bool], object] | None

    def check(self, *, anew: bool = False) -> ArxError | None:
        """Return why a part of the response may not leave, or None; recheck if that is due.

        Args:
            anew: Recheck also if that is not due.
        """
        with self._calls.lock:
            is_due = self.leave(time.monotonic())
        if is_due or anew or self.grant.unset() is not None:
            self.look()
        return self.reason

    def look(self) -> None:
        """Recheck the grant, and end the call if its token was revoked, frozen or expired."""
        refused, pause = self.grant.look_again(), self._calls.pause()
        with self._calls.lock:
            is_open, ends = self.state == "open", self.take(refused, time.monotonic(), pause)
        if ends:
            self._stop(is_open)

    def end(self, reason: ArxError) -> None:
        """End the call, and record that; a second call changes nothing.

        Args:
            reason: Why.
        """
        with self._calls.lock:
            is_open, ends = self.state == "open", self.finish(reason)
        if ends:
            self._stop(is_open)

    def settle(self, result: EffectResult | None = None) -> None:
        """Record the effect of the call before the end of its answer leaves, where it gets a record.

        Args:
            result: As ``CallEffect.settle`` takes it.
        """
        if self.effect is not None:
            self.effect.settle(result)

    def close(self) -> None:
        """Recheck no longer: the call is over."""
        with self._calls.lock:
            self.finish()
            self._calls.discard(self)
        self.settle("unknown")
        self._cut = None  # it refers to the call of the adapter: without this they are a reference cycle

    def _stop(self, is_open: bool) -> None:
        assert self.reason is not None
        with self._calls.lock:
            self._calls.discard(self)  # also where an adapter never closes it: the thread would run on
        self.grant.end(self.reason)
        if (cut := self._cut) is not None:
            cut(is_open)
        self._calls.verifier.record_end(self.decision, self.reason)


_RUNNING_CALLS: Final = reset_at_fork(RunningCalls._forget)  # noqa: SLF001 - of this module
