# SPDX-License-Identifier: Apache-2.0
"""A holder could empty the budget of an hour with calls that were refused, by an approval that was used before.

The cost was drawn before the approval was found used, and a draw of such a pool could not be given back.  Now it is
reserved until then, also where a pool has as many open reservations as it may have.
"""

import time
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import BUSY, MAX_HELD, MAX_WITH_HOLDS, Ledger, PoolDraw, Short, Taken
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.caveats import Caveat
from arx_verifier.verification.verifier import Verifier
from tests.verifier.ledger_model import ModelLedger

pytestmark = pytest.mark.spec("17.4")


@pytest.mark.parametrize("per", ["task", "hour", "day"])
@pytest.mark.parametrize("mode", ["strict", "leased"])
def test_a_refused_call_costs_nothing(per: str, mode: str) -> None:
    """The one call that the approval is for costs once, and leaves no reservation."""
    realm, kept = UnsafeTestRealm("pay"), ModelLedger()
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


def test_an_approved_call_may_cost_what_its_verifier_holds() -> None:
    """What other calls of the process leave of their slices goes back for it."""
    realm, kept = UnsafeTestRealm("pay"), MemoryLedger()
    costs = {"pay.refund": {"usd": "$amount"}}
    same: dict[str, Any] = {"keys": realm.verifier.keys, "epochs": realm.epochs, "decisions": realm.decisions}
    verifier = Verifier(audience="pay", ledger=LeasedLedger(kept), costs=costs, **same)
    caller = realm.caller(Rule(tool="pay.refund", args={"amount": {"max": 500}}), budget={"usd": "500"}, per="day")
    approved = UnsafeCaller(caller.macaroon.attenuate(Caveat(once=("a-1", _now_ms()))), "pay")
    for each, amount in ((caller, 1), (approved, 499)):
        request = AccessRequest("pay.refund", {"amount": amount}, _now_ms())
        assert verifier.decide(each.token("pay.refund", amount=amount), request).code == "ok"


def test_open_reservations_stop_no_approved_call() -> None:
    """As they stop no other call that reserves nothing."""
    realm = UnsafeTestRealm("pay", costs={"pay.refund": {"usd": "1"}, "pay.ask": {"usd": {"reserve": "0.1"}}})
    caller = realm.caller(Rule(tool="pay.*"), budget={"usd": "500"}, per="day")

    def code(tool: str, caller: UnsafeCaller) -> str:
        return realm.verifier.decide(caller.token(tool), AccessRequest(tool, {}, _now_ms())).code

    assert {code("pay.ask", caller) for _ in range(MAX_HELD)} == {"ok"}
    assert code("pay.ask", caller) == "insufficient_budget"
    approved = UnsafeCaller(caller.macaroon.attenuate(Caveat(once=("a-1", _now_ms()))), "pay")
    assert [code("pay.refund", approved) for _ in range(9)] == ["ok"] + 8 * ["already_used"]
    [pool] = realm.ledger.pools.values()
    assert (pool.committed, sum(pool.held.values())) == (1_000_000, MAX_HELD * 100_000)
    held = PoolDraw(next(iter(realm.ledger.pools)), 500_000_000, 86_400_000, _now_ms(), 1, 1)
    for number in range(MAX_WITH_HOLDS - MAX_HELD):
        assert isinstance(realm.ledger.take("hold", f"h{number}", [held]), Taken)
    assert realm.ledger.take("hold", "more", [held]) == Short(0, BUSY)
    other = UnsafeCaller(caller.macaroon.attenuate(Caveat(once=("a-2", _now_ms()))), "pay")
    assert [code("pay.refund", other) for _ in range(9)] == 9 * ["insufficient_budget"]
    assert pool.committed == 1_000_000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
