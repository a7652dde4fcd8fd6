# SPDX-License-Identifier: Apache-2.0
"""Each rule of the specification has a test, and docs/spec/matrix.md names them."""

from tests.house.matrix import PAGE, marks, matrix, page
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


def test_the_page_is_current() -> None:
    """
    ``python -m tests.house.matrix`` would not change docs/spec/matrix.md.
    """
    assert PAGE.read_text(encoding="utf-8") == page()
