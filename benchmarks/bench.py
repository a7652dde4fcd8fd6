# SPDX-License-Identifier: Apache-2.0
"""Compare ARx with its peers, and refusals with a grant: ``make bench``, or ``python -m benchmarks.bench``.

Writes ``benchmarks/results/latest.json`` and what docs/performance.md shows of it.  About 80 s; with ``--quick`` each
work is done a few times only, to see that it works, and nothing is written.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import page, refusals
from benchmarks.measure import about, race, save, say
from benchmarks.rows import PACKAGES, Row, Verifiers, rows


def measure(found: Iterable[Row], seconds: float) -> list[dict[str, Any]]:
    """Time each row; the ratio is to the first of it."""
    results: list[dict[str, Any]] = []
    for row in found:
        say(row.work)
        times = race(row.contenders, seconds)
        first = next(iter(times.values()))
        for name, median in times.items():
            result: dict[str, Any] = {"work": row.work, "name": name, "median_us": round(median, 3)}
            result["ratio"] = round(median / first, 3)
            if name in row.chars:
                result["chars"] = row.chars[name]
            results.append(result)
    return results


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Compare ARx with its peers.")
    parser.add_argument("--quick", action="store_true", help="see that it works; write nothing")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="time for each figure")
    options = parser.parse_args()
    seconds = 0.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        made = Verifiers(Path(folder))
        results = measure(rows(made), seconds) + measure(refusals.rows(made), seconds / 3)
        made.close()
    found = about(*PACKAGES) | {"rows": results}
    if not options.quick:
        save("latest", found)
        page.write()
    sys.stdout.write(page.comparison(found) + "\n")


if __name__ == "__main__":
    main()
