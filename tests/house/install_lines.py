# SPDX-License-Identifier: Apache-2.0
"""Install by each line of the pages that installs ARx: ``python -m tests.house.install_lines``.

Each distinct line has an environment of its own, made and removed; uv takes the words that the page gives pip.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PROJECTS: Final = {".": ROOT, "./verifier": ROOT / "verifier"}
# A line in a block, or a command in a sentence.
LINE: Final = re.compile(r"^pip install (?P<block>.+)$|`pip install (?P<text>[^`]+)`", re.MULTILINE)
# A cell of a table of adapters.
CELL: Final = re.compile(r"`'(\.(?:/verifier)?\[[^\]]+\])'`")


def pages() -> Iterator[Path]:
    """Return the pages that readers type from; decision records are history."""
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md"))
    yield from (page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "decisions")


def install_words(text: str) -> Iterator[list[str]]:
    """Return the words after ``pip install`` of each line and table cell of a page."""
    for found in LINE.finditer(text):
        yield shlex.split(found["block"] or found["text"], comments=True)
    for cell in CELL.findall(text):
        yield [cell]


def project_of(word: str) -> tuple[str, set[str]]:
    """Split ``./verifier[flask]`` into its project and its extras."""
    project, _, extras = word.removesuffix("]").partition("[")
    return project, set(filter(None, extras.split(",")))


def extras_of(project: str) -> set[str]:
    """Return the extras that a project of the repository declares."""
    read = tomllib.loads((PROJECTS[project] / "pyproject.toml").read_text(encoding="utf-8"))
    return set(read["project"].get("optional-dependencies", {}))


def _installs(words: tuple[str, ...]) -> bool:
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/env/bin/python"
        made = [uv, "venv", "--quiet", f"--python={sys.executable}", f"{folder}/env"]
        subprocess.run(made, check=True)
        install = [uv, "pip", "install", "--quiet", f"--python={python}", *words]
        done = subprocess.run(install, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            probe = [python, "-c", "import arx_verifier"]
            done = subprocess.run(probe, cwd=folder, capture_output=True, text=True, check=False)
    sys.stdout.write(f"pip install {shlex.join(words)}: {'installed' if done.returncode == 0 else done.stderr}\n")
    return done.returncode == 0


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A line did not install.
    """
    lines = {tuple(words) for page in pages() for words in install_words(page.read_text(encoding="utf-8"))}
    ours = sorted(words for words in lines if any(project_of(word)[0] in PROJECTS for word in words))
    with ThreadPoolExecutor(2) as pool:
        failed = list(pool.map(_installs, ours)).count(False)
    sys.stdout.write(f"{len(ours) - failed} passed, {failed} failed\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
