# SPDX-License-Identifier: Apache-2.0
"""Fuzz the parsers with atheris: ``make fuzz ARGS="--seconds 60 policy_text jws"``.

Atheris is in an environment of its own, which also finds the packages of this one.  An input that breaks a law stays in
``build/fuzz/found``; ``python -m tests.fuzz.corpus --add NAME FILE`` adds it to the corpus, which ``make test`` tries
from then on.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.fuzz.targets import NAMES
from tests.routes.environments import ROOT, environment_of

FOLDER: Final = ROOT / "build" / "fuzz"
ATHERIS: Final = "atheris>=3.0,<4"
RUNS: Final = re.compile(r"number_of_executed_units: (\d+)")
COVERED: Final = re.compile(r"cov: (\d+)")


def fuzz(python: Path, name: str, seconds: int, seed: int) -> bool:
    """Fuzz a target, and print what came of it.

    Args:
        python: The environment's Python.
        name: The target.
        seconds: For how long.
        seed: Of the inputs; 0 for the time.

    Returns:
        Whether the law held.
    """
    found, kept = FOLDER / "found" / name, FOLDER / "kept" / name
    for folder in (found, kept):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"--seconds={seconds}", f"--seed={seed}", f"--found={found}", f"--kept={kept}"]
    command = [str(python), "-m", "tests.fuzz.one", name, *options]
    # Without compiled code, which cannot be instrumented: the tests compare the two builds.
    environment = os.environ | {"ARX_PURE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    runs, covered = RUNS.findall(text), COVERED.findall(text)
    print(f"{name}: {int(runs[-1]) if runs else 0:,} inputs, {covered[-1] if covered else 0} branches", flush=True)
    if done.returncode:
        print(f"{name}: failed with {done.returncode}; the input is in {found}\n{text[-6_000:]}", flush=True)
    return done.returncode == 0


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A law was broken.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TARGET", help="targets; all of them by default")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long each is fuzzed [60]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the inputs are those of this seed [the time]")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(NAMES)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; the targets are {', '.join(NAMES)}")
    python, names = environment_of(FOLDER / "env", ATHERIS), asked.names or NAMES
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        held = list(pool.map(lambda name: fuzz(python, name, asked.seconds, asked.seed), names))
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
