# SPDX-License-Identifier: Apache-2.0
"""End what a grant allowed when the grant no longer stands: open streams, and work whose answer is awaited.  SPEC 11.

A decision is made once, and a response may last for hours.  While one lasts its grant is looked at again: after a fixed
time, and never later than the lease on the kill epoch ends, so that the bound of a kill holds for open streams too.
What was decided is ``verify``'s matter; here are a timer, a guarded ``send`` and a cancelled application.

An application that answers within the first look pays for a timer, and for no task.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from arx_verifier.epochs import Epochs
from arx_verifier.errors import ArxError, UnavailableError
from arx_verifier.grant import Grant
from arx_verifier.routes import Scope

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

RECHECK_MS: Final = 250  # a quarter of the default lease: what a kill adds to its way here, at most

_log = logging.getLogger(__name__)


class Watch:
    """One call while it runs.

    Args:
        grant: What it runs under.
        epochs: The view of the kill epoch that the grant came from.
        recheck_ms: The longest time between two looks, ms.
        on_end: Told why when the call is ended, once, in the event loop's thread.

    Attributes:
        started: Whether anything of the response has left.
    """

    def __init__(self, grant: Grant, epochs: Epochs, recheck_ms: int, on_end: Callable[[ArxError], object]) -> None:
        self._grant, self._epochs, self._recheck_s, self._on_end = grant, epochs, recheck_ms / 1000, on_end
        self.started = False
        self._open = self._over = False

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
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._plan()
        try:
            async with asyncio.timeout(None) as self._cut:
                await app(scope, receive, self._guarded_send)
        except Exception:
            # Cancelled, or told in the middle of a send that nobody listens: how it took that is of no interest.
            if self._grant.ended is None:
                raise
            _log.debug("what an ended call raised", exc_info=True)
        finally:
            self._over = True
            self._timer.cancel()
        return self._grant.ended

    def _plan(self) -> None:
        # No later than the lease ends: a look that waited out its interval would let a stream outlive the bound.
        pause = min(self._recheck_s, self._epochs.lease_left_ns() / 1e9)
        self._due = self._loop.time() + pause
        self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        self._timer.cancel()
        refused = self._grant.look_again()
        if refused is None:
            self._plan()
        elif isinstance(refused, UnavailableError) and not self._open:
            # Nothing leaves, so nothing is looked at but what would: to stop a tool half-way because the store is slow
            # does harm and protects nobody.  What is killed is stopped at once.
            self._due = 0.0
            self._timer = self._loop.call_later(self._recheck_s, self._look)
        else:
            if self._grant.ended is None:
                self._on_end(refused)
            self._grant.end(refused)
            self._cut.reschedule(self._loop.time())

    async def _guarded_send(self, message: Message) -> None:
        kind = message["type"]
        self._open = self._open or kind == "http.response.start"
        if self._grant.ended is None and not self._over and self._loop.time() >= self._due:
            self._look()
        if self._grant.ended is not None:
            # What ASGI has a server raise for a client that is gone: applications know it, and stop.
            raise ConnectionAbortedError("the call was ended: its token no longer stands")
        await self._send(message)
        self.started = True
        if kind == "http.response.body" and not message.get("more_body", False):
            self._open = False
