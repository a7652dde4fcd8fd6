# SPDX-License-Identifier: Apache-2.0
"""Time calls that rows about marks name beside calls with a budget: ``make bench-marks``.

The calls alternate one by one, by the clock, at a ledger on a socket of this machine.  Beside the median there is the
time that a tenth of the calls keeps to: on a busy machine the others also waited for a processor.
Writes ``benchmarks/results/marks.json`` and the table of docs/performance.md.  ``--quick`` writes nothing.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from arx_caps.embedded import EmbeddedValkey
from arx_verifier._native import about_build
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import MarkQuestion, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from benchmarks import page
from benchmarks.budgets import COSTS, EACH_SECOND, opened_now, with_marks, with_pools
from benchmarks.measure import about, save
from benchmarks.rows import REQUEST, Verifiers, signing
from benchmarks.world import TOOL, handed
from tests.ledgers import new_ledger

CALLS: Final = 10_000
AT_ONCE: Final = 200  # calls that are signed before they are timed
MARKS: Final = 20
ROWS: Final = 5
VALUES: Final = 100


def times(folder: Path, ledger: RedisLedger, calls: int) -> dict[str, list[int]]:
    """Return how long each call took, by what it was, ns."""
    made, opened = Verifiers(folder), opened_now(ledger)
    works = {
        page.POOL: (made.make(ledger=ledger, costs=COSTS), with_pools(1, opened)),
        page.NAMED: (made.make(ledger=ledger), with_marks(opened, TOOL)),
        page.WITHOUT: (made.make(ledger=ledger), handed(1)),
        page.OTHERS: (made.make(ledger=ledger), with_marks(opened, "web.*")),
    }
    found: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(max(1, calls // AT_ONCE)):
        texts = {name: [*signing(token)(min(calls, AT_ONCE))] for name, (_, token) in works.items()}
        for number in range(min(calls, AT_ONCE)):
            # In both orders: the one after a call that waited finds the processor's caches cold.
            for name in [*works][:: 1 if number % 2 else -1]:
                verifier, text = works[name][0], texts[name][number]
                begun = time.perf_counter_ns()
                decision = verifier.decide(text, REQUEST)
                found[name].append(time.perf_counter_ns() - begun)
                assert decision.code == "ok"
    made.close()
    return found


def kept(ledger: RedisLedger) -> int:
    """Return what the ledger's server keeps of a session with marks and values, bytes."""
    asked = MarkQuestion("s-size", now_ms(), now_ms(), "web.get web", sets=tuple(f"w:s:m{n}" for n in range(MARKS)))
    for row in range(ROWS):
        digests = tuple(f"{row:016x}{n:016x}" for n in range(VALUES))
        counted = asked._replace(distinct=((f"{row:032x}", VALUES, digests),))
        assert isinstance(ledger.take("draw", "", (), None, counted), Taken)
    client = ledger._client.redis
    return sum(client.memory_usage(key, samples=0) for key in client.scan_iter("*m:s-size"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks", description="Time calls with marks.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    options = parser.parse_args()
    found: dict[str, Any] = about("arx-verifier", "redis") | {"build": about_build()}
    with tempfile.TemporaryDirectory(prefix="arx") as folder, EmbeddedValkey(Path(folder) / "ledger") as valkey:
        ledger = new_ledger(valkey.url, "bench", 5)
        ledger._client.redis.execute_command(*EACH_SECOND)
        measured = times(Path(folder), ledger, 10 if options.quick else CALLS)
        found |= {"kept": {"marks": MARKS, "rows": ROWS, "values": VALUES, "bytes": kept(ledger)}}
        ledger.close()
    found["rows"] = [
        {"name": name, "tenth_us": taken[len(taken) // 10] / 1000, "median_us": taken[len(taken) // 2] / 1000}
        for name, taken in ((name, sorted(taken)) for name, taken in measured.items())
    ]
    if not options.quick:
        save("marks", found)
        page.write()
    sys.stdout.write(page.marks(found) + "\n")


if __name__ == "__main__":
    main()
