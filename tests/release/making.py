# SPDX-License-Identifier: Apache-2.0
"""Make a release as ``make release`` does."""

import subprocess
import tomllib
from pathlib import Path

from tests.house.pages import ROOT

TOOL = ROOT / ".venv-release" / "bin" / "python"


def make_release(checkout: Path, *options: str, version: str = "") -> subprocess.CompletedProcess[str]:
    """Run the release of a checkout with the tools of this one.

    Args:
        checkout: A clone.
        options: Of the command.
        version: The release's; the checkout's when omitted.
    """
    if not version:
        version = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    command = [TOOL, checkout / "deploy" / "release.py", version, *options]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, timeout=1800)


def git(checkout: Path, *words: str) -> str:
    """Run git in a checkout, as an author of its own."""
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false")
    done = subprocess.run(["git", *author, *words], cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout


def clone_checkout(folder: Path) -> Path:
    """Return a clone of the last commit, without its tags."""
    git(ROOT, "clone", "--quiet", "--shared", "--no-tags", str(ROOT), str(folder))
    return folder
