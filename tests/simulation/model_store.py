# SPDX-License-Identifier: Apache-2.0
"""The store's functions as plain data: what ``functions.lua`` does to a realm's keys.  SPEC 10.

The simulator needs thousands of stores a second.  That this model and the real functions answer alike is held by
``test_model_store.py``, on a real server.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from arx_verifier.revocation.epoch import FREEZING, KILLING, OPS
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace, chain_after
from arx_verifier.revocation.store_link import Crowd

SKEW_MS, MARGIN_MS = 30_000, 60_000
PRUNE = 50
KEEP_LOG = 10_000
NOINIT, UNATTESTED = "NOINIT", "UNATTESTED"


class StoreRefused(Exception):  # noqa: N818  an answer, not a mistake
    """The function answered an error; the first word says which."""


class Logged(NamedTuple):
    """An entry of the log."""

    seq: int
    op: str
    target: str
    at_ms: int
    chain: str


class Header(NamedTuple):
    """The header's fields; ``taken`` is -1 while no client keeps the log elsewhere."""

    incarnation: str
    seq: int
    low: int
    n: int
    lease_ms: int
    maxttl_ms: int
    chain: str
    base: str
    lease_max_ms: int = 0
    lease_until: int = 0
    maxttl_max_ms: int = 0
    maxttl_until: int = 0
    taken: int = -1
    server: int = 0  # which one a mint attested

    def lease(self, now: int) -> int:
        """Return the lease that some verifier may still act on."""
        return max(self.lease_ms, self.lease_max_ms) if self.lease_until > now else self.lease_ms

    def keep(self, now: int) -> int:
        """Return how long a kill is kept."""
        ttl = max(self.maxttl_ms, self.maxttl_max_ms) if self.maxttl_until > now else self.maxttl_ms
        return ttl + SKEW_MS + MARGIN_MS


class ModelStore:
    """A realm's keys.

    Args:
        now_ms: The store's clock.
        publish: Receives incarnation, sequence, operation and target of everything published.
        compares: Whether a probe's chain is held against the store's.
        guards: Whether a server that no mint attested refuses probes.

    Attributes:
        server: Which server this is, by its replication id: another one after each promotion and each restart.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        publish: Callable[[str, int, str, str], None],
        *,
        compares: bool = True,
        guards: bool = True,
    ) -> None:
        self.now_ms, self.publish, self._compares, self._guards = now_ms, publish, compares, guards
        self.server = 0
        self.header: Header | None = None
        self.kills: dict[str, int] = {}
        self.freezes: dict[str, int] = {}
        self.retain: dict[str, int] = {}
        self.log: list[Logged] = []
        self.probes: dict[str, int] = {}
        self.acks: dict[str, int] = {}
        self.crowds: dict[str, Crowd] = {}  # of those who are relays
        self.since: int | None = None  # when this registry began

    def kept(self) -> tuple[Any, ...]:
        """Return a copy of what is on disk: everything but the registry."""
        return self.header, dict(self.kills), dict(self.freezes), dict(self.retain), list(self.log)

    def restore(self, kept: tuple[Any, ...]) -> None:
        """Go back to a copy; the registry of a new process is empty."""
        self.header = kept[0]
        self.kills, self.freezes, self.retain, self.log = dict(kept[1]), dict(kept[2]), dict(kept[3]), list(kept[4])
        self.probes, self.acks, self.since = {}, {}, None

    def init(self, incarnation: str, lease_ms: int, maxttl_ms: int, seq: int) -> list[Any]:
        """Begin a history if there is none."""
        now = self.now_ms()
        if self.header is not None:
            return [self.header.incarnation, self.header.seq, now, self.header.lease(now), 0, self.header.chain, 0]
        self.kills, self.retain, self.log = {}, {}, []
        chain = HistoryPlace.begin(incarnation, seq).chain
        self.header = Header(incarnation, seq, seq, len(self.freezes), lease_ms, maxttl_ms, chain, chain)
        self.attest()
        return [incarnation, seq, now, lease_ms, 0, chain, 1]

    def attest(self) -> None:
        """Let this server grant leases, as a mint does."""
        self.header = self._known()._replace(server=self.server)

    def bump(self, incarnation: str, seen: int, chain: str, op: str, until: str, *targets: str) -> list[Any]:
        """Add one entry for each target."""
        header = self._known()
        if incarnation != header.incarnation:
            raise StoreRefused("INCARNATION")
        if seen > header.seq or (chain != UNKNOWN and (self.chain_at(seen) or chain) != chain):
            raise StoreRefused("REGRESSED")
        if op not in OPS or not targets or len(targets) > 4000:
            raise StoreRefused("ERR")
        for target in targets:
            printable = all("!" <= character <= "~" for character in target)
            if not 1 <= len(target) <= 96 or not printable or (until and not target.startswith(("task:", "session:"))):
                raise StoreRefused("ERR")
        now = self.now_ms()
        keep_until = now + header.keep(now)
        if until:
            keep_until = min(keep_until, max(now, int(until)) + SKEW_MS + MARGIN_MS)
        last = header.chain
        for seq, target in enumerate(targets, header.seq + 1):
            last = chain_after(last, seq, op, target)
            self._add(seq, op, target, now, last, keep_until)
        low, base = self._prune(header, header.seq + len(targets), now)
        seq, n = header.seq + len(targets), header.n + self._grown
        self.header = header._replace(seq=seq, low=low, n=n, chain=last, base=base)
        for seq, target in enumerate(targets, header.seq + 1):
            self.publish(incarnation, seq, op, target)
        return [incarnation, seq, now, self.header.lease(now), 0, last, 0]

    def chain_at(self, seq: int) -> str | None:
        """Say what led to a number; None where that was forgotten."""
        header = self._known()
        if seq in (header.seq, header.low):
            return header.chain if seq == header.seq else header.base
        found = bisect_right(self.log, seq, key=lambda entry: entry.seq) - 1
        return self.log[found].chain if found >= 0 and self.log[found].seq == seq else None

    def probe(
        self, name: str, incarnation: str, applied: int, chain: str, limit: int, crowd: Crowd | None = None
    ) -> list[Any]:
        """Record the verifier, or the relay with who is behind it, and answer from the header."""
        header = self._known()
        now = self.now_ms()
        same = incarnation == header.incarnation
        known = self.chain_at(applied) if same else None
        if known is not None and not self._compares:
            known = chain
        self.since = now if self.since is None else self.since
        if self._guards and header.server != self.server:
            raise StoreRefused(UNATTESTED)
        self.probes[name] = now
        counted = applied if crowd is None else crowd.applied
        self.acks[name] = counted if known == chain and counted <= header.seq else -1
        if crowd is not None:
            self.crowds[name] = crowd
        status, entries = "OK", []
        if len(self.kills) + len(self.freezes) != header.n or len(self.log) != header.seq - header.low:
            status = "CORRUPT"
        elif same and applied > header.seq:
            status = "REGRESSED"
        elif known is None or chain == UNKNOWN:
            status = "RESYNC"
        elif known != chain:
            status = "REGRESSED"
        elif applied < header.seq:
            first = bisect_right(self.log, applied, key=lambda entry: entry.seq)
            entries = self.log[first : first + limit]
        facts = [header.incarnation, header.seq, now, header.lease_ms, status, header.keep(now), header.chain]
        return [*facts, len(self.probes), entries]

    def unacked(self, seq: int, since_ms: int) -> list[Any]:
        """Say which verifiers, heard of since then, have not applied ``seq``."""
        now = self.now_ms()
        self.since = now if self.since is None else self.since
        self.crowds = {name: crowd for name, crowd in self.crowds.items() if name in self.probes}
        seen = {name for name, at_ms in self.probes.items() if at_ms >= since_ms}
        missing = [[name, self.probes[name], self.acks[name]] for name in sorted(seen) if self.acks[name] < seq]
        relays = [[name, self.acks[name], self.crowds[name]] for name in sorted(seen) if name in self.crowds]
        return [now, self.since, len(seen), missing, relays]

    def rotate(self, expected: str, incarnation: str, least: int, lease_ms: int, maxttl_ms: int) -> list[Any]:
        """End the history; freezes stay."""
        header = self._known()
        if expected != header.incarnation:
            raise StoreRefused("INCARNATION")
        now, seq = self.now_ms(), max(header.seq, least)
        old_lease, old_ttl = header.lease(now), header.keep(now) - SKEW_MS - MARGIN_MS
        self.kills, self.retain, self.log, self.probes, self.acks, self.since = {}, {}, [], {}, {}, None
        lease, ttl = lease_ms or header.lease_ms, maxttl_ms or header.maxttl_ms
        taken = seq if header.taken >= 0 else -1
        chain = HistoryPlace.begin(incarnation, seq).chain
        limits = (lease, ttl, chain, chain, old_lease, now + old_lease, old_ttl, now + old_ttl)
        self.header = Header(incarnation, seq, seq, len(self.freezes), *limits, taken, header.server)
        self.publish(incarnation, seq, "rotate", "realm")
        return [incarnation, seq, now, self.header.lease(now), 0, chain, 0]

    def _known(self) -> Header:
        if self.header is None:
            raise StoreRefused(NOINIT)
        return self.header

    def _add(self, seq: int, op: str, target: str, now: int, chain: str, keep_until: int) -> None:
        if seq == self._known().seq + 1:
            self._grown = 0
        before = len(self.kills) + len(self.freezes)
        self.log.append(Logged(seq, op, target, now, chain))
        if op in KILLING:
            self.kills[target] = seq
            self.retain[target] = max(keep_until, self.retain.get(target, 0))
        if op in FREEZING:
            self.freezes[target] = seq
        elif op == "thaw":
            self.freezes.pop(target, None)
        self._grown += len(self.kills) + len(self.freezes) - before

    def _prune(self, header: Header, seq: int, now: int) -> tuple[int, str]:
        if self.retain and min(self.retain.values()) <= now:
            expired = sorted((until, target) for target, until in self.retain.items() if until <= now)[:PRUNE]
            for _, target in expired:
                del self.retain[target]
                self._grown -= self.kills.pop(target, None) is not None
        low = seq - KEEP_LOG
        if 0 <= header.taken < low:
            low = header.taken
        if low <= header.low:
            return header.low, header.base
        [base] = [entry.chain for entry in self.log if entry.seq == low]
        self.log = [entry for entry in self.log if entry.seq > low]
        return low, base
