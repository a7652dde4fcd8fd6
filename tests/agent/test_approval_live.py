# SPDX-License-Identifier: Apache-2.0
"""A call that operators approve, with a real mint and real services, from the question to its end."""

import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from arx_caps.agent import Agent, Approval, Session, StartedTask, Task
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.errors import AttenuationError, GrantError, RequestError
from arx_verifier.verification.verifier import Verifier
from tests.agent.live import LiveMint, judged, live_mint
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers

REFUND = {"order_id": "o-1", "amount": 500}
CLOSE = {"order_ids": ["o-1", "o-2"]}


@pytest.fixture(scope="module")
def mint(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMint]:
    """One running mint for this file."""
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("approvals")
    with live_mint(folder, store_url=valkey.url, name="approvals", port=port) as live:
        yield live


@pytest.fixture
def payments(mint: LiveMint) -> Iterator[Verifier]:
    """The service that is asked for refunds."""
    with mint.service("payments") as verifier:
        yield verifier


@pytest.fixture
def agent(mint: LiveMint, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent of this test alone."""
    name = request.node.name.removeprefix("test_").partition("[")[0][:30]
    with mint.agent(f"acme/support/{name}") as enrolled:
        yield enrolled


@pytest.fixture
def session(agent: Agent) -> Iterator[Session]:
    """Its session."""
    with agent.open_session(purpose="a payout") as opened:
        yield opened


@pytest.fixture
def task(session: Session) -> StartedTask:
    """A task whose refunds are approved."""
    return session.start_task("payout", order_id="o-1")


def answer(by: Callable[..., dict[str, Any]], approval: str, outcome: str = "approve", why: str | None = None) -> None:
    """Say as an operator what becomes of an approval."""
    by("POST", "/v1/approvals", body={"approval": approval, "outcome": outcome, "why": why})


def test_what_json_has_no_form_for_is_an_error_of_the_caller(session: Session, task: StartedTask) -> None:
    """
    In arguments, reasons and parameters: an error of ARx, whatever the value, without what else was sent.
    """
    for value in ("a\ud800", float("nan"), float("inf"), {1}, b"x", [["\udfff"]]):
        calls: list[Callable[[], object]] = [
            partial(task.ask_approval, "payments.note", {"text": value, "other": "secret-1"}),
            partial(session.start_task, "payout", order_id=value),
        ]
        calls += [partial(task.ask_approval, "payments.refund", REFUND, why=value)] if isinstance(value, str) else []
        for call in calls:
            with pytest.raises(RequestError, match="JSON has a form for") as raised:
                call()
            assert "secret-1" not in "".join(traceback.format_exception(raised.value))


def test_a_refund_waits_for_an_operator_and_passes_once(mint: LiveMint, payments: Verifier, task: StartedTask) -> None:
    """
    Refused without, asked for, approved, allowed once with these very arguments, and no more.
    """
    assert (task.needs_approval("payments.refund"), task.needs_approval("orders.get")) == (True, False)
    assert judged(payments, task, "payments.refund", REFUND) == "missing_discharge"
    asked = task.ask_approval("payments.refund", REFUND, why="charged twice")
    assert asked.look() == "waiting"
    shown = mint.operator("GET", "/v1/approvals?state=waiting&task=" + task.id)["approvals"]
    assert [(each["id"], each["args"], each["why"], each["agent"]) for each in shown] == [
        (asked.id, REFUND, "charged twice", task.agent)
    ]
    waiter = threading.Thread(target=asked.wait)
    waiter.start()
    answer(mint.operator, asked.id, why="seen the receipt")
    waiter.join(20)
    assert (asked.state, asked.by, asked.args) == ("approved", ("root",), REFUND)
    assert judged(payments, task, "payments.refund", {**REFUND, "amount": 501}, asked) == "argument_not_allowed"
    assert judged(payments, task, "payments.refund", REFUND, asked) == "ok"
    assert judged(payments, task, "payments.refund", REFUND, asked) == "already_used"


def test_a_sub_agent_makes_the_approved_call(mint: LiveMint, payments: Verifier, task: StartedTask) -> None:
    """
    The approval is delegated as a text beside the task; attenuated, too, and the approval widens nothing.
    """
    asked = task.ask_approval("payments.refund", REFUND)
    answer(mint.operator, asked.id)
    text = asked.wait().encode()
    worker = Task.from_text(task.delegate("acme/worker", tools=["payments.refund"], ttl="60s").encode())
    less = Task.from_text(task.delegate("acme/worker", args={"amount": {"max": 5}}, ttl="60s").encode())
    assert judged(payments, less, "payments.refund", REFUND, Approval.from_text(text)) == "argument_not_allowed"
    assert judged(payments, worker, "payments.refund", REFUND, Approval.from_text(text)) == "ok"
    assert judged(payments, task, "payments.refund", REFUND, asked) == "already_used"


def test_two_operators_approve_a_list_for_many_calls(
    mint: LiveMint, payments: Verifier, session: Session, task: StartedTask
) -> None:
    """
    One yes is not enough, and the same operator's second is none; the list is approved in its order; a task
    that is extended may use it as well.
    """
    asked = task.ask_approval("payments.close", CLOSE)
    answer(mint.operator, asked.id)
    with pytest.raises(GrantError) as caught:
        answer(mint.operator, asked.id)
    assert (caught.value.code, asked.look(), asked.by) == ("conflict", "waiting", ("root",))
    with pytest.raises(TimeoutError, match="1 of 2"):
        asked.wait(timeout_s=0.01)
    answer(mint.another("bob", "approver"), asked.id)
    assert asked.wait().by == ("root", "bob")
    assert [judged(payments, task, "payments.close", CLOSE, asked) for _ in range(2)] == ["ok", "ok"]
    for other in (["o-2", "o-1"], ["o-1"], ["o-1", "o-2", "o-3"], ["o-1", "o-1"]):
        assert judged(payments, task, "payments.close", {"order_ids": other}, asked) == "argument_not_allowed"
    assert judged(payments, task.extend(ttl="60s"), "payments.close", CLOSE, asked) == "ok"
    with pytest.raises(AttenuationError, match="is for the task"):
        judged(payments, session.start_task("payout", order_id="o-1"), "payments.close", CLOSE, asked)


def test_a_denial_has_its_reason(mint: LiveMint, task: StartedTask) -> None:
    """
    The agent learns that it was denied and why, and may ask again.
    """
    asked = task.ask_approval("payments.refund", REFUND)
    answer(mint.operator, asked.id, "deny", "no receipt")
    with pytest.raises(GrantError, match="no receipt") as caught:
        asked.wait()
    assert (caught.value.code, asked.state) == ("approval_denied", "denied")
    assert task.ask_approval("payments.refund", REFUND).id != asked.id


def test_a_withdrawn_approval_is_dead_everywhere(mint: LiveMint, payments: Verifier, task: StartedTask) -> None:
    """
    Also where a holder has it already; the task goes on, and may have another call approved.
    """
    asked = task.ask_approval("payments.close", CLOSE)
    answer(mint.operator, asked.id)
    carol = mint.another("carol", "approver")
    answer(carol, asked.id)
    asked.wait()
    assert judged(payments, task, "payments.close", CLOSE, asked) == "ok"
    assert carol("DELETE", f"/v1/approvals/{asked.id}")["approval"]["state"] == "withdrawn"
    until(lambda: judged(payments, task, "payments.close", CLOSE, asked) == "revoked")
    with pytest.raises(GrantError) as caught:
        asked.look()
    assert (caught.value.code, asked.state) == ("approval_withdrawn", "withdrawn")
    again = task.ask_approval("payments.refund", REFUND)
    answer(mint.operator, again.id)
    assert judged(payments, task, "payments.refund", REFUND, again.wait()) == "ok"


def test_an_approval_ends_with_its_task(mint: LiveMint, payments: Verifier, task: StartedTask) -> None:
    """
    Nothing of a finished task is approved any more, and nothing that was.
    """
    given, waiting = (task.ask_approval("payments.refund", REFUND) for _ in range(2))
    answer(mint.operator, given.id)
    given.wait()
    task.finish()
    until(lambda: judged(payments, task, "payments.refund", REFUND, given) == "revoked")
    with pytest.raises(GrantError) as caught:
        waiting.wait()
    assert (caught.value.code, waiting.state) == ("session_ended", "ended")
    with pytest.raises(GrantError) as caught:
        answer(mint.operator, waiting.id)
    assert caught.value.code == "session_ended"


def test_the_agent_learns_what_cannot_be_approved(mint: LiveMint, task: StartedTask) -> None:
    """
    The library refuses what the task refuses anyhow, the mint what no approval can bind; no operator is asked.
    """
    for args in ({"order_id": {"a": 1}, "amount": 5}, {"order_id": "o-1", "amount": 5000}):
        with pytest.raises(AttenuationError, match="would not allow the call"):
            task.ask_approval("payments.refund", args)
    with pytest.raises(GrantError, match="at most 2048") as caught:
        task.ask_approval("payments.close", {"order_ids": ["o-1"] * 400})
    assert caught.value.code == "bad_parameters"
    assert mint.operator("GET", "/v1/approvals?task=" + task.id)["approvals"] == []


def test_attenuated_for_all_still_needs_its_approval(mint: LiveMint, payments: Verifier, task: StartedTask) -> None:
    """
    The mint signs the third-party caveat anew with what is left; what was approved before is good for it.
    """
    asked = task.ask_approval("payments.refund", REFUND)
    answer(mint.operator, asked.id)
    asked.wait()
    left = task.attenuate_for_all(args={"payments.refund": {"amount": {"max": 600}}}, tools=["payments.refund"])
    assert left.needs_approval("payments.refund")
    assert judged(payments, left, "payments.refund", REFUND) == "missing_discharge"
    assert judged(payments, left, "payments.refund", REFUND, asked) == "ok"
