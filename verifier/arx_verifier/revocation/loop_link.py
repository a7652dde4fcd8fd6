# SPDX-License-Identifier: Apache-2.0
"""One connection of one event loop to one server that keeps nonces or budgets.

Commands are pipelined: the server answers in their order, and each answer belongs to the oldest command without one.
So a command whose caller was cancelled keeps its place until it is answered, and a connection that broke the protocol
or answers too late is dropped: every command that waits then fails.  Nothing is sent twice.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, NamedTuple

import hiredis
import redis

MORE: Final = object()  # no complete answer yet
CHUNK: Final = 16_384  # bytes read at once
MAX_WAITING: Final = 10_000  # commands without an answer; more are refused
MAX_UNSENT: Final = 8 << 20  # bytes that the server has not taken
MAX_ANSWER: Final = 1 << 20  # bytes; the longest is of some kilobytes
# An answer that this loop reads later than this is not used: an attacker could replay a call whose nonce the server
# has forgotten meanwhile.  See ``call_proof.KEEP_MS``.
LATEST_S: Final = 2.0
_LATER: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ServerFacts(NamedTuple):
    """What a server states about itself when a connection is opened.

    Attributes:
        started_ms: When it started at the latest, by this machine's clock, ms since the Unix epoch.
        policy: What it does when its memory is full; None if the user may not ask.
    """

    started_ms: int
    policy: str | None


class LoopLink:
    """A connection.  Only the thread of its event loop may use it.

    Args:
        connection: The client library's, open and logged in.
        facts: What its server stated.
        loop: The event loop.
        timeout_s: Longest wait for an answer, s.

    Attributes:
        facts: As given.
        closed: Whether it asks nothing more.
        users: The clients that have seen ``facts``.
    """

    def __init__(self, connection: Any, facts: ServerFacts, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._connection, self.facts, self._loop, self._timeout_s = connection, facts, loop, timeout_s
        self._socket = connection._sock  # noqa: SLF001  the library has no public way to its socket
        self._socket.setblocking(False)
        self._reader = hiredis.Reader(notEnoughData=MORE, replyError=_read_error)
        # Futures of answers; when each must be there, and when it is useless: the loop's clock, s.
        self._waiting: deque[tuple[asyncio.Future[Any], float, float]] = deque()
        self._unsent, self._unread = bytearray(), 0
        self._planned, self._blocked = False, False
        self._timer: asyncio.TimerHandle | None = None
        self._confirming: asyncio.Future[Any] | None = None  # of the WAIT that is sent next
        self.closed = False
        self.users: set[object] = set()
        loop.add_reader(self._socket.fileno(), self._read)

    def ask(
        self, words: tuple[Any, ...], asked_at: float | None = None, *, asking: bool = False
    ) -> asyncio.Future[Any]:
        """Send a command; return its answer's future, which may be cancelled.

        Args:
            words: The command.
            asked_at: When the caller began to wait, the loop's clock, s; None for now.
            asking: Whether ASKING goes before it, whose own answer says nothing.

        Raises:
            redis.ConnectionError: The connection is closed, or too many commands wait.
        """
        if self.closed:
            raise redis.ConnectionError("the connection is closed")
        if len(self._waiting) >= MAX_WAITING or len(self._unsent) >= MAX_UNSENT:
            raise redis.ConnectionError("too many calls wait for the store")
        if asking:
            unread = self._send(("ASKING",), asked_at)
            if self.closed:  # it could not be sent, and what is asked behind it would wait without end
                raise redis.ConnectionError("the connection is closed") from unread.exception()
            unread.cancel()
        return self._send(words, asked_at)

    def _send(self, words: tuple[Any, ...], asked_at: float | None) -> asyncio.Future[Any]:
        self._unsent += hiredis.pack_command(words)
        answer, now = self._loop.create_future(), self._loop.time()
        idle = not self._waiting
        due = now + self._timeout_s
        self._waiting.append((answer, due, LATEST_S + (now if asked_at is None else asked_at)))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)
        if idle and not self._blocked:
            self._write()
        elif not self._planned and not self._blocked:
            # What the other tasks ask in this step of the loop leaves with it.
            self._planned = True
            self._loop.call_soon(self._write)
        return answer

    def confirm(self, wait: tuple[Any, ...]) -> Awaitable[Any]:
        """Return the answer to a WAIT behind all that was asked, which the tasks of this step of the loop share.

        The server answers nothing on a connection while it waits there, so that one for each command would be slow.

        Args:
            wait: WAIT, with its arguments.
        """
        # With a silent replica one WAIT takes its whole time, and the next one ends after the time-out of its own
        # command, which drops the connection.  That is right: nothing behind it could be confirmed in time, and each
        # caller is refused at its own time-out, not after all WAITs before it.
        if self._confirming is None:
            self._confirming = self._loop.create_future()
            self._confirming.add_done_callback(lambda done: done.exception())
            self._loop.call_soon(self._ask_to_confirm, wait)
        return asyncio.shield(self._confirming)

    def _ask_to_confirm(self, wait: tuple[Any, ...]) -> None:
        shared, self._confirming = self._confirming, None
        assert shared is not None
        try:
            self.ask(wait).add_done_callback(partial(_pass_on, shared))
        except redis.RedisError as error:
            shared.set_exception(error)

    def close(self, error: Exception | None = None) -> None:
        """Close the connection; every command that waits fails.

        Args:
            error: Why.
        """
        if self.closed:
            return
        self.closed = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._connection.disconnect()
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        for answer, _, _ in waiting:
            if not answer.done() and not self._loop.is_closed():
                answer.set_exception(error or redis.ConnectionError("the connection was closed"))

    def forget(self) -> None:
        """Close this process's copy of a parent's connection; the parent's own stays open."""
        # Neither the loop nor its timers: a forked process shares what the loop waits with.
        self.closed = True
        self._socket.close()

    def _read(self) -> None:
        try:
            while not self.closed:
                data = self._socket.recv(CHUNK)
                if not data:
                    raise redis.ConnectionError("the server closed the connection")
                self._take(data)
                if len(data) < CHUNK and not isinstance(self._socket, ssl.SSLSocket):
                    return
        except _LATER:
            return
        # hiredis raises TypeError for a map with a list as its key, MemoryError for a list of an enormous length.
        except (OSError, redis.RedisError, hiredis.HiredisError, TypeError, ValueError, MemoryError) as error:
            self.close(redis.ConnectionError(f"cannot read: {type(error).__name__}"))

    def _take(self, data: bytes) -> None:
        self._unread += len(data)
        if self._unread > MAX_ANSWER:
            raise ValueError("an answer is too long")
        self._reader.feed(data)
        now = self._loop.time()
        while (frame := self._reader.gets()) is not MORE:
            self._unread = 0
            if isinstance(frame, hiredis.PushNotification):
                continue
            if not self._waiting:
                raise ValueError("an answer to no command")
            answer, _, until = self._waiting.popleft()
            if answer.done():
                continue
            if until < now:
                answer.set_exception(redis.TimeoutError("the answer was read too late"))
            elif isinstance(frame, Exception):
                answer.set_exception(frame)
            else:
                answer.set_result(frame)

    def _write(self) -> None:
        self._planned = False
        if self.closed:
            return
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except _LATER:
            pass
        except OSError as error:
            self.close(redis.ConnectionError(f"cannot send: {type(error).__name__}"))
            return
        if bool(self._unsent) is not self._blocked:
            self._blocked = not self._blocked
            watch: Callable[..., Any] = self._loop.add_writer if self._blocked else self._loop.remove_writer
            watch(self._socket.fileno(), *([self._write] if self._blocked else []))

    def _look(self) -> None:
        """Drop the connection if the oldest command has waited for too long."""
        self._timer = None
        self._read()  # after a busy step of the loop the answer may have come
        if self.closed or not self._waiting:
            return
        due = self._waiting[0][1]
        if due <= self._loop.time():
            self.close(redis.TimeoutError("the server did not answer in time"))
        else:
            self._timer = self._loop.call_at(due, self._look)


def _pass_on(shared: "asyncio.Future[Any]", done: "asyncio.Future[Any]") -> None:
    error = done.exception()
    if error is None:
        shared.set_result(done.result())
    else:
        shared.set_exception(error)


def _read_error(text: str) -> Exception:
    """Return the client library's error for a refusal of the server."""
    parse: Any = redis.connection.DefaultParser.parse_error
    return parse(text)  # type: ignore[no-any-return]
