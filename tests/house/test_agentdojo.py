# SPDX-License-Identifier: Apache-2.0
"""AgentDojo's suites: the policy that describes their tools, and the table of docs/marks.md."""

import re

import pytest

from arx_caps.cli.commands.policy.ways_out import ways_out
from arx_caps.mint.policy.model import Policy
from benchmarks.agentdojo import report
from benchmarks.kill_report import DOCS
from tests.house.pages import ROOT

POLICY = ROOT / "benchmarks" / "agentdojo" / "policy.toml"


def test_the_policy_describes_each_tool() -> None:
    """With the preset a tool without a description is a mistake, and no way out is left."""
    policy = Policy.load(POLICY)
    assert ways_out(policy.document) == []
    assert set(policy.templates) == set(report.load()["suites"])
    assert all(template.preset == "no-exfiltration" for template in policy.templates.values())
    without = Policy.parse(POLICY.read_text("utf-8").replace('preset = "no-exfiltration"\n', ""), "policy.toml")
    assert {way.task for way in ways_out(without.document)} == set(policy.templates)


def test_the_page_is_its_file() -> None:
    """Between two markers stands what the file of results gives, and it has no injected send that was to be refused."""
    found = report.load()
    page = (DOCS / "marks.md").read_text("utf-8")
    pattern = rf"<!-- {report.NAME}: begin[^>]*-->\n\n(.*?)\n\n<!-- {report.NAME}: end -->"
    assert re.findall(pattern, page, re.DOTALL) == [report.rendered(found)], "run `make agentdojo ARGS=--write`"
    assert report.wrong(found) == []


@pytest.mark.parametrize("name", ["sends made", "refused"])
def test_a_run_that_finds_such_a_send_fails(name: str) -> None:
    """What ``make agentdojo`` compares is what it must not find."""
    found = report.load()
    of = found["suites"]["slack"][report.UNTRUSTED_ALONE if name == "sends made" else report.NO_ROWS]
    of["attacked" if name == "sends made" else "benign"][name] = 1
    assert len(report.wrong(found)) == 1
