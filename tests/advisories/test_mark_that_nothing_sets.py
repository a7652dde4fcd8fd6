# SPDX-License-Identifier: Apache-2.0
"""A mistyped mark in ``after`` forbade nothing, and the check of the policy did not show it."""

from pathlib import Path

import pytest

from tests.cli.helpers import arx
from tests.mint.test_no_exfiltration import PLACES, PRESET, TOOLS, task

pytestmark = pytest.mark.spec("21.3")

AFTER = 'after = [{ mark = ["untrusted", "privat"], tools = ["mail.send"] }]\n'
SETS = 'marks = [{ tools = ["web.get"], set = "untrusted" }]\n'
PRIVAT = 'marks = [{ tools = ["crm.read"], set = "privat" }]\n'


def warnings(folder: Path, *tasks: str) -> list[str]:
    """What the check of a policy warns of."""
    file = folder / "policy.toml"
    file.write_text(PLACES + TOOLS + "".join(tasks))
    found: list[str] = arx("policy", "check", str(file), "--json").json["warnings"]
    return found


def test_the_check_warns_of_a_mark_that_no_row_sets(tmp_path: Path) -> None:
    """Of that one alone."""
    [warning] = warnings(tmp_path, task("one", "web.get", "mail.send", rows=SETS + AFTER))
    assert warning.startswith("task one: no entry of `marks` sets `privat` of `after`: ")


@pytest.mark.parametrize(("agents", "warned"), [("acme/desk", 0), ("acme/*", 0), ("acme/other", 1)])
def test_a_row_of_another_task_counts_if_its_agents_may_have_both(tmp_path: Path, agents: str, warned: int) -> None:
    """Marks are of the session, which has all tasks of its agent."""
    one = task("one", "web.get", "mail.send", rows=SETS + AFTER)
    assert len(warnings(tmp_path, one, task("two", "crm.read", rows=PRIVAT, agents=agents))) == warned


def test_the_check_warns_of_a_proof_that_a_decider_cannot_see(tmp_path: Path) -> None:
    """Of the effect of a call, and of no service's proof."""
    proofs = '{ tools = ["web.get"], proof = "saved", on = "success" }, { proof = "tested", from = ["web"] }'
    [warning] = warnings(tmp_path, task("one", "web.get", rows=f"marks = [{proofs}]\n"))
    assert warning.startswith("task one: a decider refuses web.get: ")


def test_a_preset_is_no_mistake(tmp_path: Path) -> None:
    """Its row is there also where no tool returns private data."""
    assert not [each for each in warnings(tmp_path, task("one", "web.get", "mail.send", rows=PRESET)) if "sets" in each]
