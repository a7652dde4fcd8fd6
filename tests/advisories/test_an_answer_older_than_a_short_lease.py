# SPDX-License-Identifier: Apache-2.0
"""In a realm with a short lease a verifier used the first answer of a relay that had lost the store for that long.

It compared the answer's age with half of the default lease. A relay between two histories also counted leases so, and
no longer named a verifier that could still have a longer one.
"""

import pytest

from arx_caps.relay.upstream import Granted
from arx_verifier.revocation.follower_core import Following
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.store_link import OK, FeedError, StoreAnswer
from tests.relay.crowd import BEGAN, INCARNATION, MS, HubHarness, Peer, harness

pytestmark = pytest.mark.spec("10.7")

__all__ = ["harness"]  # fixtures

WALL_MS = 1_800_000_000_000
NEXT = HistoryPlace.begin("N" * 22, 6)


@pytest.mark.parametrize(("lease_ms", "own_ms"), [(200, None), (2_000, 200), (200, 2_000)])
def test_half_of_the_lease_in_force(lease_ms: int, own_ms: int | None) -> None:
    """
    The realm's lease or the verifier's own, whichever is shorter; an answer of exactly that age is used.
    """
    now = 10**12
    for age_ns, used in ((100 * MS, True), (100 * MS + 1, False)):
        view = Following(lease_ms=own_ms, boot=lambda: now, wall=lambda: WALL_MS * MS)
        view.several = True
        view.adopt(INCARNATION, 5, {}, {})
        view._place = BEGAN
        view.begin()
        assert view.ask() is not None
        answer = StoreAnswer(INCARNATION, 5, WALL_MS, lease_ms, OK, 3_600_000, BEGAN.chain, (), 1, age_ns)
        if used:
            view.take_answer(answer, lambda _: {})
        else:
            with pytest.raises(FeedError, match="nothing from the store for half a lease"):
                view.take_answer(answer, lambda _: {})
        assert (view.check(INCARNATION, 5, ()) is None) is used


@pytest.mark.parametrize(("lease_ms", "late_after_ms", "named_at_ms"), [(200, 101, 500), (5_000, 2_501, 12_500)])
def test_a_relay_between_two_histories(
    harness: HubHarness, lease_ms: int, late_after_ms: int, named_at_ms: int
) -> None:
    """
    It reports a silent verifier by name after half of the realm's lease, for two and a half leases.
    """
    harness.hub.take_grant(Granted(WALL_MS, lease_ms, 3_600_000, harness.now))
    Peer(harness).probe(5)
    harness.hub.take_copy(NEXT)
    harness.wait(late_after_ms - 1)
    assert harness.crowd.verifiers == 1
    harness.wait(1)
    assert [late.name for late in harness.crowd.late] == ["v"]
    harness.wait(named_at_ms - late_after_ms)
    assert [late.name for late in harness.crowd.late] == ["v"]
    harness.wait(1)
    assert not harness.crowd.late
