# SPDX-License-Identifier: Apache-2.0
"""Bounds on connections before authentication: time for a request to arrive, and a number of places.

uvicorn waits for a request for ever, and a process without a free file descriptor can neither accept, record nor kill.
So a request that does not arrive is given up, and when all places are taken, the connection that has waited longest is
closed: strangers who hold connections open cannot lock an operator out.

A server that stops loses what it has not read: uvicorn closes every connection without a request.  Here earlier
connections are given a short time, and answered.
"""

import asyncio
import http
import json
import resource
import select
import socket
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

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


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 of which each connection is held to a time, and all of them to a number; ``bounded`` makes one."""

    most: ClassVar[int] = MAX_CONNECTIONS
    held: ClassVar[dict["BoundedProtocol", None]]  # in the order in which they began to wait
    issuer: ClassVar[str]
    leaving: ClassVar[bool] = False
    _timer: asyncio.TimerHandle | None = None
    _begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn types it so, too
        """Take a place; when there is none, the one that has waited longest is given up."""
        super().connection_made(transport)
        self._watch()
        if len(self.held) > self.most:
            longest = next((each for each in self.held if _waits(each)), self)
            longest.transport.abort()
            self.held.pop(longest, None)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the first ones of a request start its time, the following ones do not."""
        if not self._begun:
            self._begun = True
            self._watch()
        super().data_received(data)

    def handle_events(self) -> None:
        """Take in requests; when the server stops, each is the last one of its connection."""
        super().handle_events()
        if self.leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request of HTTP/1.1: as a problem, like every refusal, and with h11's better status."""
        error = sys.exc_info()[1]
        status = http.HTTPStatus(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400)
        code = "malformed_request"
        told = {"type": type_of(code, self.issuer), "title": REASONS[code].meaning, "status": status.value}
        told |= {"detail": msg.rstrip("."), "code": code}
        body = json.dumps(told).encode()
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        answer = h11.Response(status_code=status.value, headers=headers, reason=status.phrase.encode())
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._begun = False
        if not self.transport.is_closing():
            self._watch()
        super().on_response_complete()

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

    def is_awaited(self) -> bool:
        """Tell whether a request is to be expected that is not whole; who had an answer begins no other one."""
        return _waits(self) and (self._begun or self.cycle is None)

    def _watch(self) -> None:
        self.held.pop(self, None)
        self.held[self] = None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(REQUEST_S, self._look)

    def _look(self) -> None:
        if _waits(self) or self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(REQUEST_S, self._look)  # the application is at work


def _waits(protocol: H11Protocol) -> bool:
    """Tell whether a request is not there yet, or not whole."""
    return protocol.conn.their_state in (h11.IDLE, h11.SEND_BODY)


async def accept_last(listeners: Sequence[socket.socket]) -> None:
    """Accept who has connected already: the end of a listener cuts off those who wait there."""
    waiting = select.poll()
    for listener in listeners:
        waiting.register(listener, select.POLLIN)
    quiet = 0
    for _ in range(4 * BACKLOG // AT_ONCE):  # whoever goes on connecting is not waited for
        quiet = 0 if waiting.poll(0) else quiet + 1
        if quiet == QUIET_TURNS:
            return
        await asyncio.sleep(0)  # the event loop accepts


def bounded(issuer: str) -> type[BoundedProtocol]:
    """Make the protocol of one server, with as many places as this process can open files.

    Args:
        issuer: The mint's public base URL, for what refusals name.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft - OTHER_FILES)
    members: dict[str, Any] = {"most": max(most, 1), "held": {}, "issuer": issuer}
    return type("Bounded", (BoundedProtocol,), members)
