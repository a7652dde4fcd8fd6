# SPDX-License-Identifier: Apache-2.0
"""The table in ``tests/advisories/README.md`` lists every advisory, with its weakness, CWE number and rule."""

import ast
import re
from typing import NamedTuple

from tests.house.pages import ROOT
from tests.house.sections import citations, known

FOLDER = ROOT / "tests" / "advisories"
ROW = re.compile(
    r"\| (?P<area>[^|]+) \| \[(?P<name>[^]]+)\]\((?P<file>[^)]+)\) "
    r"\| (?P<weakness>.+) \| (?P<cwe>[^ |]+) \| (?P<rule>[^|]+) \|"
)
PAGE = re.compile(r"\[(?P<shown>[\w./]+)\]\(\.\./\.\./(?P<path>[\w./]+)\)")


class Row(NamedTuple):
    """A row of the table."""

    area: str
    name: str
    file: str
    weakness: str
    cwe: str
    rule: str


def rows() -> list[Row]:
    """Return the rows of the table; a line of it that is no row is an error."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    lines = text.partition("| --- | --- | --- | --- | --- |\n")[2].splitlines()
    matched = [ROW.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, matched, strict=True) if not match] == []
    return [Row(**match.groupdict()) for match in matched if match]


def test_each_advisory_is_listed_once() -> None:
    """Each file has one row, each row has its file, and the rows are sorted by area and file."""
    table = rows()
    assert sorted(row.file for row in table) == sorted(path.name for path in FOLDER.glob("test_*.py"))
    assert [(row.area, row.file) for row in table] == sorted((row.area, row.file) for row in table)
    assert [row.name for row in table] == [row.file[5:-3].replace("_", " ") for row in table]


def test_each_row_has_the_first_line_of_its_file() -> None:
    """The table and the docstring state one weakness in the same words."""
    for row in rows():
        docstring = ast.get_docstring(ast.parse((FOLDER / row.file).read_text(encoding="utf-8")))
        assert docstring, row.file
        assert row.weakness == docstring.splitlines()[0].replace("``", "`"), row.file


def test_each_row_cites_what_exists() -> None:
    """A row has a CWE number, and either sections of the specification or a page of the documentation."""
    for row in rows():
        assert re.fullmatch(r"CWE-\d+", row.cwe), row.file
        cited = [*citations(row.rule)]
        if cited:
            assert set(cited) <= known(), row.file
            assert re.sub(r"(SPEC|LOG|CONTROL) |[\d.]+", "", row.rule) == ", " * (len(cited) - 1), row.file
            continue
        page = PAGE.fullmatch(row.rule)
        assert page, row.file
        assert page["shown"] == page["path"], row.file
        assert (ROOT / page["path"]).is_file(), row.file
