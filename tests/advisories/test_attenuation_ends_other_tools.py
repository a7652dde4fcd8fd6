# SPDX-License-Identifier: Apache-2.0
"""A holder who bounded one argument lost the tools that do not have this argument.

A tool with ``any = true`` can take an argument of every name, so the delegation's rule for it required one that its
callers never send: with ``args={"amount": {"max": 5}}`` no holder could list orders any more.
"""

from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from tests.agent.holding import ask, task, task_with, token
from tests.mint.harness import Harness
from tests.mint.test_token_exchange import ORDER, Shop, called

LIST = Rule(tool="orders.list")
REFUND = Rule(tool="orders.refund", args={"amount": Constraint(max=100)})
NOTE = Rule(tool="orders.note", args={"amount": Constraint(max=100, optional=True), "text": Constraint(max_length=9)})
SMALL = {"amount": {"max": 5}}


@pytest.mark.parametrize("rules", [(LIST, REFUND), (LIST, REFUND, NOTE)], ids=["demanded", "optional"])
@pytest.mark.parametrize("tools", [None, ["orders.list", "orders.refund"]])
def test_a_tool_without_the_argument_stays(rules: tuple[Rule, ...], tools: list[str] | None) -> None:
    """It is called without the argument, and with one that is within the bound, and with no other."""
    given = task_with(*rules).delegate("acme/x", args=SMALL, tools=tools)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("orders.list", {}),
        ("orders.list", {"page": 2, "amount": 5}),
        ("orders.refund", {"amount": 5}),
        ("orders.list", {"amount": 6}),
        ("orders.list", {"amount": "5"}),
        ("orders.refund", {"amount": 6}),
        ("orders.refund", {}),
    ]
    values = [ask(given, "orders", tool, args) for tool, args in calls]
    assert values == ["ok"] * 3 + ["argument_not_allowed"] * 4


def test_it_must_be_there_where_a_rule_names_it() -> None:
    """Where the policy lets it be absent, a call without could mean more than any that is left: it is refused."""
    given = task_with(LIST, NOTE).delegate("acme/x", args=SMALL)
    calls: list[dict[str, Any]] = [{"text": "x", "amount": 5}, {"text": "x"}]
    assert [ask(given, "orders", "orders.note", args) for args in calls] == ["ok", "argument_not_allowed"]
    again = given.delegate("acme/y", args={"amount": {"max": 4}})
    calls += [{"text": "x", "amount": 4}]
    values = [ask(again, "orders", "orders.note", args) for args in calls]
    assert values == ["argument_not_allowed", "argument_not_allowed", "ok"]
    assert ask(again, "orders", "orders.list", {}) == "ok"


def test_it_must_be_there_where_the_holder_names_the_tool() -> None:
    """Where no rule names it, any tool may lack it: it is bounded where it comes, and required of a named tool."""
    given = task_with(Rule(tool="*")).delegate("acme/x", args=SMALL)
    values = [ask(given, "orders", "orders.list", args) for args in ({}, {"amount": 5}, {"amount": 6})]
    assert values == ["ok", "ok", "argument_not_allowed"]
    both = task_with(LIST, Rule(tool="orders.refund"))
    named = both.delegate("acme/x", args={"orders.refund": SMALL})
    values = [ask(named, "orders", tool, {}) for tool in ("orders.list", "orders.refund")]
    assert values == ["ok", "argument_not_allowed"]


def test_one_name_at_two_services() -> None:
    """A tool that both have, one with the argument and one without, stays at both."""
    bounded = Rule(tool="search", args={"amount": Constraint(max=9)})
    held = task(
        tokens={"orders": token("orders", Rule(tool="search", args={})), "payments": token("payments", bounded)}
    )
    given = held.delegate("acme/x", args=SMALL)
    assert ask(given, "orders", "search", {}) == "ok"
    values = [ask(given, "payments", "search", args) for args in ({}, {"amount": 5}, {"amount": 6})]
    assert values == ["argument_not_allowed", "ok", "argument_not_allowed"]


@pytest.mark.sqlite
def test_a_tool_that_services_alone_reach_stays(unit: Harness) -> None:
    """The bundle does not name it: it can be called for the order that is left, and for no other."""
    shop = Shop(unit)
    worker = shop.start().delegate("acme/support/worker", args={"order_id": {"one_of": ["o-1", "o-2"]}})
    answer = shop.exchange("orders", called(worker), "ledger")
    proven = shop.proven(answer["access_token"], "ledger")
    assert proven.judge_tool("ledger.add", ORDER) is None
