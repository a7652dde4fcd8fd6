# SPDX-License-Identifier: Apache-2.0
"""The workflows that publish a release: linted, and found wrong by the linter after each change that weakens them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.pages import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run ``make workflows`` on the workflows of a folder."""
    command = ["make", "--no-print-directory", "workflows", f"WORKFLOWS={checkout}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_the_workflows_are_without_a_finding() -> None:
    """
    Both linters accept them.
    """
    done = lint(WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("release.yml", "@76f52bc884231f62b9a034ebfe128415bbaabdfc", "@release/v1"),
        ("release.yml", "permissions: {}\n", "permissions: write-all\n"),
        ("release.yml", '"v$VERSION" --repo', '"v${{ github.head_ref }}" --repo'),
        ("release.yml", "  push:\n    tags: [", "  pull_request_target:\n    branches: ["),
        ("build-release.yml", "runs-on: ubuntu-24.04", "runs-in: ubuntu-24.04"),
    ],
)
def test_a_weaker_workflow_is_found(tmp_path: Path, name: str, old: str, new: str) -> None:
    """
    An action by its tag, all permissions, text of a branch in a script, a stranger's trigger, a misspelt member.
    """
    copied = shutil.copytree(WORKFLOWS, tmp_path / ".github" / "workflows")
    text = (copied / name).read_text(encoding="utf-8")
    assert old in text
    (copied / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    assert lint(copied).returncode != 0


def test_what_publishes_waits_for_a_reviewer() -> None:
    """
    Each job with a permission to write is in the environment `release`, and builds nothing.
    """
    jobs = (WORKFLOWS / "release.yml").read_text(encoding="utf-8").partition("\njobs:\n")[2].split("\n\n")
    writing = [job for job in jobs if ": write" in job]
    assert len(writing) == 2
    assert all("    environment: release\n" in job and "make " not in job and "checkout" not in job for job in writing)
    assert "write" not in (WORKFLOWS / "build-release.yml").read_text(encoding="utf-8")
