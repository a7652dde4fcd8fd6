# SPDX-License-Identifier: Apache-2.0
"""Each rule of the specification has a test, and the matrix, a page of the site, names them."""

import re

from tests.house.matrix import marks, matrix, page
from tests.house.pages import ROOT
from tests.house.sections import DOCUMENTS, known, sections

WITHOUT = {  # sections that state no rule of their own, and why
    "SPEC 1": "states goals, which the rules of all other sections serve",
}


def test_each_mark_names_a_section() -> None:
    """
    A mark `spec` names sections that exist, and is on a test of `tests`.
    """
    cited = {
        (path.name, test, section)
        for path in (ROOT / "tests").rglob("test_*.py")
        for test, named in marks(path)
        for section in named
    }
    assert len(cited) > 500
    assert sorted(each for each in cited if each[2] not in known()) == []


def test_each_rule_has_a_test() -> None:
    """
    Every section without sections below it has a test, an advisory or a vector, unless a reason is given.
    """
    found = matrix()
    rules = [
        f"{document} {number}"
        for document in DOCUMENTS
        for number in sections(document)
        if not any(other.startswith(f"{number}.") for other in sections(document))
    ]
    assert {rule for rule in rules if not found.get(rule)} == set(WITHOUT)


def test_the_page_names_the_tests_of_each_section() -> None:
    """
    The page has one row for each section, in order, with files of tests that exist.
    """
    rows = re.findall(r"^\| (\d[\d.]*) \| .+ \| (.*) \|$", page(), re.MULTILINE)
    assert [number for number, _ in rows] == [number for document in DOCUMENTS for number in sections(document)]
    named = {name for _, tests in rows for name in re.findall(r"`(\S+)` \d+", tests)}
    assert "house/test_spec" in named
    assert [name for name in sorted(named) if not (ROOT / "tests" / f"{name}.py").is_file()] == []
