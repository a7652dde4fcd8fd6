# SPDX-License-Identifier: Apache-2.0
"""A server that keeps nonces or budgets, as threads and event loops ask it.  It repeats no command.

Threads share the client library's pool.  Each event loop has one connection to a server, whatever number of verifiers
it has.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

import redis

from arx_verifier._platform import HAS_READERS, at_fork
from arx_verifier.revocation.loop_link import LoopLink, ServerFacts
from arx_verifier.revocation.store_steps import BlockingCall, Steps
from arx_verifier.revocation.store_url import Address

OPEN_S: Final = 1.0  # longest wait of a command for a connection to be opened
MOST_THREADS: Final = 10_000  # that ask one server at once; the library has 100 unless it is given a number
_Place = tuple[asyncio.AbstractEventLoop, tuple[Any, ...]]
_LINKS: Final[dict[_Place, LoopLink]] = {}
_OPENING: Final[dict[_Place, "asyncio.Future[LoopLink]"]] = {}


class UnfitError(redis.RedisError):
    """The server must not be used; the text names why, and what to set."""


class StoreCommand(NamedTuple):
    """A command of a client's server; see ``StoreCall``.

    Attributes:
        client: The client.
        words: The command.
        wait: WAIT with its arguments, for the answers to both, a refusal as its error; None for the command's alone.
        asking: With WAIT, whether ASKING goes before the command, whose own answer says nothing.
    """

    client: "StoreClient"
    words: tuple[Any, ...]
    wait: tuple[Any, ...] | None = None
    asking: bool = False

    def run(self) -> Any:
        """Ask through the pool."""
        if self.wait is None:
            return self.client.redis.execute_command(*self.words)
        # On one connection: WAIT is for what its own connection wrote before.
        return self.client.ask_all([*([("ASKING",)] if self.asking else []), self.words, self.wait])[-2:]

    def run_async(self) -> Awaitable[Any]:
        """Ask through the event loop's connection."""
        return self.client.ask(self) if HAS_READERS else BlockingCall(self.run).run_async()


class StoreClient:
    """A server that keeps nonces or budgets.

    Args:
        address: Where it is.
        timeout_s: Longest wait for an answer, s.
        greet: Receives what a server states, before its first answer is used; it may raise ``UnfitError``.
        node: Host and port of a node of the cluster there, to ask that node alone.

    Attributes:
        redis: The client library's, for threads.
        key: Clients with the same one share the connection of an event loop.
        started_ms: When its server started at the latest, ms since the Unix epoch; 0 before the first connection.
    """

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        greet: Callable[[ServerFacts], None],
        node: tuple[str, int] | None = None,
    ) -> None:
        pool: dict[str, Any] = {"redis_connect_func": self._connected, "max_connections": MOST_THREADS}
        self.redis: Any = address.client(timeout_s, node, **pool)
        self._greet_user, self._timeout_s, self.started_ms = greet, timeout_s, 0
        self.key = (*address.key, timeout_s, node)

    def command(self, *words: Any, tag: str) -> Steps[Any]:  # noqa: ARG002 - of a cluster
        """Ask as a step.

        Raises:
            redis.RedisError: The server did not answer, or refused.
        """
        return (yield StoreCommand(self, words))

    def ask(self, command: StoreCommand) -> Awaitable[Any]:
        """Ask through the running event loop's connection.

        Args:
            command: The command.

        Raises:
            redis.RedisError: Too many commands wait, or the server is unfit.
        """
        loop = asyncio.get_running_loop()
        link = _LINKS.get((loop, self.key))
        if link is None or link.closed or command.wait is not None:
            return self._open_and_ask(loop, command)
        return self._meet(link).ask(command.words)

    def ask_all(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Ask on one connection of the pool; return the answers, a refusal as its error."""
        pipeline = self.redis.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return list(pipeline.execute(raise_on_error=False))

    def server(self, tag: str) -> Any:  # noqa: ARG002 - of a cluster
        """Return the client library's client, for reads."""
        return self.redis

    def close(self) -> None:
        """Close the pool, and the connections that no other client uses; both are opened again when needed."""
        for (loop, _), link in [*_LINKS.items()]:
            if self in link.users:
                link.users.discard(self)
                if not link.users:
                    # Of another thread's loop, perhaps, which may have ended.
                    with contextlib.suppress(RuntimeError):
                        loop.call_soon_threadsafe(link.close)
        self.redis.close()
        self.redis.connection_pool.disconnect()

    def _meet(self, link: LoopLink) -> LoopLink:
        if self not in link.users:
            self._greet(link.facts)
            link.users.add(self)
        return link

    async def _open_and_ask(self, loop: asyncio.AbstractEventLoop, command: StoreCommand) -> Any:
        asked_at, link = loop.time(), _LINKS.get((loop, self.key))
        if link is None or link.closed:
            link = await self._open_link(loop)
        asked = self._meet(link).ask(command.words, asked_at, asking=command.asking)
        if command.wait is None:
            return await asked
        answers = await asyncio.gather(asked, link.confirm(command.wait), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, redis.ResponseError):
                raise answer
        return answers

    async def _open_link(self, loop: asyncio.AbstractEventLoop) -> LoopLink:
        place = loop, self.key
        opening = _OPENING.get(place)
        if opening is None:
            _forget_ended()
            opening = _OPENING[place] = loop.create_future()
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
            thread = threading.Thread(target=self._open, args=(place, opening), name="arx-store-open", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives no more threads: the next call tries again
                _OPENING.pop(place, None)
                opening.set_exception(redis.ConnectionError("cannot start the thread that opens the connection"))
        await asyncio.wait((opening,), timeout=OPEN_S)
        if not opening.done():
            raise redis.TimeoutError("the connection was not opened in time")
        return opening.result()

    def _open(self, place: _Place, opening: "asyncio.Future[LoopLink]") -> None:
        """Open a connection as the pool does; then the event loop has it."""
        # In a thread: the library looks up names, asks Sentinels and logs in, and each may take long.
        pool, connection = self.redis.connection_pool, None
        facts: ServerFacts | Exception
        try:
            # Not by the pool's own method: it counts each connection that it has made, also after the end of it.
            connection = pool.connection_class(**{**pool.connection_kwargs, "redis_connect_func": None})
            connection.connect()
            facts = _read_facts(connection)
        except Exception as error:  # whatever it is, those that wait must hear of it
            facts = error
        try:
            place[0].call_soon_threadsafe(self._opened, place, opening, connection, facts)
        except RuntimeError:  # the loop has ended
            if connection is not None:
                connection.disconnect()

    def _opened(
        self, place: _Place, opening: "asyncio.Future[LoopLink]", connection: Any, facts: ServerFacts | Exception
    ) -> None:
        _OPENING.pop(place, None)
        if isinstance(facts, Exception):
            if connection is not None:
                connection.disconnect()
            opening.set_exception(facts)
            return
        _LINKS[place] = link = LoopLink(connection, facts, place[0], self._timeout_s)
        opening.set_result(link)

    def _greet(self, facts: ServerFacts) -> None:
        self.started_ms = max(self.started_ms, facts.started_ms)
        self._greet_user(facts)

    def _connected(self, connection: Any) -> None:
        """Read what the server states, at each new connection of the pool."""
        connection.on_connect()
        self._greet(_read_facts(connection))


def _read_facts(connection: Any) -> ServerFacts:
    from redis.exceptions import ResponseError

    facts: dict[str, str] = {}
    try:
        for section in ("server", "memory"):
            connection.send_command("INFO", section)
            facts |= read_fields(connection.read_response())
    except ResponseError:  # not permitted: the start counts as now, and the operator is responsible for the policy
        pass
    # It subtracts its start from its clock, both in whole seconds: since the end of the second in which it started.
    # An old server gives no part of a second.
    up_ms = 1000 * (int(facts.get("uptime_in_seconds", 0)) - 1) + int(facts.get("server_time_usec", 0)) // 1000 % 1000
    return ServerFacts(time.time_ns() // 1_000_000 - max(0, up_ms), facts.get("maxmemory_policy"))


def read_fields(info: bytes | str) -> dict[str, str]:
    """Return the fields of an answer to INFO."""
    lines = (info.decode() if isinstance(info, bytes) else str(info)).splitlines()
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def _forget_ended() -> None:
    """Close the connections of event loops that have ended."""
    for place, link in [*_LINKS.items()]:
        if link.closed or place[0].is_closed():
            _LINKS.pop(place, None)
            link.close()
    for place in [place for place in [*_OPENING] if place[0].is_closed()]:
        _OPENING.pop(place, None)


def _forget_all() -> None:
    """In a forked process: an answer to its parent must not be taken for one of its own."""
    for link in [*_LINKS.values()]:
        link.forget()
    _LINKS.clear()
    _OPENING.clear()


at_fork(after_in_child=_forget_all)
