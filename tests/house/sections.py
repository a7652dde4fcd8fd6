# SPDX-License-Identifier: Apache-2.0
"""The sections of the specification's documents, and citations of them such as SPEC 6.8 and LOG 1.10."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.house.pages import ROOT

# The files of each document: the first, and those of its sections that are files of their own.
DOCUMENTS: Final = {
    "SPEC": [ROOT / "verifier" / name for name in ("SPEC.md", "BUDGETS.md", "MEMORY.md")],
    "LOG": [ROOT / "docs" / "spec" / "LOG.md"],
    "CONTROL": [ROOT / "docs" / "spec" / name for name in ("CONTROL.md", "OAUTH.md")],
}
_NUMBER: Final = r"\d{1,2}(?:\.\d{1,2})?(?!\.?\d)"
_LIST: Final = rf"{_NUMBER}(?:(?:, and |, | and | or | to |-){_NUMBER})*"
_CITED: Final = re.compile(rf"\b({'|'.join(DOCUMENTS)})\s+({_LIST})")
_BEGINS: Final = re.compile(r"^(?:## (?=\d+\. )|(?=\d+\.\d+ ))(\d+(?:\.\d+)?)", re.MULTILINE)
# A number without a document's name: in parentheses, after "section", or where a sentence names a rule.
_OTHERS: Final = re.compile(r"(?:RFC \d+|OpenAPI|HTTP/?|version) \d[\d.]*(?:(?:,| and) \d[\d.]*)*")
_BARE: Final = re.compile(rf"(?<=section ){_NUMBER}|(?<![\w./-])\d{{1,2}}\.\d{{1,2}}(?![\w.]*\d)")


@cache
def sections(document: str) -> dict[str, str]:
    """Return the text of each numbered section of a document, by its number, such as 6 and 6.8.

    Args:
        document: ``SPEC``, ``LOG`` or ``CONTROL``.
    """
    main, *others = DOCUMENTS[document]
    apart = {path: _sections_of(path) for path in others}
    found = {}
    for number, text in _sections_of(main).items():
        files = [path for path, part in apart.items() if number in part]
        assert all(f"]({path.name})" in text for path in files), f"{document} {number}: link to its file"
        found.update(apart.pop(files[0]) if files else {number: text})
    assert not apart, f"{document}: no section links to {[*apart]}"
    return found


def _sections_of(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8").partition("\n## Appendix")[0]
    begins = [*_BEGINS.finditer(text)]
    ends = [match.start() for match in begins[1:]] + [len(text)]
    return {match[1]: text[match.start() : end] for match, end in zip(begins, ends, strict=True)}


def chapter(document: str, number: int) -> str:
    """Return a whole chapter of a document: the section of that number, and those below it."""
    parts = [text for name, text in sections(document).items() if name.partition(".")[0] == str(number)]
    assert parts, f"{document} has no section {number}"
    return "".join(parts)


def known() -> set[str]:
    """Return every section as it is cited, such as ``SPEC 6.8``."""
    return {f"{document} {number}" for document in DOCUMENTS for number in sections(document)}


def citations(text: str) -> Iterator[str]:
    """Yield each section that a text cites by its document's name, also in a list; of a range, both its ends."""
    for match in _CITED.finditer(text):
        yield from (f"{match[1]} {number}" for number in re.findall(_NUMBER, match[2]))


def own_citations(document: str) -> Iterator[str]:
    """Yield each section of its own that a document cites by the number alone."""
    for text in sections(document).values():
        rest = _OTHERS.sub("", _CITED.sub("", _BEGINS.sub("", text)))
        yield from (f"{document} {match[0]}" for match in _BARE.finditer(rest))
