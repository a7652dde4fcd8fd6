# SPDX-License-Identifier: Apache-2.0
"""The form of the pages: how each begins, and how long its lines are."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.pages import ROOT

COLUMNS = 100
OTHERWISE = {"CHANGELOG.md"}  # written line by line


def pages() -> list[str]:
    """Return the names of all pages of this form."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return [
        name
        for name in listed.stdout.splitlines()
        if name not in OTHERWISE and not name.startswith("tests/vectors/libmacaroons")
    ]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of prose with their numbers: no table, no code, no figures that a command writes."""
    fenced = written = False
    for number, line in enumerate(text.splitlines(), start=1):
        fenced ^= line.startswith("```")
        written = (written or re.match(r"<!-- .*: begin", line) is not None) and not line.endswith(": end -->")
        if not fenced and not written and not line.startswith(("|", "<!--", "    ")):
            yield number, line


@pytest.mark.parametrize("name", pages())
def test_lines_end_within_the_columns(name: str) -> None:
    """
    A line of prose has at most 100 columns, but for one that a link or a name alone makes longer.
    """
    for number, line in prose((ROOT / name).read_text(encoding="utf-8")):
        alone = " " not in re.sub(r"!?\[[^\]]*\]\([^)]*\)|`[^`]*`", "_", line.strip().removeprefix("- "))
        assert len(line) <= COLUMNS or alone, f"{name}:{number}: wrap this line at the end of a sentence"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_a_page_opens_with_its_readers(path: Path) -> None:
    """
    The first paragraph of a page names its readers, and what they have at the end.
    """
    first = re.sub(r"<!--.*?-->\n+", "", path.read_text(encoding="utf-8")).split("\n\n")[1]
    assert first.startswith("For "), first
    assert "At the end of this page" in first.replace("\n", " "), first
