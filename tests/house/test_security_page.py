# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md: each row of its tables names tests that exist, or says what is not held."""

import re

import pytest

from tests.house.pages import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[([a-z0-9 ]+)\]\((tests/[\w/]+\.py)\)")
LINKS = re.compile(rf"{LINK.pattern}(, {LINK.pattern})*")
TABLES = {"spoofing": 7, "what is held": 3, "requires": 3}  # by the second column; how many columns


def rows(second: str) -> list[list[str]]:
    """Return the rows of the table with this second column."""
    _, _, after = PAGE.partition(f"| {second} |")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("second", TABLES)
def test_each_row_has_a_test_or_says_that_it_is_not_held(second: str) -> None:
    """
    A cell for tests has links to them and nothing else, or begins with "not held".
    """
    table = rows(second)
    assert len(table) >= 10
    for row in table:
        assert len(row) == TABLES[second], row
        for cell in row[1:] if second == "spoofing" else row[-1:]:
            assert LINKS.fullmatch(cell) or cell.split(":")[0].startswith("not held"), (row[0], cell)


def test_each_named_test_exists() -> None:
    """
    A link leads to a file with a test, under the name that the file has.
    """
    named = LINK.findall(PAGE)
    assert named
    for name, path in named:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert "def test_" in text, path
        assert name == path.rpartition("/")[2].removeprefix("test_").removesuffix(".py").replace("_", " ")


def test_all_ten_items_are_there() -> None:
    """
    The list of ten has ten rows, in order.
    """
    assert [row[0][:5] for row in rows("what is held")] == [f"ASI{number:02}" for number in range(1, 11)]
