# SPDX-License-Identifier: Apache-2.0
"""``uv.lock`` locks what ``pyproject.toml`` asks for, from the public index alone."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from tests.house.pages import ROOT

INDEX = "https://pypi.org/simple"
FILES = "files.pythonhosted.org"


def check_lock(tree: Path) -> subprocess.CompletedProcess[str]:
    """Let uv compare the lock of a tree with its two projects, without any index or cache."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "lock", "--check", "--offline", "--no-cache", "--no-config", f"--python={sys.executable}"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=60)


def copy_projects(tree: Path) -> Path:
    """Copy what uv reads."""
    for name in ("pyproject.toml", "verifier/pyproject.toml", "uv.lock"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    return tree


def test_the_lock_answers_to_both_projects(tmp_path: Path) -> None:
    """
    The committed lock is current; after a changed dependency or version it is not: run `uv lock`.
    """
    tree = copy_projects(tmp_path / "tree")
    done = check_lock(tree)
    assert done.returncode == 0, f"run `.venv/bin/uv lock`\n{done.stderr}"
    for name, old, new in (
        ("verifier/pyproject.toml", "msgspec>=0.20", "msgspec>=99"),
        ("pyproject.toml", '"rich>=15"', '"richer>=15"'),
        ("verifier/pyproject.toml", 'version = "', 'version = "9'),
    ):
        text = (tree / name).read_text(encoding="utf-8")
        assert old in text
        (tree / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        assert check_lock(tree).returncode != 0, name
        (tree / name).write_text(text, encoding="utf-8")


def test_the_lock_names_the_public_index_alone() -> None:
    """
    uv writes the address of the index that it used: no other one may be committed, and each file has its hash.
    """
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert {urlsplit(url).hostname for url in re.findall(r"https?://[^\"']+", text)} == {"pypi.org", FILES}
    for package in tomllib.loads(text)["package"]:
        source = package["source"]
        assert source in ({"registry": INDEX}, {"editable": "."}, {"editable": "verifier"}), package["name"]
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else [])]
        assert bool(files) == ("registry" in source), package["name"]
        assert all(file["hash"].startswith("sha256:") for file in files), package["name"]
        assert all(file["url"].startswith(f"https://{FILES}/packages/") for file in files), package["name"]
