# SPDX-License-Identifier: Apache-2.0
"""When a verifier asks, with a clock moved by hand: what follows on a push, and when it is confirmed."""

import pytest

from arx_verifier.revocation.follower_core import CONFIRM_MOST_MS, MIN_GAP_MS, MS, PROBE_MS, Following
from arx_verifier.revocation.history import HistoryPlace
from arx_verifier.revocation.store_link import OK, RESYNC, EpochEntry, StoreAnswer

pytestmark = pytest.mark.spec("10.3")

BEGAN = HistoryPlace.begin("I" * 22, 5)
WALL_MS = 1_800_000_000_000


class World:
    """A view, its clock, and a store in which so many ask."""

    def __init__(self, askers: int) -> None:
        self.now, self.askers, self.place = 10**12, askers, BEGAN
        self.view = Following(boot=lambda: self.now, wall=lambda: WALL_MS * MS + self.now)
        self.view.begin()
        for status in (RESYNC, OK):
            assert self.view.ask() is not None
            self.answer(status)

    def answer(self, status: str = OK) -> None:
        at_ms = WALL_MS + self.now // MS
        answer = (
            self.place.incarnation,
            self.place.seq,
            at_ms,
            1_000,
            status,
            3_600_000,
            self.place.chain,
            (),
            self.askers,
        )
        self.view.take_answer(StoreAnswer(*answer), lambda _: {})

    def push(self, seq: int) -> None:
        self.view.take_push(EpochEntry(BEGAN.incarnation, seq, "kill", "realm"))

    def asks_after_ms(self, *, hurry: bool = False) -> float:
        return max(0, self.view.next_at(hurry=hurry) - self.now) / MS


@pytest.mark.parametrize(("askers", "ms"), [(1, 0), (10, 0), (50, 2), (1_000, 40), (10_000, CONFIRM_MOST_MS)])
def test_a_push_is_confirmed_once_the_others_have_it(askers: int, ms: int) -> None:
    """
    In force at once; the confirmation leaves the store and the processors to those who have not heard yet, for a
    moment that grows with their number and is a small part of the lease.
    """
    world = World(askers)
    assert world.asks_after_ms() == PROBE_MS
    world.push(6)
    assert world.view.check(BEGAN.incarnation, 5, ("realm",)) is not None
    assert world.asks_after_ms() == ms
    world.now += 20 * MS
    world.push(7)
    assert world.asks_after_ms() == max(0, ms - 20), "a second push does not put the confirmation off"


def test_what_may_be_missing_is_asked_for_at_once() -> None:
    """
    A gap and another history are no confirmations: nothing is waited for.
    """
    world = World(1_000)
    world.push(8)
    assert world.asks_after_ms() == 0
    world = World(1_000)
    world.view.take_push(EpochEntry("J" * 22, 6, "rotate", "realm"))
    assert world.asks_after_ms() == 0


def test_a_waiting_caller_is_not_held_up() -> None:
    """
    A request that must see the newest view has it asked for as ever.
    """
    world = World(10_000)
    world.push(6)
    assert world.asks_after_ms(hurry=True) == MIN_GAP_MS
