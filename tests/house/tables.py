# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the pages that say what code says: ``python -m tests.house.tables``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.  The texts come from docstrings and from
the rows of ``REASONS``, so that a new member or code changes no page by hand.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

import arx_caps.service
import arx_verifier.testing
from arx_caps.mint.policy.tables import Template
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.errors import REASONS
from tests.house.pages import ROOT

_TABLE: Final = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def attributes(kind: type) -> dict[str, str]:
    """Return the texts of ``Attributes:`` in a class's docstring, by attribute."""
    part = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", part, re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".").replace("``", "`") for name, text in found}


def members(kind: type) -> Iterator[str]:
    """Yield a row for each member of a struct but its name, as a file or a token writes it."""
    told = attributes(kind)
    for field, written in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):  # type: ignore[attr-defined]
        if field != "name":
            yield f"| `{written}` | {told[field][0].lower()}{told[field][1:]} |"


def task() -> Iterator[str]:
    """Yield the members of a task template."""
    yield from ("| key | says |", "| --- | --- |", *members(Template))


def constraints() -> Iterator[str]:
    """Yield the members of a constraint."""
    yield from ("| member | the argument is |", "| --- | --- |", *members(Constraint))


def reasons() -> Iterator[str]:
    """Yield every reason code."""
    yield from ("| code | HTTP | means | try again |", "| --- | --- | --- | --- |")
    for code, reason in REASONS.items():
        yield f"| `{code}` | {reason.status} | {reason.meaning} | {reason.retry} |"


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module exports, or the classes that it defines; no name with underscores."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return sorted(name for name in getattr(module, "__all__", own) if not name.startswith("_"))


def names(module: ModuleType) -> Iterator[str]:
    """Yield a row for each public name of a module."""
    yield from ("| name | is |", "| --- | --- |")
    for name in public_names(module):
        summary = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")[0]
        yield f"| `{name}` | {' '.join(summary.split()).rstrip('.').replace('``', '`')} |"


TABLES: Final[dict[str, Callable[[], Iterator[str]]]] = {
    **{each.__name__: each for each in (task, constraints, reasons)},
    "verifier_names": partial(names, arx_verifier),
    "testing_names": partial(names, arx_verifier.testing),
    "agent_names": partial(names, arx_caps),
    "service_names": partial(names, arx_caps.service),
}


def pages() -> dict[Path, str]:
    """Return each page of ``docs`` that has such a table, with its tables as they should be."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
    return {path: _TABLE.sub(_filled, text) for path, text in texts.items() if _TABLE.search(text)}


def _filled(match: re.Match[str]) -> str:
    return match[1] + match[2] + "".join(f"{row}\n" for row in TABLES[match[1]]())


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
