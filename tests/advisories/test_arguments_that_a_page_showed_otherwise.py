# SPDX-License-Identifier: Apache-2.0
"""The console judged numbers where the API judges text, and showed an argument's name with letters that look alike."""

import pytest

from tests.console.harness import operator_with, sign_in
from tests.mint.approvals import Desk


@pytest.mark.sqlite
def test_a_rule_judges_the_same_argument(desk: Desk) -> None:
    """What the API refuses to an operator, a page refuses, too."""
    rule = {"tool": "arx.approvals.read", "args": {"limit": {"max": 100}}, "open": True}
    eve = desk.operator("eve", rules=[rule, {"tool": "arx.console.open"}])
    refused = eve.call("GET", "/v1/approvals", limit="50")
    browser = sign_in(desk.harness, eve, lands=403)
    browser.get("/console/approvals")
    assert (refused.status_code, browser.status) == (403, 403)


@pytest.mark.sqlite
def test_a_name_is_shown_in_ascii(desk: Desk) -> None:
    """In the list and on the request's own page."""
    asked = desk.ask({"order_id": "o-1", "text": "x", "\u0430mount": "5"}, tool="payments.note")
    browser = sign_in(desk.harness, operator_with(desk.harness, "eve", "read-only"))
    for path in ("", f"/{asked['id']}"):
        page = browser.get(f"/console/approvals{path}")
        assert r"\u0430mount" in page
        assert "\u0430" not in page
