# SPDX-License-Identifier: Apache-2.0
"""A connection to somebody behind a relay: cut into messages, checked, and never waited for.  SPEC 10.7."""

import asyncio
import hmac
import logging
from typing import Final

import msgspec

from arx_caps.relay.hub import Copy, Hub
from arx_verifier.revocation.relay_link import (
    VERSION,
    Frames,
    Hello,
    Leave,
    Page,
    Part,
    Probe,
    Push,
    Refusal,
    Scan,
    Told,
    Up,
    frame,
)

MAX_UNREAD: Final = 8 * 1024 * 1024  # bytes that somebody may leave unread; then it is dropped, and asks anew
GREET_S: Final = 5.0  # for the first message
REFUSED: Final[tuple[Part, ...]] = ("password", "version", "realm")  # what of a greeting is looked at, in order
_UP: Final = msgspec.msgpack.Decoder(Up)

_log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """One connection.

    Args:
        hub: What to answer.
        realm: The only realm that is followed here.
        password: What a follower must know; None where only this user can connect.
    """

    def __init__(self, hub: Hub, realm: str, password: str | None) -> None:
        self._hub, self._realm, self._password = hub, realm, password
        self._frames = Frames()
        self._greeted = self._refused = False
        self.copy: Copy | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for its first message."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        asyncio.get_running_loop().call_later(GREET_S, self._expect_greeting)

    def _expect_greeting(self) -> None:
        if not self._greeted:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """Tell the hub."""
        self._transport = None
        self._hub.take_end(self)

    def data_received(self, data: bytes) -> None:
        """Act on the messages that are complete; an unknown one ends the connection."""
        try:
            for body in self._frames.feed(data):
                if self._transport is None or self._transport.is_closing() or self._refused:
                    return
                self._take(_UP.decode(body))
        except (ValueError, msgspec.DecodeError) as error:
            _log.warning("a follower was dropped: %s", error if self._greeted else "it does not speak this protocol")
            self.drop()

    def _take(self, message: Up) -> None:
        if isinstance(message, Hello):
            self._greet(message)
        elif not self._greeted:
            raise ValueError("no greeting")
        elif isinstance(message, Probe):
            self.copy = None
            self._hub.take_probe(self, message)
        elif isinstance(message, Scan):
            if self.copy is None or message.part not in self.copy.parts:
                raise ValueError("no copy was offered")
            self.send(self.copy.page(message.part, message.cursor))
        elif isinstance(message, Leave):
            self._hub.take_leave(self)
            self.drop()

    def _greet(self, hello: Hello) -> None:
        known = self._password is None or hmac.compare_digest((hello.password or "").encode(), self._password.encode())
        # The password first: without it nobody learns what is followed here.
        right = {"password": known, "version": hello.version == VERSION, "realm": hello.realm == self._realm}
        for part in REFUSED:
            if not right[part]:
                self._refuse(part)
                return
        self._greeted = True
        self._hub.listeners.add(self)

    def _refuse(self, part: Part) -> None:
        """Say what is wrong with a greeting, and hear no more; it closes, or is dropped as if it had not greeted.

        Closing here, with its first probe unread, could reset the connection, and what was said with it.
        """
        _log.warning("a follower was refused: it gave another %s", part)
        self._refused = True
        if self._transport is not None:
            self._transport.write(frame(Refusal(part)))

    def send(self, message: Told | Push | Page) -> None:
        """Send, unless it reads too slowly: then it is dropped, and its lease runs out."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            _log.warning("a follower was dropped: it does not read")
            self.drop()
            return
        self._transport.write(frame(message))

    def drop(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()
