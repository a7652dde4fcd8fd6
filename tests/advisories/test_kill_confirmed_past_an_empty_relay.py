# SPDX-License-Identifier: Apache-2.0
"""A kill was reported as confirmed while a relay without followers did not know of it.

It had no follower, so the kill did not wait.  But a relay gives out leases until its own is over: a verifier that
came to it a moment after the report, or came back, accepted what had been confirmed to be revoked, for less than a
lease. Found by the simulation, once relays were part of it.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.store_link import Crowd
from tests.relay.crowd import BEGAN, HubHarness, Peer
from tests.relay.processes import RelayProcess
from tests.servers import freeze, until

DEAD, BY = ["task:t-" + "a" * 16], "operator:ada"


@pytest.mark.servers
def test_a_relay_without_followers_is_waited_for(
    valkey: EmbeddedValkey, fast_store: RevocationStore, tmp_path: Path
) -> None:
    """
    One verifier confirms, an empty relay stands still: the report says when its leases are over, and names it.
    """
    follower = Follower(valkey.url, fast_store.realm, "tool")
    relay = RelayProcess(valkey.url, fast_store.realm, tmp_path / "relay.sock")
    try:
        assert follower.catch_up(0, 0, 10)
        lease_ms = fast_store.header().lease_ms
        until(lambda: (seen := fast_store.unacked(0, 0)).at_ms - seen.since_ms > 2 * lease_ms)
        assert fast_store.wait_confirmed(fast_store.kill(DEAD, "test", BY)).status == "confirmed"
        freeze(relay.pid)
        report = fast_store.wait_confirmed(fast_store.kill(DEAD, "test", BY))
        assert (report.status, report.confirmed, report.verifiers) == ("partial", 1, 1)
        assert [name.partition(":")[0] for name in report.unreachable] == ["relay"]
        assert "those that came to" in report.summary
    finally:
        follower.close()
        relay.kill()


def test_an_empty_relay_behind_another_is_named_when_it_falls_silent() -> None:
    """
    At any depth: it has no follower, and may have given out leases all the same.
    """
    harness = HubHarness()
    below = Peer(harness, "relay:below")
    below.probe(BEGAN.seq, crowd=Crowd(0, BEGAN.seq, ()))
    assert harness.crowd == Crowd(0, BEGAN.seq, ())
    harness.wait(600)
    (late,) = harness.crowd.late
    assert (late.name, late.applied, late.verifiers) == ("relay:below", BEGAN.seq, 0)
