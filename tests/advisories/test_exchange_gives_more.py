# SPDX-License-Identifier: Apache-2.0
"""A holder of an access token must not exchange it for one that allows more, nor for any agent that it likes.

Sources: RFC 8693 1.1, 2.1.
"""

import json

import pytest

from tests.mint.harness import Harness
from tests.mint.oauth import RESOURCE
from tests.mint.test_handle_exchange import CALLS, PARAMS, PAY, World, exchange, exchanged, keeping, only

pytestmark = pytest.mark.sqlite
ONE = keeping({"tool": "orders.get", "args": {"order_id": "o-1"}})
WIDER = [
    {},
    {"scope": "refund"},
    {"resource": RESOURCE},
    {"authorization_details": only("orders.get", "orders.list", "payments.refund")},
    {"authorization_details": only("*")},
    {"authorization_details": keeping({"tool": "*"})},
    {"authorization_details": keeping({"tool": "orders.*", "open": True})},
    {"authorization_details": keeping({"tool": "orders.get", "args": {"order_id": {"any": True}}, "open": True})},
    {"authorization_details": PARAMS},
    {"authorization_details": json.dumps([{"type": "arx_task", "params": {"order_id": "o-2", "amount": 100}}])},
    {"scope": "own"},
    {"scope": "refund own"},
    {"resource": PAY},
]


def test_what_was_left_out_does_not_come_back(unit: Harness) -> None:
    """By no parameter, for no agent of the chain: each new token allows what the first did, or less."""
    world = World(unit)
    first = exchanged(world.worker, world.token(), authorization_details=ONE)
    before = world.allowed(first)
    assert before == [("orders.get", {"order_id": "o-1"})]
    for form in WIDER:
        for client in (world.worker, world.deeper):
            answer = exchange(client, first, **form)
            if answer.status_code == 200:
                token = answer.json()["access_token"]
                assert [call for call in world.allowed(token, CALLS) if call not in before] == [], form
    # Nor for an agent that the policy does not name.
    assert exchange(world.stranger, first).status_code == 400
