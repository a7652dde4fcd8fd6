# SPDX-License-Identifier: Apache-2.0
"""One connection to a relay, and the messages of both sides.  SPEC 10.7.

A message is a length of four bytes, then MessagePack.  ``follower_core`` interprets the answers; ``arx_caps.relay`` is
the relay.
"""

import contextlib
import math
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from msgspec import Meta

import arx_verifier.tls as tls
from arx_verifier.addresses import split_url
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.password import Password, read_now
from arx_verifier.revocation.store_link import (
    CORRUPT,
    ENTRIES,
    OK,
    REGRESSED,
    RESYNC,
    Crowd,
    EpochEntry,
    FeedError,
    StoreAnswer,
)

FORMS: Final = "relay+unix:///PATH, relay://HOST:PORT or relays://HOST:PORT (TLS; ?ca=FILE), or HOST:PORT,HOST:PORT"
SCHEMES: Final = ("relay+unix", "relay", "relays")
RELAY_VERSION: Final = 1
MAX_FRAME: Final = 16 * 1024 * 1024  # bytes; a page of the longest targets has 600 000
HEAD: Final = 4  # bytes of a frame's length
COPY_S: Final = 120.0  # longest time for a copy whose bytes keep coming; a million kills at 10 Mbit/s take less

Count = Annotated[int, Meta(ge=0)]
Part = Literal["password", "version", "realm"]  # of a greeting


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The first message of a follower, after which the relay pushes new entries."""

    version: int
    realm: str
    password: str | None = None

    def __repr__(self) -> str:
        return f"Hello(realm={self.realm!r})"


class Probe(msgspec.Struct, frozen=True, array_like=True, tag="probe"):
    """A probe, as the store's; with ``hurry`` the relay asks upstream before it answers."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    incarnation: str
    applied: int
    chain: Annotated[str, Meta(max_length=40)]  # a relay passes it on
    limit: Annotated[int, Meta(ge=1)]
    hurry: bool
    crowd: Crowd | None = None


class RelayScan(msgspec.Struct, frozen=True, array_like=True, tag="scan"):
    """Request a page of the copy that the last answer offered: ``k`` or ``f``, from ``cursor`` on."""

    part: str
    cursor: Count


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    """The follower has given up its lease."""


class RelayAnswer(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """The answer to a probe, as the store's, with its age."""

    incarnation: str
    seq: int
    at_ms: int
    lease_ms: Count
    status: str
    keep_ms: Count
    chain: str
    entries: list[tuple[int, str, str]]
    askers: Count
    age_ns: Count  # a negative one would lengthen the lease

    def answer(self) -> StoreAnswer:
        """Return it in the form of the store's answer, with its age."""
        entries = tuple(EpochEntry(self.incarnation, *entry) for entry in self.entries)
        facts = (self.incarnation, self.seq, self.at_ms, self.lease_ms, self.status, self.keep_ms, self.chain)
        return StoreAnswer(*facts, entries, self.askers, self.age_ns)


class Push(msgspec.Struct, frozen=True, array_like=True, tag="push"):
    """A new entry."""

    incarnation: str
    seq: int
    op: str
    target: str


class RelayPage(msgspec.Struct, frozen=True, array_like=True, tag="page"):
    """A page of a copy, and the cursor of the next; 0 after the last."""

    cursor: Count
    found: dict[str, int]


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """The relay refuses a greeting, and closes; names the wrong part."""

    part: Part


Up = Hello | Probe | RelayScan | Leave
Down = RelayAnswer | Push | RelayPage | Refusal
MENDS: Final = {
    "version": "run one version of ARx at both",
    "realm": "name only relays of this realm as `store` in the service file",
    "password": "set ARX_STORE_PASSWORD, or ARX_STORE_PASSWORD_FILE, to the relay's ARX_RELAY_PASSWORD",
}
_DOWN: Final = msgspec.msgpack.Decoder(Down)
_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(message: Up | Down) -> bytes:
    """Return a message with its length, as bytes."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(HEAD, "big") + body


class Frames:
    """Splits a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes, and yield the bodies of complete messages.

        Raises:
            ValueError: A message is longer than ``MAX_FRAME``.
        """
        self._buffer += data
        while len(self._buffer) >= HEAD:
            size = int.from_bytes(self._buffer[:HEAD], "big")
            if size > MAX_FRAME:  # before it is buffered: the other side must not choose how much memory this one uses
                raise ValueError("a message is too long")
            if len(self._buffer) < HEAD + size:
                return
            body = bytes(self._buffer[HEAD : HEAD + size])
            del self._buffer[: HEAD + size]
            yield body


class RelayAddress:
    """The address of a relay.  ``repr`` shows no password.

    Args:
        url: One of ``FORMS``, with ``:PASSWORD@`` where needed.
        password: Replaces a password in the URL; one in a file is read at each connection.
        ca: File of a further authority for TLS, unless the URL has ``ca``.

    Raises:
        SettingsError: The URL has another form, or the authority cannot be read.
    """

    def __init__(self, url: str, password: Password | None = None, *, ca: str | None = None) -> None:
        parts = split_url(url) or urlsplit("")
        try:
            port, query = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError:
            port, query = None, {"": [""]}
        self.path = unquote(parts.path) if parts.scheme == "relay+unix" else None
        self._host, self._port = parts.hostname or "", port or 0
        complete = bool(self.path) if parts.scheme == "relay+unix" else bool(self._host and port)
        if parts.scheme not in SCHEMES or not complete or query.keys() - {"ca"}:
            # The text that could not be parsed may be a part of a password.
            raise SettingsError(f"invalid relay URL: expected the form {FORMS}")
        self.password = password if password is not None else (unquote(parts.password) if parts.password else None)
        self._tls = self._context(query.get("ca", [None])[0], ca) if parts.scheme == "relays" else None

    def __repr__(self) -> str:
        return "RelayAddress()"

    @property
    def place(self) -> str:
        """The path, or host and port."""
        return self.path or f"{self._host}:{self._port}"

    def explain(self, error: OSError) -> str:
        """Return why a connection failed: a refused certificate, or the kind of failure."""
        return tls.explain(error, self.place) or type(error).__name__

    @staticmethod
    def _context(authority: str | None, ca: str | None) -> ssl.SSLContext:
        if authority is None:
            return tls.make_context(ca)
        try:
            return ssl.create_default_context(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError("the relay's `ca` is not a file of certificates") from error

    def connect(self, timeout_s: float) -> socket.socket:
        """Open a connection.

        Args:
            timeout_s: Time-out of connecting with TLS, and of each later step, s.

        Raises:
            OSError: It cannot be opened, or the certificate is not the host's.
        """
        if self.path is not None:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.settimeout(timeout_s)
                link.connect(self.path)
            except OSError:
                link.close()
                raise
            return link
        end = time.monotonic() + timeout_s
        link = socket.create_connection((self._host, self._port), timeout_s)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                link.settimeout(max(0.001, end - time.monotonic()))
                link = self._tls.wrap_socket(link, server_hostname=self._host)
            link.settimeout(timeout_s)
            return link
        except OSError:
            link.close()
            raise


class RelayLink:
    """A connection to a relay, with the methods of ``store_link.Link``.

    Args:
        address: The relay's address.
        timeout_s: Longest wait for the relay, s.
        realm: The realm's name.
        wake: A socket that becomes readable when ``wait`` should return early.
    """

    def __init__(self, address: RelayAddress, timeout_s: float, realm: str, wake: socket.socket) -> None:
        self._address, self._timeout_s, self._realm, self._wake = address, timeout_s, realm, wake
        self._link: socket.socket | None = None
        self._frames = Frames()
        self._ready: deque[Down] = deque()

    def open(self) -> Self:
        """Connect and subscribe.

        Raises:
            FeedError: It cannot.
        """
        try:
            password = read_now(self._address.password)
        except SettingsError as error:
            raise FeedError(f"cannot connect: {error}") from error
        try:
            self._link = self._address.connect(self._timeout_s)
        except OSError as error:
            raise FeedError(f"cannot connect: {self._address.explain(error)}") from error
        self._both, self._one = select.poll(), select.poll()
        self._both.register(self._link, select.POLLIN)
        self._both.register(self._wake, select.POLLIN)
        self._one.register(self._link, select.POLLIN)
        self._send(Hello(RELAY_VERSION, self._realm, password))
        return self

    def close(self) -> None:
        """Close the connection; in a forked child only its own copy of the descriptor."""
        if self._link is not None:
            self._link.close()

    def probe(self, verifier_id: str, place: HistoryPlace, *, hurry: bool, crowd: Crowd | None = None) -> None:
        """Send a probe; as ``store_link.Link.probe``."""
        self._send(Probe(verifier_id, *place, ENTRIES, hurry, crowd))

    def leave(self, verifier_id: str) -> None:  # noqa: ARG002  the relay knows whose connection it is
        """Report to the relay that this verifier has given up its lease."""
        self._send(Leave())

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to read, ``wake`` is readable, or the time is over.

        Args:
            timeout_s: The longest wait, s.
        """
        if not self._ready:
            self._both.poll(max(0, math.ceil(timeout_s * 1000)))
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass

    def frames(self) -> Iterator[EpochEntry | StoreAnswer]:
        """Yield the entries and answers that have arrived, in order.

        Raises:
            FeedError: The relay refused, closed, or answered in an unknown form.
        """
        while self._ready or self._pull(0):
            while self._ready:
                message = self._ready.popleft()
                if isinstance(message, Push):
                    yield EpochEntry(message.incarnation, message.seq, message.op, message.target)
                elif isinstance(message, RelayAnswer) and message.status in (OK, RESYNC, REGRESSED, CORRUPT):
                    yield message.answer()
                elif isinstance(message, Refusal):
                    raise FeedError(f"the relay refused the {message.part}: {MENDS[message.part]}")
                else:
                    raise FeedError("an answer of an unknown form")

    def scan(self, part: str) -> dict[str, int]:
        """Return the copy that the last answer offered.

        Args:
            part: ``k`` for kills, ``f`` for freezes.

        Raises:
            FeedError: The relay refused, closed, or answered in an unknown form.
        """
        copied: dict[str, int] = {}
        cursor, end = 0, time.monotonic() + COPY_S
        while True:
            # In pages, so that pushes arrive in between and no message exceeds MAX_FRAME.
            self._send(RelayScan(part, cursor))
            page = self._page(end)
            copied.update(page.found)
            if page.cursor == 0:
                return copied
            cursor = page.cursor

    def _page(self, end: float) -> RelayPage:
        early: deque[Down] = deque()  # pushes that came before the page
        while True:
            while self._ready:
                message = self._ready.popleft()
                if isinstance(message, RelayPage):
                    self._ready = early + self._ready
                    return message
                early.append(message)
            if time.monotonic() > end or not self._pull(self._timeout_s):
                raise FeedError("no copy in time")

    def _send(self, message: Up) -> None:
        if self._link is None:
            raise FeedError("the connection is closed")
        try:
            self._link.sendall(frame(message))
        except OSError as error:
            raise FeedError(f"cannot send: {type(error).__name__}") from error

    def _pull(self, wait_s: float) -> bool:
        """Read once, if there is data within ``wait_s``; return whether there was."""
        link: Any = self._link
        pending = isinstance(link, ssl.SSLSocket) and link.pending() > 0
        if not pending and not self._one.poll(math.ceil(wait_s * 1000)):
            return False
        try:
            data = link.recv(262_144)
            bodies = list(self._frames.feed(data))
            self._ready.extend(_DOWN.decode(body) for body in bodies)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise FeedError(f"cannot read: {type(error).__name__}") from error
        if not data:
            raise FeedError("the relay closed the connection")
        return True


def each_relay(url: str) -> list[str]:
    """Return the URL of each relay that a URL names: two for ``relays://:PASSWORD@HOST:PORT,HOST:PORT``."""
    head, mark, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]  # RFC 3986 3.2
    login, at, hosts = authority.rpartition("@")
    return [f"{head}{mark}{login}{at}{host}{rest[len(authority) :]}" for host in hosts.split(",")]


def is_relay(url: str) -> bool:
    """Return whether a URL names a relay."""
    return url.partition("://")[0] in SCHEMES
