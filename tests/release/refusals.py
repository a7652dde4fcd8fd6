# SPDX-License-Identifier: Apache-2.0
"""What ``make release`` refuses, before it builds anything."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.pages import ROOT
from tests.release.making import TOOL, clone_checkout, git, make_release

OPTIONS = ("--without-image",)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the last commit, whose ``releases.toml`` names no release."""
    clone = clone_checkout(tmp_path / "clone")
    write(clone, "releases.toml", "")
    return clone


def write(clone: Path, name: str, text: str) -> str:
    """Commit a text as a file of a clone; return the commit."""
    (clone / name).write_text(text, encoding="utf-8")
    git(clone, "add", name)
    git(clone, "commit", "--quiet", "--allow-empty", "--message", f"release: change {name}")
    return git(clone, "rev-parse", "HEAD").strip()


def release_line(version: str, commit: str) -> str:
    """Return the lines of a release in ``releases.toml``."""
    return f'[[release]]\nversion = "{version}"\ncommit = "{commit}"\ndate = 2026-12-01\n'


def refused(checkout: Path, version: str, *options: str) -> str:
    """Return the error of a release that must not be made."""
    out = checkout.parent / "out"
    done = make_release(checkout, *OPTIONS, *options, f"--out={out}", version=version)
    assert done.returncode == 1, done.stdout
    assert not out.exists()
    return done.stderr


def test_a_version_without_a_commit(checkout: Path) -> None:
    """
    Neither a tag nor a line of releases.toml: no commit is guessed.
    """
    assert "version 9.9.9: expected a tag v9.9.9 or one of releases.toml (none)" in refused(checkout, "9.9.9")


def test_a_changed_checkout(checkout: Path) -> None:
    """
    A changed file, or a new one that git does not ignore.
    """
    for name in ("README.md", "new.py"):
        (checkout / name).write_text("changed", encoding="utf-8")
        assert "this checkout has changes" in refused(checkout, "9.9.9")
        git(checkout, "stash", "--quiet", "--include-untracked")


def test_a_commit_of_another_version(checkout: Path) -> None:
    """
    The commit that a line or a tag names has both distributions at this version, and its section in the changelog.
    """
    commit = git(checkout, "rev-parse", "HEAD").strip()
    write(checkout, "releases.toml", release_line("9.9.9", commit))
    assert "expected version 9.9.9, got" in refused(checkout, "9.9.9")
    git(checkout, "tag", "v9.9.8")
    assert "expected version 9.9.8, got" in refused(checkout, "9.9.8")


def test_a_commit_whose_changelog_is_open(checkout: Path) -> None:
    """
    The section of the version has the date of the commit.
    """
    for name in ("pyproject.toml", "verifier/pyproject.toml"):
        text = (checkout / name).read_text(encoding="utf-8")
        version = next(line for line in text.splitlines() if line.startswith("version = "))
        write(checkout, name, text.replace(version, 'version = "9.9.9"'))
    commit = write(checkout, "CHANGELOG.md", "# Changelog\n\n## 9.9.9, unreleased\n")
    write(checkout, "releases.toml", release_line("9.9.9", commit))
    assert "expected a section '9.9.9, " in refused(checkout, "9.9.9")


def test_a_name_that_moves(checkout: Path) -> None:
    """
    A branch, or an abbreviation, is no commit of a release.
    """
    for name in ("HEAD", git(checkout, "rev-parse", "--short", "HEAD").strip()):
        write(checkout, "releases.toml", release_line("9.9.9", name))
        assert f"expected the 40 digits of a commit, got '{name}'" in refused(checkout, "9.9.9")


def test_a_tag_of_another_commit(checkout: Path) -> None:
    """
    A tag and releases.toml name one commit, or there is no release.
    """
    write(checkout, "releases.toml", release_line("9.9.9", git(checkout, "rev-parse", "HEAD").strip()))
    git(checkout, "tag", "v9.9.9")
    assert "version 9.9.9: expected one commit, got" in refused(checkout, "9.9.9")


def test_a_folder_with_an_older_result(checkout: Path) -> None:
    """
    A release is made into nothing.
    """
    (checkout / "dist" / "9.9.9").mkdir(parents=True)
    done = make_release(checkout, *OPTIONS, version="9.9.9")
    assert done.returncode == 1
    assert "dist/9.9.9 exists" in done.stderr


def test_a_missing_tool(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error names what to install, and nothing is made without it.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git") or "git")
    monkeypatch.setenv("PATH", str(tools))
    assert "not installed: cosign\nhint: apt-get install" in refused(checkout, "9.9.9")


def test_two_builds_that_differ(tmp_path: Path) -> None:
    """
    A byte or a name that only one of the builds has is named.
    """
    compare = "import sys, pathlib, release; release.compare_builds(*map(pathlib.Path, sys.argv[1:]))"
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "same").write_bytes(b"1")
    command = [TOOL, "-c", compare, one, two]
    assert subprocess.run(command, cwd=ROOT / "deploy", check=False).returncode == 0
    (two / "more").write_bytes(b"")
    (two / "same").write_bytes(b"2")
    done = subprocess.run(command, cwd=ROOT / "deploy", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "two builds differ: more, same" in done.stderr
