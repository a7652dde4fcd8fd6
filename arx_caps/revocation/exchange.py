# SPDX-License-Identifier: Apache-2.0
"""Exchange commands and answers with a store that may freeze, fail over or vanish.  SPEC 10.

An answer that did not come leaves an outcome unknown, and a server that refuses because it is not the primary any more
leaves it known: nothing was written there.  Both are tried again, on a fresh connection, until the patience is over;
only the first kind then has to be called unknown.  What is asked is ``store``'s matter.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arx_caps.revocation.wire import OutcomeUnknownError, StoreHistoryError, is_elsewhere, told
from arx_verifier.errors import StoreError
from arx_verifier.revocation.store_url import Address

BACKOFF_S: Final = (0.02, 0.5)
REPLICA_S: Final = (0.002, 0.05)
T = TypeVar("T")


class Exchange:
    """Connections to a realm's store.

    Args:
        address: Where it is.
        timeout_ms: For one exchange.
    """

    def __init__(self, address: Address, timeout_ms: int) -> None:
        timeout_s = timeout_ms / 1000
        self._timeout_ms = timeout_ms
        self.client: Any = redis.Redis(
            connection_pool=address.pool(
                protocol=3,
                retry=Retry(NoBackoff(), 0),  # a hidden retry would hide which history answered
                socket_timeout=2 * timeout_s,  # WAITAOF may take one of them
                socket_connect_timeout=timeout_s,
            )
        )

    def close(self) -> None:
        """Give the connections back."""
        self.client.close()
        self.client.connection_pool.disconnect()

    def forget_connections(self) -> None:
        """Give up connections to a server that is not the primary any more: the next one is looked for."""
        self.client.connection_pool.disconnect(inuse_connections=False)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """Hold one connection, for what must be asked of one server: the client's own pipelines may take another.

        WAITAOF on another connection than the write's would wait for nothing, and say yes.
        """
        pool = self.client.connection_pool
        one = pool.get_connection()
        try:
            yield one
        except BaseException:
            one.disconnect()  # an answer may still be on its way
            raise
        finally:
            pool.release(one)

    def once(self, exchange: Callable[[], T]) -> T:
        """Exchange once.

        Raises:
            StoreError: The store did not answer, or refused.
        """
        try:
            return exchange()
        except (redis.RedisError, OSError) as error:
            self._leave_if_elsewhere(error)
            raise told(error) from error

    def call(self, function: str, keys: Iterable[str], *arguments: Any) -> Any:
        """Call a function.

        Raises:
            StoreError: The store did not answer, or refused.
        """
        named = tuple(keys)
        return self.once(lambda: self.client.fcall(function, len(named), *named, *arguments))

    def written(self, replicas: int, function: str, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, bool]:
        """Call a function, then wait for the disks.  Not in ``once``: a caller may want to repeat it.

        Returns:
            The answer, and whether it is on the primary's disk and on those of so many replicas.
        """
        call = ("FCALL", function, len(keys), *keys, *arguments)
        with self.connection() as one:
            reply, disk = ask(one, call, ("WAITAOF", 1, 0, self._timeout_ms))
            if isinstance(reply, Exception):
                raise reply
            # A time-out is an answer too, with smaller numbers; a store without an append-only file answers an error.
            durable = isinstance(disk, list) and disk[0] >= 1
            return reply, durable and (replicas == 0 or self._on_replicas(one, replicas))

    def _on_replicas(self, one: Any, replicas: int) -> bool:
        """Wait until so many replicas have this connection's writes on their disks.

        A replica answers with what was on its disk before it was asked, and by itself only once a second.  So it gets a
        moment first, and is asked again.
        """
        deadline, pause = time.monotonic() + self._timeout_ms / 1000, REPLICA_S[0]
        while True:
            time.sleep(pause)
            (disk,) = ask(one, ("WAITAOF", 1, replicas, 1))
            if isinstance(disk, list) and disk[1] >= replicas:
                return True
            if time.monotonic() > deadline:
                return False
            pause = min(2 * pause, REPLICA_S[1])

    def until_known(self, exchange: Callable[[], T], deadline: float, tell: Callable[[str], None]) -> T:
        """Exchange until the outcome is known.

        Args:
            exchange: Harmless to repeat.
            deadline: Monotonic clock, s.
            tell: Called once for each sentence about what is not known yet.

        Raises:
            OutcomeUnknownError: It stayed unknown.
            StoreError: The store refused.
        """
        pause, lost, said = BACKOFF_S[0], False, ""
        while True:
            try:
                return exchange()
            except (redis.RedisError, OSError) as error:
                elsewhere = is_elsewhere(error)
                answered = elsewhere or isinstance(error, redis.ResponseError | redis.AuthenticationError)
                lost = lost or not answered
                self._leave_if_elsewhere(error)
                if (answered and not elsewhere) or time.monotonic() + pause > deadline:
                    raise _unknown(error, lost) from error
                now = "unknown so far: the store does not answer" if lost else str(told(error))
                if now != said:
                    said = now
                    tell(f"{said}; trying again")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries, keeps no secret
            pause = min(2 * pause, BACKOFF_S[1])

    def _leave_if_elsewhere(self, error: Exception) -> None:
        if is_elsewhere(error):
            self.forget_connections()


def ask(connection: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands at once on one connection and return their answers, refusals among them as exceptions."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except redis.ResponseError as error:
            answers.append(error)
    return answers


def _unknown(error: Exception, lost: bool) -> StoreError:
    said = told(error)
    if not lost or isinstance(said, StoreHistoryError):
        return said  # in another history nothing of the old one is alive
    return OutcomeUnknownError(f"{said}: whether it took the kill is unknown")
