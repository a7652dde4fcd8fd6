# SPDX-License-Identifier: Apache-2.0
"""Decisions are counted by outcome and code; a decision that no sink took is not."""

import copy
import time

import pytest

from arx_verifier import AccessRequest, Constraint, Rule
from arx_verifier.errors import refusal
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.journal.record import EffectRecord
from arx_verifier.metrics.counted_decisions import CountedDecisions
from arx_verifier.testing import UnsafeTestRealm


def test_each_decision_is_counted_once() -> None:
    """An allow, a refusal of a proven token, and a refusal without one; no text of a caller is a label."""
    realm = UnsafeTestRealm("orders")
    realm.verifier = realm.verifier.within(None, ["orders.*"])
    counted = CountedDecisions(realm.verifier.decisions)
    realm.verifier.decisions = counted
    caller = realm.caller(Rule(tool="orders.refund", args={"amount": Constraint(max=20)}))
    now = time.time_ns() // 1_000_000
    for amount in (15, 50):
        token = caller.token("orders.refund", amount=amount)
        decision = realm.verifier.decide(token, AccessRequest("orders.refund", {"amount": amount}, now))
        if decision.effect is not None:
            realm.verifier.record_effect(decision, EffectRecord("done"))  # no further decision, nor is the end of one
            realm.verifier.record_end(decision, refusal("revoked", ()))
    realm.verifier.refuse("missing_token", AccessRequest("", {}, now, "192.0.2.1"))
    assert counted.counts == {
        ("allow", "ok"): 1,
        ("deny", "argument_not_allowed"): 1,
        ("deny", "missing_token"): 1,
    }
    assert [decision.code for decision in realm.decisions.decisions] == [
        "ok",
        "effect",
        "revoked",
        "argument_not_allowed",
        "counted",
    ]


class FullDisk(InMemoryDecisions):
    """A sink that records nothing."""

    fill = 1.0

    def append(self, decision: Decision) -> int:
        raise OSError


def test_what_is_not_recorded_is_not_counted() -> None:
    """The sink's failure, and how full it is, reach the verifier."""
    counted = CountedDecisions(FullDisk())
    refused = UnsafeTestRealm("orders").verifier.refuse("missing_token", AccessRequest("", {}, 0))
    with pytest.raises(OSError):
        counted.append(refused)
    assert counted.fill == 1.0
    assert not counted.counts
    assert copy.copy(counted).fill == 1.0
