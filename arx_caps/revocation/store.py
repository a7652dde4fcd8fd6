# SPDX-License-Identifier: Apache-2.0
"""Write a realm's kill sequence, and read what operators look at.  SPEC 10.

A kill is reported only once the store has it on disk.  A lost answer means *unknown*: the call is repeated until its
outcome is known, which is harmless, because a second kill of a target is one more entry.  Who has confirmed it is
``confirm``'s matter; verifiers follow with ``arx_verifier.revocation.follower``.
"""

import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Final, Self

import redis

from arx_caps.revocation.confirm import wait_confirmed
from arx_caps.revocation.exchange import Exchange
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.targets import parse_targets
from arx_caps.revocation.wire import (
    Ahead,
    Bump,
    Entry,
    Header,
    Keys,
    Registry,
    StoreHistoryError,
    VerifierSeen,
    read_ahead,
    read_crowd,
    read_entry,
    read_header,
    read_registry,
    text,
)
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.names import is_realm
from arx_verifier.revocation.history import Place, new_incarnation
from arx_verifier.revocation.store_url import Address

DEFAULT_LEASE_MS: Final = 1_000
DEFAULT_MAX_TTL_MS: Final = 60 * 60 * 1_000  # the longest a token lives, and so how long a kill is kept
MAX_WHY: Final = 500  # characters of a reason that are kept
OUTCOME_S: Final = 5.0  # how long to ask for the outcome of a bump
HEADER_FIELDS: Final = ["incarnation", "seq", "lease_ms", "lease_max_ms", "lease_until", "replicas", "chain"]


class RevocationStore:
    """The revocation store of one realm.

    Args:
        url: As ``arx_verifier.revocation.store_url`` reads it.
        realm: The realm's name.
        password: In place of one in the URL.
        replicas: How many replicas must have a kill on disk as well; as the mint has set it when not given.
        timeout_ms: For one exchange with the store.
        outcome_s: How long to ask for the outcome of a kill.
        tell: Called with a sentence while an outcome is not known.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        *,
        password: str | None = None,
        replicas: int | None = None,
        timeout_ms: int = 1_000,
        outcome_s: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
        ca: str | None = None,
    ) -> None:
        if not is_realm(realm):
            raise SettingsError("a realm's name is [a-z0-9][a-z0-9._-]{0,31}")
        self.realm = realm
        self.keys = Keys.of(realm)
        address = Address(url, password, realm, ca=ca)
        self.fails_over = address.fails_over
        self.exchange = Exchange(address, timeout_ms)
        self._replicas = self._replicas_given = replicas
        self._outcome_s, self._tell = outcome_s, tell
        self._lock = threading.Lock()
        self._seen: Place | None = None

    def __repr__(self) -> str:
        return f"RevocationStore(realm={self.realm!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.exchange.close()

    # Deployment.

    def load_functions(self) -> bool:
        """Load this version's functions into the store, in place of older ones of the same name.

        Returns:
            Whether this user may do that; where not, an admin has to have done it.

        Raises:
            StoreError: The store did not take them.
        """
        try:
            self.exchange.once(lambda: self.exchange.client.function_load(functions(), replace=True))
        except StoreError as error:
            if not isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                raise
            return False
        return True

    def init(
        self,
        incarnation: str | None = None,
        *,
        lease_ms: int = DEFAULT_LEASE_MS,
        max_ttl_ms: int = DEFAULT_MAX_TTL_MS,
        seq: int = 0,
    ) -> Header:
        """Begin the realm's history, unless it has one.

        Args:
            incarnation: The history's name; random when not given.
            lease_ms: How long a verifier may act on one answer.
            max_ttl_ms: The longest a token may live.
            seq: Where to begin; a mint that remembers a higher one goes on from there.

        Returns:
            Where the history stands, whoever began it.

        Raises:
            StoreError: The store did not answer.
        """
        return self._learn(
            self.exchange.call(
                "arx1_init", self.keys.written, incarnation or new_incarnation(), lease_ms, max_ttl_ms, seq
            )
        )

    def rotate(self, *, seq_at_least: int = 0, lease_ms: int = 0, max_ttl_ms: int = 0) -> Bump:
        """End the history: every token born in it is revoked, freezes stay.  The remedy for a store that lost entries.

        Args:
            seq_at_least: The highest sequence that anybody remembers.
            lease_ms: A new lease, 0 to keep it.
            max_ttl_ms: A new longest life of a token, 0 to keep it.

        Returns:
            The new history.

        Raises:
            StoreError: The store did not answer, or somebody else rotated a moment ago.
        """
        sent, old = time.monotonic(), self.header().incarnation
        least = max(seq_at_least, self._seen.seq if self._seen is not None else 0)
        arguments = (old, new_incarnation(), least, lease_ms, max_ttl_ms)
        reply, durable = self.exchange.once(lambda: self._written("arx1_rotate", self.keys.all, *arguments))
        return Bump("rotate", ("realm",), self._learn(reply, forget=True), durable, sent)

    def remember(self, place: Place) -> None:
        """Refuse a store that has not been there: what a mint keeps in its own database."""
        with self._lock:
            if self._seen is None or place.incarnation != self._seen.incarnation or place.seq > self._seen.seq:
                self._seen = place

    def chain_at(self, seq: int) -> str | None:
        """Return what led to a number, or None where the store has forgotten that, or was never there.

        Raises:
            StoreError: The store did not answer.
        """
        client, number = self.exchange.client, f"{seq}-0"
        last, chain, low, base = self.exchange.once(
            lambda: client.hmget(self.keys.header, ["seq", "chain", "low", "base"])
        )
        entries = self.exchange.once(lambda: client.xrange(self.keys.log, number, number))
        found = {last: chain, low: base}.get(str(seq).encode()) or (entries and entries[0][1].get(b"c"))
        return text(found) if found else None

    def mark_taken(self, seq: int) -> None:
        """Tell the store that the log up to ``seq`` is kept elsewhere and may be trimmed.

        Raises:
            StoreError: The store did not answer.
        """
        self.exchange.once(lambda: self.exchange.client.hset(self.keys.header, "taken", str(seq)))

    def signed(self) -> bytes | None:
        """Return the last checkpoint of the audit log that a mint kept here, or None; its signature is to be checked.

        Raises:
            StoreError: The store did not answer.
        """
        found: bytes | None = self.exchange.once(lambda: self.exchange.client.hget(self.keys.header, "signed"))
        return found

    def mark_signed(self, checkpoint: bytes) -> None:
        """Keep a checkpoint of the audit log, for mints on a database that lacks it.

        Raises:
            StoreError: The store did not answer.
        """
        self.exchange.once(lambda: self.exchange.client.hset(self.keys.header, "signed", checkpoint))

    # Kills and freezes.

    def kill(self, targets: Sequence[str], reason: str, by: str, *, until_ms: int | None = None) -> Bump:
        """End every token born before now in these targets, for ever, in one step.

        Args:
            targets: At least one, such as ``session:s-…``.
            reason: Kept in the log.
            by: Who; kept in the log.
            until_ms: When the last token in these tasks or sessions expires, if that is known: the record of the kill
                is then kept no longer than it is needed.

        Returns:
            The acknowledged kill.

        Raises:
            StoreHistoryError: The store is not in the history that this process has seen.
            StoreError: The outcome stayed unknown; kill again.
            RequestError: A target is not one.
        """
        return self._bump("kill", targets, reason, by, until_ms)

    def freeze(self, targets: Sequence[str], reason: str, by: str) -> Bump:
        """Refuse these targets until a thaw.  Otherwise as ``kill``."""
        return self._bump("freeze", targets, reason, by)

    def kill_by_kind(self, targets: Sequence[str], reason: str, by: str) -> Bump:
        """Do to each target what a kill of its kind is (``targets.KINDS``), all in one step.  Otherwise as ``kill``."""
        parsed = parse_targets(targets)
        ops = {target.kill_op for target in parsed}
        if len(ops) == 1:
            return self._bump(ops.pop(), targets, reason, by)
        return self._bump("each", targets, reason, by, each=[f"{target.kill_op} {target}" for target in parsed])

    def kill_and_freeze(self, targets: Sequence[str], reason: str, by: str) -> Bump:
        """Kill these targets and freeze them, in one entry each.  Otherwise as ``kill``."""
        return self._bump("kill+freeze", targets, reason, by)

    def thaw(self, targets: Sequence[str], reason: str, by: str) -> Bump:
        """End the freezes on these targets; what was killed stays dead.  Otherwise as ``kill``."""
        return self._bump("thaw", targets, reason, by)

    def _bump(
        self,
        op: str,
        targets: Sequence[str],
        reason: str,
        by: str,
        until_ms: int | None = None,
        each: Sequence[str] = (),
    ) -> Bump:
        named = tuple(str(target) for target in parse_targets(targets))
        sent = time.monotonic()
        patience_s = OUTCOME_S if self._outcome_s is None else self._outcome_s
        rest = ("" if until_ms is None else str(until_ms), by[:96], reason[:MAX_WHY], *(each or named))

        def bump() -> tuple[Any, bool]:
            # Read at each try: a kill that waited for its turn has seen what was acknowledged meanwhile.
            seen = self._seen
            assert seen is not None
            return self._written("arx1_bump", self.keys.written, *seen, op, *rest)

        if self._seen is None:
            self.header()
        reply, durable = self.exchange.until_known(bump, sent + patience_s, self._tell)
        return Bump(op, named, self._learn(reply), durable, sent)

    def _written(self, function: str, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, bool]:
        return self.exchange.written(self._replicas or 0, function, keys, *arguments)

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
        reply = self.exchange.once(lambda: self.exchange.client.hmget(self.keys.header, HEADER_FIELDS))
        if reply[0] is None:
            raise StoreHistoryError("NOINIT", "the realm has no history in this store")
        at: Any = self.exchange.once(self.exchange.client.time)
        at_ms = at[0] * 1000 + at[1] // 1000
        lease_ms = max(int(reply[2]), int(reply[3] or 0) if int(reply[4] or 0) > at_ms else 0)
        if self._replicas_given is None:
            self._replicas = int(reply[5] or 0)
        return self._learn([reply[0], reply[1], at_ms, lease_ms, 0, reply[6] or b"-"])

    def unacked(self, seq: int, since_ms: int) -> Registry:
        """Ask which verifiers, heard of since then, have not applied ``seq``.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self.exchange.call("arx1_unacked", self.keys.registry, seq, since_ms)
        return read_registry(reply, seq, since_ms)

    def ahead(self) -> Ahead | None:
        """Return the word of the verifier that claims the highest place which is not in this history; None without one.

        Raises:
            StoreError: The store did not answer.
        """
        words = (self.keys.acks, "-inf", "(-1", 0, 1)
        return read_ahead(self.exchange.once(lambda: self.exchange.client.zrangebyscore(*words, withscores=True)))

    def verifiers(self) -> tuple[VerifierSeen, ...]:
        """List the verifiers and relays that probed within the last minutes, by name.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self.exchange.call("arx1_unacked", self.keys.registry, 2**53, 0)
        behind = {text(name): read_crowd(crowd).verifiers for name, _, crowd in reply[4]}
        seen = ((text(name), int(reply[0] - last), int(applied)) for name, last, applied in reply[3])
        return tuple(sorted(VerifierSeen(*one, behind.get(one[0])) for one in seen))

    def kills(self) -> dict[str, int]:
        """Return each killed target that is still remembered, with the sequence of its last kill."""
        return self._numbers(self.keys.kills)

    def freezes(self) -> dict[str, int]:
        """Return each frozen target, with the sequence of its freeze."""
        return self._numbers(self.keys.freezes)

    def log(self, after: int = 0, limit: int = 1_000) -> tuple[Entry, ...]:
        """Return entries after a sequence, oldest first.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self.exchange.once(
            lambda: self.exchange.client.xrange(self.keys.log, f"{after + 1}-0", "+", count=limit)
        )
        return tuple(read_entry(entry) for entry in reply)

    def _numbers(self, key: str) -> dict[str, int]:
        reply: Any = self.exchange.once(lambda: self.exchange.client.hgetall(key))
        return {text(target): int(seq) for target, seq in reply.items()}

    # Exchanges.

    def _learn(self, reply: Any, *, forget: bool = False) -> Header:
        header = read_header(reply)
        with self._lock:
            seen = self._seen
            if seen is None or forget or (header.incarnation == seen.incarnation and header.seq > seen.seq):
                self._seen = header.place
        return header


def functions() -> str:
    """Read this version's functions, as the store takes them."""
    return files("arx_caps.revocation").joinpath("functions.lua").read_text("utf-8")
