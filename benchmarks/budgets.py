# SPDX-License-Identifier: Apache-2.0
"""Rows of budgets: what the ledger adds to a decision, strict and leased."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep, time_ns
from typing import Any, Final

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import Ledger, PoolDraw
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from benchmarks.measure import each, repeated
from benchmarks.page import FREE, LEASED, STRICT
from benchmarks.rows import Row, Verifiers, allow, signing
from benchmarks.world import handed
from tests.ledgers import new_ledger

POOLS: Final = {1: "ARx, 1 pool", 4: "ARx, 4 pools"}
COSTS: Final[dict[str, Any]] = {"*": {"usd": "0.000001"}}
EACH_SECOND: Final = ("CONFIG", "SET", "appendfsync", "everysec")
SPIN: Final = """import os, sys
os.nice(19)
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


def with_pools(count: int, opened: int) -> Macaroon:
    """A token of one delegation, with so many pools."""
    token = handed(1)
    for number in range(count):
        token = token.attenuate(Caveat(spend=(f"p{number}", "usd", "1000000", "task", opened)))
    return token


def opened_now(ledger: RedisLedger) -> int:
    """Start a ledger, and return a time at which pools can be opened."""
    ledger.start()
    sleep(0.005)
    opened = time_ns() // 1_000_000
    sleep(0.005)
    return opened


def take(ledger: RedisLedger, count: int, opened: int) -> Callable[[], object]:
    """The question to the ledger alone."""
    draws = [PoolDraw(f"t/-/q{number}/usd/task", 10**15, 0, opened, 1, 1) for number in range(count)]
    return lambda: ledger.take("draw", "", draws)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep each core from sleeping, with a process of the lowest priority.

    On a virtual machine an idle core wakes tens of microseconds late, twice in each question to a ledger.
    """
    with contextlib.ExitStack() as ends:
        for _ in range(os.cpu_count() or 1):
            process = subprocess.Popen([sys.executable, "-c", SPIN, str(os.getpid())])
            ends.callback(process.wait)
            ends.callback(process.kill)
        yield


def rows(made: Verifiers, folder: Path) -> Iterator[Row]:
    """Decisions with budgets; the parent is seen, the ledger is on a socket of this machine."""
    with EmbeddedValkey(folder / "ledger") as valkey:
        strict, other = new_ledger(valkey.url, "bench", 5), new_ledger(valkey.url, "bench", 5)
        strict._client.redis.execute_command(*EACH_SECOND)
        opened, leased = opened_now(strict), LeasedLedger(other)
        yield _decisions(made, LEASED, leased, opened)
        with awake():
            yield _decisions(made, STRICT, strict, opened)
            asked = {name: repeated(take(strict, count, opened)) for count, name in POOLS.items()}
            yield Row("ask the ledger alone, by the clock", asked, {}, waits=True)
        leased.close()


def _decisions(made: Verifiers, work: str, ledger: Ledger, opened: int) -> Row:
    decide = {FREE: each(allow(made.make()), signing(handed(1)))}
    for count, name in POOLS.items():
        verifier = made.make(ledger=ledger, costs=COSTS)
        decide[name] = each(allow(verifier), signing(with_pools(count, opened)))
    return Row(work, decide, {}, waits=work == STRICT)
