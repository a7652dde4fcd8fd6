# SPDX-License-Identifier: Apache-2.0
"""One connection to the revocation store: subscribed, and used for probes.  SPEC 10.

Any error, time-out or answer of an unknown form is a ``FeedError``, after which the connection must be dropped.  The
client library's retries are off and a dropped connection is never opened again: a hidden reconnect loses what was
published in between.  The library connects, logs in and finds the primary; from then on bytes are read and written
here and ``hiredis`` cuts them into values.  What an answer means is ``follower_core``'s matter.
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
from arx_verifier.revocation.store_url import NOT_PERMITTED, CertificateError, refused_login

OK, RESYNC, REGRESSED, CORRUPT = "OK", "RESYNC", "REGRESSED", "CORRUPT"
PUSHES: Final = frozenset((b"smessage", b"ssubscribe", b"sunsubscribe"))
SCAN_PAGE: Final = 1_000
ENTRIES: Final = 1_000  # asked for in one answer
CHUNK: Final = 262_144  # bytes read at once
MAX_ANSWER: Final = 4 << 20  # bytes; 1,000 entries with the longest targets, names and reasons have 2.3 MB
MORE: Final = object()  # no answer is whole yet
LOGIN: Final = "ARX_STORE_PASSWORD, or the login in `store` of the service file"
LEAVE_S: Final = 0.5  # who leaves waits so long for a slow store, and is forgotten with its lease otherwise


class FeedError(Exception):
    """The connection is of no use any more."""


class EpochEntry(NamedTuple):
    """One entry of the log, or a push of one: what happened to which target, and in which history."""

    incarnation: str
    seq: int
    op: str
    target: str


class Late(NamedTuple):
    """A verifier, or another relay, that a relay has not heard lately.

    Attributes:
        name: Its id.
        heard_ms: When it was heard last, by the store's clock.
        applied: What it had applied then.
        verifiers: How many it stands for.
    """

    name: str
    heard_ms: int
    applied: int
    verifiers: int


class Crowd(NamedTuple):
    """For whom a relay probes.

    Attributes:
        verifiers: How many are behind it and talk.
        applied: What all of those have applied.
        late: Those that were there a moment ago, and may still hold a lease.
        ahead: The highest place, number and chain, that one behind names and that is not in the history; None without.
    """

    verifiers: int
    applied: int
    late: tuple[Late, ...]
    ahead: tuple[int, str] | None = None


class StoreAnswer(NamedTuple):
    """The store's answer to a probe.

    Attributes:
        incarnation: The history's name.
        seq: Its last entry.
        at_ms: The store's clock.
        lease_ms: How long the answer may be acted on.
        status: OK, RESYNC, REGRESSED or CORRUPT.
        keep_ms: How long after a kill no token that it ends can still be alive.
        chain: That of ``seq``; what is applied must have led to the same.
        entries: What follows the sequence that the probe named, as far as it fits.
        askers: How many ask there; each of them will want to confirm what is pushed to all.
        age_ns: How long before the probe came the answer had been true, ns; a relay tells what it was told.
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


class Link:
    """An open connection, subscribed to a realm's channel.

    Args:
        connection: Not open yet.
        realm: The realm's name.
        wake: A socket that becomes readable when ``wait`` should return early.
    """

    def __init__(self, connection: Any, realm: str, wake: socket.socket) -> None:
        self._connection = connection
        self._wake = wake
        self._tag = f"arx:{{{realm}}}:"
        self._probe_keys = [self._tag + part for part in ("h", "k", "f", "log", "v", "a", "r")]
        self._early: deque[Any] = deque()  # pushes that came while something else was read
        self._reader = hiredis.Reader(notEnoughData=MORE)
        self._unread = 0  # bytes of an answer that is not whole yet
        self._ready = False  # there is something to read
        self._link: Any = None

    def open(self) -> Self:
        """Connect, then subscribe, so that nothing falls between the two and the first probe.

        Raises:
            FeedError: It cannot.
        """
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            if isinstance(error, CertificateError):
                raise FeedError(f"cannot connect: {error}") from error
            why = refused_login(error, LOGIN)
            raise FeedError(f"the store {why}" if why else f"cannot connect: {type(error).__name__}") from error
        self._link = self._connection._sock  # noqa: SLF001  the library has no public way to wait for two sockets
        self._send("SSUBSCRIBE", self._tag + "ch")
        self._poll = select.poll()
        self._poll.register(self._link, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        return self

    def close(self) -> None:
        """Drop the connection.  In a forked child only its own copy of the descriptor is closed."""
        self._connection.disconnect()
        self._link = None

    def probe(self, verifier_id: str, place: HistoryPlace, *, hurry: bool, crowd: Crowd | None = None) -> None:
        """Send a probe; its answer is among the frames.

        Args:
            verifier_id: Who asks.
            place: The history that it knows, and up to where it has applied it.
            hurry: Somebody waits for news; the store always has the newest.
            crowd: For whom a relay asks.

        Raises:
            FeedError: The bytes could not be sent.
        """
        del hurry
        more = () if crowd is None else (crowd.applied, msgspec.json.encode(crowd), *(crowd.ahead or ()))
        keys = self._probe_keys if more else self._probe_keys[:-1]
        self._send("FCALL", "arx1_probe", len(keys), *keys, verifier_id, *place, ENTRIES, *more)

    def leave(self, verifier_id: str) -> None:
        """Tell the store that this verifier holds no lease any more; nothing can be sent after it.

        Raises:
            FeedError: The bytes could not be sent.
        """
        self._send("FCALL", "arx1_leave", 2, self._tag + "v", self._tag + "a", verifier_id)
        # A connection that is closed with an answer unread is reset, and with it goes what the store has not read yet:
        # who had left was waited for.  Its answer is the one that is a number; a probe's may come before it.
        with contextlib.suppress(FeedError):
            self._link.settimeout(LEAVE_S)
            while not isinstance(self._read_reply(), int):
                pass

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to read, somebody wakes us, or the time is over."""
        if self._early:
            return
        woken = [number for number, _ in self._poll.poll(max(0, math.ceil(timeout_s * 1000)))]
        self._ready = self._ready or self._link.fileno() in woken
        if self._wake.fileno() in woken:
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass

    def frames(self) -> Iterator[EpochEntry | StoreAnswer]:
        """Read what has arrived, in order.

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
        """Copy a hash of targets, page by page; what changes meanwhile may be missing.

        Raises:
            FeedError: The store refused, closed, or answered in an unknown form.
        """
        found: dict[str, int] = {}
        cursor = b"0"
        while True:
            self._send("FCALL", "arx1_copy", 1, self._tag + part, cursor, SCAN_PAGE)
            try:
                cursor, page = self._read_reply()
                words = page.decode("ascii").split(" ") if page else []
                # A target that comes twice has the higher sequence the second time: it only rises.
                found.update(zip(words[::2], map(int, words[1::2]), strict=True))
            except (TypeError, ValueError, AttributeError) as error:
                raise FeedError("an answer of an unknown form") from error
            if cursor == b"0":
                return found

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
        """Return the next frame; if there is none yet, wait for it or return ``MORE``."""
        self._expect_open()
        if self._early and not wait:
            return self._early.popleft()
        try:
            while (frame := self._reader.gets()) is MORE and (wait or self._ready):
                self._pull()
        # hiredis raises TypeError for a map with a list as its key, MemoryError for a list that claims to be endless.
        except (OSError, hiredis.ProtocolError, TypeError, ValueError, MemoryError) as error:
            raise FeedError(f"cannot read: {type(error).__name__}") from error
        if isinstance(frame, hiredis.ReplyError):
            hint = f"; {NOT_PERMITTED}" if str(frame).startswith("NOPERM") else ""
            raise FeedError(f"the store refused: {str(frame)[:500]}{hint}")
        if frame is not MORE:
            self._unread = 0
        return frame

    def _pull(self) -> None:
        """Read what there is, or wait for something as long as one answer may take."""
        data = self._link.recv(CHUNK)
        if not data:
            raise FeedError("the store closed the connection")
        self._unread += len(data)
        if self._unread > MAX_ANSWER:
            raise FeedError(f"cannot read: an answer longer than {MAX_ANSWER} bytes")
        self._reader.feed(data)
        pending = isinstance(self._link, ssl.SSLSocket) and self._link.pending() > 0
        self._ready = pending or len(data) == CHUNK

    def _read_reply(self) -> Any:
        while is_push(frame := self._next(wait=True)):
            self._early.append(frame)
        return frame


def is_push(frame: Any) -> bool:
    """Whether a frame was pushed, and answers nothing."""
    return isinstance(frame, list) and bool(frame) and isinstance(frame[0], bytes) and frame[0] in PUSHES


def read_push(frame: Any) -> EpochEntry:
    """Read a published entry: ``incarnation seq op target``.

    Raises:
        FeedError: It has another form.
    """
    try:
        incarnation, seq, op, target = frame[2].decode("ascii").split(" ")
        return EpochEntry(incarnation, int(seq), op, target)
    except (ValueError, IndexError, AttributeError) as error:
        raise FeedError("a push of an unknown form") from error


def read_answer(frame: Any) -> StoreAnswer:
    """Read the answer to a probe.

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
    at = dict(zip(fields[::2], fields[1::2], strict=True))
    return EpochEntry(incarnation, int(key.split(b"-")[0]), at[b"op"].decode("ascii"), at[b"s"].decode("ascii"))
