# SPDX-License-Identifier: Apache-2.0
"""An operator that may only write policies must not give itself more rights by one, nor by another key set."""

import pytest

from tests.mint.login import idp  # noqa: F401 - a fixture
from tests.mint.test_operator_login import POLICY, People, people  # noqa: F401 - a fixture
from tests.mint.test_operators import enrol, sign_in

pytestmark = pytest.mark.sqlite


@pytest.mark.parametrize("change", [('role = "responder"', 'role = "admin"'), ("/keys", "/other-keys")])
def test_a_policy_that_changes_operators_needs_an_administrator(people: People, change: tuple[str, str]) -> None:  # noqa: F811
    """The old policy stays in force."""
    writer = sign_in(people.harness, enrol(people.harness, "writer", role="policy"))
    before = people.harness.mint.policies.loaded.digest
    answer = writer.call("POST", "/v1/policies", {"policy": POLICY.format(issuer=people.issuer.url).replace(*change)})
    assert (answer.status_code, answer.json()["code"]) == (403, "tool_not_allowed")
    assert people.harness.mint.policies.loaded.digest == before
