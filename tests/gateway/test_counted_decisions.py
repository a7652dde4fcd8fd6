# SPDX-License-Identifier: Apache-2.0
"""Decisions are counted by upstream, outcome and code; a decision that no sink took is not."""

import time

import pytest
from prometheus_client import generate_latest

from arx_caps.gateway.base.counted_decisions import CountedDecisions
from arx_caps.http.metric_families import GATEWAY
from arx_caps.http.metrics import ProcessMetrics
from arx_verifier import AccessRequest, Constraint, Rule
from arx_verifier.journal import Decision, InMemoryDecisions
from arx_verifier.testing import UnsafeTestRealm


def test_each_decision_is_counted_once() -> None:
    """An allow, a refusal of a proven token, and a refusal without one; no text of a caller is a label."""
    realm = UnsafeTestRealm("orders")
    metrics = ProcessMetrics("gateway", GATEWAY)
    counted = CountedDecisions(realm.verifier.decisions, metrics.counter("arx_gateway_decisions"), "billing")
    realm.verifier.decisions = counted
    caller = realm.caller(Rule(tool="orders.refund", args={"amount": Constraint(max=20)}))
    now = time.time_ns() // 1_000_000
    for amount in (15, 50):
        token = caller.token("orders.refund", amount=amount)
        realm.verifier.decide(token, AccessRequest("orders.refund", {"amount": amount}, now))
    realm.verifier.refuse("missing_token", AccessRequest("", {}, now, "192.0.2.1"))
    found = [line for line in generate_latest(metrics.registry).decode().splitlines() if "decisions_total{" in line]
    assert sorted(found) == [
        'arx_gateway_decisions_total{decision="allow",reason="ok",upstream="billing"} 1.0',
        'arx_gateway_decisions_total{decision="deny",reason="argument_not_allowed",upstream="billing"} 1.0',
        'arx_gateway_decisions_total{decision="deny",reason="missing_token",upstream="billing"} 1.0',
    ]
    assert [decision.code for decision in realm.decisions.decisions] == ["ok", "argument_not_allowed", "counted"]


class FullDisk(InMemoryDecisions):
    """A sink that records nothing."""

    fill = 1.0

    def append(self, decision: Decision) -> int:
        raise OSError


def test_what_is_not_recorded_is_not_counted() -> None:
    """The sink's failure, and how full it is, reach the verifier."""
    metrics = ProcessMetrics("gateway", GATEWAY)
    counted = CountedDecisions(FullDisk(), metrics.counter("arx_gateway_decisions"), "billing")
    refused = UnsafeTestRealm("orders").verifier.refuse("missing_token", AccessRequest("", {}, 0))
    with pytest.raises(OSError):
        counted.append(refused)
    assert counted.fill == 1.0
    assert b"decisions_total{" not in generate_latest(metrics.registry)
