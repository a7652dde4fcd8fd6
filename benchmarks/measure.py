# SPDX-License-Identifier: Apache-2.0
"""Time pieces of work beside each other, and say on what.

All that is compared runs in turns, a few milliseconds each, so that whatever else the machine does meets all of them
alike; given is the median of the turns.  Counted is the processor time of the one thread, which on a quiet machine is
what the clock says and on a busy one leaves out what others used.  Work that waits for another process is timed by the
clock.
"""

import hmac
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

RESULTS: Final = Path(__file__).resolve().parent / "results"
TURN_NS: Final = 2_000_000
FEWEST_TURNS: Final = 5

# Given how often, prepares that without being timed and returns what is timed.
Batch: TypeAlias = Callable[[int], Callable[[], None]]


def repeated(work: Callable[[], Any]) -> Batch:
    """Make a batch of work that may be done again as it is; it fails by itself when its outcome is another."""

    def batch(count: int) -> Callable[[], None]:
        def run() -> None:
            for _ in itertools.repeat(None, count):
                work()

        return run

    return batch


def each(work: Callable[[Any], Any], make: Callable[[int], Iterable[Any]]) -> Batch:
    """Make a batch of work that needs something new each time; making it is not timed."""

    def batch(count: int) -> Callable[[], None]:
        inputs = list(make(count))

        def run() -> None:
            for one in inputs:
                work(one)

        return run

    return batch


def race(contenders: Mapping[str, Batch], seconds: float, *, waits: bool = False) -> dict[str, float]:
    """Time contenders in turns.

    Args:
        contenders: By name.
        seconds: How long it takes for each of them, about.
        waits: Whether they wait for another process, so that the clock counts and not the processor time.

    Returns:
        The median of one piece of work, us, by name.
    """
    clock = time.perf_counter_ns if waits else time.thread_time_ns
    counts = {name: _count_for_a_turn(batch, clock) for name, batch in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    until = time.monotonic() + seconds * len(contenders)
    while time.monotonic() < until or len(next(iter(times.values()))) < FEWEST_TURNS:
        for name, batch in contenders.items():
            times[name].append(_turn(batch(counts[name]), clock) / counts[name] / 1000)
    return {name: statistics.median(found) for name, found in times.items()}


def _turn(run: Callable[[], None], clock: Callable[[], int]) -> int:
    began = clock()
    run()
    return clock() - began


def _count_for_a_turn(batch: Batch, clock: Callable[[], int]) -> int:
    """Find how often fits into a turn; on the way everything is warmed up."""
    count = 1
    while True:
        took = min(_turn(batch(count), clock) for _ in range(3))
        if took >= TURN_NS / 2:
            return max(1, round(count * TURN_NS / took)) if took > TURN_NS else count
        count = max(count + 1, min(count * 4, round(count * TURN_NS / max(took, 1))))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    ordered = sorted(values)
    return {"p50": ordered[len(ordered) // 2], "p95": ordered[int(len(ordered) * 0.95)]}


def machine() -> str:
    """Name the processor, its cores, how fast it is and how busy already.

    How fast says a keyed hash of 64 bytes from Python, of which a decision is made: figures of two machines are to each
    other about as these two times are.
    """
    found = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    load = os.getloadavg()[0]  # before a measure of its own
    yard = race({"hmac": repeated(lambda: hmac.digest(bytes(32), bytes(64), "sha256"))}, 0.2)["hmac"]
    cores = f"{found[0] if found else platform.machine()}, {os.cpu_count()} cores"
    return f"{cores}, `hmac.digest` of 64 bytes {yard:.2f} us, load {load:.1f} before it began"


def about(*packages: str) -> dict[str, Any]:
    """Say on what it is going to be measured, and with which versions."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"machine": machine(), "python": platform.python_version(), "versions": versions}


def save(name: str, results: Mapping[str, Any]) -> None:
    """Write figures to ``benchmarks/results/``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def load(name: str) -> dict[str, Any]:
    """Read figures that ``save`` wrote."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)
