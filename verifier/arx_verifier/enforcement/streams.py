# SPDX-License-Identifier: Apache-2.0
"""End what a grant allowed when the grant no longer stands: open streams, and work whose answer is awaited.  SPEC 11.

A decision is made once, and a response may last for hours.  While one lasts its grant is looked at again: after a fixed
time, and never later than the lease on the kill epoch ends, so that the bound of a kill holds for open streams too.
What was decided is ``verifier``'s matter; here are a timer, a guarded ``send`` and a cancelled application.

An application that answers within the first look pays for no task, and shares its timer with all that began with it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from arx_verifier.enforcement.routes import Scope
from arx_verifier.errors import ArxError, UnavailableError
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.verification.grant import Grant

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

RECHECK_MS: Final = 250  # a quarter of the default lease: what a kill adds to its way here, at most

_log = logging.getLogger(__name__)


class Young:
    """The calls of one event loop that were not looked at yet, with one timer for all of them.

    Nearly every call is over before it goes off.

    Args:
        loop: The event loop.
        epochs: The view of the kill epoch.
        recheck_ms: The longest time between two looks, ms.
    """

    __slots__ = ("_epochs", "_planned", "_watches", "due", "loop", "recheck_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, epochs: Epochs, recheck_ms: int) -> None:
        self.loop, self._epochs, self.recheck_s = loop, epochs, recheck_ms / 1000
        self._watches: set[Watch] = set()
        self._planned, self.due = False, 0.0

    def add(self, watch: "Watch") -> None:
        """Have a call looked at when the timer goes off; that is no later than if it had one of its own."""
        if not self._planned:
            # A lease that is granted meanwhile ends later than the one that the timer was set by.
            pause = self.pause()
            self._planned, self.due = True, self.loop.time() + pause
            self.loop.call_later(pause, self._look)
        self._watches.add(watch)

    def discard(self, watch: "Watch") -> None:
        """Forget a call that is over."""
        self._watches.discard(watch)

    def pause(self) -> float:
        """Return the time to the next look, s."""
        # No later than the lease ends: a look that waited out its interval would let a stream outlive the bound.
        return min(self.recheck_s, self._epochs.lease_left_ns() / 1e9)

    def _look(self) -> None:
        watches, self._watches, self._planned = self._watches, set(), False
        for number, watch in enumerate(watches):
            # From here on each has a timer of its own; they are spread over half of their time.
            self.loop.call_soon(watch.look, 1 - number / len(watches) / 2)


class Watch:
    """One call while it runs.

    Args:
        young: The calls that begin in the same event loop, with its view of the kill epoch.

    Attributes:
        started: Whether anything of the response has left.
    """

    _grant: Grant | None = None
    _timer: asyncio.TimerHandle | None = None
    _open = _over = _cut = started = False

    def __init__(self, young: Young) -> None:
        self._young, self._loop = young, young.loop

    def on_end(self, reason: ArxError) -> None:
        """Learn that the call is ended: called once, in the event loop's thread."""

    async def before_grant(self, message: Message) -> None:
        """Take a message of the application that has no grant yet.  Nothing of it leaves unless this sends it."""

    def begin(self, grant: Grant) -> None:
        """Look after a grant from now on; the application runs already, or is about to."""
        self._grant = grant
        self._young.add(self)
        self._due = self._young.due

    async def run(self, app: App, scope: Scope, receive: Receive, send: Send) -> ArxError | None:
        """Run the application until it is done or its grant no longer stands.

        Args:
            app: The application.
            scope: The connection.
            receive: Its incoming messages.
            send: Where its answer goes.

        Returns:
            Why the call was ended, or None.  Ended after its response had begun, the connection must be closed, which a
            server does when an application returns from an unfinished response.
        """
        self._send = send
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        try:
            await app(scope, receive, self._guarded_send)
        except asyncio.CancelledError:
            if not self._close():
                raise
        except Exception:
            self._close()
            # Cancelled, or told in the middle of a send that nobody listens: how it took that is of no interest.
            if self._ended is None:
                raise
            _log.debug("what an ended call raised", exc_info=True)
        finally:
            self._close()
        return self._ended

    @property
    def _ended(self) -> ArxError | None:
        return None if self._grant is None else self._grant.ended

    def _close(self) -> bool:
        """Be done, once; say whether the task was cancelled from here and by nobody else, as ``asyncio.timeout``."""
        if self._over:
            return False
        self._over = True
        if self._timer is None:
            self._young.discard(self)
        else:
            self._timer.cancel()
        return self._cut and self._task.uncancel() <= self._cancelling

    def _plan(self, part: float = 1.0) -> None:
        pause = self._young.pause() * part
        self._due = self._loop.time() + pause
        self._timer = self._loop.call_later(pause, self.look)

    def look(self, part: float = 1.0) -> None:
        """Look whether the grant still stands, and end the call if it does not.

        Args:
            part: After which part of the longest time to look again.
        """
        if self._over:
            return
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._young.discard(self)
        assert self._grant is not None
        refused = self._grant.look_again()
        if refused is None:
            self._plan(part)
        elif isinstance(refused, UnavailableError) and not self._open:
            # Nothing leaves, so nothing is looked at but what would: to stop a tool half-way because the store is slow
            # does harm and protects nobody.  What is killed is stopped at once.
            self._due = 0.0
            self._timer = self._loop.call_later(self._young.recheck_s, self.look)
        else:
            if self._grant.ended is None:
                self.on_end(refused)
            self._grant.end(refused)
            self._loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        if not self._over:
            self._cut = True
            self._task.cancel()

    async def _guarded_send(self, message: Message) -> None:
        kind, grant = message["type"], self._grant
        if grant is None:
            await self.before_grant(message)
            return
        if kind == "http.response.start":
            self._open = True
        if grant.ended is None and self._loop.time() >= self._due:
            self.look()
        if grant.ended is not None:
            # What ASGI has a server raise for a client that is gone: applications know it, and stop.
            raise ConnectionAbortedError("the call was ended: its token no longer stands")
        await self._send(message)
        self.started = True
        if kind == "http.response.body" and not message.get("more_body", False):
            self._open = False
