# SPDX-License-Identifier: Apache-2.0
"""Write a realm's kill sequence to the store, and read its state for operators.  SPEC 10.

``confirm`` waits for confirmations.  Verifiers follow with ``arx_verifier.revocation.follower``.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Self

import redis

from arx_caps.revocation.confirm import wait_confirmed
from arx_caps.revocation.exchange import Exchange
from arx_caps.revocation.report import KillReport, name_risk
from arx_caps.revocation.targets import is_tainted_kind, parse_targets
from arx_caps.revocation.wire import (
    Ahead,
    Bump,
    Header,
    Keys,
    Registry,
    StoreEntry,
    StoreHistoryError,
    UsedProof,
    VerifierSeen,
    read_ahead,
    read_entry,
    read_header,
    read_registry,
    read_replicas,
    read_replication,
    read_verifiers,
    text,
)
from arx_verifier.errors import RequestError, SettingsError, StoreError
from arx_verifier.memory.taints import change_taints
from arx_verifier.names import is_realm
from arx_verifier.revocation.history import HistoryPlace, new_incarnation
from arx_verifier.revocation.password import Password
from arx_verifier.revocation.store_url import Address

DEFAULT_LEASE_MS: Final = 1_000
DEFAULT_MAX_TTL_MS: Final = 60 * 60 * 1_000  # the longest life of a token, and so how long a kill is kept
MAX_WHY: Final = 500  # characters of a reason that are kept
OUTCOME_S: Final = 5.0  # how long to retry until the outcome of a bump is known
HEADER_FIELDS: Final = (
    *("incarnation", "seq", "lease_ms", "lease_max_ms", "lease_until", "replicas", "chain", "had_replica"),
)


class RevocationStore:
    """The revocation store of one realm.

    Args:
        url: The store's URL, as ``arx_verifier.revocation.store_url`` reads it.
        realm: The realm's name.
        password: Replaces a password in the URL.
        replicas: How many replicas must have a kill on disk as well; the mint's setting when omitted.
        timeout_ms: Time-out of one exchange with the store, ms.
        outcome_s: How long to retry until the outcome of a kill is known, s; 5 when omitted.
        on_doubt: Called with a sentence while an outcome is not known.
        ca: File of a further authority for TLS.

    Raises:
        SettingsError: The realm's name or the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        *,
        password: Password | None = None,
        replicas: int | None = None,
        timeout_ms: int = 1_000,
        outcome_s: float | None = None,
        on_doubt: Callable[[str], None] = lambda _: None,
        ca: str | None = None,
    ) -> None:
        if not is_realm(realm):
            raise SettingsError(f"invalid realm name: expected [a-z0-9][a-z0-9._-]{{0,31}}, got {realm!r}")
        self.realm = realm
        self.keys = Keys.of(realm)
        address = Address(url, password, realm, ca=ca)
        self.fails_over = address.fails_over
        self.exchange = Exchange(address, timeout_ms)
        self._replicas = self._replicas_given = replicas
        self._outcome_s, self._on_doubt = outcome_s, on_doubt
        self._lock = threading.Lock()
        self._seen: HistoryPlace | None = None

    def __repr__(self) -> str:
        return f"RevocationStore(realm={self.realm!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.exchange.close()

    # Deployment.

    def load_functions(self) -> bool:
        """Load this version's functions into the store, in place of older ones of the same name.

        Returns:
            Whether the store's user may load them; if not, an administrator must have done it.

        Raises:
            StoreError: The store did not take them.
        """
        try:
            self.exchange.once(lambda: self.exchange.client.function_load(functions(), replace=True))
        except StoreError as error:
            # A mint has no right to load code: it could otherwise replace the checks that bind it.
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
            incarnation: The history's name; random when omitted.
            lease_ms: How long a verifier may act on one answer, ms.
            max_ttl_ms: The longest life of a token, ms.
            seq: The first sequence; a mint that remembers a higher one continues from there.

        Returns:
            The state of the history, which may be an older one.

        Raises:
            StoreError: The store did not answer.
        """
        return self._learn(
            self.exchange.call(
                "arx1_init", self.keys.written, incarnation or new_incarnation(), lease_ms, max_ttl_ms, seq
            )
        )

    def rotate(self, *, seq_at_least: int = 0, lease_ms: int = 0, max_ttl_ms: int = 0) -> Bump:
        """End the history: every token born in it is revoked, and freezes stay.

        This is the remedy for a store that lost entries; ``mint.revocation.store_history`` finds that it did.

        Args:
            seq_at_least: The highest known sequence.
            lease_ms: A new lease, ms; 0 to keep it.
            max_ttl_ms: A new longest life of a token, ms; 0 to keep it.

        Returns:
            The acknowledged rotation, with the state of the new history.

        Raises:
            StoreError: The store did not answer, or another process rotated a moment ago.
        """
        sent, old = time.monotonic(), self.header().incarnation
        # Numbers are never reused: a store that lost entries must continue above all that a mint has seen.
        least = max(seq_at_least, self._seen.seq if self._seen is not None else 0)
        arguments = (old, new_incarnation(old), least, lease_ms, max_ttl_ms)
        # Once, and only from the history that was read: a repeat would end the history that another mint has just
        # begun.
        reply, at_risk = self.exchange.once(lambda: self._written("arx1_rotate", self.keys.all, *arguments))
        return Bump("rotate", ("realm",), self._learn(reply, read_replicas(reply), forget=True), at_risk, sent)

    def remember(self, place: HistoryPlace) -> None:
        """Refuse from now on a store that is behind a place which the mint's database remembers.

        Args:
            place: The remembered place.
        """
        with self._lock:
            if self._seen is None or place.incarnation != self._seen.incarnation or place.seq > self._seen.seq:
                self._seen = place

    def chain_at(self, seq: int) -> str | None:
        """Return the chain hash at a sequence, or None if the store has forgotten it, or never had it.

        Args:
            seq: The sequence.

        Raises:
            StoreError: The store did not answer.
        """
        client, number = self.exchange.client, f"{seq}-0"
        last, chain, low, base = self.exchange.once(
            lambda: client.hmget(self.keys.header, ["seq", "chain", "low", "base"])
        )
        entries = self.exchange.once(lambda: client.xrange(self.keys.log, number, number))
        value = {last: chain, low: base}.get(str(seq).encode()) or (entries and entries[0][1].get(b"c"))
        return text(value) if value else None

    def mark_taken(self, seq: int) -> None:
        """Record in the store that the log up to a sequence is kept elsewhere and may be trimmed.

        Args:
            seq: The sequence.

        Raises:
            StoreError: The store did not answer.
        """
        self.exchange.once(lambda: self.exchange.client.hset(self.keys.header, "taken", str(seq)))

    def signed(self) -> bytes | None:
        """Return the last checkpoint of the audit log that a mint stored here, or None; verify its signature.

        Raises:
            StoreError: The store did not answer.
        """
        checkpoint: bytes | None = self.exchange.once(lambda: self.exchange.client.hget(self.keys.header, "signed"))
        return checkpoint

    def mark_signed(self, checkpoint: bytes) -> None:
        """Store a checkpoint of the audit log, for mints whose database lacks it.

        Args:
            checkpoint: The signed note.

        Raises:
            StoreError: The store did not answer.
        """
        self.exchange.once(lambda: self.exchange.client.hset(self.keys.header, "signed", checkpoint))

    # Kills and freezes.

    def kill(self, targets: Sequence[str], reason: str, by: str, *, until_ms: int | None = None) -> Bump:
        """Revoke every token of these targets that was born before now, permanently, in one step.

        Args:
            targets: At least one, such as ``session:s-…``.
            reason: The reason, kept in the log; at most 500 characters of it.
            by: The actor, kept in the log; at most 96 characters of it.
            until_ms: When the last token of these tasks or sessions expires, ms since the Unix epoch, if known: the
                store then keeps the kill no longer than that.

        Returns:
            The acknowledged kill.

        Raises:
            StoreHistoryError: The store is not in the history that this process has seen.
            StoreError: The outcome is unknown; kill again.
            RequestError: A target is invalid.
        """
        return self._bump("kill", targets, reason, by, until_ms)

    # ``event``: the kind of the event that the mint records when it reads the entry (CONTROL 4.7).  ``proof``: of the
    # call that asks for the change; the store accepts it once (CONTROL 1.2), else it raises ``ProofUsedError``.
    def freeze(
        self, targets: Sequence[str], reason: str, by: str, *, event: str = "", proof: UsedProof | None = None
    ) -> Bump:
        """Refuse these targets until a thaw.  Otherwise as ``kill``."""
        return self._bump("freeze", targets, reason, by, event=event, proof=proof)

    def kill_by_kind(
        self, targets: Sequence[str], reason: str, by: str, *, event: str = "", proof: UsedProof | None = None
    ) -> Bump:
        """Perform on each target the operation of its kind (``targets.KINDS``), in one step.  Otherwise as ``kill``."""
        parsed = parse_targets(targets)
        ops = {target.kill_op for target in parsed}
        taints = [f"freeze {target.taint}" for target in parsed if target.taint is not None]
        if len(ops) == 1 and not taints:
            return self._bump(ops.pop(), targets, reason, by, event=event, proof=proof)
        kills = [f"{target.kill_op} {target}" for target in parsed]
        return self._bump("each", targets, reason, by, each=[*taints, *kills], event=event, proof=proof)

    def kill_and_freeze(
        self, targets: Sequence[str], reason: str, by: str, *, event: str = "", proof: UsedProof | None = None
    ) -> Bump:
        """Kill and freeze these targets, in one entry each.  Otherwise as ``kill``."""
        return self._bump("kill+freeze", targets, reason, by, event=event, proof=proof)

    def thaw(
        self,
        targets: Sequence[str],
        reason: str,
        by: str,
        *,
        memory_before: int | None = None,
        unkilled: Collection[str] = (),
        event: str = "",
    ) -> Bump:
        """End the freezes of these targets; killed tokens stay revoked.  Otherwise as ``kill``.

        What a killed target has written into memories stays tainted (SPEC 18.4).

        Args:
            targets: At least one.
            reason: The reason.
            by: The actor.
            memory_before: What the targets wrote before is trusted again, ms since the Unix epoch.
            unkilled: The targets that were frozen and not killed: their entries are trusted again.
            event: The kind of the event that the mint records.
        """
        changes: list[str] = []
        writing = [str(target) for target in parse_targets(targets) if is_tainted_kind(str(target))]
        if writing:
            frozen, now_ms = self.freezes(), self.header().at_ms
            for target in writing:
                until = now_ms if target in frozen else None
                forget = target in unkilled and memory_before is None
                changes += _taint_changes(target, frozen, since=memory_before, until=until, forget=forget)
        if not changes:
            return self._bump("thaw", targets, reason, by, event=event)
        each = [*changes, *(f"thaw {target}" for target in targets)]
        return self._bump("thaw", targets, reason, by, each=each, event=event)

    def clear_taints(self, targets: Sequence[str], reason: str, by: str, *, before: int | None = None) -> Bump:
        """Trust what these targets wrote into memories before a time, and thaw nothing.  Otherwise as ``kill``.

        Args:
            targets: At least one.
            reason: The reason.
            by: The actor.
            before: The time, ms since the Unix epoch; None for now.

        Raises:
            RequestError: Nothing that one of them wrote before is tainted, or a target is invalid.
        """
        frozen, now_ms = self.freezes(), self.header().at_ms
        changes: list[str] = []
        for parsed in parse_targets(targets):
            target = str(parsed)
            # A killed session writes no more: its taint, which has no end, is not needed once all of it is cleared.
            over = before is None and parsed.taint is not None and target not in frozen
            since, until = (now_ms if before is None else before), (now_ms if over else None)
            found = _taint_changes(target, frozen, since=since, until=until) if is_tainted_kind(target) else []
            if not found:
                raise RequestError(f"nothing that {target} wrote before is tainted")
            changes += found
        return self._bump("thaw", targets, reason, by, each=changes)

    def _bump(
        self,
        op: str,
        targets: Sequence[str],
        reason: str,
        by: str,
        until_ms: int | None = None,
        each: Sequence[str] = (),
        event: str = "",
        proof: UsedProof | None = None,
    ) -> Bump:
        named = tuple(str(target) for target in parse_targets(targets))
        sent = time.monotonic()
        patience_s = OUTCOME_S if self._outcome_s is None else self._outcome_s
        keys = self.keys.written if proof is None else (*self.keys.written, self.keys.used)
        about = ("" if until_ms is None else str(until_ms), by[:96], reason[:MAX_WHY], event)
        rest = (*about, *(("", "", "") if proof is None else proof), *(each or named))

        def bump() -> tuple[Any, str]:
            # Read at each try: other kills may have been acknowledged while this one was retried.
            seen = self._seen
            assert seen is not None
            return self._written("arx1_bump", keys, *seen, "each" if each else op, *rest)

        if self._seen is None:
            self.header()
        # A lost answer leaves the outcome unknown.  Repeating is harmless: a second kill of a target is one more entry.
        reply, at_risk = self.exchange.until_known(bump, sent + patience_s, self._on_doubt)
        return Bump(op, named, self._learn(reply, read_replicas(reply)), at_risk, sent)

    def _written(self, function: str, keys: tuple[str, ...], *arguments: Any) -> tuple[Any, str]:
        """Call a function that writes; return its answer, and what could still undo the write."""
        reply, on_disk, copied = self.exchange.written(self.replicas, function, keys, *arguments)
        return reply, name_risk(on_disk, self.replicas, read_replicas(reply) or copied)

    @property
    def replicas(self) -> int:
        """How many replicas a kill waits for."""
        return self._replicas or 0

    def wait_confirmed(self, bump: Bump, timeout_ms: int | None = None) -> KillReport:
        """Wait until every verifier has confirmed, or until the leases have ended, and report.

        Args:
            bump: The acknowledged kill, freeze or thaw.
            timeout_ms: How long to wait from the call on, ms; until the last lease ends when omitted.
        """
        return wait_confirmed(self.unacked, bump, timeout_ms)

    def use_proof(self, proof: UsedProof) -> None:
        """Use up a proof, once.

        Args:
            proof: The proof.

        Raises:
            ProofUsedError: Another call has used it.
            StoreError: The store did not answer.
        """
        self.exchange.call("arx1_use", (self.keys.used,), *proof)

    # What operators look at.

    def header(self) -> Header:
        """Return the state of the history.

        Raises:
            StoreHistoryError: The realm has none in this store.
            StoreError: The store did not answer.
        """
        commands = ("HMGET", self.keys.header, *HEADER_FIELDS), ("TIME",), ("INFO", "replication")
        (reply, at, info), _ = self.exchange.read_together(*commands)
        if reply[0] is None:
            raise StoreHistoryError("NOINIT", "the realm has no history in this store")
        at_ms = int(at[0]) * 1000 + int(at[1]) // 1000
        lease_ms = max(int(reply[2]), int(reply[3] or 0) if int(reply[4] or 0) > at_ms else 0)
        if self._replicas_given is None:
            self._replicas = int(reply[5] or 0)
        shown = read_replication(info).promotable(int(reply[7] or 0), at_ms)
        return self._learn([reply[0], reply[1], at_ms, lease_ms, 0, reply[6] or b"-"], shown)

    def unacked(self, seq: int, since_ms: int) -> Registry:
        """Return the verifiers that probed since a time, and which of them have not applied ``seq``.

        Args:
            seq: The sequence.
            since_ms: The time by the store's clock, ms since the Unix epoch.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self.exchange.call("arx1_unacked", self.keys.registry, seq, since_ms)
        return read_registry(reply, seq, since_ms)

    def ahead(self) -> Ahead | None:
        """Return the verifier with the highest place that is not in this history, or None.

        Raises:
            StoreError: The store did not answer.
        """
        ahead_range = (self.keys.acks, "-inf", "(-1", 0, 1)
        return read_ahead(self.exchange.once(lambda: self.exchange.client.zrangebyscore(*ahead_range, withscores=True)))

    def verifiers(self) -> tuple[VerifierSeen, ...]:
        """Return the verifiers and relays that probed within the last minutes, by name.

        Raises:
            StoreError: The store did not answer.
        """
        reply = self.exchange.call("arx1_unacked", self.keys.registry, 2**53, 0)
        return tuple(sorted(read_verifiers(reply), key=lambda seen: seen[:3]))

    def kills(self) -> dict[str, int]:
        """Return the remembered killed targets, each with the sequence of its last kill.

        Raises:
            StoreError: The store did not answer.
        """
        return self._numbers(self.keys.kills)

    def freezes(self) -> dict[str, int]:
        """Return the frozen targets, each with the sequence of its freeze.

        Raises:
            StoreError: The store did not answer.
        """
        return self._numbers(self.keys.freezes)

    def log(self, after: int = 0, limit: int = 1_000) -> tuple[StoreEntry, ...]:
        """Return entries after a sequence, oldest first.

        Args:
            after: The sequence.
            limit: The largest number of entries.

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

    def _learn(self, reply: Any, replicas: int = 0, *, forget: bool = False) -> Header:
        header = read_header(reply, replicas)
        with self._lock:
            seen = self._seen
            if seen is None or forget or (header.incarnation == seen.incarnation and header.seq > seen.seq):
                self._seen = header.place
        return header


def _taint_changes(target: str, frozen: Mapping[str, int], **change: Any) -> list[str]:
    """Return a change of a target's taints (``change_taints``) as operations of one step."""
    freeze, thaw = change_taints(target, frozen, **change)
    return [*(f"freeze {taint}" for taint in freeze), *(f"thaw {taint}" for taint in thaw)]


def functions() -> str:
    """Return the source of this version's functions, as the store takes it."""
    return files("arx_caps.revocation").joinpath("functions.lua").read_text("utf-8")
