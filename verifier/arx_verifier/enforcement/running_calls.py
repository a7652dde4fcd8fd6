# SPDX-License-Identifier: Apache-2.0
"""Running calls outside of an event loop: one thread rechecks their grants and ends them after a kill.  SPEC 11.

For WSGI and gRPC.  A thread cannot be cancelled, so the adapter cuts its connection or its stream.
``calls`` does the same in the event loop of an ASGI server.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from arx_verifier.enforcement.calls import RECHECK_MS
from arx_verifier.errors import ArxError, SettingsError, UnavailableError
from arx_verifier.journal import Decision
from arx_verifier.verification import Grant, Verifier, recheck_pause

_SHORTEST_S: Final = 0.005  # between two rechecks of calls that wait for a lease

_ALL: "weakref.WeakSet[RunningCalls]" = weakref.WeakSet()


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
        _ALL.add(self)

    def _forget(self) -> None:
        """Start empty: at construction, and in a forked child, which has no thread of its parent."""
        self.lock = threading.Lock()
        self._calls: set[RunningCall] = set()
        self._thread: threading.Thread | None = None
        self._due = 0.0

    def begin(self, decision: Decision, cut: Callable[[], object]) -> "RunningCall":
        """Recheck the grant of a decision from now on.

        Args:
            decision: An allow.
            cut: Called once, in any thread, after the grant was ended; it must not block.
        """
        with self.lock:
            if self._thread is None:
                self._plan()
                self._thread = threading.Thread(target=self._run, name="arx-recheck", daemon=True)
                self._thread.start()
            # A lease that is granted meanwhile ends later, so the thread never rechecks too late.
            call = RunningCall(self, decision, cut, self._due)
            self._calls.add(call)
        return call

    def discard(self, call: "RunningCall") -> None:
        """Recheck a call no longer."""
        with self.lock:
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
                call.look()


class RunningCall:
    """One allowed call while it runs.

    Args:
        calls: The running calls of the process.
        decision: An allow.
        cut: Ends what the adapter sends.
        due: When its grant is rechecked, monotonic clock, s.

    Attributes:
        grant: Its grant.
        decision: Its decision.
        is_open: Whether a part of the response may have left.
    """

    __slots__ = ("_calls", "_cut", "_due", "_ending", "decision", "grant", "is_open")

    def __init__(self, calls: RunningCalls, decision: Decision, cut: Callable[[], object], due: float) -> None:
        assert isinstance(decision.grant, Grant)
        self._calls, self._cut, self.decision, self.grant, self._due = calls, cut, decision, decision.grant, due
        self.is_open = self._ending = False

    def check(self) -> ArxError | None:
        """Return why the call was ended, before a part of its response leaves; recheck if that is due."""
        if self.grant.ended is None and time.monotonic() >= self._due:
            self.look()
        return self.grant.ended

    def look(self) -> None:
        """Recheck the grant, and end the call if the token was revoked, frozen or expired."""
        refused = self.grant.look_again()
        if refused is None:
            self._due = time.monotonic() + self._calls.pause()
        elif isinstance(refused, UnavailableError) and not self.is_open:
            # No data leaves before the next recheck.  Stopping a tool half-way because the store is slow would do harm
            # and protect no data.  A kill still ends it at once.
            self._due = 0.0
        else:
            self.end(refused)

    def end(self, reason: ArxError) -> None:
        """End the call, and record that; a second call changes nothing.

        Args:
            reason: Why.
        """
        with self._calls.lock:
            if self._ending:
                return
            self._ending = True
        self.grant.end(reason)
        self._cut()
        self._calls.verifier.record_end(self.decision, reason)

    def close(self) -> None:
        """Recheck no longer: the call is over."""
        self._calls.discard(self)
        self._cut = _no_cut  # it refers to the call of the adapter: without this they are a reference cycle


def _no_cut() -> None:
    """Cut nothing: the call is over."""


def _forget_all() -> None:
    for calls in tuple(_ALL):
        calls._forget()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forget_all)
