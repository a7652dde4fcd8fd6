# SPDX-License-Identifier: Apache-2.0
"""The map of the house: its rooms, of the package graph, and the files that answer a newcomer's questions."""

import ast
import functools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.house.pages import ROOT
from tests.house.test_package_graph import AUDIT_ORDER, CAPS, CAPS_IMPORTS, MINT_ORDER, VERIFIER, VERIFIER_ORDER

QUESTIONS: Final[list[dict[str, Any]]] = tomllib.loads(
    (ROOT / "tests" / "house" / "questions.toml").read_text(encoding="utf-8")
)["question"]
# Words of a question that name nothing.
_STOP: Final = frozenset(
    "a an and any are as at be by can does each for from how in into is it its of on one or our that the their they "
    "this to two what when where which who with".split()
)


def packages_in(folder: Path) -> list[str]:
    """Return the names of the packages in a package, in the order of the alphabet."""
    return sorted(path.parent.name for path in folder.glob("[a-z]*/__init__.py"))


def _rooms() -> Iterator[tuple[Path, list[str]]]:
    """Yield the packages that have rooms, with these: the lowest first where the graph has an order."""
    yield VERIFIER, [room for room in VERIFIER_ORDER if not room.startswith("_")]
    yield CAPS, [room for room in CAPS_IMPORTS if not room.startswith("_")]
    orders = {"audit": AUDIT_ORDER, "mint": MINT_ORDER}
    for folder in (VERIFIER, CAPS):
        for room in packages_in(folder):
            if inner := packages_in(folder / room):
                yield folder / room, orders.get(room, inner)


ROOMS: Final[dict[Path, list[str]]] = dict(_rooms())


def file_of(folder: Path, room: str) -> Path:
    """Return the file whose docstring says what is in a room: a module, or the ``__init__.py`` of a package."""
    return path if (path := folder / f"{room}.py").is_file() else folder / room / "__init__.py"


@functools.cache
def docstring(path: Path) -> str:
    """Return the docstring of a module."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def rooms(folder: Path) -> Iterator[str]:
    """Yield a row for each room of a package: its name, and the first line of its docstring."""
    yield from ("| room | has |", "| --- | --- |")
    for room in ROOMS[folder]:
        line = docstring(file_of(folder, room)).partition("\n")[0]
        yield f"| `{room}` | {line.rstrip('.').replace('``', '`')} |"


def answers() -> Iterator[str]:
    """Yield a row for each question, with the files that answer it."""
    yield from ("| question | file |", "| --- | --- |")
    for question in QUESTIONS:
        for place in question["places"]:
            assert (ROOT / place).is_file(), f"tests/house/questions.toml: {place} is not a file"
        files = ", ".join(f"`{place.removeprefix('verifier/')}`" for place in question["places"])
        yield f"| {question['ask']} | {files} |"


def words_of(text: str) -> Counter[str]:
    """Return the words of a text in lower case, without their endings, and how often each is in it."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return Counter(
        re.sub(r"(?<=...)(ate[ds]?|ating|ations?|ions?|ing|ed|es|s|e|y)$", "", word)
        for word in words
        if word not in _STOP
    )


@functools.cache
def _index() -> tuple[dict[Path, Counter[str]], Counter[str]]:
    """Return the words that lead to each module, and in how many modules each word is.

    They are the words of its path, twice as much as others, and of its docstring.
    """
    leads = {}
    for path in (*VERIFIER.rglob("*.py"), *CAPS.rglob("*.py")):
        name = words_of(str(path.relative_to(ROOT).with_suffix("")))
        leads[path] = words_of(docstring(path)) + name + name
    return leads, Counter(word for words in leads.values() for word in words)


def found_by(ask: str) -> list[Path]:
    """Return all modules, first those to which the rarest and most words of a question lead."""
    leads, known = _index()
    asked = words_of(ask)
    weight = {word: math.log(len(leads) / known[word]) for word in asked if word in known}
    scores = {
        path: sum(weight[word] * (1 + 0.5 * min(words[word] - 1, 2)) for word in weight if word in words)
        / (3 + math.log(1 + words.total()))
        for path, words in leads.items()
    }
    return sorted(scores, key=lambda path: (-scores[path], path))
