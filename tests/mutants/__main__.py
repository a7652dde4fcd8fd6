# SPDX-License-Identifier: Apache-2.0
"""Ask the vectors, or a test, of each mutant: ``python -m tests.mutants``.

Exit code 0: each is found or named as equal; 1: one survived, or is wrong; 2: the list does not fit.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.mutants.mutants import EQUAL, FOUND, LIST, ListError, Outcome, read_list, run, sample


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("-k", metavar="TEXT", default="", help="only mutants with this text in their place or change")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants, always the same ones")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time [2]")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--list", type=Path, default=LIST, help="the file of mutants [tests/mutants/mutants.toml]")
    given = parser.parse_args(arguments)
    try:
        mutants = read_list(given.list)
    except (ListError, OSError) as error:
        print(f"error: {error}\nhint: change the entry as the code was changed, or remove it", file=sys.stderr)
        return 2
    mutants = [mutant for mutant in mutants if given.k in f"{mutant.name} {mutant.old} {mutant.new}"]
    if given.sample is not None:
        mutants = sample(mutants, given.sample)
    outcomes: list[Outcome] = []
    for outcome in run(mutants, given.jobs):
        outcomes.append(outcome)
        place = f"{len(outcomes)}/{len(mutants)} {outcome.mutant.name}"
        print(f"{place}: {outcome.result}: {outcome.why}", file=sys.stderr, flush=True)
    return _report(outcomes, as_json=given.json)


def _report(outcomes: list[Outcome], *, as_json: bool) -> int:
    counts = Counter(outcome.result for outcome in outcomes)
    bad = [outcome for outcome in outcomes if outcome.result not in (FOUND, EQUAL)]
    if as_json:
        values = [{**outcome.mutant._asdict(), "result": outcome.result, "why": outcome.why} for outcome in outcomes]
        print(json.dumps({"counts": counts, "mutants": values}))
    else:
        print(f"{len(outcomes)} mutants: " + ", ".join(f"{count} {result}" for result, count in counts.items()))
        for outcome in bad:
            print(f"{outcome.mutant.name}: {outcome.why}\n- {outcome.mutant.old}\n+ {outcome.mutant.new}")
        if bad:
            print("hint: write a vector (tests/vectors) or a test that notices it, or name it as equal with the reason")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
