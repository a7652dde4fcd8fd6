# SPDX-License-Identifier: Apache-2.0
"""Private data, untrusted data and a tool that sends do not meet in one session: descriptions, check and preset."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.cli.commands.policy.ways_out import WayOut, ways_out
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.marks import rows_of
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import SettingsError
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.token.caveats import MAX_ROW_ITEMS
from tests.cli.helpers import arx
from tests.mint.harness import open_unit
from tests.mint.test_mark_rows import get, refund, with_rows
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import Shop

TOOLS = """
[tool."web.*"]
returns = "untrusted"
[tool."crm.read"]
returns = ["private"]
[tool."mail.send"]
sends = true
[tool."calc.add"]
"""
PLACES = "".join(
    f'[audience.{name}]\norigins = ["http://127.0.0.1:{port}"]\n'
    for port, name in enumerate(("web", "crm", "mail", "calc"), 9001)
)
PRESET = 'preset = "no-exfiltration"\n'
ALL = ("web.get", "crm.read", "mail.send")
ROWS = {
    "marks": (("call", "untrusted", "session", ("web.get",)), ("call", "private", "session", ("crm.read",))),
    "after": ((("untrusted", "private"), ("mail.send",)),),
}


def task(name: str, *tools: str, rows: str = "", agents: str = "acme/desk") -> str:
    """A template that allows tools."""
    audiences = sorted({tool.partition(".")[0] for tool in tools})
    allow = ", ".join(f'{{ tool = "{tool}", any = true }}' for tool in tools)
    head = f'[task.{name}]\nagents = ["{agents}"]\nttl = "1h"\naudience = {json.dumps(audiences)}\n'
    return f"{head}{rows}allow = [{allow}]\n"


def policy(*tasks: str, tools: str = TOOLS) -> Policy:
    """A policy with templates and descriptions."""
    return Policy.parse(PLACES + tools + "".join(tasks), "policy.toml")


def found(*tasks: str) -> list[WayOut]:
    """The ways out of a policy."""
    return ways_out(policy(*tasks).document)


def test_a_task_in_which_the_three_meet_is_found_with_the_rows_that_end_it() -> None:
    """The printed entries are rows of the language, and with them there is no way out."""
    [way] = found(task("support", *ALL))
    assert (way.task, way.sends) == ("support", ("mail.send",))
    assert (way.untrusted, way.private) == ({"support": ["web.get"]}, {"support": ["crm.read"]})
    printed = way.text().partition("[task.support]\n")[2]
    assert rows_of(policy(task("support", *ALL, rows=f"{printed}\n")).templates["support"]) == ROWS
    assert found(task("support", *ALL, rows=f"{printed}\n")) == []


def test_two_of_the_three_are_no_way_out() -> None:
    """Each of them is needed."""
    for left in ALL:
        assert found(task("support", *(tool for tool in ALL if tool != left))) == []


def test_the_tasks_of_one_agent_are_one_session() -> None:
    """What one task reads another one sends; the tasks of other agents are of other sessions."""
    reads = task("reads", "web.get", "crm.read", agents="acme/*")
    [way] = found(reads, task("sends", "mail.send"))
    assert (way.task, way.untrusted, list(way.rows)) == ("sends", {"reads": ["web.get"]}, ["reads", "sends"])
    assert found(reads, task("sends", "mail.send", agents="acme/other/desk")) == []


@pytest.mark.parametrize(
    ("rows", "is_guarded"),
    [
        ('after = [{ mark = "m", tools = ["mail.*"] }]\nmarks = [{ tools = ["web.*"], set = "m" }]\n', True),
        ('after = [{ mark = "m", tools = ["mail.*"] }]\nmarks = [{ tools = ["web.put"], set = "m" }]\n', None),
        ('after = [{ mark = "m", tools = ["mail.*"] }]\nmarks = [{ tools = ["mail.send"], set = "m" }]\n', False),
        ('after = [{ mark = "m", tools = ["crm.*"] }]\nmarks = [{ tools = ["web.*"], set = "m" }]\n', False),
        (
            'after = [{ mark = "m", tools = ["mail.*"] }]\nmarks = [{ tools = ["web.*"], set = "m", per = "task" }]\n',
            False,
        ),
    ],
)
def test_a_row_between_them_counts_by_what_it_does(rows: str, is_guarded: bool | None) -> None:
    """A row of any name that is set by all that reads one kind; not one of other tools, or of the task alone."""
    tools = (*ALL, "web.put") if is_guarded is None else ALL
    assert (found(task("support", *tools, rows=rows)) == []) is bool(is_guarded)


def test_the_preset_writes_the_rows() -> None:
    """Beside those of the template; a comparison has them."""
    own = 'marks = [{ tools = ["crm.read"], set = "seen" }]\n'
    with_preset = policy(task("support", *ALL, "calc.add", rows=PRESET + own))
    rows = rows_of(with_preset.templates["support"])
    assert rows == ROWS | {"marks": (("call", "seen", "session", ("crm.read",)), *ROWS["marks"])}
    assert ways_out(with_preset.document) == []
    differences = compare(policy(task("support", *ALL, "calc.add", rows=own)), with_preset)
    assert [(each.kind, each.member) for each in differences] == [
        ("changed", "marks"),
        ("changed", "marks"),
        ("no longer granted", "after"),
        ("changed", "preset"),
    ]


def test_the_preset_names_every_tool_in_rows_of_32() -> None:
    """A template may allow more tools than a row has."""
    sends = [f"mail.send{number}" for number in range(MAX_ROW_ITEMS + 1)]
    described = TOOLS + "".join(f'[tool."{tool}"]\nsends = true\n' for tool in sends)
    template = policy(task("support", *ALL, *sends, rows=PRESET), tools=described).templates["support"]
    parts = [tools for _, tools in rows_of(template)["after"]]
    assert [len(part) for part in parts] == [MAX_ROW_ITEMS, 2]
    assert {tool for part in parts for tool in part} == {"mail.send", *sends}


def test_a_description_is_of_a_comparison() -> None:
    """Another reader than the check may go by it."""
    other = policy(task("support", *ALL), tools=TOOLS.replace("sends = true", "sends = false"))
    assert [(each.place, each.member) for each in compare(policy(task("support", *ALL)), other)] == [
        ("tool mail.send", "sends")
    ]


@pytest.mark.parametrize(
    ("allowed", "tools", "why"),
    [
        (("web.get", "crm.write"), TOOLS, r'allow\[2\]: .* add \[tool."crm.write"\]'),
        (("web.get", "crm.*"), TOOLS, r'add \[tool."crm.\*"\]'),
        (("web.get",), TOOLS + '[tool."crm.*"]\n', "needs its own name"),
        (("web.get",), '[tool."web.get"]\nreturns = "secret"\n', 'expected one of "private", "untrusted"'),
        (("web.get",), '[tool."web.get"]\nreturns = []\n', "at least one|1 to 8"),
        (("web.get",), '[tool."web get"]\nsends = true\n', "a tool's name"),
    ],
)
def test_a_tool_without_a_description_is_a_mistake(allowed: tuple[str, ...], tools: str, why: str) -> None:
    """Data would lose their mark in it, and a pattern would describe tools that its author does not know."""
    with pytest.raises(SettingsError, match=why):
        policy(task("support", *allowed, rows=PRESET), tools=tools)


def test_the_command_shows_ways_out(tmp_path: Path) -> None:
    """For people, and as JSON; it is no mistake, so the exit code stays 0."""
    file = tmp_path / "policy.toml"
    file.write_text(PLACES + TOOLS + task("support", *ALL))
    shown = arx("policy", "check", str(file))
    assert shown.exit_code == 0
    assert "task support can send what its agents have read: mail.send\n" in shown.out
    assert '{ mark = ["untrusted", "private"], tools = ["mail.send"] },' in shown.out
    [way] = json.loads(arx("policy", "check", str(file), "--json").out)["ways_out"]
    assert way["rows"]["support"]["after"] == [{"mark": ["untrusted", "private"], "tools": ["mail.send"]}]


DESCRIBED = """
[tool."orders.get"]
returns = ["untrusted", "private"]
[tool."payments.refund"]
sends = true
[tool."ledger.add"]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("preset") / "realm") as unit:
        shop = Shop(unit, with_rows(PRESET) + DESCRIBED)
        ledger = MemoryLedger()
        ledger.since = 0
        shop.verifiers = {name: verifier(unit, name, ledger=ledger) for name in shop.services}
        yield shop


def test_a_session_under_the_preset_sends_nothing_once_it_has_read(shop: Shop) -> None:
    """At the services of a real mint, in this task and the next."""
    task = shop.start()
    assert [refund(shop, task), get(shop, task), refund(shop, task)] == ["ok", "ok", "after_mark"]
    assert refund(shop, shop.start()) == "after_mark"
