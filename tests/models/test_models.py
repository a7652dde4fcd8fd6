# SPDX-License-Identifier: Apache-2.0
"""The models of the protocols and the simulators have the same mistakes.  ``make models`` checks them with SPIN."""

import re
from pathlib import Path

import pytest

from tests.models.runs import BUDGET_MISTAKES, LEDGER_MISTAKES, MARK_MISTAKES, MISTAKES, RUNS, switch
from tests.simulation.mutations import MUTATIONS
from tests.verifier import test_ledger

ROOT = Path(__file__).parents[2]
TEXTS = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "models").glob("*.pml")}


@pytest.mark.spec("10.6")
@pytest.mark.spec("17.5")
def test_each_mistake_of_the_simulator_is_one_of_a_model() -> None:
    """
    A mistake that the simulation must notice has a row, and the row's model a switch for it.
    """
    assert set(MISTAKES) == set(MUTATIONS)
    assert set(LEDGER_MISTAKES) == set(test_ledger.MUTATIONS)
    mistakes = MISTAKES | LEDGER_MISTAKES | BUDGET_MISTAKES | MARK_MISTAKES
    assert {run.name for run in RUNS if run.mutation} == set(mistakes)
    for name, (model, _, _) in mistakes.items():
        assert switch(name) in TEXTS[model]


@pytest.mark.parametrize("model", TEXTS)
def test_each_switch_of_a_model_is_checked(model: str) -> None:
    """
    A switch that no run sets would show nothing; a macro that the model does not have would change nothing.
    """
    macros = {name for run in RUNS if run.model == model for name in run.macros}
    switches = set(re.findall(r"#ifn?def (MUTATION_\w+|REACH_\w+)", TEXTS[model]))
    assert switches == {name for name in macros if name.startswith(("MUTATION_", "REACH_"))}
    assert all(re.search(rf"#ifn?def {name}\b", TEXTS[model]) for name in macros)


def test_the_page_lists_the_runs() -> None:
    """
    The tables of the page have each run and each mistake; ``python -m tests.models --write`` writes them.
    """
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    for run in RUNS:
        if run.breaks is None:
            assert re.search(rf"^\| `{run.model}.pml` \| {run.name} \| {run.text} \| [\d,]+ \|$", page, re.MULTILINE)
        elif run.mutation:
            assert f"| `{run.mutation}` | `{run.model}.pml` | {run.text} | `{run.breaks}` |\n" in page
