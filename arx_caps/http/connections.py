# SPDX-License-Identifier: Apache-2.0
"""Bounds on connections: their number, the time for a request, and for a client that does not read its answer.

``httptools_protocol`` adds the bounds of a head.
"""

# uvicorn waits for a request without limit, and a process without a free file descriptor can neither accept, record
# nor kill. So a request that does not arrive in time is given up, and a client that does not read its answer, which
# waits in memory. When all places are taken, the connection that has waited longest is closed: an attacker who holds
# connections open cannot lock an operator out.
#
# A server that stops loses bytes that it has not read: uvicorn closes every connection without a request. Here such
# connections get a short time, and an answer.

import asyncio
import http
import json
import resource
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from arx_verifier.errors import REASONS

BACKLOG: Final = 512  # of a listener, for connections that wait to be accepted
AT_ONCE: Final = 64  # accepted in one turn of the event loop; a closed place is free some turns later
LOOK_S: Final = 0.01  # between two checks for last requests
QUIET_TURNS: Final = 3  # an accepted connection belongs to its listener one turn of the event loop later
STREAMED: Final = "arx.streamed"  # in the state of a request whose body is passed on while it comes
LAST_LOOKS: Final = 50  # half a second for requests that are arriving when the server stops


class BoundedProtocol(asyncio.Protocol):
    """Bounds connections in number and time. It must precede a protocol of uvicorn in the bases.

    Attributes:
        places: How many connections may be open.
        request_s: How long a whole request may take to arrive, and how long a client may read nothing of an answer, s.
        type_of: Returns the ``type`` of a problem with a code.
        held: The open connections, ordered by when they began to wait.
        leaving: Whether the server stops.
    """

    places: ClassVar[int]
    request_s: ClassVar[float]
    type_of: ClassVar[Callable[[str], str]]
    held: ClassVar[dict["BoundedProtocol", None]]  # a dict for its order
    leaving: ClassVar[bool] = False
    # uvicorn's.
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _since = 0.0
    _stalled = 0.0  # when the client began to read nothing, while it does
    _timer: asyncio.TimerHandle | None = None
    _begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn types it so, too
        """Take a place; if there is none, close the connection that has waited longest."""
        super().connection_made(transport)
        self._watch()
        if len(self.held) > self.places:
            longest = next((connection for connection in self.held if connection.waits()), self)
            longest.transport.abort()
            self.held.pop(longest, None)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; the first bytes of a request start its time."""
        # Later bytes do not: a request that arrives byte by byte would never time out.  Those of a stream do.
        if not self._begun or self._is_streamed():
            self._begun = True
            self._watch()
        super().data_received(data)
        self._leave()

    def refuse(self, status: int, detail: str) -> None:
        """Answer bytes that are no HTTP/1.1 request with a problem, and close the connection.

        Args:
            status: The HTTP status.
            detail: The problem's detail.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application has the request's beginning; drop its answer
            if self.cycle.response_started:
                self.transport.abort()
                return
        code, phrase = "malformed_request", http.HTTPStatus(status).phrase
        problem = {"type": type(self).type_of(code), "title": REASONS[code].meaning, "status": status}
        problem |= {"detail": detail, "code": code}
        body = json.dumps(problem)
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-length: {len(body)}\r\ncontent-type: application/problem+json\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._begun = False
        if not self.transport.is_closing():
            self._watch()
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self.held.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @classmethod
    async def take_last(cls) -> None:
        """Wait for requests that are arriving, on new connections too, before the server stops."""
        cls.leaving = True
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(LOOK_S)  # the event loop reads received bytes meanwhile
            if not any(connection.is_awaited() for connection in cls.held):
                return

    def waits(self) -> bool:
        """Return whether a whole request is still to arrive."""
        return self.cycle is None or self.cycle.response_complete or bool(self.cycle.more_body)

    def is_awaited(self) -> bool:
        """Return whether a request has begun to arrive, or is the first of its connection."""
        # A connection that has had an answer and sent nothing since is idle, and need not be waited for.
        return self.waits() and (self._begun or self.cycle is None)

    def _is_streamed(self) -> bool:
        cycle = self.cycle  # a body that comes after its answer is no stream
        return cycle is not None and not cycle.response_complete and STREAMED in cycle.scope.get("state", ())

    def _leave(self) -> None:
        """Make a request the last one of its connection if the server stops."""
        if self.leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _watch(self) -> None:
        self.held.pop(self, None)
        self.held[self] = None
        self._since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.request_s, self._look)

    def _look(self) -> None:
        since = now = self.loop.time()  # the application's work and a stream have no limit here
        if self.flow.read_paused and self._is_streamed():
            self._since = now  # what takes the stream is slow, and has a limit of its own
        elif self.flow.write_paused or self.transport.is_closing():
            since = self._stalled = self._stalled or now
        elif self.waits():
            since = self._since
        if now - since >= self.request_s:
            self.transport.abort()
            return
        self._timer = self.loop.call_later(since + self.request_s - now, self._look)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        self._stalled = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on."""
        self._stalled = 0.0
        super().resume_writing()


async def accept_last(listeners: Sequence[socket.socket]) -> None:
    """Accept the connections in the backlog, before their listener is closed."""
    # Closing a listener resets connections that wait in its backlog, and their clients lose requests that they have
    # sent.
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    quiet = 0
    for _ in range(2 * BACKLOG):  # uvloop accepts one connection a turn; bounded, as clients may connect without end
        quiet = 0 if waiting.poll(0) else quiet + 1
        if quiet == QUIET_TURNS:
            return
        await asyncio.sleep(0)  # the event loop accepts


def places_for(connections: int, *, files: int, other_files: int) -> int:
    """Raise the limit of open files as far as needed, and return how many connections of clients it has room for.

    Args:
        connections: How many there may be at most.
        files: Files that a connection takes.
        other_files: Files that everything else takes.
    """
    # A server that is full of connections must still record and kill.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files * connections + other_files
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = connections if soft == resource.RLIM_INFINITY else (soft - other_files) // files
    return max(1, min(connections, room))
