# SPDX-License-Identifier: Apache-2.0
"""A guard that was to record arguments while it watches recorded them in clear after the end of the watch as well.

From that time it enforces, and its process goes on until a restart: the arguments of allowed calls, and of refused
ones, stayed in the journal.  Now they are recorded only while the watch is on.
"""

import pytest

from arx_verifier import Constraint, Rule
from arx_verifier.clock import now_ms
from arx_verifier.journal.decision import Decision
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.watch import Watch
from tests.servers import until


@pytest.mark.spec("12.7")
def test_no_arguments_are_recorded_once_the_watch_has_ended() -> None:
    """An allowed call and a refused one, by the verifier that recorded both before."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get", args={"order_id": Constraint(glob="o-*")}))
    end = now_ms() + 3_000
    verifier = realm.verifier.watching(Watch(end, records=True))

    def decide(order: str) -> Decision:
        token = caller.token("orders.get", order_id=order)
        return verifier.decide(token, AccessRequest("orders.get", {"order_id": order}, now_ms()))

    assert [decide(order).arguments for order in ("o-1", "x-1")] == [b'{"order_id":"o-1"}', b'{"order_id":"x-1"}']
    until(lambda: now_ms() > end)
    found = [decide(order) for order in ("o-1", "x-1")]
    assert [(each.outcome, each.arguments) for each in found] == [("allow", None), ("deny", None)]
