# SPDX-License-Identifier: Apache-2.0
"""Send commands to a store that may hang, fail over or disappear, and read the answers.  SPEC 10.

``store`` builds the commands.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import redis

from arx_caps.revocation.wire import (
    OutcomeUnknownError,
    ProofUsedError,
    StoreHistoryError,
    as_store_error,
    is_elsewhere,
)
from arx_verifier.errors import StoreError
from arx_verifier.revocation.store_url import Address

BACKOFF_S: Final = (0.02, 0.5)  # first and longest pause between retries
REPLICA_S: Final = (0.002, 0.05)  # first and longest pause between two questions for the replicas' disks
T = TypeVar("T")


class Exchange:
    """Connections to a realm's store.

    Args:
        address: The store's address.
        timeout_ms: Time-out of one exchange, ms.
    """

    def __init__(self, address: Address, timeout_ms: int) -> None:
        timeout_s = timeout_ms / 1000
        self._timeout_ms = timeout_ms
        # WAITAOF may take one of the two time-outs.
        self.client: Any = address.client(timeout_s, protocol=3, socket_timeout=2 * timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.client.connection_pool.disconnect()

    def forget_connections(self) -> None:
        """Close idle connections to a deposed primary; the next exchange looks for the new one."""
        self.client.connection_pool.disconnect(inuse_connections=False)

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """Yield one connection, for commands that must reach the same server."""
        # The client's own pipelines may take another connection.  A WAITAOF on another connection than the write's
        # would wait for nothing, and report success.
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # an answer may still be on its way
            raise
        finally:
            pool.release(connection)

    def once(self, exchange: Callable[[], T]) -> T:
        """Run an exchange once.

        Args:
            exchange: Sends commands with ``client``.

        Raises:
            StoreError: The store did not answer, or refused.
        """
        try:
            return exchange()
        except (redis.RedisError, OSError) as error:
            self._leave_if_elsewhere(error)
            raise as_store_error(error) from error

    def read_together(self, *commands: tuple[Any, ...]) -> tuple[list[Any], str]:
        """Return the answers of one server to several commands, and the Sentinels' or the cluster's name of it.

        Args:
            commands: The commands.

        Raises:
            StoreError: The store did not answer, or refused one of them.
        """

        def read() -> tuple[list[Any], str]:
            with self.connection() as connection:
                answers = ask(connection, *commands)
                for answer in answers:
                    if isinstance(answer, Exception):
                        raise answer
                return answers, str(getattr(connection, "node", ""))

        return self.once(read)

    def call(self, function: str, keys: Iterable[str], *arguments: Any) -> Any:
        """Call a function of the store.

        Args:
            function: Its name.
            keys: Its keys.
            arguments: Its arguments.

        Raises:
            StoreError: The store did not answer, or refused.
        """
        named = tuple(keys)
        return self.once(lambda: self.client.fcall(function, len(named), *named, *arguments))

    def written(self, replicas: int, function: str, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, bool, int]:
        """Call a function of the store, then wait until its write is on disk.

        Args:
            replicas: Number of replicas that must have it on disk as well.
            function: Its name.
            keys: Its keys.
            arguments: Its arguments.

        Returns:
            The answer, whether the write is on the primary's and the replicas' disks, and how many replicas had it on
            disk at once.

        Raises:
            RedisError: The store did not answer, or refused.  It is not mapped, so that ``until_known`` can retry.
        """
        call = ("FCALL", function, len(keys), *keys, *arguments)
        with self.connection() as connection:
            reply, disk = ask(connection, call, ("WAITAOF", 1, 0, self._timeout_ms))
            if isinstance(reply, Exception):
                raise reply
            # After a time-out the answer has smaller numbers; a store without an append-only file answers an error.
            if not isinstance(disk, list) or disk[0] < 1:
                return reply, False, 0
            return reply, replicas == 0 or self._on_replicas(connection, replicas), int(disk[1])

    def _on_replicas(self, connection: Any, replicas: int) -> bool:
        """Wait until ``replicas`` replicas have this connection's writes on disk; return whether they do."""
        # A replica answers with what was on its disk before the question, and on its own only once a second.  So it
        # gets a moment first, and is asked again.
        deadline, pause = time.monotonic() + self._timeout_ms / 1000, REPLICA_S[0]
        while True:
            time.sleep(pause)
            (disk,) = ask(connection, ("WAITAOF", 1, replicas, 1))
            if isinstance(disk, list) and disk[1] >= replicas:
                return True
            if time.monotonic() > deadline:
                return False
            pause = min(2 * pause, REPLICA_S[1])

    def until_known(self, exchange: Callable[[], T], deadline: float, report: Callable[[str], None]) -> T:
        """Run an exchange until its outcome is known.

        Args:
            exchange: Safe to repeat.
            deadline: When to give up, monotonic clock, s.
            report: Called with each new sentence about the unknown outcome.

        Returns:
            The exchange's result.

        Raises:
            OutcomeUnknownError: The outcome is still unknown at the deadline.
            StoreError: The store refused.
        """
        pause, lost, reported = BACKOFF_S[0], False, ""
        # Without an answer the outcome is unknown.  After a refusal by a server that is not the primary any more it is
        # known: nothing was written.  Both are retried on a fresh connection; only the first ends as "unknown".
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
                now = "unknown so far: the store does not answer" if lost else str(as_store_error(error))
                if now != reported:
                    reported = now
                    report(f"{reported}; trying again")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries, keeps no secret
            pause = min(2 * pause, BACKOFF_S[1])

    def _leave_if_elsewhere(self, error: Exception) -> None:
        if is_elsewhere(error):
            self.forget_connections()


def ask(connection: Any, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands together on one connection, and return their answers.

    Args:
        connection: From ``Exchange.connection``.
        commands: The commands.

    Returns:
        The answers, in order; an error of the store is returned as an exception.
    """
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except redis.ResponseError as error:
            answers.append(error)
    return answers


def _unknown(error: Exception, lost: bool) -> StoreError:
    mapped = as_store_error(error)
    if not lost or isinstance(mapped, StoreHistoryError | ProofUsedError):
        return mapped  # a new history ended every token of the old one; a used proof was that of another call
    return OutcomeUnknownError(f"{mapped}: whether it took the kill is unknown")
