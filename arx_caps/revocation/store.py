# SPDX-License-Identifier: Apache-2.0
"""Write a realm's kill sequence, and read what operators look at.  SPEC 10.

A kill is reported only once the store has it on disk.  A lost answer means *unknown*: the call is repeated until its
outcome is known, which is harmless, because a second kill of a scope is one more entry.  Who has confirmed it is
``confirm``'s matter; verifiers follow with ``arx_verifier.feed``.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, Final, Self, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arx_caps.revocation.confirm import wait_confirmed
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.scopes import parse_scopes
from arx_caps.revocation.wire import (
    Bump,
    Entry,
    Header,
    Keys,
    Registry,
    StoreHistoryError,
    VerifierSeen,
    read_entry,
    read_header,
    text,
    told,
)
from arx_verifier.epochs import new_inc
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.names import is_realm

DEFAULT_LEASE_MS: Final = 1_000
DEFAULT_MAX_TTL_MS: Final = 60 * 60 * 1_000  # the longest a token lives, and so how long a floor is kept
MAX_WHY: Final = 500  # characters of a reason that are kept
OUTCOME_S: Final = 5.0  # how long to ask for the outcome of a bump
BACKOFF_S: Final = (0.02, 0.5)
HEADER_FIELDS: Final = ["inc", "seq", "lease_ms", "lease_max_ms", "lease_until"]
T = TypeVar("T")


class RevocationStore:
    """The revocation store of one realm.

    Args:
        url: ``unix://``, ``redis://`` or ``rediss://`` address.
        realm: The realm's name.
        password: In place of one in the URL.
        replicas: How many replicas must have a kill on disk as well.
        timeout_ms: For one exchange with the store.
    """

    def __init__(
        self, url: str, realm: str, *, password: str | None = None, replicas: int = 0, timeout_ms: int = 1_000
    ) -> None:
        if not is_realm(realm):
            raise SettingsError("a realm's name is [a-z0-9][a-z0-9._-]{0,31}")
        self.realm = realm
        self.keys = Keys.of(realm)
        self._replicas = replicas
        self._timeout_ms = timeout_ms
        self._lock = threading.Lock()
        self._inc: str | None = None
        self._seen = 0
        settings: dict[str, Any] = {} if password is None else {"password": password}
        timeout_s = timeout_ms / 1000
        try:
            self._redis = redis.Redis.from_url(
                url,
                protocol=3,
                retry=Retry(NoBackoff(), 0),  # a hidden retry would hide which history answered
                socket_timeout=2 * timeout_s,  # WAITAOF may take one of them
                socket_connect_timeout=timeout_s,
                **settings,
            )
        except ValueError:
            # Not chained: what could not be read may be a piece of a password.
            raise SettingsError("the store's address is not a unix://, redis:// or rediss:// URL") from None

    def __repr__(self) -> str:
        return f"RevocationStore(realm={self.realm!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    # Deployment.

    def load_functions(self) -> None:
        """Load this version's functions into the store, in place of older ones of the same name.

        Raises:
            StoreError: The store did not take them.
        """
        source = files("arx_caps.revocation").joinpath("functions.lua").read_text("utf-8")
        self._once(lambda: self._redis.function_load(source, replace=True))

    def init(
        self,
        inc: str | None = None,
        *,
        lease_ms: int = DEFAULT_LEASE_MS,
        max_ttl_ms: int = DEFAULT_MAX_TTL_MS,
        seq: int = 0,
    ) -> Header:
        """Begin the realm's history, unless it has one.

        Args:
            inc: The history's name; random when not given.
            lease_ms: How long a verifier may act on one answer.
            max_ttl_ms: The longest a token may live.
            seq: Where to begin; a mint that remembers a higher one goes on from there.

        Returns:
            Where the history stands, whoever began it.

        Raises:
            StoreError: The store did not answer.
        """
        return self._learn(self._call("arx1_init", self.keys.written, inc or new_inc(), lease_ms, max_ttl_ms, seq))

    def rotate(self, *, seq_at_least: int = 0, lease_ms: int = 0, max_ttl_ms: int = 0) -> Bump:
        """End the history: every token born in it is dead, bans stay.  The remedy for a store that lost entries.

        Args:
            seq_at_least: The highest sequence that anybody remembers.
            lease_ms: A new lease, 0 to keep it.
            max_ttl_ms: A new longest life of a token, 0 to keep it.

        Returns:
            The new history.

        Raises:
            StoreError: The store did not answer, or somebody else rotated a moment ago.
        """
        sent, old = time.monotonic(), self.header().inc
        least = max(seq_at_least, self._seen)
        reply, durable = self._once(
            lambda: self._written("arx1_rotate", self.keys.all, old, new_inc(), least, lease_ms, max_ttl_ms)
        )
        return Bump("rotate", ("realm",), self._learn(reply, forget=True), durable, sent)

    def remember(self, inc: str, seq: int) -> None:
        """Refuse a store that is in another history, or behind ``seq``: what a mint keeps in its own database."""
        with self._lock:
            self._seen = max(self._seen, seq) if inc == self._inc else seq
            self._inc = inc

    def mark_taken(self, seq: int) -> None:
        """Tell the store that the log up to ``seq`` is kept elsewhere and may be trimmed.

        Raises:
            StoreError: The store did not answer.
        """
        self._once(lambda: self._redis.hset(self.keys.header, "taken", str(seq)))

    # Kills and bans.

    def kill(self, scopes: Sequence[str], reason: str, by: str, *, until_ms: int | None = None) -> Bump:
        """End every token born before now in these scopes, for ever, in one step.

        Args:
            scopes: At least one, such as ``session:s-…``.
            reason: Kept in the log.
            by: Who; kept in the log.
            until_ms: When the last token in these tasks or sessions expires, if that is known: the record of the kill
                is then kept no longer than it is needed.

        Returns:
            The acknowledged kill.

        Raises:
            StoreHistoryError: The store is not in the history that this process has seen.
            StoreError: The outcome stayed unknown; kill again.
            RequestError: A scope is not one.
        """
        return self._bump("kill", scopes, reason, by, until_ms)

    def ban(self, scopes: Sequence[str], reason: str, by: str) -> Bump:
        """Refuse these scopes until a lift.  Otherwise as ``kill``."""
        return self._bump("ban", scopes, reason, by)

    def kill_by_kind(self, scopes: Sequence[str], reason: str, by: str) -> Bump:
        """Do to each scope what a kill of its kind is (``scopes.KINDS``), with one atomic entry list for each sort.

        Returns:
            The last one, naming all of them: who has applied it has applied those before it.
        """
        sorts: dict[str, list[str]] = {}
        for scope in parse_scopes(scopes):
            sorts.setdefault(scope.kill_op, []).append(str(scope))
        bumps = [self._bump(op, named, reason, by) for op, named in sorts.items()]
        last = bumps[-1]
        named = tuple(scope for bump in bumps for scope in bump.scopes)
        return last._replace(scopes=named, durable=all(bump.durable for bump in bumps), sent=bumps[0].sent)

    def kill_and_ban(self, scopes: Sequence[str], reason: str, by: str) -> Bump:
        """Kill these scopes and ban them, in one entry each.  Otherwise as ``kill``."""
        return self._bump("kill+ban", scopes, reason, by)

    def lift(self, scopes: Sequence[str], reason: str, by: str) -> Bump:
        """End the bans on these scopes; what was killed stays dead.  Otherwise as ``kill``."""
        return self._bump("lift", scopes, reason, by)

    def _bump(self, op: str, scopes: Sequence[str], reason: str, by: str, until_ms: int | None = None) -> Bump:
        named = tuple(str(scope) for scope in parse_scopes(scopes))
        sent = time.monotonic()
        if self._inc is None:
            self.header()
        until = "" if until_ms is None else str(until_ms)
        reply, durable = self._until_known(
            lambda: self._written(
                "arx1_bump", self.keys.written, self._inc, self._seen, op, until, by[:96], reason[:MAX_WHY], *named
            ),
            sent + OUTCOME_S,
        )
        return Bump(op, named, self._learn(reply), durable, sent)

    def _written(self, function: str, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, bool]:
        """Call a function, then wait for the disk; returns the answer and whether it is on it."""
        # One pipeline is one connection: WAITAOF on another one would wait for somebody else's writes.
        pipeline: Any = self._redis.pipeline(transaction=False)
        pipeline.fcall(function, len(keys), *keys, *arguments)
        pipeline.execute_command("WAITAOF", 1, self._replicas, self._timeout_ms)
        reply, disk = pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        # A time-out is an answer too, with smaller numbers; a store without an append-only file answers an error.
        return reply, isinstance(disk, list) and disk[0] >= 1 and disk[1] >= self._replicas

    def wait_confirmed(self, bump: Bump, timeout_ms: int | None = None) -> KillReport:
        """Wait until every verifier has confirmed, or until the leases are over, and report.  See ``confirm``."""
        return wait_confirmed(self.unacked, bump, timeout_ms)

    # What operators look at.

    def header(self) -> Header:
        """Say where the history stands.

        Raises:
            StoreHistoryError: The realm has none in this store.
            StoreError: The store did not answer.
        """
        reply = self._once(lambda: self._redis.hmget(self.keys.header, HEADER_FIELDS))
        if reply[0] is None:
            raise StoreHistoryError("NOINIT", "the realm has no history in this store")
        at: Any = self._once(self._redis.time)
        at_ms = at[0] * 1000 + at[1] // 1000
        lease_ms = max(int(reply[2]), int(reply[3] or 0) if int(reply[4] or 0) > at_ms else 0)
        return self._learn([reply[0], reply[1], at_ms, lease_ms])

    def unacked(self, seq: int, since_ms: int) -> Registry:
        """Ask which verifiers, heard of since then, have not applied ``seq``.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self._call("arx1_unacked", self.keys.registry, seq, since_ms)
        missing = tuple((text(name), int(last), int(applied)) for name, last, applied in reply[3])
        return Registry(int(reply[0]), int(reply[1]), int(reply[2]), missing)

    def verifiers(self) -> tuple[VerifierSeen, ...]:
        """List the verifiers that probed within the last minutes, by name.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self._call("arx1_unacked", self.keys.registry, 2**53, 0)
        seen = (VerifierSeen(text(name), int(reply[0] - last), int(applied)) for name, last, applied in reply[3])
        return tuple(sorted(seen))

    def floors(self) -> dict[str, int]:
        """Return each killed scope that is still remembered, with the sequence of its last kill."""
        return self._numbers(self.keys.floors)

    def bans(self) -> dict[str, int]:
        """Return each banned scope, with the sequence of its ban."""
        return self._numbers(self.keys.bans)

    def log(self, after: int = 0, limit: int = 1_000) -> tuple[Entry, ...]:
        """Return entries after a sequence, oldest first.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self._once(lambda: self._redis.xrange(self.keys.log, f"{after + 1}-0", "+", count=limit))
        return tuple(read_entry(entry) for entry in reply)

    def _numbers(self, key: str) -> dict[str, int]:
        reply: Any = self._once(lambda: self._redis.hgetall(key))
        return {text(scope): int(seq) for scope, seq in reply.items()}

    # Exchanges.

    def _learn(self, reply: Any, *, forget: bool = False) -> Header:
        header = read_header(reply)
        with self._lock:
            if self._inc is None or forget:
                self._inc, self._seen = header.inc, header.seq
            elif header.inc == self._inc:
                self._seen = max(self._seen, header.seq)
        return header

    def _call(self, function: str, keys: Iterable[str], *arguments: Any) -> Any:
        named = tuple(keys)
        return self._once(lambda: self._redis.fcall(function, len(named), *named, *arguments))

    def _once(self, exchange: Callable[[], Any]) -> Any:
        try:
            return exchange()
        except (redis.RedisError, OSError) as error:
            raise told(error) from error

    def _until_known(self, exchange: Callable[[], T], deadline: float) -> T:
        pause = BACKOFF_S[0]
        while True:
            try:
                return exchange()
            except redis.AuthenticationError as error:
                raise told(error) from error
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                if time.monotonic() + pause > deadline:
                    raise StoreError("the store did not answer: whether it took the kill is unknown") from error
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries, keeps no secret
                pause = min(2 * pause, BACKOFF_S[1])
            except redis.RedisError as error:
                raise told(error) from error
