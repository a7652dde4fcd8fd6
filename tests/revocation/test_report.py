# SPDX-License-Identifier: Apache-2.0
"""The report of a kill: it says confirmed only where that is proven."""

import json
from typing import Any

import pytest

from arx_caps.revocation.confirm import wait_confirmed
from arx_caps.revocation.report import KillReport, name_risk, write_summary
from arx_caps.revocation.wire import Bump, Header, Registry
from arx_verifier.errors import StoreError

pytestmark = pytest.mark.spec("10.3")

AT_MS = 1_000_000


def summary_of(
    *,
    confirmed: int = 48,
    verifiers: int = 48,
    unreachable: tuple[str, ...] = (),
    registry_age_ms: int = 60_000,
    at_risk: str = "",
) -> tuple[str, str]:
    """Return status and summary of a kill that all verifiers have confirmed, but for what is given."""
    missing = tuple((name, 0, 0, 1) for name in unreachable)
    seen = Registry(AT_MS, AT_MS - registry_age_ms, verifiers, confirmed, missing)
    return write_summary(seen, Header("a history", 7, AT_MS, 1_000, 0, ""), AT_MS, at_risk, 3.14)


@pytest.mark.parametrize(
    ("facts", "status", "summary"),
    [
        ({}, "confirmed", "confirmed: 48 of 48 verifiers in 3.1 ms"),
        (
            {"confirmed": 47, "unreachable": ("tool-7",)},
            "partial",
            "partial: 47 of 48 verifiers, 1 (tool-7) unreachable, fenced by its lease at +1.001 s",
        ),
        (
            {"confirmed": 44, "unreachable": ("a", "b", "c", "d")},
            "partial",
            "partial: 44 of 48 verifiers, 4 (a, b, c, …) unreachable, fenced by their leases at +1.001 s",
        ),
        (
            {"confirmed": 0, "verifiers": 0},
            "unconfirmed",
            "unconfirmed: in force; no verifier has reported; leases end by +1.001 s",
        ),
        (
            {"registry_age_ms": 400},
            "unconfirmed",
            "unconfirmed: in force at 48 of 48 known verifiers, but the registry is younger than a lease (0.4 s); "
            "leases end by +1.001 s",
        ),
    ],
)
def test_each_case_has_its_line(facts: dict[str, Any], status: str, summary: str) -> None:
    """One status and one line for each thing that can be known."""
    assert summary_of(**facts) == (status, summary)


@pytest.mark.parametrize("facts", [{}, {"confirmed": 0, "verifiers": 0}, {"registry_age_ms": 0}])
def test_what_is_not_durable_is_never_confirmed(facts: dict[str, Any]) -> None:
    """The report names a kill that a crash of the store could undo as such, first of all."""
    status, summary = summary_of(**facts, at_risk=name_risk(False, 0, 0))
    assert status == "unconfirmed"
    assert summary.startswith("unconfirmed: NOT DURABLE")


def test_an_unknown_outcome_is_reported() -> None:
    """The report claims nothing, and names the remedy."""
    report = KillReport.unknown(("realm",), 5_000.0, "the store did not answer")
    assert report.status == "unknown"
    assert report.confirmed == 0
    assert "repeat it" in report.summary


def test_a_report_is_json() -> None:
    """Every member, with lists for tuples."""
    answer = KillReport.unknown(("realm",), 1.0, "why").to_dict()
    assert json.loads(json.dumps(answer)) == answer
    assert list(answer) == list(KillReport.__struct_fields__)
    assert answer["targets"] == ["realm"]


def test_a_store_that_dies_after_the_kill_is_not_waited_for() -> None:
    """The kill is in force by then; the report is that no verifier could confirm it."""

    def gone(seq: int, since_ms: int) -> Registry:
        raise StoreError("gone")

    bump = Bump("kill", ("realm",), Header("I", 1, 1_000, 1_000, 0, ""), "", 0.0)
    report = wait_confirmed(gone, bump, 60_000)
    assert report.status == "unconfirmed"
    assert report.fenced_in_ms == 0
    assert report.summary == "unconfirmed: in force; the store stopped answering; leases end by +1.001 s"
