# SPDX-License-Identifier: Apache-2.0
"""What a relay says of those behind it: who has applied what, and who may still hold a lease."""

import pytest

from arx_verifier.revocation.store_link import Crowd, Late
from tests.relay.crowd import MS, START, HubHarness, Peer, harness

pytestmark = pytest.mark.spec("10.7")

__all__ = ["harness"]  # fixtures


def test_all_must_have_applied_it(harness: HubHarness) -> None:
    """
    The relay reports as applied what the last of those behind has, not what it has itself.
    """
    one, two = Peer(harness, "one"), Peer(harness, "two")
    one.probe(5)
    two.probe(5)
    harness.entry(6)
    assert harness.crowd == Crowd(2, 5, ())
    one.probe(6)
    assert harness.crowd == Crowd(2, 5, ())
    two.probe(6)
    assert harness.crowd == Crowd(2, 6, ())
    assert harness.crowds[-1][1]  # reported at once


def test_another_history_confirms_nothing(harness: HubHarness) -> None:
    """
    What a follower had applied of another history is no confirmation.
    """
    Peer(harness).probe(5, incarnation="J" * 22)
    assert harness.crowd == Crowd(1, -1, ())


def test_a_silent_one_is_named_until_no_lease_is_left(harness: HubHarness) -> None:
    """
    Counted while it talks, named apart for two leases more, then forgotten; back in the count when it talks again.
    """
    quick, slow = Peer(harness, "quick"), Peer(harness, "slow")
    slow.probe(5)
    heard_ms = 1_800_000_000_000 + START // MS
    harness.entry(6)
    for _ in range(6):
        harness.wait(100)
        harness.grant()
        quick.probe(6)
    assert harness.crowd == Crowd(1, 6, (Late("slow", heard_ms, 5, 1),))
    for _ in range(20):
        harness.wait(100)
        harness.grant()
        quick.probe(6)
    assert harness.crowd == Crowd(1, 6, ())
    slow.probe(6)
    assert harness.crowd == Crowd(2, 6, ())


def test_a_lost_connection_is_named_at_once_and_a_goodbye_is_not(harness: HubHarness) -> None:
    """
    Without a word it may hold a lease; with one it does not.
    """
    one, two = Peer(harness, "one"), Peer(harness, "two")
    one.probe(5)
    two.probe(5)
    one.drop()
    harness.hub.take_leave(two)
    assert [late.name for late in harness.crowd.late] == ["one"]
    assert harness.crowd.verifiers == 0


def test_one_name_has_one_connection(harness: HubHarness) -> None:
    """
    Two that use one name cannot both be served: one of them would not be counted.
    """
    first, second = Peer(harness), Peer(harness)
    first.probe(5)
    second.probe(5)
    assert first.dropped
    assert not second.dropped
    assert harness.crowd.verifiers == 1


def test_relays_add_up(harness: HubHarness) -> None:
    """
    Another relay's crowd counts as it says, its late ones with it.
    """
    late = Late("far", 1_800_000_000_000, 3, 1)
    Peer(harness, "relay:far").probe(5, crowd=Crowd(7, 4, (late,)))
    Peer(harness, "near").probe(5)
    assert harness.crowd == Crowd(8, 4, (late,))
