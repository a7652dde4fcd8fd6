# SPDX-License-Identifier: Apache-2.0
"""What a probe of the store answers, notices and confirms.  Called raw, as any client could."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.history import UNKNOWN, HistoryPlace
from tests.revocation.calling import KEEP_MS, SESSION, TASK, bump, probe, raw
from tests.servers import until

__all__ = ["bump", "probe", "raw"]  # fixtures
pytestmark = [pytest.mark.servers, pytest.mark.spec("10.9")]


@pytest.mark.spec("10.3")
def test_a_probe_answers_what_is_missing(bump: Callable[..., Any], probe: Callable[..., list[Any]]) -> None:
    """Entries after what was applied, as many as asked for; another history must copy."""
    incarnation = bump("kill", SESSION, TASK, "agent:acme")[0].decode()
    assert [entry[0] for entry in probe(incarnation, 0, limit=2)[8]] == [b"1-0", b"2-0"]
    assert [entry[0] for entry in probe(incarnation, 2)[8]] == [b"3-0"]
    assert probe(incarnation, 3)[4:6] + probe(incarnation, 3, name="w")[7:] == [b"OK", KEEP_MS, 2, []]
    assert probe("", -1)[4] == b"RESYNC"
    assert probe("J" * 22, 3)[4] == b"RESYNC"
    assert probe(incarnation, 4)[4] == b"REGRESSED"


def test_a_number_means_what_led_to_it(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """Each entry's chain is what a follower computes from the pushes; a follower with another is in another past."""
    incarnation, seq, *_, chain, _ = bump("kill", SESSION, TASK)
    place = HistoryPlace.begin(incarnation.decode(), 0)
    for number, target in enumerate((SESSION, TASK), 1):
        place = place.after(incarnation.decode(), number, "kill", target)
        assert realm_store.chain_at(number) == place.chain
    assert place == realm_store.header().place == (incarnation.decode(), seq, chain.decode())
    assert realm_store.chain_at(0) == HistoryPlace.begin(incarnation.decode(), 0).chain
    assert realm_store.chain_at(3) is None
    for applied in range(3):
        assert probe(place.incarnation, applied, chain="0" * 40)[4] == b"REGRESSED"
        assert probe(place.incarnation, applied, chain=UNKNOWN)[4] == b"RESYNC"
        with pytest.raises(redis.ResponseError, match="REGRESSED"):
            bump("kill", SESSION, seen=applied, chain="0" * 40)
        assert probe(place.incarnation, applied)[4] == b"OK"
    assert bump("kill", SESSION, seen=2, chain=place.chain)[1] == 3


def test_what_another_past_led_to_confirms_nothing(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """The same number by another way is no acknowledgement, nor is one whose way is not known."""
    incarnation = bump("kill", SESSION)[0].decode()
    for chain in ("0" * 40, UNKNOWN):
        probe(incarnation, 1)
        assert realm_store.unacked(1, 0).missing == ()
        probe(incarnation, 1, chain=chain)
        assert [seen for _, _, seen, _ in realm_store.unacked(1, 0).missing] == [-1]


def test_a_store_from_before_chains_is_taken_as_it_is(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """Functions are replaced under a history that has no chain: it begins one, and each follower copies once."""
    incarnation = bump("kill", SESSION)[0].decode()
    raw.hdel(realm_store.keys.header, "chain", "base")
    raw.delete(realm_store.keys.log)
    raw.xadd(realm_store.keys.log, {"op": "kill", "s": SESSION, "t": "1", "by": "x", "why": "y"}, "1-0")
    found = probe(incarnation, 1, chain=UNKNOWN)
    assert (found[4], found[6]) == (b"RESYNC", b"-")
    assert probe(incarnation, 1, chain="-")[4] == b"OK"
    bump("kill", TASK)
    chain = HistoryPlace(incarnation, 1, "-").after(incarnation, 2, "kill", TASK).chain
    assert realm_store.header().chain == chain
    assert probe(incarnation, 1, chain="-")[4] == b"RESYNC"
    assert probe(incarnation, 2, chain=chain)[4] == b"OK"


@pytest.mark.spec("10.11")
@pytest.mark.parametrize("damage", ["kill", "freeze", "log", "foreign kill"])
def test_a_probe_notices_damage(
    bump: Callable[..., Any],
    probe: Callable[..., list[Any]],
    raw: redis.Redis,
    realm_store: RevocationStore,
    damage: str,
) -> None:
    """A kill, a freeze or an entry that was evicted or written by hand makes every answer CORRUPT."""
    incarnation = bump("kill+freeze", "agent:acme")[0].decode()
    keys = realm_store.keys
    {
        "kill": lambda: raw.hdel(keys.kills, "agent:acme"),
        "freeze": lambda: raw.hdel(keys.freezes, "agent:acme"),
        "log": lambda: raw.xdel(keys.log, "1-0"),
        "foreign kill": lambda: raw.hset(keys.kills, "realm", "1"),
    }[damage]()
    assert probe(incarnation, 1)[4] == b"CORRUPT"


def test_what_was_applied_under_another_history_confirms_nothing(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """A number of another history, or one that this store never gave, is not an acknowledgement."""
    incarnation = bump("kill", SESSION)[0].decode()
    for known, applied in (("J" * 22, 1), (incarnation, 500)):
        probe(known, applied)
        registry = realm_store.unacked(1, 0)
        assert [(name, seen) for name, _, seen, _ in registry.missing] == [("v", -1)]
    probe(incarnation, 1)
    assert realm_store.unacked(1, 0).missing == ()


@pytest.mark.spec("10.3")
def test_a_step_of_the_store_s_clock_forgets_no_verifier(realm_store: RevocationStore, valkey: EmbeddedValkey) -> None:
    """A clock that jumps ahead by minutes makes a verifier look unheard: it is kept, and named."""
    with redis.Redis.from_url(valkey.url) as raw:
        now = realm_store.unacked(0, 0).at_ms
        raw.zadd(realm_store.keys.probes, {"before-the-step": now - 300_000, "gone": now - 660_000})
        registry = realm_store.unacked(1, 0)
    assert [missing[0] for missing in registry.missing] == ["before-the-step"]
    assert registry.verifiers == 1


@pytest.mark.spec("10.3")
def test_a_restart_begins_the_registry_anew(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """A rewrite of the append-only file includes the registry; after a restart it must not be believed."""
    with RevocationStore(own_valkey.url, realm_name) as store, redis.Redis.from_url(own_valkey.url) as raw:
        store.load_functions()
        store.init()
        follower = Follower(own_valkey.url, realm_name, "before")
        assert follower.catch_up(0, 0, 10)
        since = store.unacked(0, 0).since_ms
        raw.bgrewriteaof()
        until(lambda: raw.info("persistence")["aof_rewrite_in_progress"] == 0)
        follower.close()
        raw.zadd(store.keys.probes, {"ghost": 1e15})
        own_valkey.stop()
        own_valkey.start()
        registry = store.unacked(0, 0)
        assert registry.verifiers == 0
        assert registry.since_ms > since
