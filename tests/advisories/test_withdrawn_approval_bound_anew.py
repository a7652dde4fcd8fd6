# SPDX-License-Identifier: Apache-2.0
"""A holder must not revive a withdrawn approval, by binding its discharge to a younger token.

A kill ends what was born before it, and a discharge has no birth: with the token of an extension, or of an attenuation,
it would have been good again.
"""

import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.revocation.store import RevocationStore
from arx_verifier.verification.verifier import Verifier
from tests.mint.approvals import REFUND, Desk, code, decide
from tests.mint.test_approvals_crashes import desk, payments

__all__ = ["desk", "payments"]  # fixtures
LEASE_MS = 5_000  # no test waits for it: every verifier follows the store
pytestmark = [pytest.mark.servers, pytest.mark.realm(lease_ms=LEASE_MS)]


def extended(desk: Desk) -> Task:
    answer = desk.agent.call("POST", f"/v1/tasks/{desk.id}/extend", {}).json()
    return Task(Bundle.parse(answer["bundle"]))


def attenuated(desk: Desk) -> Task:
    caveats: dict[str, list[object]] = {"payments": []}
    answer = desk.agent.call("POST", f"/v1/tasks/{desk.id}/attenuate", {"caveats": caveats}).json()
    return Task(Bundle.parse(answer["bundle"]))


def outcome(desk: Desk, judge: Verifier, task: Task, approval: Approval) -> str:
    """What the service says, once it and the mint know all that the store does."""
    last = desk.harness.mint.store.header().seq
    assert all(view.catch_up(0, last, 5) for view in (judge.epochs, desk.harness.mint.epochs))
    return decide(judge, task, REFUND, [approval])


@pytest.mark.parametrize("way", ["withdrawn", "killed", "direct"])
def test_with_a_younger_token(desk: Desk, payments: Verifier, way: str) -> None:
    """However it was ended, at the mint or straight in the store, no token of the task is good with it again."""
    asked, approval = desk.approved()
    operator, target = desk.harness.operator(), f"task:{asked['id']}"
    if way == "withdrawn":
        assert code(operator.call("DELETE", f"/v1/approvals/{asked['id']}")) == "ok"
    elif way == "killed":
        assert code(operator.call("POST", "/v1/kills", {"targets": [target], "reason": "test"})) == "ok"
    else:
        with RevocationStore(desk.harness.mint.store_url, desk.harness.realm.name) as store:
            store.kill_by_kind([target], "test", "operator:eve")
    assert outcome(desk, payments, desk.task, approval) == "revoked"
    assert outcome(desk, payments, extended(desk), approval) == "frozen"
    assert outcome(desk, payments, attenuated(desk), approval) == "frozen"
    assert code(desk.fetch(asked)) == "approval_withdrawn"
    assert desk.agent.call("GET", f"/v1/approvals/{asked['id']}").json()["approval"]["state"] == "withdrawn"


def test_what_is_asked_for_again_is_another_one(desk: Desk, payments: Verifier) -> None:
    """The end of one approval is the end of no other: the same call, approved once more, is done once."""
    asked, gone = desk.approved()
    assert code(desk.harness.operator().call("DELETE", f"/v1/approvals/{asked['id']}")) == "ok"
    _, approval = desk.approved()
    assert outcome(desk, payments, desk.task, gone) == "revoked"
    assert outcome(desk, payments, desk.task, approval) == "ok"
    assert outcome(desk, payments, extended(desk), approval) == "already_used"


def test_a_store_that_lost_the_freeze_gets_it_again(desk: Desk, payments: Verifier) -> None:
    """The database knows what was withdrawn while it was good, and freezes it again."""
    asked, approval = desk.approved()
    target = f"task:{asked['id']}"
    assert code(desk.harness.operator().call("DELETE", f"/v1/approvals/{asked['id']}")) == "ok"
    mint = desk.harness.mint
    bump = mint.store.thaw([target], "lost", "test")
    mint.advance(bump.header.place)
    assert target in mint.db.approvals.withdrawn_targets()
    mint.freezes.restore()
    assert outcome(desk, payments, extended(desk), approval) == "frozen"
