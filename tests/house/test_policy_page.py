# SPDX-License-Identifier: Apache-2.0
"""docs/policy.md is the language: its tables make one policy, its commands answer what stands below them."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from arx_caps.mint.policy.model import Policy, Template
from arx_verifier.constraints.constraint import Constraint, compile_constraint, read_constraint
from arx_verifier.constraints.rule import explain
from tests.cli.helpers import arx
from tests.house.pages import ROOT, Block, blocks, matches

PAGE = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
BLOCKS = blocks(PAGE)
PAYMENTS = '[audience.payments]\norigins = ["http://127.0.0.1:9002"]\n'
TABLES = [block.text for block in BLOCKS if block.language == "toml"]
POLICY = "\n".join([PAYMENTS, *(text for text in TABLES if "[[question]]" not in text)])
[CALLS] = [block.text for block in BLOCKS if block.language == "json"]
[QUESTIONS] = [text for text in TABLES if "[[question]]" in text]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command of a block, and what it writes."""
    found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    return [(command, shown) for command, shown in found]


def test_its_tables_are_one_policy() -> None:
    """Every table of the page is accepted, all of them together."""
    policy = Policy.parse(POLICY, "policy.toml")
    assert set(policy.templates) == {"refund", "settle", "order"}
    assert set(policy.sessions) == {"support", "behalf"}
    assert len(policy.workloads) == len(policy.issuers) == 1


def test_its_commands_answer_what_it_shows(folder: Path) -> None:
    """``check``, ``explain``, ``draft``, ``gap``, ``test`` and ``diff``, on the page's own policy."""
    next_one = POLICY.replace(
        'agents = ["acme/support/*"]\nparams', 'agents = ["acme/support/*", "acme/audit"]\nparams'
    )
    next_one = next_one.replace('ttl = "10m"', 'ttl = "5m"').replace('{ range = [1, "$amount"] }', '"$amount"')
    (folder / "next.toml").write_text(next_one)
    checked, *others = [command for block in BLOCKS if block.language == "console" for command in commands(block)]
    broken = "[audience.a]\norigins = ['http://a']\n\n\n[task.refund]\nagents = ['a']\naudience = ['a']\n"
    broken += "allow = [{ tool = 'a.b', args = {} }]\nttl = 10\n"
    (folder / "policy.toml").write_text(broken)
    _run(*checked)
    (folder / "policy.toml").write_text(POLICY)
    (folder / "questions.toml").write_text(QUESTIONS)
    (folder / "calls.jsonl").write_text(CALLS)
    assert len(others) == 8
    for command, shown in others:
        _run(command, shown)


def test_objects_and_lists_are_held_as_it_says() -> None:
    """The task with ``fields`` and ``each`` allows the calls that the text below it describes, and no other."""
    granted = Policy.parse(POLICY, "policy.toml").grant("order", "acme/desk/a", {"sku": "a", "pieces": 3})
    [rule] = granted.rules["orders"]
    line = {"sku": "a", "pieces": 3, "price": 19.99}
    good = {"ship_to": {"country": "DE", "note": None}, "lines": [line]}
    assert explain(rule, good, "caveat 1") == []
    assert explain(rule, good | {"lines": [line | {"price": "19.99"}]}, "caveat 1") == []
    for wrong, says in (
        ({"ship_to": {"country": "FR"}}, 'ship_to.country must be "DE", got "FR"'),
        ({"ship_to": {"country": "DE", "to": "x"}}, "ship_to.to must be left out"),
        ({"lines": [line | {"price": 19.990000000000002}]}, 'lines[0].price must be at most "19.99"'),
        ({"lines": [line, line]}, "lines must be a list whose items satisfy"),
    ):
        [failure] = explain(rule, good | wrong, "caveat 1")
        assert str(failure).startswith(says)
        assert '`ship_to.country must be "DE", got "FR"`' in PAGE


def test_every_constraint_stands_on_it() -> None:
    """Each member that a constraint can have is on the page."""
    for name in Constraint.__struct_encode_fields__:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_every_member_of_a_task_has_a_row() -> None:
    """The table of a task's keys is all of them: the struct of a template says which there are."""
    for name in Template.__struct_encode_fields__:
        assert name == "name" or re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE), name


def _run(command: str, shown: str) -> None:
    words = shlex.split(command)
    assert words.pop(0) == "arx"
    ran = arx(*words)
    assert matches(shown, ran.out or ran.err), ran.out or ran.err


ROW = re.compile(r"\| `(\{ .+ \})` \| (.+) \| (.+) \|")
NEEDS = (ROOT / "docs" / "constraints.md").read_text(encoding="utf-8")
VALUES = re.compile(r"`([^`]+)`")


def needs() -> list[tuple[str, str, bool]]:
    """Return each value of the table of needs, with its constraint and whether it is allowed."""
    rows = re.findall(r"^\| [^|`]+ \| `(.+?)` \| (.+?) \| (.*?) ?\|$", NEEDS, re.MULTILINE)
    assert len(rows) == 23
    return [
        (constraint, value, is_allowed)
        for constraint, allowed, refused in rows
        for values, is_allowed in ((allowed, True), (refused, False))
        for value in VALUES.findall(values)
    ]


def test_what_replaces_a_regular_expression_is_a_constraint() -> None:
    """Each row of the second table is read, with its parameters."""
    table = NEEDS.partition("| you would write | write |")[2]
    written = [VALUES.findall(line.rpartition("` | ")[2]) for line in table.splitlines()[2:]]
    assert len(written) == 7
    for constraint in (each for row in written for each in row if not each.startswith('"$')):
        read_constraint(tomllib.loads(f"constraint = {constraint}")["constraint"])


def examples() -> list[tuple[str, str, bool]]:
    """Return each value of the table of constraints, with its constraint and whether it is allowed."""
    table = PAGE.partition("| constraint | allows | refuses |")[2].partition("\n\n")[0]
    rows = [found.groups() for line in table.splitlines()[2:] if (found := ROW.fullmatch(line))]
    assert len(rows) == len(table.splitlines()) - 2
    return [
        (constraint, value, is_allowed)
        for constraint, allowed, refused in rows
        for values, is_allowed in ((allowed, True), (refused, False))
        for value in re.findall(r"`([^`]+)`", values.partition(": ")[0] if not is_allowed else values)
    ]


@pytest.mark.parametrize(("constraint", "value", "is_allowed"), [*examples(), *needs()])
def test_a_constraint_decides_as_the_page_says(constraint: str, value: str, is_allowed: bool) -> None:
    """Each row of the table is what a verifier decides."""
    read = read_constraint(tomllib.loads(f"constraint = {constraint}")["constraint"])
    assert compile_constraint(read)(json.loads(value)) is is_allowed
