# SPDX-License-Identifier: Apache-2.0
"""An agent could use an approved list in another order, such as from B to A where A to B was read.

ARx: a list is approved in its order, with its members as often as it has them; a constraint checks that.
"""

from typing import Any

import pytest

from arx_caps.agent import Approval, Task
from arx_caps.cli.approvals import show_approval
from arx_caps.mint.tasks.discharge import constraints_of
from arx_verifier.constraints.rule import Rule, compile_rule, permits
from arx_verifier.request import AccessRequest
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import caveat_key, issue_discharge, require_discharge
from tests.agent.holding import REQUIRED, bundle, token
from tests.support import AT, KEY, PEER, verifier

ROUTE = {"route": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("route", "code"),
    [
        (["a", "b", "c"], "ok"),
        (["c", "b", "a"], "argument_not_allowed"),
        (["a", "b", "b"], "argument_not_allowed"),
        (["a", "b", ["c"]], "argument_not_allowed"),
        (["a", "b"], "argument_not_allowed"),
        (["a", "b", "c", "c"], "argument_not_allowed"),
        (["a", "b", "d"], "argument_not_allowed"),
        ("abc", "argument_not_allowed"),
    ],
)
def test_what_passes_is_what_is_shown(route: Any, code: str) -> None:
    """
    These members and no others, each as often as it stands there, in this order.
    """
    assert 'route = ["a", "b", "c"]\n' in show_approval({"args": ROUTE}, AT)
    rule = Rule(tool="payments.refund", args=constraints_of(ROUTE))
    key = caveat_key(KEY, REQUIRED.id)
    made = issue_discharge(REQUIRED.encode(), key, realm="acme", caveats=(Caveat(allow=(rule,), exp=AT + 1000),))
    held = require_discharge(token("payments", Rule(tool="payments.refund")), REQUIRED.encode(), key)
    task = Task(bundle({"payments": held}), now=lambda: AT)
    args = {"route": route}
    given = Approval.from_text(made.encode())
    text = task.call_token("payments", "payments.refund", args, approvals=[given])
    request = AccessRequest("payments.refund", args, AT, PEER)
    assert verifier(audience="payments").decide(text, request).code == code


@pytest.mark.parametrize(
    ("approved", "called"),
    [
        ([100, 1], [1, 100]),
        ([1, 1, 2], [1, 2, 2]),
        ([True], [1]),
        ([1], [True]),
        ([1], [1.5]),
        (["1"], [1]),
        ([], [[]]),
        ([], ""),
        (["a"], ["a", "a"]),
    ],
)
def test_what_is_nearly_the_same_does_not_pass(approved: Any, called: Any) -> None:
    """Amounts beside payees: who is paid what hangs on the order; and no type is taken for another."""
    rule = compile_rule(Rule(tool="payments.pay", args=constraints_of({"to": ["A", "B"], "amounts": approved})))
    assert permits(rule, {"to": ["A", "B"], "amounts": approved})
    assert not permits(rule, {"to": ["A", "B"], "amounts": called})
    assert not permits(rule, {"to": ["B", "A"], "amounts": approved})
