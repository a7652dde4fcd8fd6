# SPDX-License-Identifier: Apache-2.0
"""The functions in the store: what they refuse, keep, prune and notice.  Called raw, as any client could."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import RevocationStore
from arx_verifier.feed import Follower
from arx_verifier.history import UNKNOWN, Place
from tests.servers import until

pytestmark = pytest.mark.servers

SESSION, TASK = "session:s-" + "a" * 16, "task:t-" + "b" * 16
KEEP_MS = 60 * 60 * 1000 + 90_000  # the longest life of a token, clocks apart, delays


@pytest.fixture
def raw(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture
def bump(raw: redis.Redis, realm_store: RevocationStore) -> Callable[..., Any]:
    """Call arx1_bump with the header's incarnation, unless told otherwise."""

    def call(op: str, *scopes: str, inc: str | None = None, seen: int = 0, chain: str = "", until_ms: str = "") -> Any:
        keys = realm_store.keys.written
        known = (inc or realm_store.header().inc, seen, chain)
        return raw.fcall("arx1_bump", len(keys), *keys, *known, op, until_ms, "operator:ada", "test", *scopes)

    return call


@pytest.fixture
def probe(raw: redis.Redis, realm_store: RevocationStore) -> Callable[..., list[Any]]:
    """Call arx1_probe, with the store's chain if not told; the reply is as ``functions.lua`` lists it."""

    def call(inc: str, applied: int, limit: int = 100, name: str = "v", chain: str | None = None) -> list[Any]:
        tag = f"arx:{{{realm_store.realm}}}:"
        keys = [tag + part for part in ("h", "f", "b", "log", "v", "a")]
        if chain is None:
            chain = (realm_store.chain_at(applied) if applied >= 0 else None) or "0" * 40
        return raw.fcall("arx1_probe", len(keys), *keys, name, inc, applied, chain, limit)

    return call


def test_none_is_a_read(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """A replica or a deposed master answers reads: every function counts as a write, and works in a full store."""
    (library,) = raw.function_list("arx1")
    functions = library[library.index(b"functions") + 1]
    flags = {function[1]: set(function[5]) for function in functions}
    assert all(found == {b"allow-oom"} for found in flags.values())
    assert set(flags) == {
        b"arx1_init",
        b"arx1_bump",
        b"arx1_probe",
        b"arx1_copy",
        b"arx1_leave",
        b"arx1_unacked",
        b"arx1_rotate",
        b"arx1_attest",
    }


def test_a_realm_without_a_header_refuses(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """Every function but init says NOINIT."""
    raw.delete(realm_store.keys.header)
    for function, keys in (("arx1_bump", realm_store.keys.written), ("arx1_rotate", realm_store.keys.all)):
        with pytest.raises(redis.ResponseError, match="NOINIT"):
            raw.fcall(function, len(keys), *keys, "I", 0, "", "kill", "", "x", "y", "realm")


def test_init_begins_once(realm_store: RevocationStore) -> None:
    """A second init changes nothing and tells what is."""
    first = realm_store.header()
    again = realm_store.init("J" * 22, lease_ms=5, seq=99)
    assert (again.inc, again.seq, again.lease_ms) == (first.inc, first.seq, first.lease_ms)


def test_init_after_a_lost_header_keeps_bans(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """Whoever lost the header lost the history: a new one begins where the mint remembers, bans still stand."""
    realm_store.kill_and_ban(["agent:acme"], "test", "operator:ada")
    raw.delete(realm_store.keys.header)
    with RevocationStore(f"unix://{raw.connection_pool.connection_kwargs['path']}", realm_store.realm) as later:
        header = later.init(seq=40)
        assert header.seq == 40
        assert later.floors() == {}
        assert later.bans() == {"agent:acme": 1}
        assert later.kill([SESSION], "test", "operator:ada").header.seq == 41


def test_a_bump_counts_each_scope(bump: Callable[..., Any], realm_store: RevocationStore) -> None:
    """Several scopes are one atomic call and one sequence each, with who and why in the log."""
    assert bump("kill", SESSION, TASK)[1] == 2
    assert bump("kill+ban", "agent:acme")[1] == 3
    assert bump("lift", "agent:acme")[1] == 4
    assert realm_store.floors() == {SESSION: 1, TASK: 2, "agent:acme": 3}
    assert realm_store.bans() == {}
    log = realm_store.log()
    assert [(entry.seq, entry.op, entry.scope) for entry in log] == [
        (1, "kill", SESSION),
        (2, "kill", TASK),
        (3, "kill+ban", "agent:acme"),
        (4, "lift", "agent:acme"),
    ]
    assert {(entry.by, entry.why) for entry in log} == {("operator:ada", "test")}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"inc": "J" * 22}, "INCARNATION"),
        ({"seen": 1}, "REGRESSED"),
        ({"chain": "0" * 40}, "REGRESSED"),
        ({"op": "pardon"}, "unknown operation"),
        ({"scopes": ()}, "not 1 to 1000 scopes"),
        ({"scopes": ("x" * 97,)}, "1 to 96 printable"),
        ({"scopes": ("a b",)}, "1 to 96 printable"),
        ({"scopes": ("",)}, "1 to 96 printable"),
        ({"scopes": (SESSION, "agent:acme"), "until_ms": "1"}, "only tasks and sessions"),
    ],
)
def test_a_wrong_bump_changes_nothing(
    bump: Callable[..., Any], realm_store: RevocationStore, change: dict[str, Any], error: str
) -> None:
    """Another history, a store that went back, an unknown operation, a bad scope: refused before any write."""
    arguments: dict[str, Any] = {"op": "kill", "scopes": (SESSION,), **change}
    with pytest.raises(redis.ResponseError, match=error):
        bump(arguments.pop("op"), *arguments.pop("scopes"), **arguments)
    assert realm_store.header().seq == 0
    assert realm_store.log() == ()


def test_floors_are_kept_as_long_as_tokens_live(
    bump: Callable[..., Any], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """The longest life, or a known earlier end; a later kill never shortens what an earlier one needs."""
    now = bump("kill", SESSION)[2]
    retention = realm_store.keys.retention
    assert raw.zscore(retention, SESSION) == now + KEEP_MS
    later = bump("kill", TASK, until_ms=str(now + 5_000))[2]
    assert raw.zscore(retention, TASK) == pytest.approx(later + 5_000 + 90_000, abs=1_000)
    bump("kill", SESSION, until_ms=str(now))
    assert raw.zscore(retention, SESSION) == now + KEEP_MS
    bump("ban", "agent:acme")
    assert raw.zscore(retention, "agent:acme") is None, "a ban does not end by itself"


def test_expired_floors_are_pruned_and_bans_are_not(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """Each bump drops at most 50 floors that can end nothing any more; the counts still add up."""
    scopes = [f"task:{number}" for number in range(60)]
    bump("kill+ban", *scopes)
    raw.zadd(realm_store.keys.retention, dict.fromkeys(scopes, 1))
    bump("kill", SESSION)
    assert len(realm_store.floors()) == 11
    bump("kill", SESSION)
    assert realm_store.floors() == {SESSION: 62}
    assert len(realm_store.bans()) == 60
    assert probe(realm_store.header().inc, 62)[4] == b"OK"


def test_the_log_is_trimmed_but_not_before_it_is_taken(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """The last 10,000 entries stay, and whatever the mint has not read; who is further behind copies the floors."""
    inc = realm_store.header().inc
    realm_store.mark_taken(500)
    many = [f"task:{number}" for number in range(1_000)]
    for _ in range(11):
        bump("kill", *many)
    assert raw.xlen(realm_store.keys.log) == 10_500
    realm_store.mark_taken(11_000)
    bump("kill", SESSION)
    assert raw.xlen(realm_store.keys.log) == 10_000
    assert probe(inc, 1_001)[4] == b"OK", "the number before the first entry is still known"
    assert probe(inc, 1_000)[4] == b"RESYNC"


def test_a_probe_answers_what_is_missing(bump: Callable[..., Any], probe: Callable[..., list[Any]]) -> None:
    """Entries after what was applied, as many as asked for; another history must copy."""
    inc = bump("kill", SESSION, TASK, "agent:acme")[0].decode()
    assert [entry[0] for entry in probe(inc, 0, limit=2)[8]] == [b"1-0", b"2-0"]
    assert [entry[0] for entry in probe(inc, 2)[8]] == [b"3-0"]
    assert probe(inc, 3)[4:6] + probe(inc, 3, name="w")[7:] == [b"OK", KEEP_MS, 2, []]
    assert probe("", -1)[4] == b"RESYNC"
    assert probe("J" * 22, 3)[4] == b"RESYNC"
    assert probe(inc, 4)[4] == b"REGRESSED"


def test_a_number_means_what_led_to_it(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """Each entry's chain is what a follower computes from the pushes; whoever has another one is in another past."""
    inc, seq, *_, chain = bump("kill", SESSION, TASK)
    place = Place.begin(inc.decode(), 0)
    for number, scope in enumerate((SESSION, TASK), 1):
        place = place.after(inc.decode(), number, "kill", scope)
        assert realm_store.chain_at(number) == place.chain
    assert place == realm_store.header().place == (inc.decode(), seq, chain.decode())
    assert realm_store.chain_at(0) == Place.begin(inc.decode(), 0).chain
    assert realm_store.chain_at(3) is None
    for applied in range(3):
        assert probe(place.inc, applied, chain="0" * 40)[4] == b"REGRESSED"
        assert probe(place.inc, applied, chain=UNKNOWN)[4] == b"RESYNC"
        with pytest.raises(redis.ResponseError, match="REGRESSED"):
            bump("kill", SESSION, seen=applied, chain="0" * 40)
        assert probe(place.inc, applied)[4] == b"OK"
    assert bump("kill", SESSION, seen=2, chain=place.chain)[1] == 3


def test_what_another_past_led_to_confirms_nothing(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """The same number by another way is no acknowledgement, nor is one whose way is not known."""
    inc = bump("kill", SESSION)[0].decode()
    for chain in ("0" * 40, UNKNOWN):
        probe(inc, 1)
        assert realm_store.unacked(1, 0).missing == ()
        probe(inc, 1, chain=chain)
        assert [seen for _, _, seen, _ in realm_store.unacked(1, 0).missing] == [-1]


def test_a_store_from_before_chains_is_taken_as_it_is(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """Functions are replaced under a history that has no chain: it begins one, and whoever followed copies once."""
    inc = bump("kill", SESSION)[0].decode()
    raw.hdel(realm_store.keys.header, "chain", "base")
    raw.delete(realm_store.keys.log)
    raw.xadd(realm_store.keys.log, {"op": "kill", "s": SESSION, "t": "1", "by": "x", "why": "y"}, "1-0")
    found = probe(inc, 1, chain=UNKNOWN)
    assert (found[4], found[6]) == (b"RESYNC", b"-")
    assert probe(inc, 1, chain="-")[4] == b"OK"
    bump("kill", TASK)
    chain = Place(inc, 1, "-").after(inc, 2, "kill", TASK).chain
    assert realm_store.header().chain == chain
    assert probe(inc, 1, chain="-")[4] == b"RESYNC"
    assert probe(inc, 2, chain=chain)[4] == b"OK"


@pytest.mark.parametrize("damage", ["floor", "ban", "log", "foreign floor"])
def test_a_probe_notices_damage(
    bump: Callable[..., Any],
    probe: Callable[..., list[Any]],
    raw: redis.Redis,
    realm_store: RevocationStore,
    damage: str,
) -> None:
    """A floor, a ban or an entry that was evicted or written by hand makes every answer CORRUPT."""
    inc = bump("kill+ban", "agent:acme")[0].decode()
    keys = realm_store.keys
    {
        "floor": lambda: raw.hdel(keys.floors, "agent:acme"),
        "ban": lambda: raw.hdel(keys.bans, "agent:acme"),
        "log": lambda: raw.xdel(keys.log, "1-0"),
        "foreign floor": lambda: raw.hset(keys.floors, "realm", "1"),
    }[damage]()
    assert probe(inc, 1)[4] == b"CORRUPT"


def test_what_was_applied_under_another_history_confirms_nothing(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], realm_store: RevocationStore
) -> None:
    """A number of another history, or one that this store never gave, is not an acknowledgement."""
    inc = bump("kill", SESSION)[0].decode()
    for known, applied in (("J" * 22, 1), (inc, 500)):
        probe(known, applied)
        registry = realm_store.unacked(1, 0)
        assert [(name, seen) for name, _, seen, _ in registry.missing] == [("v", -1)]
    probe(inc, 1)
    assert realm_store.unacked(1, 0).missing == ()


def test_a_step_of_the_store_s_clock_forgets_no_verifier(realm_store: RevocationStore, valkey: EmbeddedValkey) -> None:
    """A clock that jumps ahead by minutes makes a verifier look unheard: it is kept, and named."""
    with redis.Redis.from_url(valkey.url) as raw:
        now = realm_store.unacked(0, 0).at_ms
        raw.zadd(realm_store.keys.probes, {"before-the-step": now - 300_000, "gone": now - 660_000})
        registry = realm_store.unacked(1, 0)
    assert [missing[0] for missing in registry.missing] == ["before-the-step"]
    assert registry.verifiers == 1


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


def test_a_kill_works_in_a_full_store(own_valkey: EmbeddedValkey, realm_name: str) -> None:
    """Out of memory, foreign writes are refused; kills and probes are not."""
    with RevocationStore(own_valkey.url, realm_name) as store, redis.Redis.from_url(own_valkey.url) as raw:
        store.load_functions()
        store.init()
        raw.config_set("maxmemory", "1mb")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            raw.set("foreign", "x")
        follower = Follower(own_valkey.url, realm_name, "v")
        assert follower.catch_up(0, 0, 10)
        bump = store.kill([SESSION], "test", "operator:ada")
        assert bump.durable
        assert follower.catch_up(0, bump.header.seq, 10)
        follower.close()


def test_a_verifier_with_only_its_rights_can_follow_and_not_kill(
    valkey: EmbeddedValkey, raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """The least a verifier's user needs, and some of what it then cannot do."""
    tag = f"arx:{{{realm_store.realm}}}:"
    keys = [f"~{tag}{part}" for part in ("h", "f", "b", "log", "v", "a")]
    commands = "+fcall|arx1_probe +fcall|arx1_leave +ssubscribe +hello +auth +client|setinfo +hmget +hlen +xlen +xrange"
    commands += " +zcard +fcall|arx1_copy +hscan +zadd +zscore +zrem +zremrangebyrank +time +info"
    rules = ["on", ">secret", "resetchannels", f"&{tag}ch", "-@all", *commands.split(), *keys]
    raw.execute_command("ACL", "SETUSER", realm_store.realm, *rules)
    path = valkey.url.removeprefix("unix://")
    follower = Follower(f"unix://{realm_store.realm}@{path}", realm_store.realm, "v", password="secret")
    assert follower.catch_up(0, 0, 10)
    bump = realm_store.kill([SESSION], "test", "operator:ada")
    assert follower.catch_up(0, bump.header.seq, 10)
    follower.close()
    url = f"unix://{realm_store.realm}:secret@{path}"
    with redis.Redis.from_url(url) as user:
        written = realm_store.keys.written
        forbidden: tuple[tuple[object, ...], ...] = (
            ("FCALL", "arx1_bump", len(written), *written, "I", 0, "", "lift", "", "x", "y", "realm"),
            ("HSET", tag + "h", "seq", 0),
            ("ZADD", tag + "x", 1, SESSION),
            ("SPUBLISH", tag + "ch", "x"),
            ("FLUSHALL",),
            ("ZADD", "arx:{other}:v", 1, "v"),
        )
        for command in forbidden:
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            user.zadd(tag + "h", {"seq": 0})
