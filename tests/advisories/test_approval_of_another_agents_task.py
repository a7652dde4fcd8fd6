# SPDX-License-Identifier: Apache-2.0
"""An agent must not ask for, fetch or use an approval of another agent's task.

What a token requires is no secret: an attacker who sees a token, or guesses a task's name, can write it down.
"""

from arx_caps.agent.tasks.approval import Approval
from arx_verifier.request import AccessRequest
from arx_verifier.token.discharge import bind, join
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.mint.approvals import REFUND, Desk, code, decide
from tests.mint.harness import now_ms
from tests.mint.test_tasks import verifier


def test_asked_for_by_another_agent(desk: Desk) -> None:
    """Another agent's session, and another session of the same agent, have no such task."""
    other, _ = desk.harness.session("acme/support/other")
    assert code(desk.try_to_ask(by=other)) == "not_found"
    again, _ = desk.harness.open_session(desk.harness.enrol("acme/support/third"))
    assert code(desk.try_to_ask(by=again)) == "not_found"
    assert desk.harness.mint.db.approvals.list() == []


def test_fetched_by_another_agent(desk: Desk) -> None:
    """Who did not ask gets nothing, and learns nothing of it."""
    asked = desk.ask()
    assert code(desk.answer(desk.harness.operator(), asked)) == "ok"
    other, _ = desk.harness.session("acme/support/other")
    answers = [desk.fetch(asked, other), desk.fetch({"id": "a-" + "a" * 16}, other)]
    assert [answer.json()["detail"] for answer in answers] == ["no such approval"] * 2


def test_bound_to_another_tasks_token(desk: Desk) -> None:
    """A discharge that got into other hands answers nothing in another task, of the same agent either."""
    judge = verifier(desk.harness, "payments")
    _, approval = desk.approved()
    _, other = desk.start()
    text = other.call_token("payments", "payments.refund", REFUND)
    unbound = Macaroon.parse(approval.encode())
    for discharge in (
        bind(unbound, other.bundle.tokens["payments"]),
        bind(unbound, desk.task.bundle.tokens["payments"]),
    ):
        assert (
            decide_text(judge, join(text, [discharge])) == "malformed"
        )  # it answers no third-party caveat of this token
    assert decide(judge, desk.task, REFUND, [Approval.from_text(approval.encode())]) == "ok"


def test_bound_to_nothing_or_to_a_parent(desk: Desk) -> None:
    """Unbound it is refused; bound to the task's own token it is refused with a sub-agent's."""
    judge, worker = verifier(desk.harness, "payments"), desk.task.delegate("acme/support/worker")
    _, approval = desk.approved()
    text = worker.call_token("payments", "payments.refund", REFUND)
    unbound = Macaroon.parse(approval.encode())
    assert decide_text(judge, join(text, [unbound])) == "bad_signature"
    assert decide_text(judge, join(text, [bind(unbound, desk.task.bundle.tokens["payments"])])) == "bad_signature"
    assert decide(judge, worker, REFUND, [approval]) == "ok"


def decide_text(judge: Verifier, text: str) -> str:
    """What a service says of a credential as it stands."""
    return judge.decide(text, AccessRequest("payments.refund", REFUND, now_ms())).code
