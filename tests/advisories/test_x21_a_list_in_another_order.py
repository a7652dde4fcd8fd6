# SPDX-License-Identifier: Apache-2.0
"""X21.  Defect: what was approved as a list is used in another order, from B to A where A to B was read.

ARx: a constraint on a list looks at no order, so whoever decides is told that none is approved.
"""

from typing import Any

import pytest

from arx_caps.agent import Approval, Task
from arx_caps.cli.approving import show_approval
from arx_caps.mint.requiring import constraints_of
from arx_verifier.access import AccessRequest
from arx_verifier.caveats import Caveat
from arx_verifier.constraints import Rule
from arx_verifier.discharge import caveat_key, discharge, require_discharge
from tests.agent.holding import REQUIRED, bundle, token
from tests.support import AT, KEY, PEER, verifier

ROUTE = {"route": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("route", "code"),
    [
        (["a", "b", "c"], "ok"),
        (["c", "b", "a"], "ok"),
        (["a", "b"], "argument_not_allowed"),
        (["a", "b", "c", "c"], "argument_not_allowed"),
        (["a", "b", "d"], "argument_not_allowed"),
        ("abc", "argument_not_allowed"),
    ],
)
def test_what_passes_is_what_is_shown(route: Any, code: str) -> None:
    """
    These members and no others, each as often as it stands there, in any order; and the card says "in any order".
    """
    assert 'route = ["a", "b", "c"] in any order' in show_approval({"args": ROUTE}, AT)
    rule = Rule(tool="payments.refund", args=constraints_of(ROUTE))
    key = caveat_key(KEY, REQUIRED.id)
    made = discharge(REQUIRED.encode(), key, realm="acme", caveats=(Caveat(allow=(rule,), exp=AT + 1000),))
    held = require_discharge(token("payments", Rule(tool="payments.refund")), REQUIRED.encode(), key)
    task = Task(bundle({"payments": held}), now=lambda: AT)
    args = {"route": route}
    given = Approval.from_text(made.encode())
    text = task.call_token("payments", "payments.refund", args, approvals=[given])
    request = AccessRequest("payments.refund", args, AT, PEER)
    assert verifier(audience="payments").decide(text, request).code == code


@pytest.mark.parametrize("value", [[], ["a"], "a, b", 5])
def test_what_has_no_order_is_not_said_to_have_one(value: Any) -> None:
    """One member, none, or no list."""
    assert "order" not in show_approval({"args": {"x": value}}, AT)
