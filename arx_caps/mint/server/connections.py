# SPDX-License-Identifier: Apache-2.0
"""Bounds on connections before authentication: time for a request to arrive, and a number of places.

uvicorn waits for a request for ever, and a process without a free file descriptor can neither accept, record nor kill.
So a request that does not arrive is given up, and when all places are taken, the connection that has waited longest is
closed: strangers who hold connections open cannot lock an operator out.

A server that stops loses what it has not read: uvicorn closes every connection without a request.  Here earlier
connections are given a short time, and answered.

The bounds are the same whatever parses HTTP: ``h11_protocol`` and ``httptools_protocol`` add what differs.
"""

import asyncio
import http
import json
import resource
import select
import socket
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from arx_caps.mint.api.problems import type_of
from arx_verifier.errors import REASONS

REQUEST_S: Final = 10.0  # for a whole request of 64 KiB, and for an answer to be taken
BACKLOG: Final = 512  # connections that wait to be accepted
AT_ONCE: Final = 64  # accepted in one turn of the event loop; it takes some turns until a place is given back
MAX_CONNECTIONS: Final = 2048
LOOK_S: Final = 0.01
QUIET_TURNS: Final = 3  # an accepted connection belongs to its listener one turn of the event loop later
LAST_LOOKS: Final = 50  # half a second for requests that are on their way when the server stops
OTHER_FILES: Final = 4 * AT_ONCE + 128  # and database, record, journal, store, standard streams


class BoundedProtocol(asyncio.Protocol):
    """Holds each connection to a time and all of them to a number; goes before one of uvicorn's own in the bases."""

    most: ClassVar[int] = MAX_CONNECTIONS
    held: ClassVar[dict["BoundedProtocol", None]]  # in the order in which they began to wait
    issuer: ClassVar[str]
    leaving: ClassVar[bool] = False
    # uvicorn's.
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _since = 0.0
    _timer: asyncio.TimerHandle | None = None
    _begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn types it so, too
        """Take a place; when there is none, the one that has waited longest is given up."""
        super().connection_made(transport)
        self._watch()
        if len(self.held) > self.most:
            longest = next((each for each in self.held if each.waits()), self)
            longest.transport.abort()
            self.held.pop(longest, None)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the first ones of a request start its time, the following ones do not."""
        if not self._begun:
            self._begun = True
            self._watch()
        super().data_received(data)
        self._leave()

    def refuse(self, status: int, detail: str) -> None:
        """Refuse what is no request of HTTP/1.1: as a problem, like every refusal."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application was given the beginning; its answer goes to nobody
            if self.cycle.response_started:
                self.transport.abort()
                return
        code, phrase = "malformed_request", http.HTTPStatus(status).phrase
        told = {"type": type_of(code, self.issuer), "title": REASONS[code].meaning, "status": status}
        told |= {"detail": detail, "code": code}
        body = json.dumps(told)
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-length: {len(body)}\r\ncontent-type: application/problem+json\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode("ascii"))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._begun = False
        if not self.transport.is_closing():
            self._watch()
        super().on_response_complete()  # type: ignore[misc]  # uvicorn's
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self.held.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @classmethod
    async def take_last(cls) -> None:
        """Let the requests arrive that are on their way: on new connections, and what has begun to arrive."""
        cls.leaving = True
        for _ in range(LAST_LOOKS):
            await asyncio.sleep(LOOK_S)  # what has arrived already is read meanwhile
            if not any(each.is_awaited() for each in cls.held):
                return

    def waits(self) -> bool:
        """Tell whether a request is not there yet, or not whole."""
        return self.cycle is None or self.cycle.response_complete or bool(self.cycle.more_body)

    def is_awaited(self) -> bool:
        """Tell whether a request is to be expected that is not whole; who had an answer begins no other one."""
        return self.waits() and (self._begun or self.cycle is None)

    def _leave(self) -> None:
        """When the server stops, each request is the last one of its connection."""
        if self.leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _watch(self) -> None:
        self.held.pop(self, None)
        self.held[self] = None
        self._since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(REQUEST_S, self._look)

    def _look(self) -> None:
        left_s = self._since + REQUEST_S - self.loop.time()
        if left_s <= 0 and (self.waits() or self.flow.write_paused or self.transport.is_closing()):
            self.transport.abort()
            return
        # Later: something arrived since, or the application is at work.
        self._timer = self.loop.call_later(left_s if left_s > 0 else REQUEST_S, self._look)


async def accept_last(listeners: Sequence[socket.socket]) -> None:
    """Accept who has connected already: the end of a listener cuts off those who wait there."""
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    quiet = 0
    for _ in range(2 * BACKLOG):  # uvloop accepts one in a turn; clients that go on connecting are not waited for
        quiet = 0 if waiting.poll(0) else quiet + 1
        if quiet == QUIET_TURNS:
            return
        await asyncio.sleep(0)  # the event loop accepts


def bounded(issuer: str, protocol: type[BoundedProtocol]) -> type[BoundedProtocol]:
    """Make the protocol of one server, with as many places as this process can open files.

    Args:
        issuer: The mint's public base URL, for what refusals name.
        protocol: What parses HTTP.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft - OTHER_FILES)
    members: dict[str, Any] = {"most": max(most, 1), "held": {}, "issuer": issuer}
    return type("Bounded", (protocol,), members)
