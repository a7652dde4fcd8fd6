# SPDX-License-Identifier: Apache-2.0
"""Check the models of ``docs/models`` with SPIN, exhaustively: ``make models``.

``--quick`` leaves out the largest runs, ``--write`` writes the tables of ``docs/models.md`` again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.models.runs import RUNS, Run

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "models"
PAGE: Final = ROOT / "docs" / "models.md"
NEEDED: Final = ("spin", "gcc")
DEPTH: Final = 1_000_000  # steps of the longest path; beyond it the search would not be exhaustive
MEMORY_MB: Final = 6_000
# Safety alone, and every state is stored whole: no hash compaction, no bit-state.
COMPILE: Final = ("gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c")
ENDS: Final = re.compile(r"assertion violated\s+(.*?) \(at depth")
STORED: Final = re.compile(r"(\d+) states, stored")
INCOMPLETE: Final = ("Search not completed", "max search depth too small", "out of memory", "reached -DMEMLIM")


class Result(NamedTuple):
    """The outcome of one run.

    Attributes:
        run: The run.
        violated: The assertion that failed, or None.
        states: States that were stored.
        seconds: Time of the search, without the compilation.
        whole: Whether every reachable state was visited.
    """

    run: Run
    violated: str | None
    states: int
    seconds: float
    whole: bool

    @property
    def as_expected(self) -> bool:
        """Whether the property holds in every state, or the mistake breaks the named one."""
        if self.run.breaks is None:
            return self.violated is None and self.whole
        return self.violated is not None and self.run.breaks in self.violated


def check(run: Run) -> Result:
    """Search the states of one run.

    Raises:
        SystemExit: SPIN refuses the model, or the search ended otherwise than by a result.
    """
    with tempfile.TemporaryDirectory() as folder:
        macros = [f"-D{name}={value}" if value else f"-D{name}" for name, value in run.macros.items()]
        _call([shutil.which("spin") or "spin", *macros, "-a", str(FOLDER / f"{run.model}.pml")], folder)
        _call(COMPILE, folder)
        began = time.monotonic()
        text = _call(["./pan", f"-m{DEPTH}"], folder)
        seconds = time.monotonic() - began
    stored = STORED.search(text)
    if stored is None:
        sys.exit(f"{run.name}: no result\n{text}")
    failed = ENDS.search(text)
    whole = "errors: 0" in text and not any(mark in text for mark in INCOMPLETE)
    return Result(run, failed and failed[1], int(stored[1]), seconds, whole)


def _call(command: Iterable[str], folder: str) -> str:
    done = subprocess.run(list(command), cwd=folder, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if done.returncode or "Error:" in text:
        sys.exit(f"{' '.join(command)}: failed with {done.returncode}\n{text}")
    return text


def _filled(page: str, results: Iterable[Result]) -> str:
    runs = ["| model | what is looked at | parts and constants | states |", "| --- | --- | --- | ---: |"]
    mistakes = ["| mistake | model | parts and constants | broken property |", "| --- | --- | --- | --- |"]
    for run, _, states, *_ in results:
        if run.breaks is None:
            runs.append(f"| `{run.model}.pml` | {run.name} | {run.text} | {states:,} |")
        elif run.mutation:
            mistakes.append(f"| `{run.mutation}` | `{run.model}.pml` | {run.text} | `{run.breaks}` |")
    for name, table in (("runs", runs), ("mistakes", mistakes)):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n" + "\n".join(table) + "\n\n" + end + rest.partition(end)[2]
    return page


def main() -> None:
    """Run the models.

    Raises:
        SystemExit: SPIN or a compiler is missing, or a result is not the expected one.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models; all of them by default")
    parser.add_argument("--quick", action="store_true", help="leave out the largest runs")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/models.md again")
    asked = parser.parse_args()
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        sys.exit(f"the models need {' and '.join(missing)}: on Debian, apt-get install {' '.join(missing)}")
    runs = [run for run in RUNS if not (asked.quick and run.large) and (not asked.models or run.model in asked.models)]
    results = []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for result in pool.map(check, runs):
            end = f"violated: {result.violated}" if result.violated else "holds" if result.whole else "not exhaustive"
            mark = "" if result.as_expected else "  <-- expected: " + (result.run.breaks or "holds")
            print(
                f"{result.states:12,} states {result.seconds:6.1f} s  "
                f"{result.run.model}: {result.run.name}: {end}{mark}"
            )
            sys.stdout.flush()
            results.append(result)
    failed = sum(not result.as_expected for result in results)
    if asked.write and not failed and len(runs) == len(RUNS):
        PAGE.write_text(_filled(PAGE.read_text("utf-8"), results), "utf-8")
    print(f"{len(results) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
