# SPDX-License-Identifier: Apache-2.0
"""Write tests/vectors/tables.json, the tables of SPEC as data: ``python -m tests.vectors.spec_tables``.

Reason codes, limits, members, periods of budgets and the texts for models, as each implementation needs them.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from tests.house.sections import chapter, sections

FILE: Final = Path(__file__).parent / "tables.json"
_MS: Final = {"ms": 1, "s": 1000, "h": 3_600_000, "days": 86_400_000}


def tables() -> dict[str, Any]:
    """Return all tables by name."""
    return {"reasons": reasons(), "limits": limits(), "members": members(), "budgets": budgets(), "texts": texts()}


def rows(number: str, *head: str) -> list[list[str]]:
    """Return the cells of a table of SPEC, without the marks of code.

    Args:
        number: The section, such as ``13``.
        head: The first cells of the table's head.

    Raises:
        AssertionError: The section has no such table, or more than one.
    """
    text = chapter("SPEC", int(number)) if "." not in number else sections("SPEC")[number]
    found = re.findall(rf"^\| {re.escape(' | '.join(head))} \|.*\n\|[ |-]*\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert len(found) == 1, f"SPEC {number}: expected one table with {head}, got {len(found)}"
    cells = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in found[0].splitlines()]
    return [[cell.replace("\\|", "|") for cell in row] for row in cells]


def reasons() -> list[dict[str, Any]]:
    """Return the reason codes of SPEC 13 in their order; None where the table has a dash."""
    return [
        {
            "code": _plain(code),
            "status": int(status),
            "oauth_error": None if error == "–" else error,
            "retry": retry,
            "example": None if example == "–" else _plain(example),
        }
        for code, status, error, retry, example in rows("13", "code", "HTTP", "RFC 6750 error", "retry", "example")
    ]


def limits() -> dict[str, dict[str, Any]]:
    """Return the limits of SPEC 14 by name: a value and its unit, times in ms."""
    return {_plain(name): _amount(value) for name, value, _ in rows("14", "name", "limit")}


def members() -> dict[str, Any]:
    """Return the members of everything that a verifier or a holder reads, by what they are members of."""
    service_file = rows("15.2", "member", "value", "without it")
    return {
        "identifier": _names(rows("4.1", "member", "type")),
        "caveat": _names(rows("6.1", "member", "value")),
        "caveat_not_in_discharge": _sentence("6.6", "a holder can write this member too."),
        "third_party": _sentence("6.4", "is canonical JSON."),
        "rule": re.findall(r'"(\w+)":', _one(sections("SPEC")["7.1"], r"A rule is `(.*?)`\.")),
        "constraint": _names(rows("7.2", "member", "operand")) + re.findall(r"(?m)^- `(\w+)`", sections("SPEC")["7.3"]),
        "url": _sentence("7.3", "`url`:"),
        "bundle": _names(rows("15.1", "member", "value")),
        "service_file": _names(service_file),
        "service_file_required": _names([row for row in service_file if row[2] == "–"]),
        "variables": _names(rows("15.2", "variable", "has")),
        "record": _arrays("12.3"),
        "stamp": _arrays("18.2"),
    }


def budgets() -> dict[str, Any]:
    """Return the periods of pools in ms, None for one without an end, and the units that SPEC 17.1 defines."""
    lengths = {_plain(per): re.search(r"([\d ]+) ms", period) for per, period in rows("17.1", "per", "period")}
    periods = {per: None if length is None else _number(length[1]) for per, length in lengths.items()}
    return {"periods": periods, "units": _names(rows("17.1", "unit", "counts"))}


def texts() -> dict[str, dict[str, str]]:
    """Return the texts for models of SPEC 19."""
    named = {
        "advice": rows("19.2", "retry", "advice"),
        "ended": rows("19.2", "code", "text"),
        "why": rows("19.2", "code", "why"),
        "meaning": rows("19.3", "code", "meaning"),
        "rule": rows("19.4", "rule", "begins"),
        "argument": rows("19.4", "member", "begins"),
    }
    return {name: {_plain(word): text for word, text in table} for name, table in named.items()}


def page() -> str:
    """Return the text of the file."""
    return json.dumps(tables(), indent=1, ensure_ascii=False) + "\n"


def _plain(cell: str) -> str:
    return cell.strip("`")


def _names(table: list[list[str]]) -> list[str]:
    """Return the names in the first cells, each once: one cell may have several, and `each` has two rows."""
    return [*dict.fromkeys(name for row in table for name in re.findall(r"`(\w+)`", row[0]))]


def _sentence(number: str, before: str) -> list[str]:
    """Return the members that a sentence of a section names: the one behind a text."""
    text = " ".join(sections("SPEC")[number].split())
    names = re.findall(r"`(\w+)`", _one(text, rf"{re.escape(before)} (.*?)\.(?: |$)"))
    return [name for name in names if name != "malformed"]


def _one(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, f"SPEC has no text of the form {pattern}"
    return match[1]


def _number(text: str) -> int:
    """Return a number such as ``7 168``, ``2^24`` and ``2^53-1``."""
    power = re.fullmatch(r"(\d+)\^(\d+)(-1)?", text)
    return int(text.replace(" ", "")) if power is None else int(power[1]) ** int(power[2]) + int(power[3] or 0)


def _amount(text: str) -> dict[str, Any]:
    """Return the value and the unit of a limit, such as ``24 h 60 s``, ``2^53-1`` and ``7 168 characters``."""
    parts = re.findall(r"([\d^-]+(?: \d{3})*)(?: ([a-z]+))?", text)
    assert " ".join(" ".join(filter(None, part)) for part in parts) == text, text
    if parts[0][1] in _MS:
        return {"value": sum(_number(count) * _MS[unit] for count, unit in parts), "unit": "ms"}
    [(count, unit)] = parts
    return {"value": _number(count), "unit": unit or None}


def _arrays(number: str) -> dict[str, list[str]]:
    """Return the positions of each array that a section writes as ``name = [first, [second…]]``."""
    block = _one(sections("SPEC")[number], r"(?s)```\n(.*?)```")
    joined = re.sub(r"\n(?!\w+ +=)", " ", block)
    found = {}
    for name, array in re.findall(r"(\w+) += (.*?)(?=\n| {2,}\w+ +=|$)", joined):
        inner = _one(" ".join(array.split()), r"\[(.*?)\](?: (?:of|$)|$)")
        found[name] = re.split(r", (?![^\[]*\])", inner)
    return found


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
