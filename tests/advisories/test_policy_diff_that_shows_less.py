# SPDX-License-Identifier: Apache-2.0
"""``arx policy diff`` found no difference between policies that grant different calls.

It wrote the literal text ``$amount`` (``"$$amount"`` in a policy) like the parameter ``"$amount"``, so a rule that
changed from a fixed value to any value of the agent was no difference.
"""

import pytest

from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.model import Policy

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[task.get]
agents = ["acme/**"]
params = { name = { min_length = 1 } }
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.get", args = { name = "$$name" } } ]
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('name = "$$name"', 'name = "$name"'),
        ('name = "$$name"', 'name = { equal = "$name" }'),
        ('name = "$$name"', '"$$name" = "$$name"'),
    ],
)
def test_a_literal_dollar_is_no_parameter(before: str, after: str) -> None:
    """The digests differ, and so do the policies; each value is shown as the policy writes it."""
    assert before in POLICY
    old, new = (Policy.parse(text, "policy.toml") for text in (POLICY, POLICY.replace(before, after)))
    assert old.digest != new.digest
    (found,) = compare(old, new)
    assert (found.kind, found.place, found.member) == ("changed", "task get", "allow")
    assert found.before["args"] == {"name": "$$name"}
