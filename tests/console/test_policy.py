# SPDX-License-Identifier: Apache-2.0
"""The policy's pages: what is in force, what was, and what differs."""

import pytest

from tests.console.harness import sign_in
from tests.mint.approvals import POLICY
from tests.mint.harness import Harness

pytestmark = pytest.mark.sqlite
HOME = "/console/policy"


@pytest.mark.spec("CONTROL 6.5")
def test_a_policy_that_was_in_force_shows_what_differs(unit: Harness) -> None:
    """The page has each difference in meaning, and the text."""
    unit.use(POLICY)
    before = unit.mint.policies.loaded.digest
    unit.use(POLICY.replace("[1, 500]", "[1, 40]"))
    browser = sign_in(unit)
    page = browser.get(HOME)
    assert before[:8] in page
    page = browser.get(f"{HOME}/{before}")
    assert all(value in page for value in ("allow", "[1, 40]", "[1, 500]"))
    assert "range = [1, 500]" in page
    browser.get(f"{HOME}/absent")
    assert browser.status == 404
