# SPDX-License-Identifier: Apache-2.0
"""Time stamps and checks of memory entries: ``make bench-memory``, or ``python -m benchmarks.stamps``.

Writes ``benchmarks/results/stamps.json`` and the table of docs/performance.md.  About 10 s; ``--quick`` writes nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from arx_verifier._native import about_build
from arx_verifier.constraints.rule import Rule
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import MemoryKeys
from arx_verifier.memory.taints import TaintWindow
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.grant import Grant
from benchmarks import page
from benchmarks.measure import about, race, repeated, save

TEXT: Final = "The customer asked for a refund of order o-4711, which had arrived late. " * 2
RETRIEVAL: Final = 10_000
TAINTS: Final = 1_000
SOURCES: Final = 10
CHECK_ALL: Final = f"check {RETRIEVAL:,} entries of one retrieval"


def works() -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name; each fails if its outcome is another."""
    realm = UnsafeTestRealm("memory")
    memory = Memory(MemoryKeys({"memory.1": bytes(range(32))}), realm.epochs, realm.decisions)
    grant = _grant(realm, "acme/research")
    sources = [memory.stamp(_grant(realm, f"acme/a{n}", session=f"s-{n}"), TEXT) for n in range(SOURCES)]
    for n in range(TAINTS):
        realm.epochs.freeze(str(TaintWindow(f"session:s-{n:016d}")))
    own, derived = memory.stamp(grant, TEXT), memory.stamp(grant, TEXT, sources=sources)
    many = [(memory.stamp(grant, text := f"{n} {TEXT}"), text) for n in range(RETRIEVAL)]

    def check(stamp: str) -> None:
        assert memory.check(stamp, TEXT).status == "trusted"

    def check_all() -> None:
        assert all(verdict.status == "trusted" for verdict in memory.check_all(many))

    return {
        "stamp": lambda: memory.stamp(grant, TEXT),
        f"stamp, derived from {SOURCES}": lambda: memory.stamp(grant, TEXT, sources=sources),
        "check": lambda: check(own),
        f"check, derived from {SOURCES}": lambda: check(derived),
        CHECK_ALL: check_all,
    }


def _grant(realm: UnsafeTestRealm, agent: str, **about: Any) -> Grant:
    caller = realm.caller(Rule(tool="memory.write"), agent=agent, **about).delegate("acme/worker")
    request = AccessRequest("memory.write", {}, time.time_ns() // 1_000_000)
    return realm.verifier.verify(caller.token("memory.write"), request)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stamps", description="Time stamps of memory entries.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    options = parser.parse_args()
    found = about("arx-verifier", "msgspec") | {"build": about_build()}
    # One after the other: a retrieval of 10,000 would empty the processor's caches for the single ones.
    found["rows"] = [
        {"work": name, "median_us": round(race({name: repeated(work)}, 0.0 if options.quick else 2.0)[name], 3)}
        for name, work in works().items()
    ]
    if not options.quick:
        save("stamps", found)
        page.write()
    sys.stdout.write(page.stamps(found) + "\n")


if __name__ == "__main__":
    main()
