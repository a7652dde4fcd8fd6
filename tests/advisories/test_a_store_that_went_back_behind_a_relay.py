# SPDX-License-Identifier: Apache-2.0
"""A mint did not notice that its store went back, where only a verifier behind a relay knew of it.

A relay sent the store its own place alone.  Started anew, it knew no more than the store that had gone back; the
verifier behind it was refused by it, and its word went no further.
"""

from pathlib import Path

import pytest

from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.store_link import Crowd
from tests.faults.going_back import KID, TARGETS, follow, running
from tests.faults.witness import Witness
from tests.relay.crowd import BEGAN, OTHER, HubHarness, Peer
from tests.relay.processes import RelayProcess


@pytest.mark.slow
@pytest.mark.servers
def test_a_word_from_behind_a_relay_ends_the_history(tmp_path: Path) -> None:
    """The mint was away when the kill was made, the relay is new: the verifier alone knows."""
    with running(tmp_path, "verifier") as harness:
        at = (harness.server.url, harness.realm.name, tmp_path / "r")
        relay = RelayProcess(*at)
        try:
            knows = Witness(relay.url, harness.realm.name, "knows", kid=KID)
            harness.verifiers.append(knows)
            killed = harness.token()
            knows.watch(token=killed)
            knows.until("ok")
            harness.keep()
            harness.mint.kill()
            harness.kill(TARGETS["session"])
            knows.until("revoked")
            lost = harness.number()
            harness.stop_store()
            relay.kill()
            new = harness.verifier("new")
            new.watch(token=killed)
            harness.put_back()
            harness.mint.start()  # attests the new server: before that no relay is ready
            relay = RelayProcess(*at)
            follow(harness, new, "session", boot_clock(), lost)
        finally:
            relay.kill()


def test_a_relay_says_the_highest_place_that_one_behind_names() -> None:
    """Whether it is its own or that of one behind another relay, until it is in the history again."""
    harness = HubHarness()
    first, second, far = (Peer(harness, name) for name in ("a", "b", "relay:far"))
    assert harness.crowd.ahead is None
    for follower, place in ((first, 7), (second, 6)):
        harness.wait(1)
        follower.probe(place)
        harness.grant()
    assert harness.crowd.ahead == (7, OTHER)
    far.probe(BEGAN.seq, crowd=Crowd(1, BEGAN.seq, (), (9, OTHER)))
    assert harness.crowd.ahead == (9, OTHER)
    far.probe(BEGAN.seq, crowd=Crowd(1, BEGAN.seq, ()))
    first.probe(BEGAN.seq)
    assert harness.crowd.ahead == (6, OTHER)
