# SPDX-License-Identifier: Apache-2.0
"""A service that watches raised an error in a call with a budget that a row refuses, while its ledger had just begun.

Such a call goes on and sets its warnings, which draws on no pool; the ledger's refusal was taken for that of a pool.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import show_until
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.verifier import Verifier
from tests.ledgers import begin, new_ledger

pytestmark = [pytest.mark.spec("12.7", "21.5"), pytest.mark.servers]


def test_a_call_goes_on_while_no_warning_can_be_set(tmp_path: Path) -> None:
    """An enforcing service refuses it."""
    with EmbeddedValkey(tmp_path) as valkey:
        ledger = new_ledger(valkey.url, "watched")
        begin(ledger)
        ledger.begin_anew()
        realm = UnsafeTestRealm("orders")
        here = Verifier(
            audience="orders",
            keys=realm.verifier.keys,
            epochs=realm.epochs,
            decisions=realm.decisions,
            ledger=ledger,
            costs={"orders.*": {"calls": "1"}},
        )
        rows = {"marks": [["call", "seen", "session", ["orders.*"]]]}
        caller = realm.caller(Rule(tool="*"), marks=rows, budget={"calls": "9"})
        watching = here.within(mode="watch", until=show_until(now_ms() + 86_400_000))
        for each, goes_on in ((watching, True), (here, False)):
            decision = each.decide(caller.token("orders.get"), AccessRequest("orders.get", {}, now_ms()))
            assert (decision.code, decision.watched) == ("store_unavailable", goes_on)
        ledger.close()
