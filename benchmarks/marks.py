# SPDX-License-Identifier: Apache-2.0
"""Time calls that rows about marks name beside calls with a budget: ``make bench-marks``, and behind ``make bench``.

Calls that ask the ledger alternate one by one, by the clock, at a ledger on a socket of this machine.  Beside the
median there is the time that a tenth of them keeps to: on a busy machine the others also waited for a processor.  Of
others the processor's time is measured.
Writes ``benchmarks/results/marks.json`` and the table of docs/performance.md.  ``--quick`` writes nothing.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from arx_caps.embedded import EmbeddedValkey
from arx_verifier._native import about_build
from arx_verifier.clock import now_ms
from arx_verifier.constraints.rule import Rule
from arx_verifier.ledger.pools import MarkQuestion, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from benchmarks import page
from benchmarks.budgets import COSTS, EACH_SECOND, opened_now, with_pools
from benchmarks.measure import about, each, race, save
from benchmarks.rows import REQUEST, Verifiers, allow, signing
from benchmarks.world import KEY, TOOL, constraints, five, handed, identifier
from tests.ledgers import new_ledger

CALLS: Final = 10_000
Work: TypeAlias = tuple[Verifier, Macaroon]
AT_ONCE: Final = 200  # calls that are signed before they are timed
MARKS: Final = 20
ROWS: Final = 5
VALUES: Final = 100


def times(works: Mapping[str, Work], calls: int) -> dict[str, list[int]]:
    """Return how long each call took that asks the ledger, by what it was, ns."""
    found: dict[str, list[int]] = {name: [] for name in works}
    for _ in range(max(1, calls // AT_ONCE)):
        texts = {name: [*signing(token)(min(calls, AT_ONCE))] for name, (_, token) in works.items()}
        for number in range(min(calls, AT_ONCE)):
            for name, (verifier, _) in works.items():
                text, begun = texts[name][number], time.perf_counter_ns()
                decision = verifier.decide(text, REQUEST)
                found[name].append(time.perf_counter_ns() - begun)
                assert decision.code == "ok"
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


def with_marks(opened: int, tool: str) -> Macaroon:
    """A token of one delegation, whose policy has a tool set one mark, and refuses it after another one."""
    rule = Rule(tool=TOOL, args=constraints(1000))
    rows: dict[str, Any] = {"marks": (("call", "seen", "session", (tool,)),), "after": ((("untrusted",), (tool,)),)}
    first = Caveat(allow=(rule,), delegate_to=("acme/**",), require=("call",), opened=opened, **rows)
    token = Macaroon.mint(identifier(), key=KEY, realm="acme", caveats=(first,))
    return token.delegate("acme/worker-0", five(900))


def measure(*, quick: bool) -> None:
    """Time the calls, and write the figures and the page.

    Args:
        quick: Whether each is timed a few times only, and nothing is written.
    """
    found: dict[str, Any] = about("arx-verifier", "redis") | {"build": about_build()}
    with tempfile.TemporaryDirectory(prefix="arx") as folder, EmbeddedValkey(Path(folder) / "ledger") as valkey:
        ledger = new_ledger(valkey.url, "bench", 5)
        ledger._client.redis.execute_command(*EACH_SECOND)
        made, opened = Verifiers(Path(folder)), opened_now(ledger)
        asking = {
            page.POOL: (made.make(ledger=ledger, costs=COSTS), with_pools(1, opened)),
            page.NAMED: (made.make(ledger=ledger), with_marks(opened, TOOL)),
        }
        rows: list[dict[str, Any]] = []
        for name, taken in times(asking, 10 if quick else CALLS).items():
            taken.sort()
            tenth, median = (round(taken[len(taken) // part] / 1000, 3) for part in (10, 2))
            rows.append({"name": name, "tenth_us": tenth, "median_us": median})
        tokens = {page.WITHOUT: handed(1), page.OTHERS: with_marks(opened, "web.*")}
        others = {name: each(allow(made.make(ledger=ledger)), signing(token)) for name, token in tokens.items()}
        for name, took in race(others, 0.0 if quick else 3.0).items():
            rows.append({"name": name, "median_us": round(took, 3)})
        found |= {"rows": rows, "kept": {"marks": MARKS, "rows": ROWS, "values": VALUES, "bytes": kept(ledger)}}
        made.close()
        ledger.close()
    if not quick:
        save("marks", found)
        page.write()
    sys.stdout.write(page.marks(found) + "\n")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.marks", description="Time calls with marks.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    measure(quick=parser.parse_args().quick)


if __name__ == "__main__":
    main()
