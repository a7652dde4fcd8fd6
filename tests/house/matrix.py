# SPDX-License-Identifier: Apache-2.0
"""The tests of each section of the specification, a page of the site; ``python -m tests.house.matrix`` writes it.

A test names its sections with ``@pytest.mark.spec("6.8", "LOG 1.10")``, a file for all its tests with ``pytestmark``.
The mark that is closest to a test counts.  An advisory is a test of the rule that the table of the advisories names for
it, and a vector one of the section in its ``spec``.
"""

import ast
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.house.pages import ROOT
from tests.house.sections import DOCUMENTS, citations, sections

PAGE: Final = ROOT / "build" / "matrix.md"
_HEAD: Final = """# Sections and their tests

For developers who change a rule, and for reviewers who ask what holds it.
The numbers count tests of a file, advisories and vectors.
This page is made from the marks `spec` of the tests, the
[table of advisories](../../tests/advisories/README.md) and the vectors.
"""
# The folders of the vectors of SPEC.
FAMILIES: Final = ("tokens", "records", "requests", "epochs", "json", "problems", "signing")
_WIDTH: Final = 80  # characters of a rule's beginning


def full(section: str) -> str:
    """Return a section as it is cited: of SPEC, a mark and a vector have the number alone."""
    return section if " " in section else f"SPEC {section}"


def matrix() -> dict[str, Counter[str]]:
    """Return for each section, as it is cited, the number of its tests by file."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for name, section in (*_marked(), *_advised(), *(("vectors", section) for _, section in vectors())):
        found[section][name] += 1
    return found


@functools.cache
def marks(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Return each test of a file with the sections that its closest mark names.

    Raises:
        AssertionError: A mark has an argument that is no literal text.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole: tuple[str, ...] = ()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            whole = tuple(_sections_of(node.value))
    found = []
    for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                own = [section for mark in node.decorator_list for section in _sections_of(mark)]
                found.append((node.name, tuple(own) or whole))
    return found


def _sections_of(mark: ast.expr) -> Iterator[str]:
    for node in ast.walk(mark):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "spec":
            for argument in node.args:
                assert isinstance(argument, ast.Constant), ast.unparse(node)
                yield full(argument.value)


def _marked() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT / "tests").with_suffix("").as_posix()
        for _, cited in marks(path):
            yield from ((name, section) for section in cited)


def _advised() -> Iterator[tuple[str, str]]:
    table = (ROOT / "tests" / "advisories" / "README.md").read_text(encoding="utf-8")
    for rule in re.findall(r"^\| .* \| CWE-\d+ \| ([^|]+) \|$", table, re.MULTILINE):
        yield from (("advisories", section) for section in citations(rule))


def vectors() -> Iterator[tuple[str, str]]:
    """Yield the file and the section of each vector."""
    folder = ROOT / "tests" / "vectors"
    found = (path for name in FAMILIES for path in folder.glob(f"{name}/*.json"))
    for path in (*found, folder / "log" / "proofs.json"):
        read: Any = json.loads(path.read_bytes())
        yield from ((path.name, full(case["spec"])) for case in (read if isinstance(read, list) else [read]))


def beginning(text: str) -> str:
    """Return a chapter's title, or the beginning of a section's first sentence."""
    first = " ".join(re.sub(r"^(?:## )?[\d.]+ ", "", text).partition("\n\n")[0].split())
    if text.startswith("## "):
        return re.sub(r"^## [\d.]+ ", "", text).partition("\n")[0]
    sentence = re.split(r"(?<=[^.\d]\.)\s", first)[0]
    if len(sentence) > _WIDTH:
        sentence = sentence[:_WIDTH].rpartition(" ")[0]
        sentence = (sentence.rpartition("`")[0] if sentence.count("`") % 2 else sentence).rstrip(" ,(") + " …"
    return re.sub(r"\*+([^*\s][^*]*)\*+", r"\1", sentence.rstrip(".")).replace("|", "\\|")


def page() -> str:
    """Return the text of the page."""
    found = matrix()
    lines = [_HEAD]
    for document in DOCUMENTS:
        lines += [f"## {document}\n", "| section | rule | tests |", "| --- | --- | --- |"]
        for number, text in sections(document).items():
            tests = sorted(found[f"{document} {number}"].items())
            shown = ", ".join(f"`{name}` {times}" if "/" in name else f"{name} {times}" for name, times in tests)
            title = f"**{beginning(text)}**" if text.startswith("## ") else beginning(text)
            lines.append(f"| {number} | {title} | {shown} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
