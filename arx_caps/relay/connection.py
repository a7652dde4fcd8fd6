# SPDX-License-Identifier: Apache-2.0
"""Connections of a relay's followers: parse messages, authenticate, answer.  SPEC 10.7."""

import asyncio
import hmac
import logging
from typing import Final

import msgspec

from arx_caps.relay.hub import Copy, Hub
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.password import Password, read_now
from arx_verifier.revocation.relay_link import (
    RELAY_VERSION,
    Frames,
    Hello,
    Leave,
    Part,
    Probe,
    Push,
    Refusal,
    RelayAnswer,
    RelayPage,
    RelayScan,
    Up,
    frame,
)

MAX_UNREAD: Final = 8 * 1024 * 1024  # unread bytes before a follower is dropped; it connects again
GREET_S: Final = 5.0  # for the first message
REFUSED: Final[tuple[Part, ...]] = ("password", "version", "realm")  # checked members of a greeting, in order
_UP: Final = msgspec.msgpack.Decoder(Up)

_log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """A connection to one follower.

    Args:
        hub: Answers the follower.
        realm: The realm that this relay follows.
        password: The followers' password; None where only this user can connect.
    """

    def __init__(self, hub: Hub, realm: str, password: Password | None) -> None:
        self._hub, self._realm, self._password = hub, realm, password
        self._frames = Frames()
        self._greeted = self._refused = False
        self.copy: Copy | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first message, at most ``GREET_S`` seconds."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        asyncio.get_running_loop().call_later(GREET_S, self._expect_greeting)

    # A connection that never greets would otherwise take a file descriptor for ever, without a password.
    def _expect_greeting(self) -> None:
        if not self._greeted:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """Report the end to the hub."""
        self._transport = None
        self._hub.take_end(self)

    def data_received(self, data: bytes) -> None:
        """Handle the complete messages; drop the connection at an unknown one."""
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
        elif isinstance(message, RelayScan):
            if self.copy is None or message.part not in self.copy.parts:
                raise ValueError("no copy was offered")
            self.send(self.copy.page(message.part, message.cursor))
        elif isinstance(message, Leave):
            self._hub.take_leave(self)
            self.drop()

    def _greet(self, hello: Hello) -> None:
        known = self._password is None or _is_password(hello.password or "", self._password)
        # The password is checked first: a follower without it does not learn which realm this is.
        right = {"password": known, "version": hello.version == RELAY_VERSION, "realm": hello.realm == self._realm}
        for part in REFUSED:
            if not right[part]:
                self._refuse(part)
                return
        self._greeted = True
        self._hub.listeners.add(self)

    def _refuse(self, part: Part) -> None:
        """Send the reason why a greeting is refused, and ignore further messages."""
        # The follower closes, or is dropped as if it had not greeted.  Closing here, with its first probe unread, could
        # reset the connection and lose the reason.
        _log.warning("a follower was refused: it gave another %s", part)
        self._refused = True
        if self._transport is not None:
            self._transport.write(frame(Refusal(part)))

    def send(self, message: RelayAnswer | Push | RelayPage) -> None:
        """Send a message; drop a follower that reads too slowly, so that its lease runs out."""
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


def _is_password(given: str, password: Password) -> bool:
    """Return whether a follower gave the password; none is right while its file cannot be used."""
    try:
        expected = read_now(password)
    except SettingsError as error:
        _log.error("every follower is refused: %s", error)
        return False
    return expected is not None and hmac.compare_digest(given.encode(), expected.encode())
