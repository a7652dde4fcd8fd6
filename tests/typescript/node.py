# SPDX-License-Identifier: Apache-2.0
"""Node, and the packages of the TypeScript verifier, from npm; they are installed where they are missing."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.routes.environments import ROOT, alone

NODE: Final = "24.22.3"
PACKAGE: Final = ROOT / "typescript" / "verifier"
PROGRAMS: Final = PACKAGE / "test"
_ARCHITECTURES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def node() -> Path:
    """Return a Node that runs TypeScript, with the verifier's packages in their place."""
    system = platform.system().lower()
    prefix = "node-bin" if (system, platform.machine()) == ("darwin", "arm64") else "node"
    name = f"{prefix}-{system}-{_ARCHITECTURES[platform.machine().lower()]}"
    folder = ROOT / "build" / "typescript"
    with alone(folder):
        _install(folder, json.dumps({"private": True, "dependencies": {name: NODE}}), "install")
        _install(PACKAGE, (PACKAGE / "package.json").read_text(), "ci")
    return folder / "node_modules" / name / "bin" / "node"


def _install(folder: Path, wanted: str, how: str) -> None:
    done = folder / "node_modules" / ".arx-done"
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(wanted)
    words = ("npm", how, "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    subprocess.run(words, cwd=folder, check=True, stdout=sys.stderr)
    done.write_text(wanted)
