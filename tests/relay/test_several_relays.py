# SPDX-License-Identifier: Apache-2.0
"""Verifiers that follow any of several relays: one dies, stops, falls behind, or all go and return.

``pytest -rP -m slow tests/relay/test_several_relays.py`` prints how long calls were refused.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.errors import SettingsError
from arx_verifier.revocation.epoch import boot_clock
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import MS, Following
from arx_verifier.revocation.relay_link import each_relay
from arx_verifier.revocation.store_link import OK, FeedError, StoreAnswer
from tests.faults.proxy import Proxy
from tests.faults.witness import Witness
from tests.relay.crowd import BEGAN, INCARNATION
from tests.relay.processes import BY, L_NS, SESSION, RelayProcess
from tests.servers import free_ports, freeze, until
from tests.support import ANYTHING, mint

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.7")]

TARGET = [f"session:{SESSION}"]
COUNT = 6  # verifiers
SECRET = {"ARX_RELAY_PASSWORD": "p,w"}
LEASE_MS = 1_000
WALL_MS = 1_800_000_000_000


class Site:
    """Relays of a realm at fixed ports, and the verifiers that know all of them."""

    def __init__(self, stores: list[str], realm: str) -> None:
        self._realm, self._stores, self._ports = realm, stores, free_ports(len(stores))
        self.url = "relay://:p%2Cw@" + ",".join(f"127.0.0.1:{port}" for port in self._ports)
        self.relays = [self.begin(place) for place in range(len(stores))]
        self.verifiers: list[Witness] = []

    def begin(self, place: int) -> RelayProcess:
        """Start a relay, again at its port."""
        at = f"127.0.0.1:{self._ports[place]}"
        return RelayProcess(self._stores[place], self._realm, at, f"r{place}", variables=SECRET)

    def decide(self, store: RevocationStore, count: int = COUNT) -> None:
        """Start verifiers that decide all the time about two tokens, ``token`` and ``alive``."""
        self.verifiers = [Witness(self.url, self._realm, f"tool-{number}") for number in range(count)]
        header, now = store.header(), time.time_ns() // 1_000_000
        born = (header.incarnation, header.seq)
        for one in self.verifiers:
            sessions = {"token": SESSION, "alive": "s-" + "b" * 16}
            one.watch(
                **{
                    name: mint(
                        ANYTHING, realm=self._realm, born=born, iat=now, exp=now + 600_000, session=session
                    ).encode()
                    for name, session in sessions.items()
                }
            )
        for one in self.verifiers:
            one.until("ok", "alive")
        until(lambda: store.unacked(0, 0).verifiers == count)

    def busiest(self, store: RevocationStore) -> RelayProcess:
        """Return the relay that serves most of the verifiers."""
        behind = {one.id: one.behind or 0 for one in store.verifiers()}
        return max(self.relays, key=lambda relay: behind.get(relay.ready["name"], 0))

    def refused_ms(self) -> float:
        """Return the longest time in which a verifier accepted a living token no more, and print it."""
        worst = 0
        for one in self.verifiers:
            one.until("ok", "alive")
            accepted = [run for run in one.runs("alive") if run.code == "ok"]
            worst = max([worst, *(later.first - run.last for run, later in itertools.pairwise(accepted))])
        print(f"refused for {worst / MS:.0f} ms at most; lease {L_NS // MS} ms")
        return worst / MS

    def close(self) -> None:
        """End all processes."""
        for one in self.verifiers:
            one.close()
        for relay in self.relays:
            relay.kill()


@pytest.fixture
def proxy(own_valkey: EmbeddedValkey) -> Iterator[Proxy]:
    """A network between the second relay and the store."""
    proxy = Proxy(own_valkey.data_dir / "valkey.sock")
    yield proxy
    proxy.close()


@pytest.fixture
def site(own_valkey: EmbeddedValkey, store: RevocationStore, proxy: Proxy) -> Iterator[Site]:
    """Two relays; the network of the second may be broken."""
    site = Site([own_valkey.url, proxy.url], store.realm)
    yield site
    proxy.heal()
    site.close()


def bounded(site: Site, killed: int) -> None:
    """Require that each verifier refuses the killed token, and accepted none of them after the bound."""
    for one in site.verifiers:
        one.until("revoked")
        assert one.last_accepted() - killed < L_NS


def die(relay: RelayProcess) -> None:
    """Kill a relay."""
    relay.kill()


def stop(relay: RelayProcess) -> None:
    """Freeze a relay, as a network does that delivers nothing."""
    freeze(relay.pid)


@pytest.mark.slow
@pytest.mark.parametrize("end", [die, pytest.param(stop, marks=pytest.mark.nightly)])
def test_a_kill_while_verifiers_change_their_relay(
    site: Site, store: RevocationStore, end: Callable[[RelayProcess], None]
) -> None:
    """
    The relay of most verifiers ends, and a kill comes while they go to the other: no acceptance after the bound, the
    report waits for the leases of the relay that ended, and a later kill is confirmed by all.
    """
    site.decide(store)
    gone = site.busiest(store)
    end(gone)
    bump = store.kill(TARGET, "test", BY)
    killed = boot_clock()
    report = store.wait_confirmed(bump)
    assert report.status == "partial", report.summary
    assert any(each.startswith(gone.ready["name"]) for each in report.unreachable)
    bounded(site, killed)
    assert site.refused_ms() < 5 * L_NS / MS

    def confirmed_by_all() -> bool:
        later = store.wait_confirmed(store.kill(["task:t-" + "c" * 16], "test", BY))
        return (later.status, later.verifiers) == ("confirmed", COUNT)

    until(confirmed_by_all)
    if end is stop:
        os.kill(gone.pid, signal.SIGCONT)
        until(lambda: any(one.id == gone.ready["name"] and one.age_ms < 200 for one in store.verifiers()))
        assert {one.code("alive") for one in site.verifiers} == {"ok"}
        assert {one.code() for one in site.verifiers} == {"revoked"}


@pytest.mark.slow
def test_a_confirmed_kill_is_in_force_while_relays_end(site: Site, store: RevocationStore) -> None:
    """
    Kills one after the other while a relay ends: whatever is reported as confirmed, no verifier accepts afterwards.
    """
    site.decide(store)
    confirmed = 0
    for number in range(30):
        if number == 5:
            site.busiest(store).kill()
        report = store.wait_confirmed(store.kill(TARGET if number == 5 else ["task:t-" + "d" * 16], "test", BY))
        confirmed += report.status == "confirmed"
        if number >= 5 and report.status == "confirmed":
            reported = boot_clock()
            assert max(one.last_accepted() for one in site.verifiers) < reported
    assert confirmed >= 10
    site.refused_ms()


@pytest.mark.slow
def test_a_relay_without_the_store_is_left(site: Site, store: RevocationStore, proxy: Proxy) -> None:
    """
    The second relay's network delivers nothing any more: its verifiers go to the first, and miss no kill.
    """
    site.decide(store)
    proxy.hold(proxy.to_store, proxy.from_store)
    killed = 0
    until(lambda: next(one.behind for one in store.verifiers() if one.id == site.relays[0].ready["name"]) == COUNT)
    bump = store.kill(TARGET, "test", BY)
    killed = boot_clock()
    store.wait_confirmed(bump)
    bounded(site, killed)
    site.refused_ms()


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_relay_that_knows_less_takes_no_follower_back(
    site: Site, store: RevocationStore, proxy: Proxy, ends: bool
) -> None:
    """
    The second relay lacks a kill, or the end of a history, when the first one dies: a verifier that has it goes back to
    nothing, refuses when its lease is over, and is live again with the relay's network.
    """
    proxy.hold(proxy.to_store, proxy.from_store)
    follower = Follower(site.url, store.realm, "v")
    try:
        assert follower.catch_up(0, 0, 10)
        proxy.heal()
        until(lambda: any(one.id == site.relays[1].ready["name"] and one.age_ms < 100 for one in store.verifiers()))
        proxy.hold(proxy.to_store, proxy.from_store)
        if ends:
            store.rotate()
        else:
            store.kill(TARGET, "test", BY)
        header = store.header()
        until_code(follower, header.incarnation, header.seq, None)
        site.relays[0].kill()
        refused = until_code(follower, header.incarnation, header.seq, "stale")
        assert refused == {None, "stale"}
        assert follower.view()[:2] == (header.incarnation, header.seq)
        proxy.heal()
        assert until_code(follower, header.incarnation, header.seq, None) == {"stale", None}
        assert follower.view()[:2] == (header.incarnation, header.seq)
    finally:
        follower.close()


def until_code(follower: Follower, incarnation: str, born: int, wanted: str | None) -> set[str | None]:
    """Ask until a token born there is decided so; return all codes on the way."""
    seen = set[str | None]()

    def decided() -> bool:
        code = getattr(follower.check(incarnation, born, ("agent:acme/x",)), "code", None)
        seen.add(code)
        return code == wanted

    until(decided)
    return seen


@pytest.mark.nightly
def test_both_relays_go_and_return(site: Site, store: RevocationStore) -> None:
    """
    Without any relay nothing is accepted after L, and with either of them all comes back, with the kill in force.
    """
    site.decide(store)
    for relay in site.relays:
        relay.kill()
    gone = boot_clock()
    for one in site.verifiers:
        one.until("stale", "alive")
    killed = boot_clock() if store.kill(TARGET, "test", BY) else 0
    for place in (1, 0):
        site.relays[place] = site.begin(place)
        bounded(site, killed)
        site.refused_ms()
        for one in site.verifiers:
            assert one.runs("alive")[0].last - gone < L_NS


# With a clock moved by hand.


def view(*, several: bool = True) -> tuple[Following, list[int]]:
    """A view of one of several relays that has asked its first question, and its clock."""
    now = [10**12]
    following = Following(boot=lambda: now[0], wall=lambda: WALL_MS * MS + now[0])
    following.several = several
    following.adopt(INCARNATION, 5, {}, {})
    following._place = BEGAN
    following.begin()
    return following, now


def answer(following: Following, now: list[int], age_ms: int = 0) -> None:
    """Answer its question."""
    at_ms = WALL_MS + now[0] // MS
    reply = StoreAnswer(INCARNATION, 5, at_ms, LEASE_MS, OK, 3_600_000, BEGAN.chain, (), 1, age_ms * MS)
    following.take_answer(reply, lambda _: {})


@pytest.mark.parametrize("several", [True, False])
def test_the_first_question_of_a_connection_waits_for_the_store(several: bool) -> None:
    """
    And no later one, unless a caller waits.
    """
    following, now = view(several=several)
    for _ in range(2):
        following.begin()
        assert (first := following.ask()) is not None
        assert first.hurry
        answer(following, now)
        now[0] += LEASE_MS * MS
        assert (second := following.ask()) is not None
        assert not second.hurry


@pytest.mark.parametrize(("several", "within_ms"), [(True, 500), (False, 1_000)])
def test_half_of_the_lease_is_for_the_next_relay(several: bool, within_ms: int) -> None:
    """
    A relay that had answered is left after half a lease; one that has just been chosen, or the only one, has it all.
    """
    following, now = view(several=several)
    assert following.ask() is not None
    assert following.next_at() == now[0] + LEASE_MS * MS
    answer(following, now)
    now[0] += LEASE_MS * MS
    assert following.ask() is not None
    assert following.next_at() == now[0] + within_ms * MS
    now[0] += within_ms * MS
    with pytest.raises(FeedError, match="no answer in time"):
        following.ask()


@pytest.mark.parametrize(("several", "age_ms", "left"), [(True, 500, False), (True, 501, True), (False, 501, False)])
def test_a_relay_with_old_answers_is_left(several: bool, age_ms: int, left: bool) -> None:
    """
    It has lost the store; the lease that it gave before stays.
    """
    following, now = view(several=several)
    assert following.ask() is not None
    answer(following, now)
    lease = following._state.lease
    now[0] += 300 * MS
    assert following.ask() is not None
    if left:
        with pytest.raises(FeedError, match="nothing from the store for half a lease"):
            answer(following, now, age_ms)
        assert following._state.lease is lease
    else:
        answer(following, now, age_ms)


def test_the_addresses_of_a_url() -> None:
    """
    Each has scheme, password and authority of all.
    """
    assert each_relay("relays://:p,w@a:1,[::1]:2?ca=/x,y") == [
        "relays://:p,w@a:1?ca=/x,y",
        "relays://:p,w@[::1]:2?ca=/x,y",
    ]
    assert each_relay("relay://a:1") == ["relay://a:1"]
    assert each_relay("relay+unix:///run/a,b.sock") == ["relay+unix:///run/a,b.sock"]
    assert Follower("relay://:pw@a:1,[::1]:2", "acme", "v").several
    assert not Follower("relay+unix:///run/a,b.sock", "acme", "v").several


@pytest.mark.parametrize("hosts", [":pw@a:1,", ":pw@,a:1", ":pw@a:1,b", ":pw@a:1,b:²", ":pw@a:1,:pw@b:1,"])
def test_addresses_that_are_none(hosts: str) -> None:
    """
    One that cannot be read makes the URL invalid, and no password is shown.
    """
    with pytest.raises(SettingsError, match="HOST:PORT,HOST:PORT") as caught:
        Follower(f"relay://{hosts}", "acme", "v")
    assert "pw" not in str(caught.value)
