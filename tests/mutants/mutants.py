# SPDX-License-Identifier: Apache-2.0
"""Mutants: code with one line changed, as a mistake of a second implementation would.

``mutants.toml`` has the list.  A mutant of the verifier that no vector notices shows that the vectors do not hold a
rule.  A mutant of ``arx_caps`` names the test that must notice it.
"""

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "verifier" / "arx_verifier"
TESTED: Final = ROOT / "arx_caps"  # its mutants are asked tests
LIST: Final = Path(__file__).with_name("mutants.toml")
WITHIN_S: Final = 120.0  # a mutant may never end; all vectors take a second, and on a loaded machine ten
TEST_WITHIN_S: Final = 600.0
FOUND, EQUAL, SURVIVED, WRONG = "found", "equal", "survived", "wrong"


class Mutant(NamedTuple):
    """One change of the code.

    Attributes:
        file: The file, from the verifier's package, or from ``arx_caps`` if a test must notice it.
        old: Text of one line, which is in the file once; of more lines where one is not unique.
        new: What replaces it.
        equal: Why no vector can notice it; empty if one must.
        line: The number of the first line that it changes.
        test: The test of pytest that must notice it; empty for the vectors.
    """

    file: str
    old: str
    new: str
    equal: str
    line: int
    test: str

    @property
    def name(self) -> str:
        """Its place, for people."""
        return f"{self.file}:{self.line}"

    @property
    def package(self) -> Path:
        """The folder of its package."""
        return TESTED if self.test else PACKAGE


class Outcome(NamedTuple):
    """What became of a mutant.

    Attributes:
        mutant: The mutant.
        result: ``found`` or ``equal``, which are right; ``survived``, or ``wrong``.
        why: The vector or test that found it, the reason that it is equal, or what is wrong.
    """

    mutant: Mutant
    result: str
    why: str


class ListError(ValueError):
    """An entry of the list does not fit the code."""


def read_list(path: Path = LIST) -> list[Mutant]:
    """Return the mutants of a list.

    Args:
        path: The list.

    Raises:
        ListError: An entry is malformed, is there twice, or its text is not in its file once.
    """
    mutants: list[Mutant] = []
    for number, entry in enumerate(tomllib.loads(path.read_text())["mutant"], 1):
        if not {"file", "old", "new"} <= entry.keys() <= {"file", "old", "new", "equal", "test"}:
            raise ListError(f"entry {number}: expected file, old, new, perhaps equal or test, got {', '.join(entry)}")
        file, old, new, test = entry["file"], entry["old"], entry["new"], entry.get("test", "")
        if test and not _is_test(test):
            raise ListError(f"entry {number}: {file}: expected a test of this repository, got {test}")
        source = (TESTED if test else PACKAGE) / file
        text = source.read_text() if source.is_file() else ""
        if text.count(old) != 1:
            raise ListError(f"entry {number}: {file}: expected its text once, got {text.count(old)} times: {old!r}")
        before, after = text[: text.index(old)], text.replace(old, new)
        mutant = Mutant(file, old, new, entry.get("equal", ""), before.count("\n") + 1, test)
        if old == new or any((mutant.file, mutant.old, mutant.new) == known[:3] for known in mutants):
            raise ListError(f"entry {number}: {mutant.name}: expected another change, got {new!r}")
        try:
            compile(after, file, "exec")
        except SyntaxError as error:
            raise ListError(f"entry {number}: {mutant.name}: expected code, got {error.msg}: {new!r}") from None
        mutants.append(mutant)
    return mutants


def _is_test(test: str) -> bool:
    path, _, name = test.partition("::")
    file = ROOT / path
    return bool(name) and file.is_file() and f"\ndef {name.partition('[')[0]}(" in file.read_text()


def sample(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """Return some mutants, always the same ones, from all parts of a list."""
    return [mutants[number * len(mutants) // count] for number in range(min(count, len(mutants)))]


def run(mutants: Sequence[Mutant], jobs: int = 2) -> Iterator[Outcome]:
    """Ask the vectors or the test of each mutant, and yield its outcome, in the order of the list.

    Args:
        mutants: The mutants.
        jobs: Processes at a time.
    """
    with tempfile.TemporaryDirectory(prefix="arx-mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy = Path(folder) / str(number)
            for package in {mutant.package for mutant in mutants}:
                # Without what is compiled: C would answer in the place of the changed line.
                shutil.copytree(
                    package, copy / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"), symlinks=True
                )
                compileall.compile_dir(copy / package.name, quiet=2)
            copies.put(copy)

        def try_next(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                return _judge(mutant, copy)
            finally:
                copies.put(copy)

        yield from pool.map(try_next, mutants)


def _judge(mutant: Mutant, copy: Path) -> Outcome:
    file = copy / mutant.package.name / mutant.file
    text = file.read_text()
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()  # Python would take it for the changed file, if size and second of both are the same
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        vector = ask_test(copy, mutant.test) if mutant.test else ask(copy / PACKAGE.name)
    except ListError as error:
        return Outcome(mutant, WRONG, str(error))
    finally:
        file.write_text(text)
    if vector and mutant.equal:
        return Outcome(mutant, WRONG, f"it is named as equal, and {vector} notices it")
    if vector:
        return Outcome(mutant, FOUND, vector)
    if mutant.equal:
        return Outcome(mutant, EQUAL, mutant.equal)
    return Outcome(mutant, SURVIVED, f"{mutant.test} passes" if mutant.test else "no vector notices it")


def ask(package: Path) -> str:
    """Return the first vector that a copy of the package answers wrongly; empty if it answers all of them rightly.

    Args:
        package: The folder of the copy.

    Raises:
        ListError: The copy cannot be imported, so that any vector would notice it.
    """
    environment = os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{ROOT}", "ARX_PURE": "1"}
    command = [sys.executable, "-B", "-m", "tests.mutants.ask", str(package)]
    try:
        asked = subprocess.run(
            command, env=environment, cwd=package.parent, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {WITHIN_S:.0f} s"
    if asked.returncode not in (0, 1):
        last = (asked.stderr.strip().splitlines() or ["no error"])[-1]
        raise ListError(f"expected a package that can be imported, got {last}")
    return asked.stdout.strip()


def ask_test(folder: Path, test: str) -> str:
    """Return a test that fails with the copy of ``arx_caps`` in a folder; empty if it passes.

    Args:
        folder: The folder.
        test: The test.

    Raises:
        ListError: It did not run.
    """
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", f"{ROOT}/{test}"]
    try:
        asked = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=TEST_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{test}: no answer within {TEST_WITHIN_S:.0f} s"
    if asked.returncode not in (0, 1):
        last = (asked.stdout.strip().splitlines() or ["no output"])[-1]
        raise ListError(f"expected {test} to run, got {last}")
    return test if asked.returncode else ""
