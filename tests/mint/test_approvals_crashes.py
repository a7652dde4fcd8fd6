# SPDX-License-Identifier: Apache-2.0
"""A mint killed at every step of what it does with an approval, as ``test_crashes`` has it for sessions and kills."""

from collections.abc import Iterator
from typing import Any

import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.mint.db.tables import APPROVALS
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.follower import Follower
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.mint.approvals import POLICY, REFUND, Desk, code, decide
from tests.mint.dying import PATIENCE_MS, SHORT_LEASE, Crasher, Patient, at_every_step, count, crasher, repeat
from tests.mint.harness import Harness, now_ms

__all__ = ["crasher"]  # fixtures
pytestmark = [pytest.mark.servers, SHORT_LEASE]


@pytest.fixture
def desk(live: Harness) -> Desk:
    made = Desk(live, POLICY.replace('ttl = "10m"', 'ttl = "1h"'))
    made.agent = Patient.of(made.agent)
    return made


@pytest.fixture
def payments(desk: Desk) -> Iterator[Verifier]:
    """The service where refunds are made, following the store."""
    file = desk.harness.service_file("payments")
    keys = KeyRing({kid: bytes_of(key) for kid, key in file["keys"].items()}, realm=desk.harness.realm.name)
    epochs = Follower(file["store"], desk.harness.realm.name, "payments-test")
    verifier = Verifier(audience="payments", keys=keys, epochs=epochs, decisions=InMemoryDecisions())
    verifier.start()
    yield verifier
    verifier.close()


def outcome(desk: Desk, judge: Verifier, approval: Approval) -> str:
    """What the service says of the call that was approved, once it knows all that the store does."""
    assert judge.epochs.catch_up(0, desk.harness.mint.store.header().seq, 5)
    ends = now_ms() + PATIENCE_MS
    while (found := decide(judge, desk.task, REFUND, [approval])) == "stale" and now_ms() < ends:
        pass
    return found


@pytest.mark.slow
def test_asking(desk: Desk, crasher: Crasher) -> None:
    """A request is there with its event or not at all, and the repeat gets that one."""
    body = {"caveat": desk.caveat, "tool": "payments.refund", "args": REFUND}
    operator = Patient.of(desk.harness.operator())

    def act(step: int) -> dict[str, Any] | None:
        before, key = count(desk.harness, "approval.asked"), f"k-{step}"
        answered = crasher.ask(step, desk.agent, "POST", "/v1/discharges", body, key)
        assert desk.harness.mint.db.count(APPROVALS) == count(desk.harness, "approval.asked")
        answer = repeat(desk.agent, "/v1/discharges", body, key, answered)["approval"]
        assert desk.harness.mint.db.count(APPROVALS) == count(desk.harness, "approval.asked") == before + 1
        assert answered is None or answered["body"]["approval"]["id"] == answer["id"]
        assert code(desk.answer(operator, answer, "deny")) == "ok"
        return answered

    assert at_every_step(desk.harness, act) > 6


@pytest.mark.nightly
def test_answering(desk: Desk, crasher: Crasher) -> None:
    """An answer exists with its event or not at all; a second answer shows which."""
    operator = Patient.of(desk.harness.operator())

    def act(step: int) -> dict[str, Any] | None:
        before, asked = count(desk.harness, "approval.given"), desk.ask()
        body = {"approval": asked["id"], "outcome": "approve"}
        answered = crasher.ask(step, operator, "POST", "/v1/approvals", body)
        done = count(desk.harness, "approval.given") == before + 1
        row = desk.harness.mint.db.approvals.find(asked["id"])
        assert row is not None
        assert (row.status == "approved") == done
        assert answered is None or done
        assert code(desk.answer(operator, asked)) == ("conflict" if done else "ok")
        assert count(desk.harness, "approval.given") == before + 1
        assert "discharge" in desk.fetch(asked).json()
        return answered

    assert at_every_step(desk.harness, act) > 6


@pytest.mark.nightly
def test_withdrawing(desk: Desk, crasher: Crasher, payments: Verifier) -> None:
    """What was answered or recorded as withdrawn is revoked; withdrawing again mends whatever was cut off."""
    operator = Patient.of(desk.harness.operator())

    def act(step: int) -> dict[str, Any] | None:
        before = count(desk.harness, "approval.withdrawn")
        asked, approval = desk.approved(REFUND, operator)
        path = f"/v1/approvals/{asked['id']}"
        answered = crasher.ask(step, operator, "DELETE", path)
        if answered is not None or count(desk.harness, "approval.withdrawn") > before:
            assert outcome(desk, payments, approval) == "revoked"
        assert operator.call("DELETE", path).json()["approval"]["state"] == "withdrawn"
        assert outcome(desk, payments, approval) == "revoked"
        assert code(desk.fetch(asked)) == "approval_withdrawn"
        assert count(desk.harness, "approval.withdrawn") == before + 1
        return answered

    assert at_every_step(desk.harness, act) > 6


@pytest.mark.slow
def test_fetching(desk: Desk, crasher: Crasher, payments: Verifier) -> None:
    """A discharge that was given is recorded before; fetched again it is the same, and good for one call."""
    asked, approval = desk.approved(REFUND, Patient.of(desk.harness.operator()))

    def act(step: int) -> dict[str, Any] | None:
        before = count(desk.harness, "discharge.made")
        answered = crasher.ask(step, desk.agent, "POST", f"/v1/discharges/{asked['id']}")
        assert answered is None or count(desk.harness, "discharge.made") == before + 1
        again = desk.fetch(asked).json()["discharge"]
        assert answered is None or answered["body"]["discharge"] == again
        return answered

    assert at_every_step(desk.harness, act) > 4
    assert outcome(desk, payments, approval) == "ok"
    assert outcome(desk, payments, Approval.from_text(desk.fetch(asked).json()["discharge"])) == "already_used"
