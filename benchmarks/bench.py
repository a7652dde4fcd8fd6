# SPDX-License-Identifier: Apache-2.0
"""Compare ARx with its peers, and refusals with a grant: ``make bench``, or ``python -m benchmarks.bench``.

Where the verifier is compiled, ours are measured in pure Python too, in a process of their own.
Writes ``benchmarks/results/latest.json`` and ``marks.json``, and what docs/performance.md shows of them.  About 95 s;
with ``--quick`` each work is done a few times only, to see that it works, and nothing is written.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from arx_verifier._native import COMPILED, about_build
from benchmarks import budgets, holders, marks, page, refusals
from benchmarks.measure import about, race, save, say
from benchmarks.rows import PACKAGES, Row, Verifiers, rows

ROOT: Final = Path(__file__).resolve().parents[1]


def measure(found: Iterable[Row], seconds: float) -> list[dict[str, Any]]:
    """Time each row; the ratio is to the first of it."""
    results: list[dict[str, Any]] = []
    for row in found:
        say(row.work)
        times = race(row.contenders, seconds, waits=row.waits)
        first = next(iter(times.values()))
        for name, median in times.items():
            result: dict[str, Any] = {"work": row.work, "name": name, "median_us": round(median, 3)}
            result["ratio"] = round(median / first, 3)
            if name in row.chars:
                result["chars"] = row.chars[name]
            results.append(result)
    return results


def ours(found: Iterable[Row]) -> Iterator[Row]:
    """Leave out everybody else."""
    for row in found:
        yield row._replace(contenders={name: batch for name, batch in row.contenders.items() if name.startswith("ARx")})


def pure(results: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Measure ours in pure Python, unless that was measured; ratios are to the first of each work as before."""
    if not COMPILED:
        return []
    say("pure Python")
    command = [sys.executable, "-m", "benchmarks.bench", "--pure", "--seconds", str(seconds)]
    environment = os.environ | {"ARX_PURE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, timeout=600)
    first: dict[str, float] = {}
    for row in results:
        first.setdefault(row["work"], float(row["median_us"]))
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for row in found:
        if row["work"] not in first:
            continue  # a refusal, beside the grant of its own build
        row["name"] = row["name"].replace("ARx", "ARx pure", 1)
        row["ratio"] = round(row["median_us"] / first[row["work"]], 3)
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Compare ARx with its peers.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    parser.add_argument("--pure", action="store_true", help="ours alone, as JSON; for a process with ARX_PURE=1")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="time for each figure")
    options = parser.parse_args()
    seconds = 0.0 if options.quick else options.seconds
    say(f"arx-verifier: {about_build()}")
    found = about(*PACKAGES) | {"build": about_build()}
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        made = Verifiers(Path(folder))
        if options.pure:
            results = measure(ours(itertools.chain(rows(made), holders.rows(made))), seconds)
            refused = (row._replace(work=f"{row.work}, pure Python") for row in refusals.rows(made))
            print(json.dumps(results + measure(refused, seconds / 3)))
            return
        found_rows = itertools.chain(rows(made), holders.rows(made), budgets.rows(made, Path(folder)))
        results = measure(found_rows, seconds)
        results = [*results, *measure(refusals.rows(made), seconds / 3), *pure(results, seconds)]
        made.close()
    found["rows"] = results
    if not options.quick:
        save("latest", found)
        page.write()
    sys.stdout.write(page.comparison(found) + "\n")
    marks.measure(quick=options.quick)


if __name__ == "__main__":
    main()
