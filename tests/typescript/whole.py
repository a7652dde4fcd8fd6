# SPDX-License-Identifier: Apache-2.0
"""All that the TypeScript verifier is tried with: types, tests, vectors, the package, random applications and calls.

``python -m tests.typescript.whole``; with ``--short`` fewer applications and pairs.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone
from tests.typescript.differential import compare
from tests.typescript.node import PACKAGE, QUIET, node

_ARCHITECTURE: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[
    platform.machine().lower()
]
# Of npm: the package of a runtime for this machine, its version, its program, and what it is started with.
_DENO: Final = {"x64": "x64-glibc", "arm64": "arm64-glibc"}[_ARCHITECTURE]
RUNTIMES: Final = {
    "Node 22": (f"node-linux-{_ARCHITECTURE}", "22.23.5", "bin/node", ()),
    "Node 26": (f"node-linux-{_ARCHITECTURE}", "26.12.1", "bin/node", ()),
    "Bun": (f"@oven/bun-linux-{_ARCHITECTURE}", "1.4.5", "bin/bun", ()),
    "Deno": (f"@deno/linux-{_DENO}", "2.9.6", "deno", ("run", "-A", "--quiet")),
}
LEVELS: Final = ("bearer", "bound", "limits")
PAIRS: Final = {True: 20_000, False: 1_000_000}
APPLICATIONS: Final = {True: 300, False: 10_000}


def runtime(name: str) -> list[str]:
    """Return the command of a runtime, which is installed where it is missing.

    Args:
        name: A key of ``RUNTIMES``.
    """
    package, version, program, words = RUNTIMES[name]
    folder = ROOT / "build" / "typescript" / name.lower().replace(" ", "-")
    wanted = json.dumps({"private": True, "dependencies": {package: version}})
    with alone(folder):
        found = folder / "node_modules" / package / program
        if not found.exists() or (folder / "package.json").read_text() != wanted:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text(wanted)
            run(["npm", "install", *QUIET], folder)
    return [str(found), *words]


def run(command: list[str], folder: Path = PACKAGE) -> None:
    """Run a command to its end; an error of it ends this program.

    Args:
        command: The command.
        folder: Where it runs.
    """
    print("+", " ".join(command)[-150:], flush=True)
    environ = {**os.environ, "PATH": f"{node().parent}:{os.environ['PATH']}"}
    if subprocess.run(command, cwd=folder, env=environ).returncode:
        sys.exit(f"failed: {' '.join(command)}")


def try_vectors(command: list[str]) -> None:
    """Ask a runtime each vector.

    Args:
        command: The runtime's command.
    """
    levels = [word for level in LEVELS for word in ("--level", level)]
    subject = str(PACKAGE / "test" / "subject.ts")
    run([sys.executable, "-m", "tests.vectors.run", *levels, "--", *command, subject], ROOT)


def main() -> None:
    """Try everything; end with 1 at the first error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer applications and pairs")
    short = parser.parse_args().short
    own, programs = str(node()), PACKAGE / "node_modules" / ".bin"
    run([str(programs / "tsc"), "-p", "tsconfig.json"])
    run([own, "--test", *sorted(map(str, (PACKAGE / "test").glob("*.test.ts")))])
    for command in ([own], *map(runtime, RUNTIMES)):
        try_vectors(command)
    run(["npm", "pack", "--silent", "--pack-destination", str(ROOT / "build" / "typescript")])
    run([str(programs / "publint"), "--strict"])
    run([str(programs / "attw"), "--pack", "--profile", "esm-only"])
    if not short:  # else it is one of the slow tests
        run([sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "tests/typescript/test_page.py"], ROOT)
    pairs, first = PAIRS[short], 1 if short else int.from_bytes(os.urandom(3), "big")
    run([own, str(PACKAGE / "test" / "applications.ts"), str(APPLICATIONS[short]), str(first)])
    wrong, codes = compare(pairs, seed=first)
    for vector, mine, theirs in wrong[:20]:
        print(f"Python {mine}, TypeScript {theirs}: {json.dumps(vector)}")
    print(f"{pairs} pairs: {len(wrong)} differ; {dict(codes.most_common())}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
