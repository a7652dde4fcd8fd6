# SPDX-License-Identifier: Apache-2.0
"""The states of verifiers, and how many are in each."""

import pytest

from arx_caps.revocation.wire import count_states, state_of


@pytest.mark.parametrize(
    ("age_ms", "state"), [(0, "live"), (999, "live"), (1000, "late"), (9999, "late"), (10_000, "gone")]
)
def test_a_verifier_is_live_then_late_then_gone(age_ms: int, state: str) -> None:
    """
    Live for a lease, late for ten.
    """
    assert state_of(age_ms, 1000) == state


def test_a_relay_counts_as_the_verifiers_behind_it() -> None:
    """
    A relay with no verifier counts as none, and each state is in the answer.
    """
    counts = count_states([("live", None), ("live", 40), ("live", 0), ("gone", 2), ("gone", None)])
    assert counts == {"live": 41, "late": 0, "gone": 3}
