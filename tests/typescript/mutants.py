# SPDX-License-Identifier: Apache-2.0
"""Mutants of the verifier in TypeScript: each with one check that never refuses, or one bound that is off by one.

``python -m tests.typescript.mutants`` asks the vectors, and where none notices it the tests, of each.  ``mutants.toml``
names those that nothing can notice, with the reason.  Exit code 1: one survived that is not named, or is named wrongly.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.routes.environments import ROOT
from tests.typescript.node import PACKAGE, node
from tests.vectors.families import load

EQUAL: Final = Path(__file__).with_name("mutants.toml")
WITHIN_S: Final = 120.0
# Files that a test of the verifier alone has no store for, each with what Python drives a process by.
DRIVEN: Final = {
    name: (str(ROOT / "tests" / "typescript" / "test_follower.py"), "-k", "not confirmation")
    for name in ("revocation/follower.ts", "revocation/follower_loop.ts")
}
CHECK: Final = re.compile(
    r"^(\s*(?:\} else )?if )\((.*)\) ((?:refuse|malformed|usedUp|wrong|unreadable|throw|return)\b.*)$"
)
BOUND: Final = re.compile(r" (<=|>=|<|>) ")
OFF: Final = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}


class Mutant(NamedTuple):
    """One line of a file, and what replaces it."""

    file: str
    line: int
    old: str
    new: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when lines above it change."""
        return self.file, self.old.strip(), self.new.strip()


def mutants() -> Iterator[Mutant]:
    """Yield all mutants, in the order of the files."""
    source = PACKAGE / "src"
    for path in sorted(source.rglob("*.ts")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for new in changes(line):
                yield Mutant(str(path.relative_to(source)), number, line, new)


def changes(line: str) -> Iterator[str]:
    """Yield what a line may be changed to."""
    if line.lstrip().startswith(("//", "*", "/*", "import", "for ", "for(")):
        return
    if check := CHECK.match(line):
        yield f"{check[1]}(false && ({check[2]})) {check[3]}"
    for bound in BOUND.finditer(line):
        if "=>" not in line[bound.start() : bound.end()] and "Record<" not in line:
            yield line[: bound.start(1)] + OFF[bound[1]] + line[bound.end(1) :]


def ask(copy: Path, questions: str) -> str:
    """Return the answers of a copy to all vectors; what ended it, if it gave none."""
    try:
        asked = subprocess.run(
            [str(node()), "--max-old-space-size=1024", str(copy / "test" / "subject.ts")],
            input=questions, cwd=copy, capture_output=True, text=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no answer in time"
    return asked.stdout if asked.returncode == 0 else asked.stderr


def fails(copy: Path) -> bool:
    """Return whether a test of a copy fails."""
    tests = sorted(str(path) for path in (copy / "test").glob("*.test.ts"))
    try:
        ran = subprocess.run(
            [str(node()), "--test", "--test-isolation=none", *tests], cwd=copy, capture_output=True, timeout=WITHIN_S
        )
    except subprocess.TimeoutExpired:
        return True
    return ran.returncode != 0


def fails_driven(copy: Path, words: tuple[str, ...]) -> bool:
    """Return whether a test in Python fails, with a process of a copy in its place."""
    environ = {**os.environ, "ARX_TYPESCRIPT": str(copy)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:benchmark", "-m", "", *words]
    try:
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, timeout=600.0).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def judge(tried: list[Mutant], named: dict[tuple[str, str, str], str]) -> Counter[str]:
    """Ask vectors and tests of each mutant; print what is wrong."""
    questions = "".join(f"{json.dumps(vector.question())}\n" for vector in load())
    seen: Counter[str] = Counter()
    results: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory(prefix="arx-mutants-") as folder:
        copy = Path(folder) / "typescript" / "verifier"
        for part in ("src", "test"):
            shutil.copytree(PACKAGE / part, copy / part)
        (copy / "package.json").write_text((PACKAGE / "package.json").read_text())
        (copy / "node_modules").symlink_to(PACKAGE / "node_modules")
        (Path(folder) / "tests").symlink_to(PACKAGE.parents[1] / "tests")
        expected = ask(copy, questions)
        if not expected.startswith("{") or fails(copy):
            raise SystemExit("the verifier without a change does not pass")
        for number, mutant in enumerate(tried, 1):
            file = copy / "src" / mutant.file
            text = file.read_text()
            lines = text.splitlines()
            lines[mutant.line - 1] = mutant.new
            file.write_text("\n".join(lines) + "\n")
            result = ""
            if ask(copy, questions) != expected:
                result = "found by a vector"
            elif fails(copy) or (mutant.file in DRIVEN and fails_driven(copy, DRIVEN[mutant.file])):
                result = "found by a test"
            file.write_text(text)
            results[mutant] = result or ("equal" if mutant.key in named else "survived")
            print(f"{number}/{len(tried)} {mutant.file}:{mutant.line}: {results[mutant]}", file=sys.stderr, flush=True)
    equal = {mutant.key for mutant, result in results.items() if result == "equal"}
    for mutant, result in results.items():
        if result.startswith("found") and mutant.key in named.keys() - equal:  # no line of these words is equal
            result = "named as equal, and found"
        seen[result] += 1
        if result in ("survived", "named as equal, and found"):
            print(f"{mutant.file}:{mutant.line} {result}\n- {mutant.old.strip()}\n+ {mutant.new.strip()}", flush=True)
    return seen


def main() -> int:
    """Run as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.typescript.mutants", description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants, always the same ones")
    parser.add_argument("-k", metavar="TEXT", default="", help="only mutants with this text in their file or change")
    given = parser.parse_args()
    os.environ["PATH"] = f"{node().parent}:{os.environ['PATH']}"
    entries = tomllib.loads(EQUAL.read_text()).get("equal", []) if EQUAL.exists() else []
    named = {(entry["file"], entry["old"], entry["new"]): entry["why"] for entry in entries}
    every = list(mutants())
    stale = named.keys() - {mutant.key for mutant in every}
    if stale:
        print(f"named as equal, and no mutant of the code: {sorted(stale)}")
        return 1
    tried = [mutant for mutant in every if given.k in f"{mutant.file} {mutant.old} {mutant.new}"]
    if given.sample is not None:
        tried = [tried[number * len(tried) // given.sample] for number in range(min(given.sample, len(tried)))]
    seen = judge(tried, named)
    print(f"{len(tried)} mutants: " + ", ".join(f"{count} {result}" for result, count in seen.items()))
    return 1 if seen["survived"] or seen["named as equal, and found"] else 0


if __name__ == "__main__":
    sys.exit(main())
