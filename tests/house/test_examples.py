# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is what happens: its examples run as they stand.

A ``console`` block is typed line by line, a ``python`` block is a file, a ``text`` block what the one before it writes.
In what is shown ``…`` stands for any text, and columns may be apart as they like.
"""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.live import live_realm
from tests.house.pages import README, ROOT, TUTORIAL, blocks, matches, section
from tests.house.reader import Reader, reader, run_line, run_python
from tests.servers import free_ports, until

__all__ = ["reader"]  # fixtures


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=["README", "tutorial"])
def test_the_first_example_says_what_it_shows(page: str, tmp_path: Path) -> None:
    """
    The first example of the README and of the tutorial runs as it stands, and writes what the page shows below it.
    """
    start = [block.language for block in blocks(page)].index("python")
    example, shown = blocks(page)[start : start + 2]
    assert shown.language == "text"
    (tmp_path / "example.py").write_text(example.text, encoding="utf-8")
    written = run_python(tmp_path / "example.py", "-W", "error")
    assert matches(shown.text, written), written


def test_the_readme_is_short() -> None:
    """
    The README has at most 150 lines, and its first example at most 15.
    """
    assert len(README.splitlines()) <= 150
    assert len(next(block.text for block in blocks(README) if block.language == "python").splitlines()) <= 15


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize(
    "sections",
    [
        [section(README, "Protect a service"), section(README, "Run a realm")],
        pytest.param([section(TUTORIAL, "On one machine")], marks=pytest.mark.nightly),
    ],
    ids=["README", "tutorial"],
)
def test_one_machine_goes_as_the_page_shows(sections: list[str], reader: Reader) -> None:
    """
    A realm, a guarded service, an agent and a kill, from top to bottom, against real processes with the output shown.
    """
    for block in blocks("".join(sections)):
        if block.language == "console":
            if "arx kill agent:acme/support/worker" in block.text:
                # Until the service has shipped its records, the mint knows no sub-agent and reports that.
                until(lambda: "acme/support/worker" in run_line("arx audit trail --json", reader.folder).stdout)
            reader.console(block.text)
        elif block.language == "python":
            reader.python(block)
        else:
            assert block.language == "text"
            reader.text(block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.servers
def test_the_concepts_go_as_the_page_says(reader: Reader) -> None:
    """
    docs/concepts.md: its example runs as it stands, against a mint that was begun as it says.
    """
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    for block in blocks(page.partition("\n## Sessions\n")[0]):
        getattr(reader, block.language)(block if block.language == "python" else block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.servers
def test_a_call_is_approved_as_the_page_says(reader: Reader) -> None:
    """
    docs/concepts.md: while the agent's script waits, an operator lists and approves, and it writes what is shown.
    """
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    begun = next(block.text for block in blocks(page) if block.language == "console")
    reader.console(begun + "$ arx service enrol payments --out payments.arx.json\n")
    policy, script, typed, shown = blocks(page.partition("\n## Approvals\n")[2].partition("\n## ")[0])
    with (reader.folder / ".arx" / "policy.toml").open("a", encoding="utf-8") as file:
        file.write(policy.text)
    reader.console("$ arx policy reload\n")
    reader.python(script)
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(run_python, reader.folder / "payout.py")
        until(lambda: written.done() or "asked" in run_line("arx approval list", reader.folder).stdout, 40.0)
        waiting = json.loads(run_line("arx approval list --json --quiet", reader.folder).stdout)["approvals"]
        reader.console(typed.text.replace("a-…", waiting[0]["id"]))
        assert matches(shown.text, written.result(30)), written.result()
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.nightly
@pytest.mark.servers
def test_an_issuer_is_believed_as_the_page_says(reader: Reader) -> None:
    """
    docs/identity.md: a workload without a key opens sessions on behalf of a person, with an issuer that the page makes.
    """
    for block in blocks((ROOT / "docs" / "identity.md").read_text("utf-8").partition("\n## Bind tasks to keys\n")[0]):
        if block.language == "toml":
            (reader.folder / "policy.toml").write_text(reader.here(block.text), "utf-8")
        elif block.language != "sh":
            getattr(reader, block.language)(block if block.language == "python" else block.text)
    assert set(reader.stop()) <= {0, -signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.servers
def test_an_auditor_checks_as_the_page_says(tmp_path: Path) -> None:
    """
    The commands of docs/audit.md for an owner and an auditor, top to bottom, with a realm whose log has begun.
    """
    page = (ROOT / "docs" / "audit.md").read_text("utf-8")
    with live_realm(tmp_path / ".arx", free_ports(1)[0]) as live:
        checkpoint = live.folder / "log" / "checkpoint"
        live.until(lambda: checkpoint.exists() and checkpoint.read_text().splitlines()[1] != "0")
        someone = Reader(tmp_path, {})
        for block in blocks(page):
            if block.language == "console":
                someone.console(block.text)
    assert (tmp_path / "backup.db").stat().st_size > 0


def test_a_budget_is_kept_as_its_page_shows(tmp_path: Path) -> None:
    """
    docs/budgets.md: the example runs as it stands, and its refusal has what the page says.
    """
    page = (ROOT / "docs" / "budgets.md").read_text("utf-8")
    (example,) = [block.text for block in blocks(page) if block.language == "python"]
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    assert run_python(tmp_path / "example.py", "-W", "error") == ""


def test_a_model_costs_what_it_did_cost() -> None:
    """
    examples/llm_budget.py: worker and researcher stop when a maximum is not covered, and both learn by how much.
    """
    written = run_python(ROOT / "examples" / "llm_budget.py", "-W", "error")
    assert "worker: insufficient_budget: 0.058 of 0.08 usd" in written
    assert "researcher: insufficient_budget: 0.061 of 0.08 usd" in written
