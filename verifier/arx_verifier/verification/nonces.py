# SPDX-License-Identifier: Apache-2.0
"""Nonces: use each call and each ``once`` one time.  SPEC 8.3, 6.8.

``spend`` is step 6 of a verification and the last of its checks, so that a refused call uses nothing up.  A nonce store
answers whether a key is new.  It remembers the key for as long as the call could be repeated, and never forgets a live
one to make room.
"""

import os
import re
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.request import AccessRequest
from arx_verifier.revocation import SKEW_MS
from arx_verifier.token import PresentedCall, call_proof
from arx_verifier.verification.chain_state import ProvenChain
from arx_verifier.verification.reasons import (
    BEFORE_START,
    NO_STORE,
    ONCE_AGE,
    ONCE_USED,
    REPLAYED,
    Refused,
    ahead,
    used_up,
)

if TYPE_CHECKING:
    from logging import Logger

MAX_NONCES: Final = 500_000  # about 100 MB; 15 s of 33,000 calls a second, more than one process can decide
ONCE_MS: Final = 24 * 60 * 60 * 1000  # how long a ``once`` is good
ONCE_AHEAD_MS: Final = 60_000  # the mint's clock against this one: no caller waits for longer
ONCE_KEEP_MS: Final = ONCE_MS + 60_000  # how long it is remembered: as long as it is good by the slowest worker's clock
APART_MS: Final = 2 * SKEW_MS  # between the clocks of two workers, each as far from the store's as it may be
_BRIEF_S: Final = 60  # what is kept for longer is no call but a name that is good once
SPEND: Final = "arx1_spend"  # the revocation store's function
_ABSENT: Final = re.compile("unction not found|unknown command", re.IGNORECASE)
_TIMEOUT_S: Final = 0.25  # a nonce store is on the way of each call: slower than this is down


class NonceStore(Protocol):
    """What a verifier needs in order to refuse a repeated call.

    Attributes:
        waits: Whether ``spend`` may wait for a network.
        not_before_ms: What was issued before this must be refused: the store may have forgotten it.  Read it after
            ``spend``, which may move it.
    """

    waits: bool
    not_before_ms: int

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Spend a key, in one indivisible step.

        Args:
            key: What may be used once, made unique by audience and call.
            expires_ms: Until when it must be remembered, ms since the Unix epoch.
            now_ms: The time of the request, ms since the Unix epoch.

        Returns:
            True if it was new, False if it was seen before; None where that cannot be told, as there is no room for it.

        Raises:
            StoreError: It cannot be told: the store did not answer.
        """


def spend(
    nonces: NonceStore, proven: ProvenChain, call: PresentedCall | None, request: AccessRequest
) -> Refused | None:
    """Spend a call and each ``once`` of its credential.

    Args:
        nonces: What was spent before.
        proven: The chain.
        call: What was presented, or None for a whole token.
        request: What is asked for.

    Returns:
        None when all were new.
    """
    try:
        if call is not None:
            issued_at = call.issued_at
            # The signature covers nonce, time and call: spending it spends exactly this call of this parent.
            fresh = nonces.spend(call.signature, issued_at + call_proof.KEEP_MS, request.at)
            if fresh is None:
                return NO_STORE
            if issued_at < nonces.not_before_ms:
                # Read after spending, which may have moved it: the store cannot know what was used before that time.
                return BEFORE_START
            if not fresh:
                return REPLAYED
        return _spend_once(nonces, proven, request.at) if proven.once else None
    except StoreError:
        return NO_STORE


def _spend_once(nonces: NonceStore, proven: ProvenChain, now_ms: int) -> Refused | None:
    identifier = proven.identifier
    task = identifier.task or identifier.session  # a token for the mint has no task
    for place, _, issued_at in proven.once:
        if not now_ms - ONCE_MS < issued_at <= now_ms + ONCE_AHEAD_MS:
            return used_up(place, ONCE_AGE)
        if issued_at > now_ms:
            # A store that began anew before that time would take it for given since, and the name for new.
            return ahead(place, issued_at - now_ms)
    for place, name, issued_at in proven.once:
        # By its own time alone, and not by the token's: a holder who attenuates a token to a second could have the name
        # forgotten with it, and use it again with the token as it was.
        fresh = nonces.spend(f"once:{task}:{name}", issued_at + ONCE_KEEP_MS, now_ms)
        if fresh is None:
            return NO_STORE
        if issued_at < nonces.not_before_ms:
            return used_up(place, ONCE_AGE)
        if not fresh:
            return used_up(place, ONCE_USED)
    return None


_STORES: "weakref.WeakSet[MemoryNonces]" = weakref.WeakSet()


class MemoryNonces:
    """Nonces in this process's memory: right for exactly one process.

    Another process, another worker or a forked child knows nothing of them, so a call could be repeated there.  A
    forked child refuses; workers that are started apart cannot be seen from here and need ``RedisNonces``.

    Args:
        now_ms: The start, ms since the Unix epoch; None reads the clock.
        capacity: How many live nonces are held before the store is full.
    """

    waits = False

    def __init__(self, *, now_ms: int | None = None, capacity: int = MAX_NONCES) -> None:
        self.not_before_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self._forked, self._capacity = False, capacity
        self._seen: set[bytes | str] = set()
        self._by_second: dict[int, list[bytes | str]] = {}
        # Any holder can name what is remembered for a day.  It is kept by the minute, since each second's purge looks
        # through all of these, and takes half of the room at most, or whoever fills it would stop every call.
        self._by_minute: dict[int, list[bytes | str]] = {}
        self._lasting = 0
        self._purged_s = self.not_before_ms // 1000
        self._lock = threading.Lock()
        _STORES.add(self)

    def __len__(self) -> int:
        return len(self._seen)

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Spend a key; see ``NonceStore``."""
        if self._forked:  # told by the fork: asking for the process each time is a call of the kernel
            raise StoreError("a forked process shares no nonces with its parent: use RedisNonces")
        second, seen = expires_ms // 1000, self._seen
        with self._lock:
            if now_ms // 1000 > self._purged_s:
                self._purge(now_ms // 1000)
            # A clock that was set back must not bring back to life what the purge has forgotten.
            if key in seen or second < self._purged_s:
                return False
            if second - self._purged_s > _BRIEF_S:
                return self._keep_long(key, second // 60)
            if len(seen) < self._capacity:
                seen.add(key)
                try:
                    self._by_second[second].append(key)
                except KeyError:
                    self._by_second[second] = [key]
                return True
        return None

    def _keep_long(self, key: bytes | str, minute: int) -> bool | None:
        if len(self._seen) >= self._capacity or self._lasting >= self._capacity // 2:
            return None
        self._seen.add(key)
        self._by_minute.setdefault(minute, []).append(key)
        self._lasting += 1
        return True

    def _purge(self, now_s: int) -> None:
        self._purged_s = now_s
        for second in [second for second in self._by_second if second < now_s]:
            self._seen.difference_update(self._by_second.pop(second))
        for minute in [minute for minute in self._by_minute if minute < now_s // 60]:
            over = self._by_minute.pop(minute)
            self._seen.difference_update(over)
            self._lasting -= len(over)


def _refuse_all() -> None:
    for store in tuple(_STORES):
        store._forked = True  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_refuse_all)


class RedisNonces:
    """Nonces in Redis or Valkey, shared by all workers of a service.

    Use an instance (or at least a database) of its own, with ``maxmemory`` and ``maxmemory-policy noeviction``: an
    evicted nonce is a call that can be repeated.  Names that are good once are kept for a day, and refused where they
    would take more than half of the memory: any holder can make them, and calls need the rest.  The policy is checked
    where the server allows asking.  Nothing issued before the server started is accepted, so a restart without its
    data opens no gap; a failover to a replica that lacks the last writes does, for the seconds a call lives, and for
    the day in which an approval is good once.  A server that may not be asked for its start (``INFO``) counts as
    started with each connection: approvals that were given before are refused.

    Args:
        url: ``unix://``, ``redis://``, ``rediss://`` or ``redis+sentinel://`` address, as ``store_url`` reads it.
        prefix: What keys begin with, for example ``arx:nonce:orders:``.
        password: In place of one in the address.
        timeout_s: Longest wait for an answer, in seconds.
        ca: A further authority for TLS, as ``tls.ca_file`` reads it, where the address has no ``ssl_ca_certs``.

    Raises:
        SettingsError: The address, or the authority, cannot be read.
    """

    waits = True

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        password: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        ca: str | None = None,
    ) -> None:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        from arx_verifier.revocation import Address, keeps_nonces

        self.not_before_ms = 0
        self._unfit, self._down, self._by_function = "", False, True
        self._prefix = prefix.encode()
        options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        # No retry: a command that was carried out but not answered would find its own key and call it a replay.
        options |= {"retry": Retry(NoBackoff(), 0), "redis_connect_func": self._connected}
        if not keeps_nonces(url):
            raise SettingsError(
                "the nonce store's address is not a unix://, redis://, rediss:// or redis+sentinel:// URL"
            )
        self._redis = Redis(connection_pool=Address(url, password, ca=ca).pool(**options))

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Spend a key; see ``NonceStore``."""
        from redis.exceptions import RedisError

        name = self._prefix + (key if isinstance(key, bytes) else key.encode())
        try:
            if expires_ms - now_ms > _BRIEF_S * 1000 and not self._has_room():
                return None
            # By this worker's clock.  Another one's may be behind it: there the call is still good by so much.
            fresh = self._put(name, max(1, expires_ms - now_ms) + APART_MS)
        except (RedisError, OSError) as error:
            said = self._unfit or self._tell(error)
            if not self._down:
                self._down = True  # told once an outage
                _logger().error("every call is refused (store_unavailable): %s", said)
            raise StoreError(said) from error
        if self._down:
            self._down = False
            _logger().warning("the nonce store answers again")
        return fresh

    def _put(self, name: bytes, keep_ms: int) -> bool:
        """Make a key, unless it is there.

        In a revocation store its function does it: each write there waits for the disk, and a nonce need not, as a
        server that restarted believes nothing older.  It is the same key, so that a worker may do without.
        """
        from redis.exceptions import NoPermissionError, ResponseError

        if self._by_function:
            try:
                return bool(self._redis.fcall(SPEND, 1, name, keep_ms))
            except ResponseError as error:
                if not isinstance(error, NoPermissionError) and not _ABSENT.search(str(error)):
                    raise
                self._by_function = False
        return bool(self._redis.set(name, b"", nx=True, px=keep_ms))

    @staticmethod
    def _tell(error: Exception) -> str:
        from arx_verifier.revocation import CertificateError, refused_login

        if isinstance(error, CertificateError):
            return f"the nonce store did not answer: {error}"
        why = refused_login(error, "ARX_NONCES_PASSWORD, or the login in `nonces` of the service file")
        return f"the nonce store {why}" if why else f"the nonce store did not answer: {type(error).__name__}"

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()
        self._redis.connection_pool.disconnect()

    def _has_room(self) -> bool:
        """Tell whether a name that is kept for a day leaves room for calls: half of the server's memory is theirs."""
        from redis.exceptions import ResponseError

        try:
            told = self._redis.info("memory")
        except ResponseError:  # not permitted: that it has room is the operator's promise
            return True
        most = int(told.get("maxmemory") or told.get("total_system_memory") or 0)
        return most == 0 or int(told.get("used_memory", 0)) * 2 <= most

    def _connected(self, connection: Any) -> None:
        """Look at the server at the start of each connection: a restarted one has forgotten, an evicting one will."""
        from redis.exceptions import RedisError, ResponseError

        self._unfit = ""
        connection.on_connect()
        told = b""
        try:
            for section in ("server", "memory"):
                connection.send_command("INFO", section)
                told += _bytes(connection.read_response()) + b"\n"
        except ResponseError:  # not permitted: the start counts as now, the policy is the operator's promise
            pass
        up_s, policy = _field(told, b"uptime_in_seconds"), _field(told, b"maxmemory_policy")
        self.not_before_ms = max(self.not_before_ms, time.time_ns() // 1_000_000 - 1000 * int(up_s or 0))
        if policy not in (None, b"noeviction"):
            self._unfit = "the nonce store may evict live nonces: set its maxmemory-policy to noeviction"
            raise RedisError(self._unfit)  # of redis-py's own kind, so that it drops the connection


def _bytes(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()


def _field(info: bytes, name: bytes) -> bytes | None:
    """Find one line of an INFO answer."""
    lines = (line.partition(b":") for line in info.splitlines())
    return next((value for key, _, value in lines if key == name), None)


def _logger() -> "Logger":
    import logging  # for an outage alone: a holder's import has no need of it

    return logging.getLogger(__name__)
