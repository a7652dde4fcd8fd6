# SPDX-License-Identifier: Apache-2.0
"""The store's functions as plain data: what ``functions.lua`` does to a realm's keys.  SPEC 10.

The simulator needs thousands of stores a second.  That this model and the real functions answer alike is held by
``test_model_store.py``, on a real server.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from arx_verifier.revocation.epoch import BANNING, KILLING, OPS
from arx_verifier.revocation.history import UNKNOWN, Place, chain_after
from arx_verifier.revocation.store_link import Crowd

SKEW_MS, MARGIN_MS = 30_000, 60_000
PRUNE = 50
KEEP_LOG = 10_000
NOINIT = "NOINIT"


class StoreRefused(Exception):  # noqa: N818  an answer, not a mistake
    """The function answered an error; the first word says which."""


class Logged(NamedTuple):
    """An entry of the log."""

    seq: int
    op: str
    scope: str
    at_ms: int
    chain: str


class Header(NamedTuple):
    """The header's fields; ``taken`` is -1 while nobody keeps the log elsewhere."""

    inc: str
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

    def lease(self, now: int) -> int:
        """Return the lease that some verifier may still act on."""
        return max(self.lease_ms, self.lease_max_ms) if self.lease_until > now else self.lease_ms

    def keep(self, now: int) -> int:
        """Return how long a floor is kept."""
        ttl = max(self.maxttl_ms, self.maxttl_max_ms) if self.maxttl_until > now else self.maxttl_ms
        return ttl + SKEW_MS + MARGIN_MS


class ModelStore:
    """A realm's keys.

    Args:
        now_ms: The store's clock.
        publish: Told incarnation, sequence, operation and scope of everything published.
        compares: Whether a probe's chain is held against the store's.
    """

    def __init__(
        self, now_ms: Callable[[], int], publish: Callable[[str, int, str, str], None], *, compares: bool = True
    ) -> None:
        self.now_ms, self.publish, self._compares = now_ms, publish, compares
        self.header: Header | None = None
        self.floors: dict[str, int] = {}
        self.bans: dict[str, int] = {}
        self.retain: dict[str, int] = {}
        self.log: list[Logged] = []
        self.probes: dict[str, int] = {}
        self.acks: dict[str, int] = {}
        self.crowds: dict[str, Crowd] = {}  # of those who are relays
        self.since: int | None = None  # when this registry began

    def kept(self) -> tuple[Any, ...]:
        """Return a copy of what is on disk: everything but the registry."""
        return self.header, dict(self.floors), dict(self.bans), dict(self.retain), list(self.log)

    def restore(self, kept: tuple[Any, ...]) -> None:
        """Go back to a copy; the registry of a new process is empty."""
        self.header = kept[0]
        self.floors, self.bans, self.retain, self.log = dict(kept[1]), dict(kept[2]), dict(kept[3]), list(kept[4])
        self.probes, self.acks, self.since = {}, {}, None

    def init(self, inc: str, lease_ms: int, maxttl_ms: int, seq: int) -> list[Any]:
        """Begin a history if there is none."""
        now = self.now_ms()
        if self.header is not None:
            return [self.header.inc, self.header.seq, now, self.header.lease(now), 0, self.header.chain, 0]
        self.floors, self.retain, self.log = {}, {}, []
        chain = Place.begin(inc, seq).chain
        self.header = Header(inc, seq, seq, len(self.bans), lease_ms, maxttl_ms, chain, chain)
        return [inc, seq, now, lease_ms, 0, chain, 1]

    def bump(self, inc: str, seen: int, chain: str, op: str, until: str, *scopes: str) -> list[Any]:
        """Add one entry for each scope."""
        header = self._known()
        if inc != header.inc:
            raise StoreRefused("INCARNATION")
        if seen > header.seq or (chain != UNKNOWN and (self.chain_at(seen) or chain) != chain):
            raise StoreRefused("REGRESSED")
        if op not in OPS or not scopes or len(scopes) > 1000:
            raise StoreRefused("ERR")
        for scope in scopes:
            printable = all("!" <= character <= "~" for character in scope)
            if not 1 <= len(scope) <= 96 or not printable or (until and not scope.startswith(("task:", "session:"))):
                raise StoreRefused("ERR")
        now = self.now_ms()
        keep_until = now + header.keep(now)
        if until:
            keep_until = min(keep_until, max(now, int(until)) + SKEW_MS + MARGIN_MS)
        last = header.chain
        for seq, scope in enumerate(scopes, header.seq + 1):
            last = chain_after(last, seq, op, scope)
            self._add(seq, op, scope, now, last, keep_until)
        low, base = self._prune(header, header.seq + len(scopes), now)
        seq, n = header.seq + len(scopes), header.n + self._grown
        self.header = header._replace(seq=seq, low=low, n=n, chain=last, base=base)
        for seq, scope in enumerate(scopes, header.seq + 1):
            self.publish(inc, seq, op, scope)
        return [inc, seq, now, self.header.lease(now), 0, last]

    def chain_at(self, seq: int) -> str | None:
        """Say what led to a number; None where that was forgotten."""
        header = self._known()
        if seq in (header.seq, header.low):
            return header.chain if seq == header.seq else header.base
        found = bisect_right(self.log, seq, key=lambda entry: entry.seq) - 1
        return self.log[found].chain if found >= 0 and self.log[found].seq == seq else None

    def probe(self, name: str, inc: str, applied: int, chain: str, limit: int, crowd: Crowd | None = None) -> list[Any]:
        """Record the verifier, or the relay with who is behind it, and answer from the header."""
        header = self._known()
        now = self.now_ms()
        same = inc == header.inc
        known = self.chain_at(applied) if same else None
        if known is not None and not self._compares:
            known = chain
        self.since = now if self.since is None else self.since
        self.probes[name] = now
        counted = applied if crowd is None else crowd.applied
        self.acks[name] = counted if known == chain and counted <= header.seq else -1
        if crowd is not None:
            self.crowds[name] = crowd
        status, entries = "OK", []
        if len(self.floors) + len(self.bans) != header.n or len(self.log) != header.seq - header.low:
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
        facts = [header.inc, header.seq, now, header.lease_ms, status, header.keep(now), header.chain]
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

    def rotate(self, expected: str, inc: str, least: int, lease_ms: int, maxttl_ms: int) -> list[Any]:
        """End the history; bans stay."""
        header = self._known()
        if expected != header.inc:
            raise StoreRefused("INCARNATION")
        now, seq = self.now_ms(), max(header.seq, least)
        old_lease, old_ttl = header.lease(now), header.keep(now) - SKEW_MS - MARGIN_MS
        self.floors, self.retain, self.log, self.probes, self.acks, self.since = {}, {}, [], {}, {}, None
        lease, ttl = lease_ms or header.lease_ms, maxttl_ms or header.maxttl_ms
        taken = seq if header.taken >= 0 else -1
        chain = Place.begin(inc, seq).chain
        limits = (lease, ttl, chain, chain, old_lease, now + old_lease, old_ttl, now + old_ttl)
        self.header = Header(inc, seq, seq, len(self.bans), *limits, taken)
        self.publish(inc, seq, "rotate", "realm")
        return [inc, seq, now, self.header.lease(now), 0, chain]

    def _known(self) -> Header:
        if self.header is None:
            raise StoreRefused(NOINIT)
        return self.header

    def _add(self, seq: int, op: str, scope: str, now: int, chain: str, keep_until: int) -> None:
        if seq == self._known().seq + 1:
            self._grown = 0
        before = len(self.floors) + len(self.bans)
        self.log.append(Logged(seq, op, scope, now, chain))
        if op in KILLING:
            self.floors[scope] = seq
            self.retain[scope] = max(keep_until, self.retain.get(scope, 0))
        if op in BANNING:
            self.bans[scope] = seq
        elif op == "lift":
            self.bans.pop(scope, None)
        self._grown += len(self.floors) + len(self.bans) - before

    def _prune(self, header: Header, seq: int, now: int) -> tuple[int, str]:
        if self.retain and min(self.retain.values()) <= now:
            expired = sorted((until, scope) for scope, until in self.retain.items() if until <= now)[:PRUNE]
            for _, scope in expired:
                del self.retain[scope]
                self._grown -= self.floors.pop(scope, None) is not None
        low = seq - KEEP_LOG
        if 0 <= header.taken < low:
            low = header.taken
        if low <= header.low:
            return header.low, header.base
        [base] = [entry.chain for entry in self.log if entry.seq == low]
        self.log = [entry for entry in self.log if entry.seq > low]
        return low, base
