# SPDX-License-Identifier: Apache-2.0
"""A holder could empty the budget of an hour with calls that were refused, by an approval that was used before.

The cost was drawn before the approval was found used, and a draw of such a pool could not be given back.  Now it is
reserved until then.
"""

import time

import pytest

from arx_verifier import Rule
from arx_verifier.ledger import LeasedLedger, Ledger, MemoryLedger
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token import Caveat
from arx_verifier.verification import Verifier

pytestmark = pytest.mark.spec("17.4")


@pytest.mark.parametrize("per", ["task", "hour", "day"])
@pytest.mark.parametrize("mode", ["strict", "leased"])
def test_a_refused_call_costs_nothing(per: str, mode: str) -> None:
    """The one call that the approval is for costs once, and leaves no reservation."""
    realm, kept = UnsafeTestRealm("pay"), MemoryLedger()
    ledger: Ledger = LeasedLedger(kept) if mode == "leased" else kept
    keys, costs = realm.verifier.keys, {"pay.refund": {"usd": "$amount"}}
    verifier = Verifier(
        audience="pay", keys=keys, epochs=realm.epochs, decisions=realm.decisions, ledger=ledger, costs=costs
    )
    whole = realm.caller(Rule(tool="pay.refund", args={"amount": {"max": 100}}), budget={"usd": "500"}, per=per)
    approved = UnsafeCaller(whole.macaroon.attenuate(Caveat(once=("a-1", _now_ms()))), "pay")

    def code(caller: UnsafeCaller) -> str:
        request = AccessRequest("pay.refund", {"amount": 100}, _now_ms())
        return verifier.decide(caller.token("pay.refund", amount=100), request).code

    assert [code(approved) for _ in range(8)] == ["ok"] + 7 * ["already_used"]
    assert [code(whole) for _ in range(5)] == 4 * ["ok"] + ["budget_exhausted"]
    [pool] = kept.state.pools.values()
    assert (pool.committed + pool.leased, pool.reserved) == (500_000_000, 0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
