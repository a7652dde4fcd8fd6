# SPDX-License-Identifier: Apache-2.0
"""The policy's pages: what differs, whether something would be allowed and why not, and answers that must stay."""

from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.console.harness import operator_with, sign_in
from tests.mint.approvals import POLICY
from tests.mint.harness import Harness

pytestmark = pytest.mark.sqlite
HOME = "/console/policy"
ASK = {"agent": "acme/support/triage", "task": "refund", "params": "order_id=o-1", "tool": "payments.refund"}


def ask(harness: Harness, **fields: str) -> str:
    return sign_in(harness).get(f"{HOME}/questions?{urlencode(ASK | fields)}")


@pytest.mark.spec("CONTROL 6.5")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"args": "order_id=o-1\namount=50"}, "It needs an approval by 1 operator"),
        ({"args": "order_id=o-1\namount=501"}, "amount must be"),
        ({"args": "order_id=o-2\namount=5"}, "order_id must be"),
        ({"tool": "mail.send"}, "tool_not_allowed"),
        ({"params": ""}, "bad_parameters"),
        ({"task": "absent"}, "a task that the policy has: refund"),
        ({"agent": "other/x"}, "session_not_allowed"),
        ({"args": "amount"}, "expected a line name=value"),
        ({"tool": ""}, "arx policy explain --agent acme/support/triage --task refund --param order_id=o-1<"),
        ({"args": "order_id=o-1\namount=50"}, "--call payments.refund --arg order_id=o-1 --arg amount:=50 --expect ok"),
    ],
)
def test_the_policy_answers_like_the_mint_and_a_verifier(unit: Harness, fields: dict[str, str], said: str) -> None:
    """Allowed with its approval, or refused with the code, the sentence and what it would take."""
    unit.use(POLICY)
    assert said in ask(unit, **fields).replace("&#34;", '"')


@pytest.mark.spec("CONTROL 6.5")
def test_an_answer_is_kept_as_a_test_and_told_when_it_changes(unit: Harness, tmp_path: Path) -> None:
    """A kept answer passes, fails under a policy that answers otherwise, and is removed."""
    unit.use(POLICY)
    browser = sign_in(unit)
    browser.get(f"{HOME}/questions?{urlencode(ASK | {'args': 'order_id=o-1' + chr(10) + 'amount=50'})}")
    fields = ASK | {"issuer": "", "subject": "", "claims": "", "args": "order_id=o-1\namount=50"}
    page = browser.post(f"{HOME}/questions", **fields, name="refunds <50>", expect="ok")
    assert "1 of 1 answers are as expected" in page
    assert "refunds &lt;50&gt;" in page
    less = POLICY.replace("[1, 500]", "[1, 40]")
    answer = unit.operator().call("POST", "/v1/policy/tests/run", {"policy": less}).json()
    assert (answer["failed"], answer["results"][0]["code"]) == (1, "argument_not_allowed")
    assert unit.operator().call("POST", "/v1/policy/tests/run", {"policy": "x = 1"}).json()["code"] == "policy"
    unit.use(less)
    assert "0 of 1 answers are as expected" in browser.get(f"{HOME}/questions")
    assert "No question is kept" in browser.post(f"{HOME}/questions/remove", name="refunds <50>")
    reader = operator_with(unit, "nina", "read-only")
    body = {"name": "n", "question": {"agent": "a/b", "task": "t"}, "expect": "ok"}
    assert reader.call("POST", "/v1/policy/tests", body).status_code == 403


def test_a_policy_that_was_in_force_shows_what_differs(unit: Harness) -> None:
    """The page has each difference in meaning, and the text."""
    unit.use(POLICY)
    before = unit.mint.policies.loaded.digest
    unit.use(POLICY.replace("[1, 500]", "[1, 40]"))
    browser = sign_in(unit)
    assert before[:8] in browser.get(HOME)
    page = browser.get(f"{HOME}/{before}")
    assert all(said in page for said in ("allow", "[1, 40]", "[1, 500]"))
    assert "range = [1, 500]" in page
    browser.get(f"{HOME}/absent")
    assert browser.status == 404
