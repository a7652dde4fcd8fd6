# SPDX-License-Identifier: Apache-2.0
"""An approval went on after its approver was frozen or removed, also if its discharge was fetched afterwards.

An operator who looks at the case of a stolen key freezes its owner, and expects that nothing more happens by it.
"""

from collections.abc import Callable

import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile
from arx_caps.revocation.store import RevocationStore
from arx_verifier.verification.verifier import Verifier
from tests.mint.approvals import REFUND, TWO, Desk, code, decide
from tests.mint.harness import ISSUER
from tests.mint.test_approvals_crashes import desk, payments

__all__ = ["desk", "payments"]  # fixtures
pytestmark = [
    pytest.mark.servers,
    pytest.mark.spec("CONTROL 2.10", "6.6", "10.1"),
    pytest.mark.realm(lease_ms=5_000),  # none ends in a test: all that follow the store are there
]


def freeze(desk: Desk, name: str) -> None:
    body = {"targets": [f"operator:{name}"], "reason": "key stolen"}
    assert code(desk.harness.operator().call("POST", "/v1/freezes", body)) == "ok"


def freeze_direct(desk: Desk, name: str) -> None:
    """Without the mint, as ``arx freeze --direct``."""
    with RevocationStore(desk.harness.mint.store_url, desk.harness.realm.name) as store:
        store.freeze([f"operator:{name}"], "key stolen", "operator:root")


def remove(desk: Desk, name: str) -> None:
    assert code(desk.harness.operator().call("DELETE", f"/v1/operators/{name}")) == "ok"


End = Callable[[Desk, str], None]
ends = pytest.mark.parametrize("end", [freeze, freeze_direct, remove], ids=lambda end: end.__name__)


def outcome(desk: Desk, judge: Verifier, task: Task, approval: Approval) -> str:
    """What the service says, once it and the mint know all that the store does."""
    caught_up(desk, judge)
    return decide(judge, task, REFUND, [approval])


def caught_up(desk: Desk, judge: Verifier) -> None:
    last = desk.harness.mint.store.header().seq
    assert all(view.catch_up(0, last, 5) for view in (judge.epochs, desk.harness.mint.epochs))


def state(desk: Desk, name: str) -> str:
    return str(desk.agent.call("GET", f"/v1/approvals/{name}").json()["approval"]["state"])


@ends
def test_a_fetched_discharge_ends_with_its_approver(desk: Desk, payments: Verifier, end: End) -> None:
    """At the service within the lease, also with a younger token; the same call can be approved again."""
    asked, approval = desk.approved(REFUND, desk.operator("ada"))
    end(desk, "ada")
    assert outcome(desk, payments, desk.task, approval) in ("revoked", "frozen")
    assert state(desk, asked["id"]) == "withdrawn"
    _, again = desk.approved(REFUND, desk.operator("bob"))
    assert outcome(desk, payments, desk.task, again) == "ok"


@ends
def test_a_discharge_is_not_given_after_its_approver(desk: Desk, payments: Verifier, end: End) -> None:
    """The fetch is judged by what the approver may do now."""
    asked = desk.ask()
    assert code(desk.answer(desk.operator("ada"), asked)) == "ok"
    end(desk, "ada")
    caught_up(desk, payments)
    assert code(desk.fetch(asked)) == "approval_withdrawn"


def test_a_discharge_is_not_given_after_another_role(desk: Desk) -> None:
    """An operator who approves no more calls of this kind: a role is no target of a kill, and the fetch is judged."""
    asked = desk.ask()
    assert code(desk.answer(desk.operator("ada"), asked)) == "ok"
    assert code(desk.harness.operator().call("PATCH", "/v1/operators/ada", {"role": "read-only"})) == "ok"
    assert code(desk.fetch(asked)) == "approval_withdrawn"


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["ada", "bob"])
def test_each_of_several_approvers_counts(desk: Desk, payments: Verifier, gone: str) -> None:
    """Two are needed: without one of them the approval ends.  One who did not count takes nothing away."""
    desk.use(TWO)
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    asked, early = desk.ask(), desk.operator("early")
    assert code(desk.answer(early, asked)) == "ok"
    freeze(desk, "early")
    caught_up(desk, payments)
    for name in ("ada", "bob"):
        assert code(desk.answer(desk.operator(name), asked)) == "ok"
    answer = desk.fetch(asked).json()
    assert (answer["approval"]["state"], answer["approval"]["by"]) == ("approved", ["ada", "bob"])
    approval = Approval.from_text(answer["discharge"])
    freeze(desk, gone)
    assert outcome(desk, payments, desk.task, approval) == "frozen"


def test_a_thawed_approver(desk: Desk, payments: Verifier) -> None:
    """A freeze suspends an approval; after a kill, the approver approves calls of younger tasks alone."""
    key = KeyFile.generate("operator", "ada", ISSUER)
    ada = desk.operator_with(key, "ada")
    asked, approval = desk.approved(REFUND, ada)
    freeze(desk, "ada")
    assert outcome(desk, payments, desk.task, approval) == "frozen"
    root, body = desk.harness.operator(), {"targets": ["operator:ada"], "reason": "a mistake"}
    assert code(root.call("POST", "/v1/freezes/thaw", body)) == "ok"
    caught_up(desk, payments)
    assert state(desk, asked["id"]) == "approved"
    assert code(root.call("POST", "/v1/kills", body)) == "ok"
    assert code(root.call("POST", "/v1/freezes/thaw", body)) == "ok"
    assert outcome(desk, payments, desk.task, approval) == "revoked"
    # Else an approval would be given that no service takes.
    refused = desk.answer(desk.sign_in(key), desk.ask())
    assert code(refused) == "conflict"
    assert "another operator must approve" in refused.json()["detail"]
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    _, again = desk.approved(REFUND, desk.sign_in(key))
    assert outcome(desk, payments, desk.task, again) == "ok"
