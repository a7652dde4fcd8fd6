# SPDX-License-Identifier: Apache-2.0
"""Node, its tests, and the packages of the TypeScript verifier, from npm; they are installed where they are missing."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone

NODE: Final = "24.22.3"
PACKAGE: Final = ROOT / "typescript" / "verifier"
PROGRAMS: Final = Path(os.environ.get("ARX_TYPESCRIPT", PACKAGE)) / "test"  # of a mutant, for `mutants.py`
QUIET: Final = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
_ARCHITECTURES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def node() -> Path:
    """Return a Node that runs TypeScript, with the verifier's packages in their place."""
    system = platform.system().lower()
    prefix = "node-bin" if (system, platform.machine()) == ("darwin", "arm64") else "node"
    name = f"{prefix}-{system}-{_ARCHITECTURES[platform.machine().lower()]}"
    folder = ROOT / "build" / "typescript"
    with alone(folder):
        found = folder / "node_modules" / name / "bin" / "node"
        if not found.exists() or _run(str(found), "--version", cwd=ROOT) != f"v{NODE}\n":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": {name: NODE}}))
            _run("npm", "install", *QUIET, cwd=folder)
        if not (PACKAGE / "node_modules" / "@redis" / "client").exists():
            how = ("ci",) if (PACKAGE / "package-lock.json").exists() else ("install", "--no-package-lock")
            _run("npm", *how, *QUIET, cwd=PACKAGE)
    return found


def run_tests(file: str, *names: str) -> None:
    """Run tests of the TypeScript verifier, each of which must exist and pass.

    Args:
        file: A file of ``test``.
        names: Their names; all tests of the file without one.
    """
    patterns = [f"--test-name-pattern=^{re.escape(name)}$" for name in names]
    command = [str(node()), "--test", "--test-reporter=tap", *patterns, str(PROGRAMS / file)]
    ran = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    count = re.search(r"(?m)^# pass (\d+)$", ran.stdout)
    assert count, ran.stdout
    assert int(count[1]) >= max(1, len(names)), ran.stdout


def _run(*words: str, cwd: Path) -> str:
    return subprocess.run(words, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout
