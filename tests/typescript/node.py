# SPDX-License-Identifier: Apache-2.0
"""Node, and the packages of the TypeScript verifier, from npm; they are installed where they are missing."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone

NODE: Final = "24.22.3"
PACKAGE: Final = ROOT / "typescript" / "verifier"
PROGRAMS: Final = PACKAGE / "test"
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


def _run(*words: str, cwd: Path) -> str:
    return subprocess.run(words, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout
