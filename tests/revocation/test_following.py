# SPDX-License-Identifier: Apache-2.0
"""A follower and a real store: kills arrive, leases end, histories change.  ``test_failures`` breaks things."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.follower_core import PROBE_MS
from tests.servers import FAST_LEASE_MS, VerifierProcess, child, until
from tests.support import verifier

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.3")]

SESSION, OTHER = "session:s-" + "a" * 16, "session:s-" + "b" * 16
BY = "operator:ada"
Start = Callable[..., Follower]


@pytest.fixture
def follow(valkey: EmbeddedValkey, realm_name: str) -> Iterator[Start]:
    """Start followers of the test's realm, live when returned."""
    started: list[Follower] = []

    def start(name: str = "v", **settings: int) -> Follower:
        follower = Follower(valkey.url, realm_name, name, **settings)
        started.append(follower)
        assert follower.catch_up(0, 0, 10)
        return follower

    yield start
    for follower in started:
        follower.close()


def code(follower: Follower, incarnation: str, born: int, *targets: str, sent_after: int = 0) -> str | None:
    """The refusal's code, None for an acceptance."""
    refused = follower.check(incarnation, born, targets, sent_after)
    return None if refused is None else refused.code


def old_registry(store: RevocationStore) -> None:
    """Wait until the registry is older than a lease."""
    header = store.header()
    until(lambda: store.unacked(0, 0).at_ms - store.unacked(0, 0).since_ms > header.lease_ms)


def test_a_kill_reaches_other_processes_and_is_confirmed(valkey: EmbeddedValkey, fast_store: RevocationStore) -> None:
    """Two verifiers accept, one kill, both refuse; the report is proven, and names no verifier."""
    header = fast_store.header()
    verifiers = [VerifierProcess(valkey.url, fast_store.realm, f"tool-{number}") for number in range(2)]
    try:
        old_registry(fast_store)
        for verifier in verifiers:
            verifier.send("check", header.incarnation, 0, SESSION)
            assert verifier.read() == "accepted"
            verifier.send("watch", header.incarnation, 0, SESSION)
        report = fast_store.wait_confirmed(fast_store.kill([SESSION], "test", BY))
        assert [verifier.read() for verifier in verifiers] == ["revoked", "revoked"]
        assert (report.status, report.confirmed, report.unreachable) == ("confirmed", 2, ())
        assert report.summary == f"confirmed: 2 of 2 verifiers in {report.took_ms:.1f} ms"
        assert report.fenced_in_ms is None
        for verifier in verifiers:
            verifier.send("check", header.incarnation, 1, SESSION)
            assert verifier.read() == "accepted", "a token born after the kill is alive"
    finally:
        for verifier in verifiers:
            verifier.close()


def test_a_confirmed_kill_is_in_force(follow: Start, fast_store: RevocationStore) -> None:
    """Whenever the report says confirmed, the very next decision refuses."""
    follower = follow()
    incarnation = fast_store.header().incarnation
    old_registry(fast_store)
    for _ in range(100):
        bump = fast_store.kill([SESSION], "test", BY)
        report = fast_store.wait_confirmed(bump)
        assert report.status == "confirmed"
        assert code(follower, incarnation, bump.header.seq - 1, SESSION) == "revoked"
        assert code(follower, incarnation, bump.header.seq, SESSION) is None


def test_a_young_or_empty_registry_confirms_nothing(follow: Start, realm_store: RevocationStore) -> None:
    """No verifier reported yet, or only since a moment ago: others may hold leases that this registry does not know."""
    report = realm_store.wait_confirmed(realm_store.kill([SESSION], "test", BY))
    assert (report.status, report.verifiers) == ("unconfirmed", 0)
    follow()
    report = realm_store.wait_confirmed(realm_store.kill([SESSION], "test", BY))
    assert (report.status, report.verifiers, report.confirmed) == ("unconfirmed", 1, 1)
    assert "younger than a lease" in report.summary
    assert report.fenced_in_ms is not None
    assert 0 < report.fenced_in_ms <= 1_001


@pytest.mark.spec("12.7")
def test_a_verifier_that_watches_is_never_counted_as_confirmed(follow: Start, fast_store: RevocationStore) -> None:
    """It has the kill, and is listed as watching; once its watch has ended, it confirms."""
    watching = follow("orders-1-abcdef")
    follow("staying")
    old_registry(fast_store)
    end_ms = time.time_ns() // 1_000_000 + 5_000
    watching.watch_until_ms = end_ms
    until(lambda: fast_store.unacked(0, 0).watching)
    until(lambda: len(fast_store.unacked(0, int(time.time() * 1000) - FAST_LEASE_MS).watching) == 1)
    incarnation = fast_store.header().incarnation
    report = fast_store.wait_confirmed(fast_store.kill([SESSION], "test", BY))
    until(lambda: code(watching, incarnation, 0, SESSION) == "revoked")
    assert report.status == "partial"
    assert len(report.watching) == 1
    assert report.watching[0].startswith("orders-1-abcdef, until 20")
    assert report.confirmed < report.verifiers
    assert "1 watching (orders-1-abcdef, until 20" in report.summary
    (seen,) = [each for each in fast_store.verifiers() if each.watches_until is not None]
    assert (seen.id, (seen.watches_until or 0) // 1000) == ("orders-1-abcdef", -(-end_ms // 1000))
    until(lambda: time.time_ns() // 1_000_000 > end_ms + 1_000)
    until(lambda: not fast_store.unacked(0, int(time.time() * 1000) - FAST_LEASE_MS).watching)
    report = fast_store.wait_confirmed(fast_store.kill([SESSION], "test", BY))
    assert (report.status, report.watching, report.confirmed) == ("confirmed", (), 2)


@pytest.mark.spec("20.1")
def test_the_registry_shows_the_limits_of_a_service(follow: Start, fast_store: RevocationStore) -> None:
    """Those of the verifier and of its guards, with a watch too; reports name the verifier without them."""
    limited = follow("orders-1-abcdef")
    made = {"epochs": limited, "limits": {"net": ["10.0.0.0/8"]}}
    first = verifier(**made)
    assert verifier(**made).limits[0].digest == first.limits[0].digest
    wanted = first.limits[0].digest
    until(lambda: ("orders-1-abcdef", wanted) in {(seen.id, seen.limits) for seen in fast_store.verifiers()})
    second = first.within({"hours": ["08:00-18:00"]})
    both = f"{wanted}+{second.limits[1].digest}"
    limited.watch_until_ms = time.time_ns() // 1_000_000 + 60_000
    until(lambda: any(seen.limits == both and seen.watches_until is not None for seen in fast_store.verifiers()))
    old_registry(fast_store)
    report = fast_store.wait_confirmed(fast_store.kill([SESSION], "test", BY))
    assert {name.partition(",")[0] for name in (*report.watching, *report.unreachable)} == {"orders-1-abcdef"}


def test_who_has_left_is_not_waited_for(follow: Start, fast_store: RevocationStore) -> None:
    """A verifier that closed gave up its lease and reports that."""
    leaving = follow("leaving")
    follow("staying")
    old_registry(fast_store)
    leaving.close()
    until(lambda: len(fast_store.verifiers()) == 1)
    report = fast_store.wait_confirmed(fast_store.kill([SESSION], "test", BY))
    assert (report.status, report.verifiers) == ("confirmed", 1)


def test_who_ends_without_a_close_has_left(valkey: EmbeddedValkey, fast_store: RevocationStore) -> None:
    """A program that reaches its end leaves the registry, though it closes nothing."""
    text = (
        "import sys\n"
        "from arx_verifier.revocation.follower import Follower\n"
        "follower = Follower(sys.argv[1], sys.argv[2], 'script')\n"
        "assert follower.catch_up(0, 0, 30)\n"
        "print('follows', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", text, valkey.url, fast_store.realm]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "follows\n"
        assert [each.id for each in fast_store.verifiers()] == ["script"]
        script.communicate()
    assert script.returncode == 0
    assert fast_store.verifiers() == ()


def test_who_leaves_a_slow_store_is_not_waited_for(
    follow: Start, fast_store: RevocationStore, valkey: EmbeddedValkey
) -> None:
    """What a verifier says at its end is read, although an answer to it is still on the way then."""
    leaving = follow("leaving")
    with redis.Redis.from_url(valkey.url) as client:
        client.execute_command("CLIENT", "PAUSE", PROBE_MS, "WRITE")  # its last probe is answered after that
        until(lambda: client.info("clients")["blocked_clients"])
    leaving.close()
    assert fast_store.verifiers() == ()


@pytest.mark.spec("10.2")
def test_freezes_and_thaws_arrive_in_order(follow: Start, realm_store: RevocationStore) -> None:
    """Freeze and thaw: refused while it stands, whenever born; a kill under it stays."""
    follower, incarnation = follow(), realm_store.header().incarnation
    seq = realm_store.freeze([SESSION], "freeze", BY).header.seq
    assert follower.catch_up(0, seq, 10)
    assert code(follower, incarnation, seq, SESSION) == "frozen"
    seq = realm_store.thaw([SESSION], "thaw", BY).header.seq
    assert follower.catch_up(0, seq, 10)
    assert code(follower, incarnation, 0, SESSION) is None
    seq = realm_store.kill_and_freeze([SESSION], "off", BY).header.seq
    seq = realm_store.thaw([SESSION], "on", BY).header.seq
    assert follower.catch_up(0, seq, 10)
    assert code(follower, incarnation, 0, SESSION) == "revoked"
    assert code(follower, incarnation, seq, SESSION) is None


@pytest.mark.spec("10.4")
def test_a_token_from_ahead_catches_the_follower_up(follow: Start, realm_store: RevocationStore) -> None:
    """Born after the last entry applied: one probe settles it; a birth that the store never saw is refused at once."""
    follower, incarnation = follow(), realm_store.header().incarnation
    bump = realm_store.kill([SESSION], "test", BY)
    assert follower.catch_up(0, bump.header.seq, 10)
    assert code(follower, incarnation, bump.header.seq, SESSION) is None
    assert code(follower, incarnation, 10**6, SESSION) == "behind"
    began = time.monotonic()
    assert not follower.catch_up(0, 10**6, 60)
    assert time.monotonic() - began < 30


@pytest.mark.spec("6.1")
def test_fresh_awaits_a_probe_sent_after_the_request(follow: Start, realm_store: RevocationStore) -> None:
    """``fresh = 0``: a kill that was acknowledged before the request is always seen, in threads and event loops."""
    follower, incarnation = follow(), realm_store.header().incarnation
    for number in range(20):
        bump = realm_store.kill([SESSION], "test", BY)
        asked = follower.boot_ns()
        if number % 2:
            assert follower.catch_up(asked, 0, 10)
        else:
            assert asyncio.run(follower.catch_up_async(asked, 0, 10))
        assert code(follower, incarnation, bump.header.seq - 1, SESSION, sent_after=asked) == "revoked"
        assert code(follower, incarnation, bump.header.seq, SESSION, sent_after=asked) is None


def test_waiting_requests_share_a_probe(follow: Start, realm_store: RevocationStore) -> None:
    """A hundred requests that ask for a fresh view at once cost a few probes, not a hundred."""
    follower = follow()

    async def many() -> list[bool]:
        asked = follower.boot_ns()
        return await asyncio.gather(*(follower.catch_up_async(asked, 0, 10) for _ in range(100)))

    with redis.Redis.from_url(f"unix://{follower._address()._settings['path']}") as raw:
        before = raw.info("commandstats")["cmdstat_fcall"]["calls"]
        assert all(asyncio.run(many()))
        assert raw.info("commandstats")["cmdstat_fcall"]["calls"] - before < 30


def test_a_gap_in_the_pushes_is_filled_by_a_probe(
    follow: Start, valkey: EmbeddedValkey, realm_store: RevocationStore
) -> None:
    """A kill beyond missing entries counts at once; a thaw waits for the log; both ask at once."""
    follower, incarnation = follow(), realm_store.header().incarnation
    seq = realm_store.freeze([OTHER], "freeze", BY).header.seq
    assert follower.catch_up(0, seq, 10)
    with redis.Redis.from_url(valkey.url) as raw:
        for op, target in (("thaw", OTHER), ("kill", SESSION)):
            asked = follower.boot_ns()
            raw.execute_command("SPUBLISH", f"arx:{{{realm_store.realm}}}:ch", f"{incarnation} {seq + 5} {op} {target}")
            until(lambda: follower._state.lease is not None and follower._state.lease.sent > asked)  # noqa: B023
            assert follower.boot_ns() - asked < PROBE_MS * 1_000_000
    assert code(follower, incarnation, seq, SESSION) == "revoked"
    assert code(follower, incarnation, seq, OTHER) == "frozen"
    assert follower.view()[1] == seq


@pytest.mark.spec("10.2")
def test_a_rotation_kills_every_token_and_no_freeze(follow: Start, realm_store: RevocationStore) -> None:
    """A new history: what was born in the old one is revoked, what is frozen stays frozen, and kills go on."""
    follower, old = follow(), realm_store.header().incarnation
    realm_store.freeze([OTHER], "freeze", BY)
    new = realm_store.rotate().header
    until(lambda: follower.view()[0] == new.incarnation and code(follower, new.incarnation, new.seq, SESSION) is None)
    assert code(follower, old, new.seq, SESSION) == "revoked"
    assert code(follower, new.incarnation, new.seq, OTHER) == "frozen"
    bump = realm_store.kill([SESSION], "test", BY)
    assert follower.catch_up(0, bump.header.seq, 10)
    assert code(follower, new.incarnation, new.seq, SESSION) == "revoked"


def test_a_rotation_confirms_nothing_by_old_numbers(follow: Start, fast_store: RevocationStore) -> None:
    """The registry begins anew with the history."""
    follow()
    old_registry(fast_store)
    report = fast_store.wait_confirmed(fast_store.rotate())
    assert report.status == "unconfirmed"


def test_a_long_absence_is_copied_or_replayed(follow: Start, realm_store: RevocationStore) -> None:
    """Thousands of entries behind: several cut answers; beyond the log: a copy.  No lease before all is there."""
    follower, incarnation = follow(), realm_store.header().incarnation
    for entries in (2_500, 11_000):
        follower.close()
        for start in range(0, entries, 500):
            targets = [f"operator:o{number}" for number in range(start, start + 500)]
            seq = realm_store.kill(targets, "test", BY).header.seq
        follower.start()
        assert follower.catch_up(0, seq, 10)
        assert follower._state.kills == realm_store.kills()
        assert code(follower, incarnation, 0, "operator:o17") == "revoked"
    late = follow("late")
    assert late._state.kills == realm_store.kills()


def test_the_lease_is_the_shorter_of_both(follow: Start, realm_store: RevocationStore) -> None:
    """A verifier may be stricter than its realm, not laxer."""
    for own, lease in ((200, 200), (60_000, 1_000)):
        state = follow(f"v{own}", lease_ms=own)._state
        assert state.lease is not None
        assert state.lease.boot - state.lease.sent == lease * 1_000_000


def test_a_quiet_store_keeps_a_follower_live(follow: Start, fast_store: RevocationStore) -> None:
    """Probes alone renew the lease, over several leases, with no refusal in between."""
    follower, incarnation = follow(), fast_store.header().incarnation
    refusals = set()
    until_ns = follower.boot_ns() + 3 * FAST_LEASE_MS * 1_000_000
    while follower.boot_ns() < until_ns:
        refusals.add(code(follower, incarnation, 0, SESSION))
    assert refusals == {None}


def test_forgotten_kills_leave_the_memory(follow: Start, realm_store: RevocationStore) -> None:
    """A kill is dropped when the store's retention is over, and not before."""
    follower = follow()
    bump = realm_store.kill([SESSION], "test", BY)
    assert follower.catch_up(0, bump.header.seq, 10)
    assert follower.catch_up(follower.boot_ns(), 0, 10)
    assert SESSION in follower._state.kills
    follower._retention._learned = type(follower._retention._learned)(
        (at - 2 * 60 * 60 * 10**9, target, seq) for at, target, seq in follower._retention._learned
    )
    assert follower.catch_up(follower.boot_ns(), 0, 10)
    assert SESSION not in follower._state.kills
