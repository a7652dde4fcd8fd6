# SPDX-License-Identifier: Apache-2.0
"""A verifier with several relays adopted an ended history from a relay that followed a deposed primary of the store.

It accepted tokens that the new history had ended, and then refused those of the new history until its restart.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import MS, Following
from arx_verifier.revocation.history import HistoryPlace, new_incarnation, precedes
from arx_verifier.revocation.store_link import OK, REGRESSED, RESYNC, FeedError, StoreAnswer
from tests.relay.processes import LEASE_MS
from tests.relay.test_several_relays import Site
from tests.servers import until

pytestmark = pytest.mark.spec("10.7")

WALL_MS, L_MS, SEQ = 1_800_000_000_000, 1_000, 7
ENDED = new_incarnation()
CURRENT = new_incarnation(ENDED)
NEXT = new_incarnation(CURRENT)
ELSEWHERE = ["I" * 22, "J" * 22]  # names of earlier versions have no order


class Relayed:
    """A view of several relays, which a test answers, and its clock."""

    def __init__(self) -> None:
        self.now = 10**12
        self.view = Following(boot=lambda: self.now, wall=lambda: WALL_MS * MS + self.now)
        self.view.several = True

    def visit(self, incarnation: str, seq: int = SEQ, status: str = "") -> bool:
        """Connect to a relay that is there, and follow it; return whether the view has its lease."""
        self.view.begin()
        place = HistoryPlace.begin(incarnation, seq)
        try:
            for _ in range(2):
                self.now += MS
                asked = self.view.ask()
                assert asked is not None
                same = asked.place == place
                at_ms = WALL_MS + self.now // MS
                facts = (*place[:2], at_ms, L_MS, status or (OK if same else RESYNC), 3_600_000, place.chain, ())
                self.view.take_answer(StoreAnswer(*facts), lambda _: {})
                if same:
                    break
                self.now += 10 * MS
        except FeedError:
            return False
        return self.accepts(incarnation, seq)

    def accepts(self, incarnation: str, seq: int = SEQ) -> bool:
        """Whether a token of a history is accepted."""
        return self.view.check(incarnation, seq, ("agent:acme/x",)) is None

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.now += ms * MS


@pytest.mark.parametrize("seq", [SEQ - 1, SEQ, SEQ + 100])
@pytest.mark.parametrize("knew", [False, True])
@pytest.mark.parametrize("waits_ms", [0, 10 * L_MS])
def test_an_ended_history_is_never_adopted(seq: int, knew: bool, waits_ms: int) -> None:
    """
    Whether the view had it or not, whatever its number is now, with a lease and long after it; and the relay with
    the current history is followed again afterwards.
    """
    relayed = Relayed()
    if knew:
        assert relayed.visit(ENDED)
    assert relayed.visit(CURRENT)
    for _ in range(3):
        relayed.wait(waits_ms)
        for _ in range(2):
            assert not relayed.visit(ENDED, seq)
            assert relayed.view.view()[:2] == (CURRENT, SEQ)
            assert not relayed.accepts(ENDED, seq)
        assert relayed.accepts(CURRENT) is (waits_ms == 0)
        assert relayed.visit(CURRENT)


@pytest.mark.parametrize("seq", [0, SEQ, SEQ + 1])
def test_the_next_history_is_adopted_at_once(seq: int) -> None:
    """
    From any of three relays, after a failover or a restore, at a lower number too, and for good.
    """
    relayed = Relayed()
    assert relayed.visit(CURRENT)
    assert not relayed.visit(ENDED)
    assert relayed.visit(NEXT, seq)
    for old in (ENDED, CURRENT):
        assert not relayed.visit(old, 100)
        assert relayed.accepts(NEXT, seq)


def test_names_without_an_order_wait_for_the_end_of_the_lease() -> None:
    """
    Such a history is adopted then, within the lease, and the one before it never again.
    """
    relayed, (before, after) = Relayed(), ELSEWHERE
    assert relayed.visit(before)
    assert not relayed.visit(after)
    assert relayed.accepts(before)
    relayed.wait(L_MS)
    assert relayed.visit(after)
    for _ in range(2):
        relayed.wait(L_MS)
        assert not relayed.visit(before)
        assert relayed.visit(after)


def test_a_relay_with_less_of_the_history_is_left() -> None:
    """
    It does not end the view: the next relay has all entries.
    """
    relayed = Relayed()
    assert relayed.visit(CURRENT)
    assert not relayed.visit(CURRENT, SEQ - 1, REGRESSED)
    assert not relayed.visit(CURRENT, SEQ - 1, RESYNC)
    assert relayed.accepts(CURRENT)
    relayed.wait(L_MS)
    assert relayed.visit(CURRENT)


def test_the_names_of_histories_have_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Also if the clock stands still or goes back, and not for names of earlier versions.
    """
    monkeypatch.setattr("arx_verifier.revocation.history.now_ms", lambda: 1)
    names = [CURRENT]
    for _ in range(20):
        names.append(new_incarnation(names[-1]))
        assert precedes(*names[-2:])
        assert not precedes(*reversed(names[-2:]))
    assert len(names[-1]) == 22
    assert not any(precedes(one, other) for one in (*ELSEWHERE, "") for other in (CURRENT, *ELSEWHERE, ""))


@pytest.fixture
def deposed(tmp_path: Path, own_valkey: EmbeddedValkey, realm_name: str) -> Iterator[EmbeddedValkey]:
    """A server that goes on with a history which has ended at ``own_valkey``."""
    with EmbeddedValkey(tmp_path / "deposed") as server:
        with RevocationStore(server.url, realm_name) as old, RevocationStore(own_valkey.url, realm_name) as store:
            for each in (old, store):
                each.load_functions()
                each.init(ENDED, lease_ms=LEASE_MS)
            store.rotate()
        yield server


def visits(follower: Follower) -> set[tuple[str, bool]]:
    """Wait until it has been at ten relays; return its histories, and whether it accepted a token of the ended one."""
    last, seen = follower._turn + 10, set[tuple[str, bool]]()

    def visited() -> bool:
        seen.add((follower.view()[0], follower.check(ENDED, 0, ("agent:acme/x",)) is None))
        return follower._turn >= last

    until(visited)
    return seen


@pytest.mark.slow
@pytest.mark.servers
def test_relays_in_processes(own_valkey: EmbeddedValkey, deposed: EmbeddedValkey, realm_name: str) -> None:
    """
    The relay with the current history ends and begins anew: the verifier refuses, and then follows it again.
    """
    site = Site([own_valkey.url, deposed.url], realm_name)
    follower = Follower(site.url, realm_name, "v")
    follower._turn = 0  # it begins with the relay that has the current history
    try:
        with RevocationStore(own_valkey.url, realm_name) as store:
            current = store.header()
        until(lambda: follower.check(current.incarnation, current.seq, ("agent:acme/x",)) is None)
        for _ in range(2):
            site.relays[0].kill()
            assert visits(follower) == {(current.incarnation, False)}
            site.relays[0] = site.begin(0)
            until(lambda: follower.check(current.incarnation, current.seq, ("agent:acme/x",)) is None)
    finally:
        follower.close()
        site.close()
