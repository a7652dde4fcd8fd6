# SPDX-License-Identifier: Apache-2.0
"""A holder could delegate a bundle under which the next holder could call no tool.

The holder asked for an amount that no rule of its task lets through, and was given a bundle; what was wrong with it
only the sub-agent met, one refusal at a time.
"""

from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AttenuationError
from tests.agent.holding import REFUND, ask, task, task_with

REFUNDS = Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(range=(1, 20))})
DECIMAL = Rule(tool="orders.pay", args={"amount": Constraint(range=("1.5", "20"))})
FOLDER = Rule(tool="orders.read", args={"path": Constraint(subpath="/srv/a")})
FAST = Rule(tool="orders.send", args={"fast": True, "to": Constraint(one_of=("a", "b"))})
TIMID = Rule(tool="orders.note", args={"amount": Constraint(max=20, optional=True)})
SHIP = Constraint(fields={"country": "DE", "zip": Constraint(length=5)})
LINES = Constraint(each=(Constraint(fields={"sku": "a", "n": Constraint(max=3)}), Constraint(fields={"sku": "b"})))
PLACE = Rule(tool="orders.place", args={"ship_to": SHIP, "lines": LINES, "note": Constraint(any=True, optional=True)})

NOTHING: list[tuple[Rule, dict[str, Any], str]] = [
    (REFUNDS, {"args": {"amount": 500}}, r"orders.refund: amount: no value is both 500.*\[1,20\]"),
    (REFUNDS, {"args": {"amount": 500}, "tools": ["orders.refund"]}, "orders.refund: amount"),
    (REFUNDS, {"args": {"orders.refund": {"amount": {"min": 21}}}}, "amount"),
    (REFUNDS, {"args": {"amount": "5"}}, "amount"),
    (REFUNDS, {"args": {"amount": {"glob": "*"}}}, "amount"),
    (REFUNDS, {"args": {"order_id": {"one_of": ["o-2", "o-3"]}}}, "order_id"),
    (DECIMAL, {"args": {"amount": {"max": 1}}}, "amount"),
    (DECIMAL, {"args": {"amount": {"min": "20.01"}}}, "amount"),
    (FOLDER, {"args": {"path": "/srv/b/c"}}, "path"),
    (PLACE, {"args": {"ship_to": {"fields": {"country": "FR"}, "open": True}}}, r"ship_to: no value is both"),
    (PLACE, {"args": {"ship_to": {"fields": {"country": "DE"}}}}, "ship_to"),
    (PLACE, {"args": {"ship_to": {"fields": {"to": "me"}, "open": True}}}, "ship_to"),
    (PLACE, {"args": {"ship_to": "DE"}}, "ship_to"),
    (PLACE, {"args": {"ship_to": {"each": "DE"}}}, "ship_to"),
    (PLACE, {"args": {"lines": {"each": {"fields": {"n": 1}, "open": True}}}}, "lines"),
    (PLACE, {"args": {"lines": {"each": [{"fields": {"n": 1, "sku": "a"}}]}}}, "lines"),
    (PLACE, {"args": {"lines": {"equal": ["a", "b"]}}}, "lines"),
    (FAST, {"args": {"fast": False}}, "fast"),
    (FAST, {"args": {"to": {"not": {"one_of": ["a", "b"]}}}}, "to"),
]


@pytest.mark.parametrize(("rule", "less", "says"), NOTHING)
@pytest.mark.parametrize("way", ["delegate", "attenuate"])
def test_it_is_refused_where_it_is_written(rule: Rule, less: dict[str, Any], says: str, way: str) -> None:
    """The error names the tool, the argument and both constraints; also behind a delegation that left the half."""
    held = task_with(rule).delegate("acme/a", ttl="1h")
    with pytest.raises(AttenuationError, match=says):
        held.delegate("acme/b", **less) if way == "delegate" else held.attenuate(**less)


def test_each_tool_that_is_listed_can_be_called() -> None:
    """A tool that the holder lists and could not be called is a mistake; one that is not listed merely ends."""
    adjust = Rule(tool="orders.adjust", args={"amount": Constraint(max=900)})
    held = task_with(REFUNDS, Rule(tool="orders.list"), adjust)
    with pytest.raises(AttenuationError, match=r"orders\.refund: amount"):
        held.delegate("acme/a", tools=["orders.refund", "orders.adjust"], args={"amount": 500})
    given = held.delegate("acme/a", args={"amount": 500})
    calls: list[tuple[str, dict[str, Any]]] = [("orders.adjust", {"amount": 500}), ("orders.refund", REFUND)]
    assert [ask(given, "orders", tool, args) for tool, args in calls] == ["ok", "argument_not_allowed"]


def test_what_was_attenuated_before_counts() -> None:
    """Two delegations that each leave something and together leave nothing."""
    small = task().delegate("acme/a", tools=["payments.refund"], args={"amount": {"max": 20}})
    with pytest.raises(AttenuationError, match="amount"):
        small.delegate("acme/b", args={"amount": {"min": 21}})


@pytest.mark.parametrize(
    ("rule", "args"),
    [
        (REFUNDS, {"amount": 20}),
        (REFUNDS, {"amount": {"none_of": [1, 20]}}),
        (DECIMAL, {"amount": {"all_of": [{"min": "1.51"}, {"max": "1.52"}]}}),
        (FOLDER, {"path": {"glob": "/srv/a/*"}}),
        (FOLDER, {"path": {"not": "/srv/a"}}),
        (TIMID, {"amount": {"min": 21, "optional": True}}),  # without an amount it can be called
    ],
)
def test_what_may_be_of_use_is_made(rule: Rule, args: dict[str, Any]) -> None:
    """Nothing is refused that some call could keep, or of which that is not known."""
    assert task_with(rule).delegate("acme/a", args=args).tools == (rule.tool,)
