# SPDX-License-Identifier: Apache-2.0
"""Budgets of templates: every token of a task draws from the same pools, and no change of the task fills them."""

from collections.abc import Iterator
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import AttenuationError, GrantError, SettingsError
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.token.holder import HolderKey
from tests.mint.harness import Harness, open_unit
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import ORDER, PAY, POLICY, Shop, called

pytestmark = pytest.mark.spec("17.3")

BUDGET = POLICY.replace("depth = 3\n", 'depth = 3\nbudget = { usd = "5.00", calls = 6 }\n')
COSTS: dict[str, Any] = {"payments.refund": {"usd": "$amount"}, "*": {"usd": "0.5"}}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("budget") / "realm") as unit:
        shop = Shop(unit, BUDGET)
        ledger = MemoryLedger()
        shop.verifiers = {name: verifier(unit, name, ledger=ledger, costs=COSTS) for name in shop.services}
        yield shop


def get(shop: Shop, task: Task) -> str:
    """What the orders service says of a call with a task."""
    return shop.judge(called(task), "orders", "orders.get", ORDER)


def refund(shop: Shop, task: Task, amount: int) -> str:
    """What the payments service says of a refund with a task."""
    args = {**ORDER, "amount": amount}
    return shop.judge(task.call_token("payments", "payments.refund", args), "payments", "payments.refund", args)


def test_services_share_the_pools_of_a_task(shop: Shop) -> None:
    """What one service costs, another one has less of; another task has its own pools."""
    task = shop.start()
    assert [refund(shop, task, 3), get(shop, task), refund(shop, task, 2)] == ["ok", "ok", "insufficient_budget"]
    assert [get(shop, task) for _ in range(4)] == ["ok", "ok", "ok", "budget_exhausted"]
    assert refund(shop, shop.start(), 5) == "ok"


def test_an_extension_fills_no_pool(shop: Shop) -> None:
    """The new grant has another link, and draws from the same pools."""
    task = shop.start()
    assert refund(shop, task, 4) == "ok"
    answer = shop.agent.call("POST", f"/v1/tasks/{task.id}/extend", {}).json()
    more = Task(Bundle.parse(answer["bundle"]))
    assert more.link != task.link
    assert [refund(shop, more, 2), refund(shop, more, 1), refund(shop, task, 1)] == [
        "insufficient_budget",
        "ok",
        "budget_exhausted",
    ]


def test_an_exchanged_token_draws_from_all_pools_above(shop: Shop) -> None:
    """From those of the mint and those of the holder whose call was exchanged."""
    worker = shop.start().delegate("acme/support/worker", budget={"usd": 2})
    answer = shop.exchange("orders", called(worker))
    child = Task(Bundle.parse(answer["bundle"]))
    assert [refund(shop, child, 2), refund(shop, child, 1)] == ["ok", "budget_exhausted"]
    assert refund(shop, worker, 1) == "budget_exhausted"


def test_a_delegate_has_its_own_pool_and_those_above(shop: Shop) -> None:
    """Two delegates have two pools, a copy has none of its own, and all draw from the task's."""
    task = shop.start()
    first, second = (task.delegate(f"acme/support/{name}", budget={"usd": "2"}) for name in "ab")
    copy = Task.from_text(first.encode())
    assert [refund(shop, each, 1) for each in (first, copy, first, second)] == ["ok", "ok", "budget_exhausted", "ok"]
    assert refund(shop, task, 2) == "ok"
    assert refund(shop, second, 1) == "budget_exhausted"
    narrow = shop.start().attenuate(budget={"usd": 1, "calls": 2}, per="hour")
    assert [refund(shop, narrow, 2), refund(shop, narrow, 1), get(shop, narrow)] == [
        "insufficient_budget",
        "ok",
        "budget_exhausted",
    ]


@pytest.mark.parametrize(
    ("budget", "per"),
    [
        ({"usd": -1}, "task"),
        ({"USD": 1}, "task"),
        ({"usd": "1e3"}, "task"),
        ({"usd": 1}, "week"),
        ({"usd": None}, "day"),
    ],
)
def test_a_holder_hears_of_its_mistake(shop: Shop, budget: Any, per: str) -> None:
    """A budget that no service would read is an error where it is written."""
    with pytest.raises(AttenuationError):
        shop.start().delegate("acme/support/worker", budget=budget, per=per)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("5", "a table such as"),
        ("{ }", "1 to 4 units"),
        ('{ per = "hour" }', "1 to 4 units"),
        ('{ usd = "5", per = "week" }', "task, hour or day"),
        ("{ usd = -1 }", "usd: expected a number"),
        ('{ usd = "lots" }', "usd: expected a number"),
        ("{ Usd = 1 }", "a unit's name"),
        ("{ a = 1, b = 1, c = 1, d = 1, e = 1 }", "1 to 4 units"),
    ],
)
def test_a_policy_hears_of_its_mistake(written: str, why: str) -> None:
    """With file, line and key."""
    text = POLICY.replace("depth = 3\n", f"depth = 3\nbudget = {written}\n")
    with pytest.raises(SettingsError, match=f"budget: .*{why}"):
        Policy.parse(text, "policy.toml")


def test_a_budget_is_seen_in_a_comparison_of_policies() -> None:
    """A new one takes away, a removed one gives back, each unit by itself."""
    old, new = Policy.parse(POLICY, "old"), Policy.parse(BUDGET, "new")
    assert [(each.kind, each.after) for each in compare(old, new)] == [
        ("no longer granted", "5 usd per task"),
        ("no longer granted", "6 calls per task"),
    ]
    assert {each.kind for each in compare(new, old)} == {"granted"}
    hourly = Policy.parse(BUDGET.replace("calls = 6", 'calls = 6, per = "hour"'), "hourly")
    assert "6 calls per hour" in {each.after for each in compare(new, hourly)}


def test_a_template_with_a_budget_is_had_alone() -> None:
    """The rules of another template would draw from its pools."""
    alone = BUDGET.replace("exchange =", "# exchange =").replace('  { tool = "ledger', '#  { tool = "ledger')
    other = alone[alone.index("[task.pay]") :].replace("task.pay", "task.other").replace("budget =", "# budget =")
    both = alone + other
    policy, params = Policy.parse(both, "policy.toml"), PAY["params"]
    for names in ("pay other", "other pay"):
        with pytest.raises(GrantError, match="pay can be had alone only"):
            policy.grant(names, "acme/support/triage", {"pay": params, "other": params})


@pytest.mark.spec("16.2")
def test_a_bound_delegation_has_a_pool_of_its_own(unit: Harness) -> None:
    """Calls by the new key draw from it and from those above; the delegator's from those above alone."""
    shop = Shop(unit, BUDGET.replace("depth = 3\n", 'depth = 3\nbinding = "bound"\n'))
    ledger, key = MemoryLedger(), HolderKey.generate()
    shop.verifiers = {name: verifier(unit, name, ledger=ledger, costs=COSTS) for name in shop.services}
    answer = shop.agent.call("POST", "/v1/tasks", PAY).json()
    task = Task(Bundle.parse(answer["bundle"]), key=shop.agent.key)
    worker = Task.from_text(task.delegate("acme/support/worker", key=key.public, budget={"usd": 2}).encode(), key=key)
    assert [refund(shop, worker, 3), refund(shop, worker, 2)] == ["insufficient_budget", "ok"]
    assert [refund(shop, worker, 1), refund(shop, task, 3), refund(shop, task, 1)] == [
        "budget_exhausted",
        "ok",
        "budget_exhausted",
    ]
