# SPDX-License-Identifier: Apache-2.0
"""Merged rules decide as the rules one by one would: the shape a chain is judged in on its next call."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule, compile_rule, merge, permits

pytestmark = pytest.mark.spec("7.1")

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from([0, 1, 5, True, "x", "xy", "1", None, [1], 1.0])
CONSTRAINTS = st.sampled_from(
    [
        1,
        True,
        "x",
        Constraint(range=(0, 5)),
        Constraint(range=(1, 1)),
        Constraint(min=1),
        Constraint(max=0),
        Constraint(range=("0", "1.5")),
        Constraint(max=4, optional=True),
        Constraint(max_length=1),
        Constraint(one_of=(1, "x")),
        Constraint(equal=1, optional=True),
        Constraint(equal=True, optional=True),
    ]
)
RULES = st.builds(
    Rule,
    tool=st.just("t"),
    args=st.none() | st.dictionaries(NAMES, CONSTRAINTS, max_size=3),
    open=st.booleans(),
)


@given(rules=st.lists(RULES, min_size=1, max_size=4), args=st.dictionaries(NAMES, VALUES, max_size=3))
def test_merging_changes_no_decision(rules: list[Rule], args: dict[str, Any]) -> None:
    """
    A merged rule permits exactly what every one of its rules permits; ``1`` and ``true`` stay two things.
    """
    compiled = [compile_rule(rule) for rule in rules]
    assert permits(merge(compiled), args) == all(permits(rule, args) for rule in compiled)
