# SPDX-License-Identifier: Apache-2.0
"""The mint refused to exchange an attenuated task's token, because it took its own approval caveat for a holder's.

The mint separated its caveats from those of holders by counting its own.  A token that was exchanged has
more of the mint's: the attenuation of where it came from.  Then a third-party caveat of the mint's own was taken for a
holder's.
"""

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_verifier.token.discharge import ThirdPartyCaveat, require_discharge, third_party_caveats
from tests.mint.harness import Harness
from tests.mint.test_token_exchange import ORDER, POLICY, Shop, called
from tests.servers import FAST_LEASE_MS

pytestmark = [pytest.mark.servers, pytest.mark.sqlite, pytest.mark.realm(lease_ms=FAST_LEASE_MS)]
EXCHANGE = 'exchange = { orders = ["payments", "ledger"], ledger = ["payments"] }'
CHAIN = (
    POLICY.replace(EXCHANGE, 'exchange = { orders = ["payments"], payments = ["ledger"] }')
    .replace("allow = [", 'allow = [\n  { tool = "payments.list", args = {} },')
    .replace("allow = [", 'approvals = [{ tools = ["payments.refund"] }]\nallow = [')
)


@pytest.fixture
def shop(live: Harness) -> Shop:
    return Shop(live, CHAIN)


def attenuated(shop: Shop) -> Task:
    """A task that both services are left in, and whose calls of the first are attenuated twice."""
    near = [{"net": ["192.0.2.0/24"]}, {"net": ["192.0.2.0/25"]}]
    answer = shop.agent.call(
        "POST", f"/v1/tasks/{shop.start().id}/attenuate", {"caveats": {"orders": near, "payments": []}}
    )
    return Task(Bundle.parse(answer.json()["bundle"]))


def at_payments(shop: Shop, task: Task) -> Task:
    return Task(Bundle.parse(shop.exchange("orders", called(task))["bundle"]))


def test_a_chain_of_services_goes_on(shop: Shop) -> None:
    """
    Whether it was attenuated or not; what was taken away on the way holds at its end.
    """
    for task, code in ((shop.start(), "ok"), (attenuated(shop), "network_not_allowed")):
        onwards = at_payments(shop, task)
        assert len(third_party_caveats(onwards.bundle.tokens["payments"])) == 1
        answer = shop.exchange("payments", onwards.call_token("payments", "payments.list", {}), "ledger")
        ledger = Task(Bundle.parse(answer["bundle"]))
        assert third_party_caveats(ledger.bundle.tokens["ledger"]) == ()
        add = ledger.call_token("ledger", "ledger.add", ORDER)
        assert shop.judge(add, "ledger", "ledger.add", ORDER) == code


def test_a_third_party_of_a_holder_is_still_one(shop: Shop) -> None:
    """
    Also one that is called like the mint's.
    """
    for task in (shop.start(), attenuated(shop)):
        held = at_payments(shop, task).bundle
        own = held.tokens["payments"]
        (mints,) = third_party_caveats(own)
        for third_party in (mints, ThirdPartyCaveat(id="ask-me")):
            token = require_discharge(own, third_party.encode(), b"k" * 32)
            about = {"agent": held.agent, "issuer": held.issuer, "realm": held.realm, "task": held.task}
            handed = Task(Bundle(**about, origins=held.origins, tokens={"payments": token}))
            text = handed.call_token("payments", "payments.list", {})
            assert shop.exchange("payments", text, "ledger")["code"] == "exchange_not_allowed"
