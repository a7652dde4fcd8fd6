# SPDX-License-Identifier: Apache-2.0
"""A service must not avoid an approval by exchanging its token.

Nor does an exchange lose what a holder required of those it delegated to.
"""

from typing import Any

import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_verifier.request import AccessRequest
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge, third_party_caveats
from tests.mint.approvals import code
from tests.mint.harness import Harness, now_ms
from tests.mint.test_token_exchange import ORDER, POLICY, Shop, called

ENTRIES = '[{ tools = ["payments.refund"] }, { tools = ["orders.cancel"] }]'
APPROVED = POLICY.replace(
    "allow = [", f'approvals = {ENTRIES}\nallow = [\n  {{ tool = "orders.cancel", args = {{}} }},'
)
PAID = ORDER | {"amount": 50}


@pytest.fixture
def shop(unit: Harness) -> Shop:
    return Shop(unit, APPROVED)


def approve(shop: Shop, task: Task, tool: str = "payments.refund", args: Any = PAID) -> Approval:
    (third_party,) = third_party_caveats(task.bundle.tokens[tool.partition(".")[0]])
    body = {"caveat": third_party.encode().decode(), "tool": tool, "args": args}
    asked = shop.agent.call("POST", "/v1/discharges", body).json()["approval"]
    answer = {"approval": asked["id"], "outcome": "approve"}
    assert code(shop.harness.operator().call("POST", "/v1/approvals", answer)) == "ok"
    return Approval.from_text(shop.agent.call("POST", f"/v1/discharges/{asked['id']}").json()["discharge"])


def refund(shop: Shop, task: Task, *approvals: Approval) -> str:
    text = task.call_token("payments", "payments.refund", PAID, approvals=approvals)
    return shop.verifiers["payments"].decide(text, AccessRequest("payments.refund", PAID, now_ms())).code


def test_a_service_needs_it_as_well(shop: Shop) -> None:
    """Exchanged, repeated, exchanged on the way once more: an approval is required; one that is handed on is taken."""
    task = shop.start()
    text = called(task)
    answer = shop.exchange("orders", text, key="k")
    onwards = Task(Bundle.parse(answer["bundle"]))
    assert refund(shop, onwards) == "missing_discharge"
    assert third_party_caveats(onwards.bundle.tokens["payments"]) == third_party_caveats(task.bundle.tokens["payments"])
    assert shop.exchange("orders", text, key="k")["access_token"] == answer["access_token"]
    ledger = shop.exchange("orders", called(task), audience="ledger")
    onwards_again = Task(Bundle.parse(ledger["bundle"]))
    add = onwards_again.call_token("ledger", "ledger.add", ORDER)
    further = Task(Bundle.parse(shop.exchange("ledger", add)["bundle"]))
    assert refund(shop, further) == "missing_discharge"
    approval = approve(shop, task)
    assert refund(shop, onwards, approval) == "ok"
    assert refund(shop, further, approval) == refund(shop, task, approval) == "already_used"


def test_what_comes_with_an_approval_goes_no_further(shop: Shop) -> None:
    """What a service was called with may have discharges behind it: the exchanged token requires its own."""
    task = shop.start()
    approval = approve(shop, task)
    given = approve(shop, task, "orders.cancel", {})
    text = task.call_token("orders", "orders.cancel", {}, approvals=[given])
    assert "~" in text
    onwards = Task(Bundle.parse(shop.exchange("orders", text)["bundle"]))
    assert refund(shop, onwards) == "missing_discharge"
    assert refund(shop, onwards, approval) == "ok"


def test_what_a_holder_required_is_not_lost(shop: Shop) -> None:
    """
    A third-party caveat of a holder's own stands under the presented token's signature alone: such a token is not
    exchanged.
    """
    task = shop.start()
    own = task.bundle.tokens["orders"]
    name = third_party_caveats(own)[0].id
    for third_party in (ThirdPartyCaveat(id="ask-me"), ThirdPartyCaveat(id=name, tools=("payments.*",))):
        token = require_discharge(own, third_party.encode(), b"k" * 32)
        held = task.bundle
        about = {"agent": held.agent, "issuer": held.issuer, "realm": held.realm, "task": held.task}
        handed = Task(Bundle(**about, origins=held.origins, tokens={**held.tokens, "orders": token}))
        assert shop.exchange("orders", called(handed))["code"] == "exchange_not_allowed"
