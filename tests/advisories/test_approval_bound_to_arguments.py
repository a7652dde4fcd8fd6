# SPDX-License-Identifier: Apache-2.0
"""An agent must not call another tool or use other arguments than an operator approved."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.tasks.discharge import constraints_of
from arx_verifier.constraints.rule import Rule, compile_rule, permits
from arx_verifier.errors import GrantError
from arx_verifier.token.caveats import Caveat, read_caveat
from tests.mint.approvals import REFUND, Desk, code, decide
from tests.mint.test_tasks import verifier

scalars = st.sampled_from(["", "a", "1", "A", "á", "a ", "\u00e1", 0, 1, -1, True, False]) | st.text(max_size=3)
values = st.recursive(
    scalars | st.sampled_from([1.0, 5.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, types too; 1.0 is 1, as RFC 8785 writes it."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


@settings(max_examples=400)
@given(approved=arguments, called=arguments | st.just({"a": "a"}), data=st.data())
def test_what_is_permitted_is_what_was_approved(
    approved: dict[str, Any], called: dict[str, Any], data: st.DataObject
) -> None:
    """For any arguments: a discharge permits those that were approved, and no others."""
    try:
        raw = Caveat(allow=(Rule(tool="t.x", args=constraints_of(approved)),)).encode()
    except GrantError:
        return
    (rule,) = read_caveat(raw).allow or ()
    near = dict(approved)
    for name in list(near):
        if data.draw(st.booleans()):
            near[name] = data.draw(values)
    for args in (approved, called, near):
        alike = set(args) == set(approved) and all(same(args[name], approved[name]) for name in args)
        assert permits(compile_rule(rule), args) == alike, (approved, args)


def test_at_a_service(desk: Desk) -> None:
    """More money, a number as text, an argument more or less, another tool: refused, and it is not used up."""
    judge = verifier(desk.harness, "payments")
    _, approval = desk.approved()
    for args in (REFUND | {"amount": 51}, REFUND | {"amount": "50"}, REFUND | {"x": 1}, {"order_id": "o-1"}):
        assert decide(judge, desk.task, args, [approval]) == "argument_not_allowed"
    assert decide(judge, desk.task, {}, [approval], "payments.note") == "tool_not_allowed"
    assert decide(judge, desk.task, REFUND, [approval]) == "ok"
    assert decide(judge, desk.task, REFUND, [approval]) == "already_used"


def test_between_asking_and_approving(desk: Desk) -> None:
    """What was asked for stays as it was: its key with other arguments is refused, another request is another one."""
    body = {"caveat": desk.caveat, "tool": "payments.refund", "args": REFUND}
    notices = []
    for amount in (50, 500):
        headers = desk.agent.headers("POST", "/v1/discharges") | {HEADER: "once"}
        changed = body | {"args": REFUND | {"amount": amount}}
        notices.append(desk.harness.client.post("/v1/discharges", json=changed, headers=headers))
    assert [code(each) for each in notices] == ["ok", "idempotency_mismatch"]
    asked = notices[0].json()["approval"]
    more = desk.ask(REFUND | {"amount": 500})
    given = desk.answer(desk.harness.operator(), asked).json()["approval"]
    assert (given["args"], given["id"] == more["id"]) == (REFUND, False)
