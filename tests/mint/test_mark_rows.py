# SPDX-License-Identifier: Apache-2.0
"""Rows about marks in a policy: every service of a session sees what another one has set."""

from collections.abc import Iterator
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.explain import explain_grant, show_explained
from arx_caps.mint.policy.marks import rows_of
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import GrantError, SettingsError
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.token.caveats import read_caveat
from tests.mint.harness import open_unit
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import ORDER, PAY, POLICY, Shop, called

pytestmark = pytest.mark.spec("21.2", "21.3")

ROWS = """marks = [
  { tools = ["orders.get"], set = "private" },
  { proof = "checked", from = ["payments"], per = "task" },
]
after = [ { mark = "private", tools = ["payments.refund"] } ]
"""

EVERY = """marks = [
  { tools = ["orders.get"], set = "private" },
  { tools = ["payments.refund"], proof = "paid", on = "success" },
  { proof = "checked", from = ["payments"], per = "task" },
]
after = [ { mark = ["private", "seen"], tools = ["payments.refund"] } ]
only_after = [
  { mark = "paid", tools = ["payments.refund"] },
  { mark = "checked", tools = ["payments.refund"], within = "1h" },
]
distinct = [
  { tools = ["payments.refund"], arg = ["amount", "order_id"], max = 3 },
  { tools = ["payments.refund"], arg = "amount", max = 5, per = "session" },
]
"""


ONE = ("orders.get", "orders.*", "*", "payments.refund", "payments.*")
LISTS = [[each] for each in ONE] + [["*", each] for each in ONE if each != "*"]


def with_rows(rows: str) -> str:
    """The policy of the shop, with rows in its template."""
    return POLICY.replace("depth = 3\n", f"depth = 3\n{rows}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("marks") / "realm") as unit:
        shop = Shop(unit, with_rows(ROWS))
        ledger = MemoryLedger()
        ledger.since = 0
        shop.verifiers = {name: verifier(unit, name, ledger=ledger) for name in shop.services}
        yield shop


def get(shop: Shop, task: Task) -> str:
    """What the orders service says of a call with a task."""
    return shop.judge(called(task), "orders", "orders.get", ORDER)


def refund(shop: Shop, task: Task) -> str:
    """What the payments service says of a refund with a task."""
    args = {**ORDER, "amount": 1}
    return shop.judge(task.call_token("payments", "payments.refund", args), "payments", "payments.refund", args)


def test_each_service_and_task_of_a_session_sees_a_mark(shop: Shop) -> None:
    """What a delegate read at one service binds the task at the other, its extension and the session's next task."""
    task = shop.start()
    assert refund(shop, task) == "ok"
    assert get(shop, task.delegate("acme/support/worker")) == "ok"
    extended = shop.agent.call("POST", f"/v1/tasks/{task.id}/extend", {}).json()
    for later in (task, task.delegate("acme/support/other"), Task(Bundle.parse(extended["bundle"])), shop.start()):
        assert refund(shop, later) == "after_mark"
        assert get(shop, later) == "ok"


def test_an_exchanged_token_has_the_rows(shop: Shop) -> None:
    """A service that exchanges the token of a call is bound by what the session has read."""
    task = shop.start()
    assert get(shop, task) == "ok"
    child = Task(Bundle.parse(shop.exchange("orders", called(task))["bundle"]))
    assert refund(shop, child) == "after_mark"


def test_the_rows_are_in_the_first_caveat_of_each_token(shop: Shop) -> None:
    """With the time at which the session was opened, which is not that of the task."""
    opened = set()
    for _ in range(2):
        task = shop.start()
        for token in task.bundle.tokens.values():
            first = read_caveat(token.packets[0])
            assert first.after == ((("private",), ("payments.refund",)),)
            assert first.marks is not None
            assert [row[0] for row in first.marks] == ["call", "from"]
            opened.add(first.opened)
    assert len(opened) == 1


def test_each_entry_is_its_row() -> None:
    """Of what the mark is, how it is set, and for how long it counts, with the defaults of each."""
    policy = Policy.parse(with_rows(EVERY), "policy.toml")
    [template] = [each for each in policy.templates.values() if each.marks]
    refund = ("payments.refund",)
    assert rows_of(template) == {
        "marks": (
            ("call", "private", "session", ("orders.get",)),
            ("done", "paid", "session", refund),
            ("from", "checked", "task", ("payments",)),
        ),
        "after": ((("private", "seen"), refund),),
        "only_after": (("paid", 0, refund), ("checked", 3_600_000, refund)),
        "distinct": ((refund, ("amount", "order_id"), 3, "task"), (refund, ("amount",), 5, "session")),
    }


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ('marks = [ { tools = ["orders.get"] } ]', "either `set`"),
        ('marks = [ { tools = ["orders.get"], set = "a", proof = "b" } ]', "either `set`"),
        ('marks = [ { tools = ["orders.get"], set = "a", on = "success" } ]', "`tools` alone"),
        ('marks = [ { proof = "a" } ]', "either `from`"),
        ('marks = [ { proof = "a", tools = ["orders.get"] } ]', "either `from`"),
        ('marks = [ { proof = "a", tools = ["orders.get"], from = ["orders"] } ]', "either `from`"),
        ('marks = [ { proof = "a", from = ["ci"] } ]', "audiences of the policy"),
        ('marks = [ { tools = ["order.get"], set = "a" } ]', "meets no rule of `allow`"),
        ('after = [ { mark = "a", tools = ["payment.refund"] } ]', "meets no rule of `allow`"),
        ('after = [ { mark = [], tools = ["payments.refund"] } ]', "at least one|1 to 8"),
        ('after = [ { mark = "a b", tools = ["payments.refund"] } ]', "a mark's name"),
        ('after = [ { mark = "a", tools = ["payments.refund"], do = "ask" } ]', "refuse"),
        ('only_after = [ { mark = "a", tools = ["payments.refund"] } ]', "a `proof` of `marks`"),
        ('distinct = [ { tools = ["payments.refund"], arg = "amount", max = 0 } ]', "1"),
        ("after = [ " + '{ mark = "a", tools = ["orders.get"] }, ' * 33 + "]", "1 to 32"),
        (
            "after = [ " + ", ".join(f'{{ mark = "a", tools = {each}, do = "approve" }}' for each in LISTS) + "]",
            "at most 8 different `tools`",
        ),
        (
            'after = [ { mark = "a", tools = ["orders.get"], do = "approve" }, '
            '{ mark = "b", tools = ["orders.*"], do = "approve" } ]',
            "match the same tool",
        ),
        (
            'approvals = [ { tools = ["payments.refund"] } ]\n'
            'after = [ { mark = "a", tools = ["payments.refund"], do = "approve" } ]',
            "match the same tool",
        ),
    ],
)
def test_a_mistake_is_an_error_of_the_policy(rows: str, why: str) -> None:
    """None is left for a token that no service reads, or for a rule that is about nothing."""
    with pytest.raises(SettingsError, match=why):
        Policy.parse(with_rows(f"{rows}\n"), "policy.toml")


def differences(old: str, new: str) -> list[tuple[Any, ...]]:
    """Kind and member of each difference."""
    found = compare(Policy.parse(with_rows(old), "old.toml"), Policy.parse(with_rows(new), "new.toml"))
    return [(each.kind, each.member) for each in found]


def test_a_comparison_and_an_explanation_have_the_rows() -> None:
    """A further rule takes rights away; what sets a mark is for the reader to judge."""
    assert differences("", ROWS) == [
        ("changed", "marks"),
        ("changed", "marks"),
        ("no longer granted", "after"),
    ]
    assert differences(ROWS, "")[-1] == ("granted", "after")
    approve = 'after = [ { mark = "private", tools = ["payments.refund"], do = "approve" } ]\n'
    refuse = approve.replace("approve", "refuse")
    assert differences(refuse, approve) == [("granted", "after")]
    assert differences(approve, refuse) == [("no longer granted", "after")]
    policy = Policy.parse(with_rows(ROWS), "policy.toml")
    explained = explain_grant(policy, agent="acme/support/one", task="pay", params=PAY["params"])
    shown = show_explained(explained)["task"]
    assert shown["marks"] == [
        "orders.get sets private (per session)",
        "payments may prove checked (per task)",
    ]
    assert shown["refuses"] == ["calls of payments.refund once private is set"]


def test_rules_about_marks_are_not_mixed() -> None:
    """One task with the rules of two templates has no rows, so such a template is had alone."""
    alone = with_rows(ROWS).replace("exchange =", "# exchange =").replace('  { tool = "ledger', '#  { tool = "ledger')
    other = alone[alone.index("[task.pay]") :].replace("task.pay", "task.other").replace(ROWS, "")
    policy = Policy.parse(alone + other, "policy.toml")
    for names in ("pay other", "other pay"):
        with pytest.raises(GrantError, match="pay can be had alone only"):
            policy.grant(names, "acme/support/triage", {"pay": PAY["params"], "other": PAY["params"]})
