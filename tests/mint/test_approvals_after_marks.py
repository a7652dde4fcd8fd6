# SPDX-License-Identifier: Apache-2.0
"""Calls that need an approval after a mark: a mint, the ledger at a real Valkey, and two services."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from arx_caps.agent.sessions.started_task import StartedTask
from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.task import Task
from arx_caps.agent.tools.tool_calls import ToolCalls
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.errors import AccessError, Failure
from arx_verifier.ledger.pools import MarkQuestion, Taken
from arx_verifier.request import AccessRequest
from tests.ledgers import header_of, look, new_ledger, only_bucket
from tests.mint.approvals import POLICY, REFUND, Desk, code, decide
from tests.mint.harness import AGENT, Harness, Holder, now_ms, open_unit
from tests.mint.test_tasks import verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.8", "CONTROL 2.8")]
AFTER = POLICY.replace(
    'approvals = [{ tools = ["payments.refund", "payments.note"], need = 1 }]',
    """marks = [{ tools = ["orders.get"], set = "private" }]
after = [
  { mark = "private", tools = ["payments.refund"], do = "approve" },
  { mark = ["other", "private"], tools = ["payments.refund"], do = "approve" },
]""",
)


class MarkedDesk(Desk):
    """A desk whose refunds need an approval once the order was read."""

    def __init__(self, harness: Harness, ledger: Any, path: str = AGENT) -> None:
        super().__init__(harness, AFTER, path)
        self.ledger = ledger
        self.judges = {name: verifier(harness, name, ledger=ledger) for name in ("orders", "payments")}

    def get(self, task: Task | None = None) -> str:
        args = {"order_id": "o-1"}
        text = (task or self.task).call_token("orders", "orders.get", args)
        return self.judges["orders"].decide(text, AccessRequest("orders.get", args, now_ms())).code

    def refund(self, *approvals: Approval, task: Task | None = None) -> str:
        return decide(self.judges["payments"], task or self.task, REFUND, list(approvals))

    def set_mark(self, mark: str) -> None:
        """Set a warning of the session, as a call of another template does."""
        opened, now = self.session["opened_at"], now_ms()
        question = MarkQuestion(self.session["id"], opened, now, "web.get web", sets=(f"w:s:{mark}",))
        assert isinstance(self.ledger.take("draw", "", (), None, question), Taken)

    def lift(self, mark: str = "private") -> Any:
        """Lift a mark of the session that is set once; return it."""
        path, body = f"/v1/sessions/{self.session['id']}/marks/lift", {"mark": mark, "reason": "checked"}
        [lifted] = self.harness.operator().call("POST", path, body).json()["lifted"]
        return lifted

    def waiting(self, operator: Holder) -> set[str]:
        """The requests that wait."""
        return {each["id"] for each in operator.call("GET", "/v1/approvals", state="waiting").json()["approvals"]}

    def withdrawals(self) -> set[tuple[str, str]]:
        """Each withdrawn request, and by whom."""
        events = [each for each in self.harness.events() if each["kind"] == "approval.withdrawn"]
        return {(each["approval"], each["by"]) for each in events}

    def why(self) -> tuple[Failure, ...]:
        """The failures of a refund without an approval."""
        text = self.task.call_token("payments", "payments.refund", REFUND)
        return self.judges["payments"].decide(text, AccessRequest("payments.refund", REFUND, now_ms())).failures


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[tuple[Harness, Any, str]]:
    with (
        EmbeddedValkey(tmp_path / "ledger") as server,
        open_unit(tmp_path / "realm") as unit,
        closing(new_ledger(server.url, unit.realm.name, hides=True)) as ledger,
    ):
        ledger.start()
        since = look(ledger)[1]
        while now_ms() <= since:
            pass  # a session of the same millisecond counts as lost
        unit.mint.ledger = ledger
        unit.mint.log.start()
        yield unit, ledger, server.url


@pytest.fixture
def desk(realm: tuple[Harness, Any, str]) -> MarkedDesk:
    return MarkedDesk(*realm[:2])


def test_a_call_needs_an_approval_once_the_mark_is_set(desk: MarkedDesk) -> None:
    """Not before; the operator is shown the mark; the approval is for one call."""
    assert desk.refund() == "ok"
    assert code(desk.try_to_ask()) == "conflict"
    before = now_ms()
    assert [desk.get(), desk.refund()] == ["ok", "missing_discharge"]
    assert decide(desk.judges["payments"], desk.task, {}, [], "payments.note") == "ok"
    [failure] = desk.why()
    assert failure.rule == "approval"
    assert "private by orders.get at orders" in str(failure.expected)
    asked, approval = desk.approved()
    [mark] = asked["marks"]
    assert before <= mark.pop("set_at") <= now_ms()
    assert mark == {"mark": "private", "tool": "orders.get", "service": "orders"}
    assert [desk.refund(approval), desk.refund(approval)] == ["ok", "already_used"]
    [event] = [each for each in desk.harness.events() if each.get("approval") == asked["id"] and "marks" in each]
    assert (event["kind"], event["marks"]) == ("approval.asked", ["private"])


def test_an_approval_does_not_count_for_a_mark_that_is_set_later(desk: MarkedDesk) -> None:
    """An operator lifts the mark, and another call sets it: the approver saw neither."""
    desk.get()
    _, approval = desk.approved()
    lifted = desk.lift()
    assert desk.refund() == "ok"
    while desk.get() and any(each["set_at"] == lifted["set_at"] for each in desk.ask()["marks"]):
        pass  # the clock of the ledger has not moved on
    assert desk.refund(approval) == "missing_discharge"
    assert desk.refund(desk.approved()[1]) == "ok"


def test_a_request_after_other_marks_replaces_the_one_that_waits(desk: MarkedDesk) -> None:
    """An answer to it would not count; two of the same marks both wait, as each is for one call."""
    desk.get()
    first, other = desk.ask(), desk.ask(REFUND | {"amount": 51})
    desk.set_mark("other")
    asked = [desk.ask(), desk.ask()]
    assert [{mark["mark"] for mark in each["marks"]} for each in asked] == [{"other", "private"}] * 2
    operator = desk.harness.operator()
    assert desk.waiting(operator) == {other["id"], *[each["id"] for each in asked]}
    assert code(desk.fetch(first)) == "approval_withdrawn"
    assert code(desk.answer(operator, first)) == "conflict"
    assert desk.withdrawals() == {(first["id"], f"agent:{desk.agent_path}")}


def test_a_lift_withdraws_the_requests_that_show_the_mark(desk: MarkedDesk) -> None:
    """Their calls may need no approval now; what shows other marks, was given, or is of another session stays."""
    elsewhere = MarkedDesk(desk.harness, desk.ledger, "acme/other")
    kept = [each.get() and each.ask() for each in (desk, elsewhere)]
    for each in (desk, elsewhere):
        each.set_mark("other")
    kept.append(elsewhere.ask(REFUND | {"amount": 51}))
    given, stale = desk.approved(REFUND | {"amount": 51})[0], desk.ask(REFUND | {"amount": 51})
    operator = desk.harness.operator()
    desk.lift("other")
    assert desk.waiting(operator) == {each["id"] for each in kept}
    assert [code(desk.fetch(stale)), code(desk.fetch(given))] == ["approval_withdrawn", "ok"]
    assert desk.withdrawals() == {(stale["id"], "operator:root")}
    desk.lift("private")
    assert desk.waiting(operator) == {each["id"] for each in kept[1:]}
    assert desk.refund() == "ok"
    assert code(desk.answer(operator, kept[0])) == "conflict"


def test_it_holds_for_each_holder_and_each_token_of_the_task(desk: MarkedDesk) -> None:
    """A sub-agent's token, one that is signed again, and another task of the session."""
    desk.get()
    _, approval = desk.approved()
    worker = desk.task.delegate("acme/worker", depth=0)
    assert desk.refund(task=worker) == "missing_discharge"
    again, other = desk.agent.call("POST", f"/v1/tasks/{desk.id}/extend", {}), desk.start()[1]
    assert again.status_code == 201, again.text
    assert desk.refund(task=other) == "missing_discharge"
    assert desk.refund(approval, task=worker) == "ok"


def test_no_operator_approves_what_the_ledger_may_have_lost(desk: MarkedDesk, realm: tuple[Harness, Any, str]) -> None:
    """Who approves cannot be shown what happened, so the call is refused as by any warning."""
    _, ledger, url = realm
    desk.get()
    _, approval = desk.approved()
    with redis.Redis.from_url(url, decode_responses=True) as server:
        server.hset(header_of(server, desk.harness.realm.name), "run", "another")
    only_bucket(ledger).remembered = ""
    assert [desk.refund(), desk.refund(approval)] == ["after_mark", "after_mark"]
    assert code(desk.try_to_ask()) == "conflict"
    desk.harness.mint.ledger = None
    try:
        assert code(desk.try_to_ask()) == "conflict"
    finally:
        desk.harness.mint.ledger = ledger


def test_a_tool_that_a_service_refused_after_a_mark_asks_before_its_next_call(desk: MarkedDesk) -> None:
    """The token alone does not show that a mark is set; the model reads which one, and a repeated call waits."""
    calls = ToolCalls(StartedTask(desk.task.bundle, session=None))  # type: ignore[arg-type]  # it asks for nothing here
    assert desk.get() == "ok"
    assert not calls.needs_approval("payments.refund", REFUND)
    with pytest.raises(AccessError) as refused:
        desk.judges["payments"].verify(
            desk.task.call_token("payments", "payments.refund", REFUND),
            AccessRequest("payments.refund", REFUND, now_ms()),
        )
    words = calls.refusal_of("payments.refund", refused.value)
    assert words is not None
    assert words.code == "missing_discharge"
    assert "private by orders.get at orders" in words.text
    assert calls.needs_approval("payments.refund", REFUND)
    assert not calls.needs_approval("payments.refund", REFUND | {"amount": 1000})
    assert not calls.needs_approval("payments.note", {})
    _, approval = desk.approved()
    assert not calls.needs_approval("payments.refund", REFUND, [approval])
    assert desk.refund(approval) == "ok"
