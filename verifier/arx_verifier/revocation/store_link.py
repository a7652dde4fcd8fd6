# SPDX-License-Identifier: Apache-2.0
"""One connection to the revocation store: subscribed, and used for probes.  SPEC 10.

``follower_core`` interprets the answers.
"""

import contextlib
import math
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

import hiredis
import msgspec
import redis

from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.store_url import FOLLOWER, NOT_PERMITTED, CertificateError, refused_login

OK, RESYNC, REGRESSED, CORRUPT = "OK", "RESYNC", "REGRESSED", "CORRUPT"
PUSHES: Final = frozenset((b"smessage", b"ssubscribe", b"sunsubscribe"))
SCAN_PAGE: Final = 1_000
ENTRIES: Final = 1_000  # requested in one answer
CHUNK: Final = 262_144  # bytes read at once
MAX_ANSWER: Final = 4 << 20  # bytes; 1,000 entries with the longest targets, names and reasons have 2.3 MB
MORE: Final = object()  # no complete answer yet
LOGIN: Final = "ARX_STORE_PASSWORD, ARX_STORE_PASSWORD_FILE or the login in `store` of the service file"
LEAVE_S: Final = (
    0.5  # longest wait for the answer to a goodbye; without it the store forgets this verifier with its lease
)


class FeedError(Exception):
    """The connection failed, timed out or broke the protocol, and must be dropped."""


class UnattestedError(FeedError):
    """The server may have taken another one's place: it grants no lease before a mint has attested it."""


class EpochEntry(NamedTuple):
    """One entry of the kill sequence, in the log or pushed: history, sequence, operation, target."""

    incarnation: str
    seq: int
    op: str
    target: str


class Late(NamedTuple):
    """A verifier, or another relay, that a relay has not heard recently.

    Attributes:
        name: Its id.
        heard_ms: Its last probe, by the store's clock, ms since the Unix epoch.
        applied: The sequence that it had applied then.
        verifiers: Number of verifiers that it reports for.
    """

    name: str
    heard_ms: int
    applied: int
    verifiers: int


class Crowd(NamedTuple):
    """The verifiers that a relay reports for.

    Attributes:
        verifiers: Number of verifiers behind it that probe.
        applied: The sequence that all of those have applied.
        late: Those that probed a moment ago, and may still hold a lease.
        ahead: The highest place, sequence and chain hash, that a verifier behind names and that is not in the history;
            None without one.
    """

    verifiers: int
    applied: int
    late: tuple[Late, ...]
    ahead: tuple[int, str] | None = None


class StoreAnswer(NamedTuple):
    """The store's answer to a probe.

    Attributes:
        incarnation: The history's name.
        seq: Sequence of its last entry.
        at_ms: The store's clock, ms since the Unix epoch.
        lease_ms: How long the answer may be used, ms.
        status: OK, RESYNC, REGRESSED or CORRUPT.
        keep_ms: How long after a kill a token that it revokes can still be unexpired, ms.
        chain: The chain hash at ``seq``; the applied entries must give the same.
        entries: The entries after the sequence in the probe, as many as fit.
        askers: Number of followers of the store; each of them confirms a push.
        age_ns: How old the facts of a relay's answer were when the probe came, ns.
    """

    incarnation: str
    seq: int
    at_ms: int
    lease_ms: int
    status: str
    keep_ms: int
    chain: str
    entries: tuple[EpochEntry, ...]
    askers: int = 1
    age_ns: int = 0


# The client library connects, logs in and finds the primary; then bytes are read and written here, and `hiredis` parses
# them.  A dropped connection is never opened again, and retries are off: a hidden reconnect would lose pushes.
class Link:
    """A connection, subscribed to a realm's channel.

    Args:
        connection: The connection of the client library, not open yet.
        realm: The realm's name.
        wake: A socket that becomes readable when ``wait`` should return early.
        role: The role of the store's user, for errors.
    """

    def __init__(self, connection: Any, realm: str, wake: socket.socket, role: str = FOLLOWER) -> None:
        self._rights = NOT_PERMITTED.format(role)
        self._connection = connection
        self._wake = wake
        self._tag = f"arx:{{{realm}}}:"
        self._probe_keys = [self._tag + part for part in ("h", "k", "f", "log", "v", "a", "r")]
        self._early: deque[Any] = deque()  # pushes that came while an answer was read
        self._reader = hiredis.Reader(notEnoughData=MORE)
        self._unread = 0  # bytes of an incomplete answer
        self._ready = False  # whether the socket has data
        self._link: Any = None

    def open(self) -> Self:
        """Connect and subscribe.

        Raises:
            FeedError: It cannot.
        """
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            if isinstance(error, CertificateError):
                raise FeedError(f"cannot connect: {error}") from error
            why = refused_login(error, LOGIN, self._rights)
            raise FeedError(f"the store {why}" if why else f"cannot connect: {type(error).__name__}") from error
        self._link = self._connection._sock  # noqa: SLF001  the library has no public way to wait for two sockets
        self._send("SSUBSCRIBE", self._tag + "ch")  # before the first probe: no entry falls between the two
        self._poll = select.poll()
        self._poll.register(self._link, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        return self

    def close(self) -> None:
        """Close the connection; in a forked child only its own copy of the descriptor."""
        self._connection.disconnect()
        self._link = None

    def probe(self, verifier_id: str, place: HistoryPlace, *, hurry: bool, crowd: Crowd | None = None) -> None:
        """Send a probe; its answer is among the frames.

        Args:
            verifier_id: This verifier's id.
            place: The view's place.
            hurry: Whether a caller waits; only a relay uses it.
            crowd: The verifiers that a relay reports for.

        Raises:
            FeedError: The bytes could not be sent.
        """
        del hurry
        more = () if crowd is None else (crowd.applied, msgspec.json.encode(crowd), *(crowd.ahead or ()))
        keys = self._probe_keys if more else self._probe_keys[:-1]
        self._send("FCALL", "arx1_probe", len(keys), *keys, verifier_id, *place, ENTRIES, *more)

    def leave(self, verifier_id: str) -> None:
        """Report to the store that this verifier has given up its lease; send nothing after it.

        Args:
            verifier_id: This verifier's id.

        Raises:
            FeedError: The bytes could not be sent.
        """
        self._send("FCALL", "arx1_leave", 2, self._tag + "v", self._tag + "a", verifier_id)
        # Closing a connection with an unread answer resets it, and the store may lose the goodbye: kills then wait for
        # this verifier.  The answer to a goodbye is a number; a probe's answer may come before it.
        with contextlib.suppress(FeedError):
            self._link.settimeout(LEAVE_S)
            while not isinstance(self._read_reply(), int):
                pass

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to read, ``wake`` is readable, or the time is over.

        Args:
            timeout_s: The longest wait, s.
        """
        if self._early:
            return
        woken = [number for number, _ in self._poll.poll(max(0, math.ceil(timeout_s * 1000)))]
        self._ready = self._ready or self._link.fileno() in woken
        if self._wake.fileno() in woken:
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass

    def frames(self) -> Iterator[EpochEntry | StoreAnswer]:
        """Yield the entries and answers that have arrived, in order.

        Raises:
            FeedError: The store refused, closed, or answered in an unknown form.
        """
        while (frame := self._next(wait=False)) is not MORE:
            if not is_push(frame):
                yield read_answer(frame)
            elif frame[0] == b"smessage":
                yield read_push(frame)
            elif frame[0] == b"sunsubscribe":
                raise FeedError("the store ended the subscription")

    def scan(self, part: str) -> dict[str, int]:
        """Return a copy of a hash of targets; it may lack changes that happen meanwhile.

        Args:
            part: ``k`` for kills, ``f`` for freezes.

        Raises:
            FeedError: The store refused, closed, or answered in an unknown form.
        """
        copied: dict[str, int] = {}
        cursor = b"0"
        while True:
            self._send("FCALL", "arx1_copy", 1, self._tag + part, cursor, SCAN_PAGE)
            try:
                cursor, page = self._read_reply()
                words = page.decode("ascii").split(" ") if page else []
                # A target that comes twice has the higher sequence the second time, because sequences only rise.
                copied.update(zip(words[::2], map(int, words[1::2]), strict=True))
            except (TypeError, ValueError, AttributeError) as error:
                raise FeedError("an answer of an unknown form") from error
            if cursor == b"0":
                return copied

    def _expect_open(self) -> None:
        if self._link is None:
            raise FeedError("the connection is closed")

    def _send(self, *command: str | int | bytes) -> None:
        self._expect_open()
        try:
            self._link.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub has a tuple of one word
        except OSError as error:
            raise FeedError(f"cannot send: {type(error).__name__}") from error

    def _next(self, *, wait: bool) -> Any:
        """Return the next frame; without one, wait for it or return ``MORE``."""
        self._expect_open()
        if self._early and not wait:
            return self._early.popleft()
        try:
            while (frame := self._reader.gets()) is MORE and (wait or self._ready):
                self._pull()
        # hiredis raises TypeError for a map with a list as its key, MemoryError for a list of an enormous claimed
        # length.
        except (OSError, hiredis.ProtocolError, TypeError, ValueError, MemoryError) as error:
            raise FeedError(f"cannot read: {type(error).__name__}") from error
        if isinstance(frame, hiredis.ReplyError) and str(frame).startswith("UNATTESTED"):
            raise UnattestedError(
                "the store restarted or failed over, and no mint has attested it since: start the mint"
            )
        if isinstance(frame, hiredis.ReplyError):
            hint = f"; {self._rights}" if str(frame).startswith("NOPERM") else ""
            raise FeedError(f"the store refused: {str(frame)[:500]}{hint}")
        if frame is not MORE:
            self._unread = 0
        return frame

    def _pull(self) -> None:
        """Read the available bytes, or wait for some as long as one answer may take."""
        data = self._link.recv(CHUNK)
        if not data:
            raise FeedError("the store closed the connection")
        self._unread += len(data)
        if self._unread > MAX_ANSWER:
            # hiredis would buffer without end: a store that is attacked must not use up this process's memory.
            raise FeedError(f"cannot read: an answer longer than {MAX_ANSWER} bytes")
        self._reader.feed(data)
        pending = isinstance(self._link, ssl.SSLSocket) and self._link.pending() > 0
        self._ready = pending or len(data) == CHUNK

    def _read_reply(self) -> Any:
        while is_push(frame := self._next(wait=True)):
            self._early.append(frame)
        return frame


def is_push(frame: Any) -> bool:
    """Return whether a frame is a push, not an answer."""
    return isinstance(frame, list) and bool(frame) and isinstance(frame[0], bytes) and frame[0] in PUSHES


def read_push(frame: Any) -> EpochEntry:
    """Parse a pushed entry: ``incarnation seq op target``.

    Raises:
        FeedError: It has another form.
    """
    try:
        incarnation, seq, op, target = frame[2].decode("ascii").split(" ")
        return EpochEntry(incarnation, int(seq), op, target)
    except (ValueError, IndexError, AttributeError) as error:
        raise FeedError("a push of an unknown form") from error


def read_answer(frame: Any) -> StoreAnswer:
    """Parse the answer to a probe.

    Raises:
        FeedError: It has another form.
    """
    try:
        incarnation, seq, at_ms, lease_ms, status, keep_ms, chain, askers, entries = frame
        incarnation, status, chain = incarnation.decode("ascii"), status.decode("ascii"), chain.decode("ascii")
        numbers = (seq, at_ms, lease_ms, keep_ms, askers)
        known = isinstance(entries, list) and status in (OK, RESYNC, REGRESSED, CORRUPT)
        if not known or not all(type(number) is int for number in numbers):
            raise ValueError("not an answer")
        listed = tuple(_read_entry(incarnation, entry) for entry in entries)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise FeedError("an answer of an unknown form") from error
    return StoreAnswer(incarnation, seq, at_ms, lease_ms, status, keep_ms, chain, listed, askers)


def _read_entry(incarnation: str, entry: Any) -> EpochEntry:
    key, fields = entry
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return EpochEntry(incarnation, int(key.split(b"-")[0]), values[b"op"].decode("ascii"), values[b"s"].decode("ascii"))
