# SPDX-License-Identifier: Apache-2.0
"""What keeps nonces or budgets: a server, or a cluster whose replicas confirm a primary's answer.  SPEC 8.3, 17.7.

A command is sent once, with ``WAIT`` behind it on the same connection.  A node that refuses a command because another
one owns the slot has not run it, so that one is asked.  A lost answer is never asked for again.
"""

import binascii
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any, Final, NamedTuple

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError

from arx_verifier.errors import StoreError
from arx_verifier.revocation.loop_link import ServerFacts
from arx_verifier.revocation.store_client import StoreClient, StoreCommand, UnfitError
from arx_verifier.revocation.store_steps import BlockingCall, Steps, run
from arx_verifier.revocation.store_url import (
    FOLLOWER,
    NOT_PERMITTED,
    Address,
    CertificateError,
    FoundShard,
    refused_login,
    slot_of,
)

BUCKETS: Final = tuple(f"{number:02}" for number in range(64))  # of used calls and of budgets: 64 slots in all
HOPS: Final = 3  # nodes that one command is sent to
PAUSE_S: Final = 0.2  # between two looks for the primaries, while none can be found
# After this time they are looked up again: a replica that was added since must be waited for, too.
FRESH_S: Final = 10.0
REPORT_S: Final = 10.0  # from then on another error in a cluster is reported as another outage
LOAD: Final = "'function|load'"  # as a server names the command in a refusal
_ABSENT: Final = re.compile("unction not found", re.IGNORECASE)
_CANNOT_CALL: Final = re.compile("unction not found|unknown command|permission", re.IGNORECASE)
_REFUSAL: Final = re.compile("(?:BEGUN|CLOCK|SEALED) (.*)", re.DOTALL)  # of a function itself

_log = logging.getLogger(__name__)


class UnconfirmedError(redis.RedisError):
    """The replicas of a shard did not confirm a change within the time."""


def bucket_of(key: bytes) -> str:
    """Return the bucket of a key, one of ``BUCKETS``."""
    return BUCKETS[binascii.crc32(key) % len(BUCKETS)]


class StoreCluster:
    """The primaries of a cluster; the arguments are those of ``StoreClient``."""

    def __init__(self, address: Address, timeout_s: float, greet: Callable[[ServerFacts], None]) -> None:
        self._address, self._timeout_s, self._greet = address, timeout_s, greet
        self._wait_ms = max(1, int(timeout_s * 800))  # within the time-out of the answer
        self._clients: dict[tuple[str, int], StoreClient] = {}
        self._shards: list[FoundShard] = []  # empty: they have to be looked up
        self._doubted: tuple[str, int] | None = None  # the node that is asked last
        self._pause_until, self._fresh_until = 0.0, 0.0  # by ``time.monotonic``
        self._lock, self._looks, self._looked = threading.Lock(), 0, 0.0

    def command(self, *words: Any, tag: str) -> Steps[Any]:
        """Ask the primary of a hash tag; return its answer once the replicas have what it changed.

        Args:
            words: The command.
            tag: The hash tag of its keys, without braces.

        Raises:
            UnconfirmedError: The replicas did not confirm it, or there is none.
            redis.RedisError: The primary did not answer, or refused.
        """
        shards = self._known() or (yield BlockingCall(self._look))
        shard, asking, answer, confirmed = self._find(tag, shards), False, None, None
        for _ in range(HOPS):
            wait = ("WAIT", max(1, shard.replicas), self._wait_ms)
            try:
                answer, confirmed = yield StoreCommand(self._client_of(shard), words, wait, asking)
            except (redis.RedisError, OSError):
                self.doubt(shard)
                raise
            if not isinstance(answer, AskError):  # also of MovedError
                break
            # Not run: the slot is another node's.
            asking = not isinstance(answer, MovedError)
            if not asking:
                self.doubt(shard)
                shards = yield BlockingCall(self._look)
            shard = _shard_at(answer.host or shard.host, answer.port, shard, shards)
        if isinstance(answer, Exception):
            if isinstance(answer, ClusterDownError):
                self.doubt(shard)
            raise answer
        if not isinstance(confirmed, int) or confirmed < max(1, shard.replicas):
            self.doubt(shard)
            raise UnconfirmedError("the replicas of a shard did not confirm a change: it counts as not made")
        return answer

    def look(self) -> Steps[int]:
        """Look the primaries up if they are not known; return how often they were others, or were doubted.

        Raises:
            redis.RedisError: No node can say which ones they are.
        """
        if not self._known():
            yield BlockingCall(self._look)
        return self._looks

    def send_to_all(self, words: Mapping[str, tuple[Any, ...]], library: str) -> None:
        """Send commands to the primaries of hash tags; one that does not answer is left out.

        Args:
            words: By hash tag a command.
            library: The source of the functions that they call.
        """
        by_shard: dict[FoundShard, list[tuple[Any, ...]]] = {}
        for tag, command in words.items():
            by_shard.setdefault(self.shard_of(tag), [("FUNCTION", "LOAD", library)]).append(command)
        for shard, commands in by_shard.items():
            with suppress(redis.RedisError, OSError):
                self._client_of(shard).ask_all(commands)

    def server(self, tag: str) -> Any:
        """Return the client library's client of the primary of a hash tag, for reads."""
        return self._client_of(self.shard_of(tag)).redis

    def shard_of(self, tag: str) -> FoundShard:
        """Return the primary of a hash tag.

        Raises:
            redis.RedisError: No node can say which one it is.
        """
        return self._find(tag, self._known() or self._look())

    def doubt(self, shard: FoundShard | None = None) -> None:
        """Look the primaries up again before the next command, at this one last."""
        self._shards = []
        if shard is not None:
            self._doubted = (shard.host, shard.port)

    def close(self) -> None:
        """Close the connections; they are opened again when needed."""
        for client in [*self._clients.values()]:
            client.close()

    def _client_of(self, shard: FoundShard) -> StoreClient:
        place = shard.host, shard.port
        client = self._clients.get(place)
        if client is None:
            made = StoreClient(self._address, self._timeout_s, self._greet, place)
            client = self._clients.setdefault(place, made)
        return client

    def _find(self, tag: str, shards: list[FoundShard]) -> FoundShard:
        slot = slot_of(tag)
        for shard in shards:
            if shard.first <= slot <= shard.last:
                return shard
        self.doubt()
        raise redis.ConnectionError("no node of the cluster owns the slot")

    def _known(self) -> list[FoundShard]:
        """Return the primaries; nothing if they have to be looked up, which one caller does while others go on."""
        now = time.monotonic()
        if now < self._fresh_until:
            return self._shards
        self._fresh_until = now + FRESH_S
        return []

    def _look(self) -> list[FoundShard]:
        with self._lock:
            before, now = self._shards, time.monotonic()
            if before and now < self._looked + PAUSE_S:
                return before
            if now < self._pause_until:
                raise redis.ConnectionError("none of the servers named can say which ones are the primaries")
            self._pause_until = now + PAUSE_S
            self._shards = found = self._address.find_shards(self._timeout_s, self._doubted)
            self._pause_until, self._doubted, self._looked = 0.0, None, time.monotonic()
            self._fresh_until = self._looked + FRESH_S
            self._looks += found != before
            return found


def _shard_at(host: str, port: int, shard: FoundShard, shards: list[FoundShard]) -> FoundShard:
    """Return the shard that a node names for the slots of another one, with its own replicas."""
    here = [found.replica_places for found in shards if (found.host, found.port) == (host, port)]
    # A node that has no slot yet, or is not known as a primary yet: as many as any other one has.
    replicas = here[0] if here else max([found.replica_places for found in shards], key=len, default=())
    return shard._replace(host=host, port=port, replica_places=replicas)


class KeptFor(NamedTuple):
    """What a store keeps, and how its errors name it.

    Attributes:
        name: What it is.
        refused: What is refused while it does not answer.
        asked: What it may refuse.
        login: The settings that contain the login.
        library: Package and file of its functions.
        evicts: What it may evict if its policy is not ``noeviction``, and what to do.
        rights: Where the rights are that its user needs.
    """

    name: str
    refused: str
    asked: str
    login: str
    library: tuple[str, str]
    evicts: str
    rights: str = NOT_PERMITTED.format(FOLLOWER)


class KeptStore:
    """The server, or the cluster, that keeps nonces or budgets, with its functions and its outages.

    A ``with`` block raises what the client library raises in it as ``StoreError``, and logs each outage once.

    Args:
        address: Where it is.
        kept: What it keeps.
        timeout_s: As of ``StoreClient``.

    Attributes:
        client: The server's, or the cluster's.
        in_cluster: Whether it is a cluster.
        libraries: The sources that ``load`` loads; those of ``kept`` alone, unless the owner adds to them.
    """

    def __init__(self, address: Address, kept: KeptFor, timeout_s: float) -> None:
        self.in_cluster, self._kept = address.is_cluster, kept
        self.client: Any = (StoreCluster if self.in_cluster else StoreClient)(address, timeout_s, self._require_fit)
        self._down = 0.0  # the last line about an outage, by ``time.monotonic``; 0 for none
        self.libraries = [read_library(*kept.library)]

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            if self._down and not self.in_cluster:  # there other shards answer meanwhile
                self._down = 0.0
                _log.warning("the %s answers again", self._kept.name)
        elif isinstance(error, (redis.RedisError, OSError)):
            why = self._explain(error)
            if not self._down or (self.in_cluster and time.monotonic() - self._down > REPORT_S):
                self._down = time.monotonic()  # one log line for each outage
                _log.error("%s is refused (store_unavailable): %s", self._kept.refused, why)
            raise StoreError(why) from error

    def call(self, *words: Any, tag: str) -> Steps[Any]:
        """Call a function, which is loaded first into a server that has none.

        Args:
            words: The function, and what FCALL has behind it.
            tag: As of ``StoreCluster.command``.

        Raises:
            redis.RedisError: As of ``StoreCluster.command``.
        """
        try:
            return (yield from self.client.command("FCALL", *words, tag=tag))
        except redis.ResponseError as error:
            if not _ABSENT.search(str(error)):
                raise
        # The server looks for the function before it runs anything, so this is no repeat.
        yield from self.load(tag)
        return (yield from self.client.command("FCALL", *words, tag=tag))

    def load(self, tag: str) -> Steps[None]:
        """Load the functions into a server that has none.

        Args:
            tag: As of ``StoreCluster.command``.

        Raises:
            redis.RedisError: As of ``StoreCluster.command``.
        """
        for source in self.libraries:
            try:
                # Never in the place of those that are there: to replace them begins a ledger anew.
                yield from self.client.command("FUNCTION", "LOAD", source, tag=tag)
            except redis.ResponseError as error:
                if "already exists" not in str(error):
                    raise

    def could_load(self, tag: str) -> bool:
        """Load as ``load`` does, and return whether it could: its user may have to leave that to others."""
        try:
            run(self.load(tag))
        except (redis.RedisError, OSError):
            return False
        return True

    def _require_fit(self, facts: ServerFacts) -> None:
        if facts.policy not in (None, "noeviction"):
            raise UnfitError(f"the {self._kept.name} may evict {self._kept.evicts}")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, UnfitError):
            return str(error)
        name, asked, own = self._kept.name, self._kept.asked, _REFUSAL.fullmatch(str(error))
        if own is not None or isinstance(error, UnconfirmedError):
            return f"the {name} refused a {asked}: {own[1] if own is not None else error}"
        if isinstance(error, CertificateError):
            return f"the {name} did not answer: {error}"
        if LOAD in str(error):
            mint = "the mint loads them within 2 s, if `ledger` of realm.toml names this server"
            return f"the {name} has no functions, and this user may load none: {mint}"
        if _ABSENT.search(str(error)):
            return f"the {name} has functions of an earlier version: `arx redis begin-ledger --reload` replaces them"
        why = refused_login(error, self._kept.login, self._kept.rights)
        return f"the {name} {why or f'did not answer: {type(error).__name__}'}"


def read_library(package: str, name: str) -> str:
    """Return the source of functions, a file of a package."""
    return files(package).joinpath(name).read_text("utf-8")


def cannot_call(error: Exception) -> bool:
    """Return whether a server refused because it lacks a function, or does not permit it: then nothing ran."""
    return isinstance(error, redis.ResponseError) and _CANNOT_CALL.search(str(error)) is not None
