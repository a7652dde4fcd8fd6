# SPDX-License-Identifier: Apache-2.0
"""A service could exchange an attenuated task's token for one that is not attenuated.

An attenuation at the mint writes caveats into the task's tokens for one audience.  The service there exchanged its
token for one for another audience, which was signed without them: tools, end, depth and networks were those of the
whole task.  What services alone reach could not be attenuated at all.
"""

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from tests.mint.harness import Harness
from tests.mint.test_token_exchange import ORDER, POLICY, Shop, called
from tests.servers import FAST_LEASE_MS

pytestmark = [pytest.mark.servers, pytest.mark.sqlite, pytest.mark.realm(lease_ms=FAST_LEASE_MS)]
ALONE = POLICY.replace('audience = ["orders", "payments"]', 'audience = ["orders"]')  # services alone reach payments


@pytest.fixture
def shop(live: Harness) -> Shop:
    return Shop(live, ALONE)


def test_tools_and_arguments(shop: Shop) -> None:
    """Attenuated to read, a task pays nothing through the service that it reads at; attenuated in amount, no more."""
    assert shop.refund(shop.exchange("orders", called(shop.start())), 50) == "ok"
    reading = shop.attenuated({"allow": [{"tool": "orders.get"}]})
    assert shop.refund(shop.exchange("orders", called(reading)), 50) == "tool_not_allowed"
    small = {"args": {"amount": {"max": 20}}, "open": True, "tool": "payments.*"}
    less = shop.attenuated({"allow": [small, {"tool": "orders.get"}]})
    answer = shop.exchange("orders", called(less))
    assert [shop.refund(answer, amount) for amount in (20, 21)] == ["ok", "argument_not_allowed"]


def test_end_depth_and_network(shop: Shop) -> None:
    """What bounds the presented token bounds the one it is exchanged for."""
    assert shop.exchange("orders", called(shop.attenuated({"depth": 0})))["code"] == "too_deep"
    near = shop.attenuated({"net": ["192.0.2.0/24"]})
    assert shop.refund(shop.exchange("orders", called(near)), 50) == "network_not_allowed"


def test_through_another_service(shop: Shop) -> None:
    """It holds as many services on as there are."""
    reading = shop.attenuated({"allow": [{"tool": "orders.get"}, {"tool": "ledger.add"}]})
    ledger = Task(Bundle.parse(shop.exchange("orders", called(reading), "ledger")["bundle"]))
    text = ledger.call_token("ledger", "ledger.add", ORDER)
    assert shop.refund(shop.exchange("ledger", text), 5) == "tool_not_allowed"
