# SPDX-License-Identifier: Apache-2.0
"""An agent must not have an operator approve what the operator cannot read, or is too flooded to read.

The agent chooses the arguments and writes the reason: marks that turn the direction of writing, controls that move a
cursor, so much text that the end of it is not seen, so many requests that none is looked at.
"""

from typing import Any

import pytest

from arx_caps.mint.api.metrics import Metrics
from arx_caps.mint.db.tables import APPROVALS
from tests.mint.approvals import REFUND, Desk, code


@pytest.mark.parametrize(
    "args",
    [
        {"a": "pay \u202e005"},
        {"a": "x\u2067y"},
        {"\u2066a": 1},
        {"a": ["x\u0085"]},
        {"a": "x\u2028y"},
        {"a": "x" * 3000},
        {"a": [str(number) for number in range(400)]},
        {f"a{number}": "x" * 60 for number in range(64)},
    ],
    ids=lambda args: ascii(args)[:40],
)
def test_arguments(desk: Desk, args: Any) -> None:
    """The mint refuses them, with the reason, and asks no operator."""
    answer = desk.try_to_ask(args, tool="payments.note")
    assert (answer.status_code, answer.json()["code"]) == (403, "bad_parameters")
    assert "args" in answer.json()["detail"]
    assert desk.harness.mint.db.count(APPROVALS) == 0


def test_a_body_without_end(desk: Desk) -> None:
    """A body is as long as any call's may be, and a number of arguments costs no more than their length."""
    assert code(desk.try_to_ask({"a": "x" * 70_000}, tool="payments.note")) == "too_large"
    assert code(desk.try_to_ask({f"a{number}": 1 for number in range(5000)}, tool="payments.note")) == "bad_parameters"
    assert code(desk.try_to_ask(why="x" * 501)) == "malformed_request"


def test_a_reason_is_shown_on_one_line(desk: Desk) -> None:
    """Controls, line ends and marks of direction are spaces; what is left of nothing is nothing."""
    assert desk.ask(why="pay\u202e now\r\n\x1b[2J  please\x00")["why"] == "pay now [2J please"
    assert desk.ask(why="\u2066\n")["why"] is None


def test_so_many_wait_and_no_more(desk: Desk) -> None:
    """The 33rd of a session is refused until one is answered; another session is not concerned."""
    asked = [desk.ask(REFUND | {"amount": amount + 1}) for amount in range(32)]
    assert code(desk.try_to_ask()) == "too_many_approvals"
    other, _ = desk.harness.session("acme/support/other")
    _, task = desk.start(other)
    assert code(desk.try_to_ask(by=other)) == "not_found"
    body = {"caveat": desk.third_party(task), "tool": "payments.refund", "args": REFUND}
    assert code(other.call("POST", "/v1/discharges", body)) == "ok"
    assert desk.harness.mint.db.approvals.count_waiting() == 33
    assert b"arx_approvals_waiting 33.0" in Metrics(desk.harness.mint).text()
    assert code(desk.answer(desk.harness.operator(), asked[3], "deny")) == "ok"
    assert code(desk.try_to_ask()) == "ok"
