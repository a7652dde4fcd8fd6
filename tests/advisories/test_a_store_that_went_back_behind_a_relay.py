# SPDX-License-Identifier: Apache-2.0
"""A mint did not notice that its store went back, where only a verifier behind a relay knew of it.

A relay told the store its own place alone.  Started anew, it knew no more than the store that had gone back; the
verifier behind it was refused by it, and its word went no further.
"""

from pathlib import Path

import pytest

from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.store_link import Crowd
from tests.faults.going_back import KID, TARGETS, follow, running
from tests.faults.witness import Witness
from tests.relay.crowd import BEGAN, OTHER, Somebody, World
from tests.relay.processes import RelayProcess


@pytest.mark.servers
def test_a_word_from_behind_a_relay_ends_the_history(tmp_path: Path) -> None:
    """The mint was away when the kill was made, the relay is new: the verifier alone knows."""
    with running(tmp_path, "verifier") as world:
        at = (world.server.url, world.realm.name, tmp_path / "r")
        relay = RelayProcess(*at)
        try:
            knows = Witness(relay.url, world.realm.name, "knows", kid=KID)
            world.verifiers.append(knows)
            killed = world.token()
            knows.watch(token=killed)
            knows.until("ok")
            world.keep()
            world.mint.kill()
            world.kill(TARGETS["session"])
            knows.until("revoked")
            world.stop_store()
            relay.kill()
            new = world.verifier("new")
            new.watch(token=killed)
            world.put_back()
            relay = RelayProcess(*at)
            world.mint.start()
            follow(world, new, "session", boot_clock())
        finally:
            relay.kill()


def test_a_relay_says_the_highest_place_that_one_behind_names() -> None:
    """Whether it is its own or that of one behind another relay, until it is in the history again."""
    world = World()
    first, second, far = (Somebody(world, name) for name in ("a", "b", "relay:far"))
    assert world.crowd.ahead is None
    for somebody, place in ((first, 7), (second, 6)):
        world.wait(1)
        somebody.probe(place)
        world.grant()
    assert world.crowd.ahead == (7, OTHER)
    far.probe(BEGAN.seq, crowd=Crowd(1, BEGAN.seq, (), (9, OTHER)))
    assert world.crowd.ahead == (9, OTHER)
    far.probe(BEGAN.seq, crowd=Crowd(1, BEGAN.seq, ()))
    first.probe(BEGAN.seq)
    assert world.crowd.ahead == (6, OTHER)
