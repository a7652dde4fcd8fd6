# SPDX-License-Identifier: Apache-2.0
"""Replay detection: each call and each ``once`` is accepted one time.  SPEC 8.3, 6.8.

Step 6 of a verification is its last check, so that a refused call spends no nonce.  A nonce store returns whether a key
is new.  It remembers the key for as long as the call could be repeated.
"""

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from arx_verifier._platform import reset_at_fork
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import UsedKey
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import SKEW_MS
from arx_verifier.revocation.store_steps import BlockingCall, Steps, by_steps, steps_of
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import PresentedCall
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
    from arx_verifier.revocation.password import Password

MAX_NONCES: Final = 500_000  # about 100 MB; 15 s of 33,000 calls a second, more than one process can decide
ONCE_MS: Final = 24 * 60 * 60 * 1000  # a service remembers each `once` that long
ONCE_AHEAD_MS: Final = 60_000  # how far the mint's clock may be ahead; a caller need not wait for longer
ONCE_KEEP_MS: Final = ONCE_MS + 60_000  # until it expires by the slowest worker's clock
APART_MS: Final = 2 * SKEW_MS  # two workers' clocks, each as far from the store's as allowed
_BRIEF_S: Final = 60  # a key that is remembered for longer is the name of a ``once``, not a call
SPEND: Final = "arx1_spend"  # the revocation store's function
SPEND_THERE: Final = "arx3_spend"  # a cluster's: calls.lua
_TIMEOUT_S: Final = 0.25  # every call waits for the nonce store: a slower store counts as down


class NonceStore(Protocol):
    """The memory of used calls that a verifier needs.

    Attributes:
        waits: Whether ``spend`` may wait for a network.
    """

    # A store never forgets a live key to make room: a forgotten key is a call that an attacker can replay.

    waits: bool

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Spend a key, atomically.

        Args:
            key: The key, unique for audience and call.
            expires_ms: How long to remember it, ms since the Unix epoch.
            now_ms: The time of the request, ms since the Unix epoch.

        Returns:
            True if the key is new, False if it was seen before; None if it is unknown, because the store has no room.

        Raises:
            StoreError: The store did not answer.
        """

    def not_before(self, key: bytes | str) -> int:
        """Return the time before which it may have forgotten a key, ms since the Unix epoch.

        A call that was issued before must be refused.  Ask after ``spend``, which may change it.

        Args:
            key: The key.
        """

    def close(self) -> None:
        """Close its connections; idempotent.  A verifier that shares it opens new ones at its next call."""


def spend_call(nonces: NonceStore, call: PresentedCall, request: AccessRequest) -> Refused | None:
    """Spend a call alone, at a store that does not wait.

    Args:
        nonces: The nonce store.
        call: The presented call.
        request: The request.

    Returns:
        The refusal, or None if it was new.
    """
    try:
        # The signature covers nonce, time and call: spending it spends exactly this call of this parent.
        fresh = nonces.spend(call.signature, call.issued_at + call_proof.KEEP_MS, request.at)
    except StoreError:
        return NO_STORE
    return judge_call(nonces, call, fresh)


def spend_call_by_steps(nonces: NonceStore, call: PresentedCall, request: AccessRequest) -> Steps[Refused | None]:
    """Spend a call as ``spend_call`` does, also at a store that waits."""
    if not nonces.waits:
        return spend_call(nonces, call, request)
    try:
        fresh = yield from steps_of(nonces.spend, call.signature, call.issued_at + call_proof.KEEP_MS, request.at)
    except StoreError:
        return NO_STORE
    return judge_call(nonces, call, fresh)


def judge_call(nonces: NonceStore, call: PresentedCall, fresh: bool | None, since_ms: int = 0) -> Refused | None:
    """Return the refusal of a call whose key was spent, or None if it was new.

    Args:
        nonces: The nonce store.
        call: The presented call.
        fresh: What the store returned.
        since_ms: The time before which a ledger that spent the key may have forgotten it, ms since the Unix epoch.
    """
    if fresh is None:
        return NO_STORE
    if call.issued_at < max(since_ms, nonces.not_before(call.signature)):
        # Asked after spending, which may have changed it: the store cannot know the calls before that time.
        return BEFORE_START
    return None if fresh else REPLAYED


def spend_once(nonces: NonceStore, proven: ProvenChain, now_ms: int) -> Steps[Refused | None]:
    """Spend each ``once`` of a credential.  SPEC 6.8.

    Args:
        nonces: The nonce store.
        proven: The chain.
        now_ms: The time of the request, ms since the Unix epoch.

    Returns:
        The refusal, or None if all were new.
    """
    try:
        return (yield from _spend_once(nonces, proven, now_ms))
    except StoreError:
        return NO_STORE


def _spend_once(nonces: NonceStore, proven: ProvenChain, now_ms: int) -> Steps[Refused | None]:
    identifier = proven.identifier
    task = identifier.task or identifier.session  # a token for the mint has no task
    for place, _, issued_at in proven.once:
        if not now_ms - ONCE_MS < issued_at <= now_ms + ONCE_AHEAD_MS:
            return used_up(place, ONCE_AGE)
        if issued_at > now_ms:
            # A store that restarts before that time would accept the name again, as one that was issued since.
            return ahead(place, issued_at - now_ms)
    for place, name, issued_at in proven.once:
        # Remembered by its own time, not by the token's: a holder could otherwise attenuate its token to one second, so
        # that the store forgets the name, and then use it again with the original token.
        key = f"once:{task}:{name}"
        fresh = yield from steps_of(nonces.spend, key, issued_at + ONCE_KEEP_MS, now_ms)
        if fresh is None:
            return NO_STORE
        if issued_at < nonces.not_before(key):
            return used_up(place, ONCE_AGE)
        if not fresh:
            return used_up(place, ONCE_USED)
    return None


class MemoryNonces:
    """Nonces in this process's memory: for exactly one process.

    Another process, another worker or a forked child does not share them, so an attacker could repeat a call there.  A
    forked child refuses.  This class cannot detect workers that are started separately: they need ``RedisNonces``.

    Args:
        now_ms: The start, ms since the Unix epoch; None reads the clock.
        capacity: How many live nonces fit before the store is full.
    """

    waits = False

    def __init__(self, *, now_ms: int | None = None, capacity: int = MAX_NONCES) -> None:
        self.not_before_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        self._forked, self._capacity = False, capacity
        self._seen: set[bytes | str] = set()
        self._by_second: dict[int, list[bytes | str]] = {}
        # Any holder can make names that are remembered for a day.  They have buckets of a minute, because each purge
        # visits every bucket; and half of the room at most, because a holder could otherwise stop every call.
        self._by_minute: dict[int, list[bytes | str]] = {}
        self._lasting = 0
        self._purged_s = self.not_before_ms // 1000
        self._lock = threading.Lock()
        _STORES.add(self)

    def __len__(self) -> int:
        return len(self._seen)

    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> bool | None:
        """Spend a key; see ``NonceStore``.

        Raises:
            StoreError: This process was forked: its parent's nonces are not shared.
        """
        if self._forked:  # set by the fork hook: ``os.getpid`` would be a system call for each spend
            raise StoreError("a forked process shares no nonces with its parent: use RedisNonces")
        second, seen = expires_ms // 1000, self._seen
        with self._lock:
            if now_ms // 1000 > self._purged_s:
                self._purge(now_ms // 1000)
            # After a clock was set back, a purged key must not count as new.
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

    def not_before(self, key: bytes | str) -> int:  # noqa: ARG002 - of the protocol
        """Return when this process started; see ``NonceStore``."""
        return self.not_before_ms

    def close(self) -> None:
        """Do nothing: it has no connections, and other verifiers of this process may share it."""

    def _refuse(self) -> None:
        """In a forked child: the nonces are the parent's."""
        self._forked = True

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


_STORES: Final = reset_at_fork(MemoryNonces._refuse)  # noqa: SLF001 - of this module


class RedisNonces:
    """Nonces in Redis or Valkey, shared by all workers of a service.

    Use an instance (or at least a database) of its own, with ``maxmemory`` and ``maxmemory-policy noeviction``: an
    evicted nonce is a call that can be repeated.  The policy is checked if the user may run ``INFO``.  The name of a
    ``once`` is kept for a day, and refused if such names would take more than half of the memory.

    Calls issued before the end of the second in which the server started are refused, so a restart without its data is
    safe.  A failover to a replica that lacks the last writes is not: those calls can be repeated for as long as they
    are valid, seconds for a call and a day for an approval.  Without ``INFO``, the start of each connection counts as
    the server's start: earlier approvals are refused.

    In a cluster a call is accepted only if the replicas of its shard have it, and a shard refuses for 3 s after another
    server took over: no call can be repeated.

    Args:
        url: A URL as ``store_url`` parses it.
        prefix: The beginning of every key, for example ``arx:nonce:orders:``; without braces.
        password: Replaces a password in the URL.
        timeout_s: Longest wait for an answer, s.
        ca: File of a further authority for TLS, unless the URL has ``ssl_ca_certs``.

    Raises:
        SettingsError: The URL or the authority is unusable.
    """

    waits = True

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        password: "Password | None" = None,
        timeout_s: float = _TIMEOUT_S,
        ca: str | None = None,
    ) -> None:
        from arx_verifier.revocation.store_cluster import KeptFor, KeptStore, bucket_of
        from arx_verifier.revocation.store_url import Address

        self._prefix, self._by_function = prefix.encode(), True
        self._since: dict[str, int] = {}  # by bucket of a cluster, as ``not_before``
        self._looks = 0  # of the cluster, when its buckets were begun
        login = "ARX_NONCES_PASSWORD, ARX_NONCES_PASSWORD_FILE or the login in `nonces` of the service file"
        evicts = "live nonces: set its maxmemory-policy to noeviction"
        kept = KeptFor("nonce store", "every call", "call", login, ("arx_verifier.verification", "calls.lua"), evicts)
        self._store = KeptStore(Address(url, password, ca=ca, name=kept.name), kept, timeout_s)
        self._client, self._in_cluster = self._store.client, self._store.in_cluster
        self._bucket_of = bucket_of if self._in_cluster else _no_bucket
        self.server_key = getattr(self._client, "key", None)  # None of a cluster; see ``RedisLedger.keeps_calls_of``

    @by_steps
    def spend(self, key: bytes | str, expires_ms: int, now_ms: int) -> Steps[bool | None]:
        """Spend a key; see ``NonceStore``.

        Raises:
            StoreError: The server did not answer, refused, or may evict live nonces.
        """
        name = key if isinstance(key, bytes) else key.encode()
        bucket = self._bucket_of(name)
        with self._store:
            if expires_ms - now_ms > _BRIEF_S * 1000 and not (yield from self._has_room(bucket)):
                return None
            keep_ms = self.key_of(key, expires_ms, now_ms).keep_ms
            put = self._put_there(bucket, name, now_ms, keep_ms) if self._in_cluster else self._put(name, keep_ms)
            return (yield from put)

    def key_of(self, key: bytes | str, expires_ms: int, now_ms: int) -> UsedKey:
        """Return the key in one server of one that ``spend`` is given."""
        # By this worker's clock.  By another worker's clock, which may be behind, the call is valid for longer.
        keep_ms = max(1, expires_ms - now_ms) + APART_MS
        return UsedKey(self._prefix + (key if isinstance(key, bytes) else key.encode()), keep_ms)

    def _put(self, name: bytes, keep_ms: int) -> Steps[bool]:
        """Set a key unless it exists; return whether it is new."""
        key, ask = self._prefix + name, self._client.command
        # A revocation store has a function for this.  Its other writes wait for the disk, and a nonce need not: after a
        # restart, calls issued before are refused.  Both ways use the same key, so that workers may differ.
        if self._by_function:
            try:
                return bool((yield from ask("FCALL", SPEND, 1, key, keep_ms, tag="")))
            except Exception as error:
                from arx_verifier.revocation.store_cluster import cannot_call

                if not cannot_call(error):
                    raise
                self._by_function = False
        return bool((yield from ask("SET", key, b"", "NX", "PX", keep_ms, tag="")))

    def _put_there(self, bucket: str, name: bytes, now_ms: int, keep_ms: int) -> Steps[bool]:
        """Set a key in its shard of the cluster unless it exists; return whether it is new."""
        from arx_verifier.revocation.store_cluster import BUCKETS

        looks = yield from self._client.look()
        if self._looks != looks:
            # All at once: a bucket without a beginning refuses its first calls.
            self._looks = looks  # before it is done: one of the calls that wait does it for all
            begins = {each: ("FCALL", SPEND_THERE, 1, self._header(each)) for each in BUCKETS}
            yield BlockingCall(partial(self._client.send_to_all, begins, self._store.libraries[0]))
        header = self._header(bucket)
        words = (SPEND_THERE, 2, header, header + name, now_ms, keep_ms)
        fresh, since = yield from self._store.call(*words, tag=bucket)
        self._since[bucket] = max(since, self._since.get(bucket, 0))
        return bool(fresh)

    def _header(self, bucket: str) -> bytes:
        return self._prefix + b"{%b}" % bucket.encode()

    def not_before(self, key: bytes | str) -> int:
        """Return since when the server, or the key's shard, remembers; see ``NonceStore``."""
        if not self._in_cluster:
            started_ms: int = self._client.started_ms
            return started_ms
        return self._since.get(self._bucket_of(key if isinstance(key, bytes) else key.encode()), 0)

    def close(self) -> None:
        """Close the connections; see ``NonceStore``."""
        self._client.close()

    def _has_room(self, tag: str) -> Steps[bool]:
        """Return whether at least half of the server's memory is free, which is reserved for calls."""
        from redis.exceptions import ResponseError

        from arx_verifier.revocation.store_client import read_fields

        try:
            answer = yield from self._client.command("INFO", "memory", tag=tag)
        except ResponseError:  # not permitted: the operator is responsible for the room
            return True
        memory = answer if isinstance(answer, dict) else read_fields(answer)
        most = int(memory.get("maxmemory") or memory.get("total_system_memory") or 0)
        return most == 0 or int(memory.get("used_memory", 0)) * 2 <= most


def _no_bucket(_: bytes) -> str:
    return ""
