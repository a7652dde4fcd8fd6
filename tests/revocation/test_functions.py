# SPDX-License-Identifier: Apache-2.0
"""The functions in the store: what they refuse, keep and prune.  Called raw, as any client could."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.follower import Follower
from tests.revocation.calling import KEEP_MS, NO_MORE, SESSION, TASK, bump, probe, raw

__all__ = ["bump", "probe", "raw"]  # fixtures
pytestmark = [pytest.mark.servers, pytest.mark.spec("10.2")]


def test_none_is_a_read(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """A replica or a deposed master answers reads: every function counts as a write, and works in a full store.

    But for used calls, which would fill it further.
    """
    (library,) = raw.function_list("arx1")
    functions = library[library.index(b"functions") + 1]
    flags = {function[1]: set(function[5]) for function in functions}
    assert flags.pop(b"arx1_spend") == set()
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
        b"arx1_use",
    }


def test_a_realm_without_a_header_refuses(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """Every function but init says NOINIT."""
    raw.delete(realm_store.keys.header)
    for function, keys in (("arx1_bump", realm_store.keys.written), ("arx1_rotate", realm_store.keys.all)):
        with pytest.raises(redis.ResponseError, match="NOINIT"):
            raw.fcall(function, len(keys), *keys, "I", 0, "", "kill", "", "x", "y", "realm")


def test_init_begins_once(realm_store: RevocationStore) -> None:
    """A second init changes nothing and returns the state."""
    first = realm_store.header()
    again = realm_store.init("J" * 22, lease_ms=5, seq=99)
    assert (again.incarnation, again.seq, again.lease_ms) == (first.incarnation, first.seq, first.lease_ms)


def test_init_after_a_lost_header_keeps_freezes(raw: redis.Redis, realm_store: RevocationStore) -> None:
    """A lost header is a lost history: a new one begins where the mint remembers, and freezes remain."""
    realm_store.kill_and_freeze(["agent:acme"], "test", "operator:ada")
    raw.delete(realm_store.keys.header)
    with RevocationStore(f"unix://{raw.connection_pool.connection_kwargs['path']}", realm_store.realm) as later:
        header = later.init(seq=40)
        assert header.seq == 40
        assert later.kills() == {}
        assert later.freezes() == {"agent:acme": 1}
        assert later.kill([SESSION], "test", "operator:ada").header.seq == 41


def test_a_bump_counts_each_target(bump: Callable[..., Any], realm_store: RevocationStore) -> None:
    """Several targets are one atomic call and one sequence each, with who and why in the log."""
    assert bump("kill", SESSION, TASK)[1] == 2
    assert bump("kill+freeze", "agent:acme")[1] == 3
    assert bump("thaw", "agent:acme")[1] == 4
    assert realm_store.kills() == {SESSION: 1, TASK: 2, "agent:acme": 3}
    assert realm_store.freezes() == {}
    log = realm_store.log()
    assert [(entry.seq, entry.op, entry.target) for entry in log] == [
        (1, "kill", SESSION),
        (2, "kill", TASK),
        (3, "kill+freeze", "agent:acme"),
        (4, "thaw", "agent:acme"),
    ]
    assert {(entry.by, entry.why) for entry in log} == {("operator:ada", "test")}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"incarnation": "J" * 22}, "INCARNATION"),
        ({"seen": 1}, "REGRESSED"),
        ({"chain": "0" * 40}, "REGRESSED"),
        ({"op": "pardon"}, "unknown operation"),
        ({"targets": ()}, "not 1 to 4000 entries"),
        ({"targets": ("x" * 97,)}, "1 to 96 printable"),
        ({"targets": ("a b",)}, "1 to 96 printable"),
        ({"targets": ("",)}, "1 to 96 printable"),
        ({"targets": (SESSION, "agent:acme"), "until_ms": "1"}, "only tasks and sessions"),
    ],
)
def test_a_wrong_bump_changes_nothing(
    bump: Callable[..., Any], realm_store: RevocationStore, change: dict[str, Any], error: str
) -> None:
    """Another history, a store that went back, an unknown operation, a bad target: refused before any write."""
    arguments: dict[str, Any] = {"op": "kill", "targets": (SESSION,), **change}
    with pytest.raises(redis.ResponseError, match=error):
        bump(arguments.pop("op"), *arguments.pop("targets"), **arguments)
    assert realm_store.header().seq == 0
    assert realm_store.log() == ()


def test_kills_are_kept_as_long_as_tokens_live(
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
    bump("freeze", "agent:acme")
    assert raw.zscore(retention, "agent:acme") is None, "a freeze does not end by itself"


def test_expired_kills_are_pruned_and_freezes_are_not(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """Each bump drops at most 50 kills that can end nothing any more; the counts still add up."""
    targets = [f"task:{number}" for number in range(60)]
    bump("kill+freeze", *targets)
    raw.zadd(realm_store.keys.retention, dict.fromkeys(targets, 1))
    bump("kill", SESSION)
    assert len(realm_store.kills()) == 11
    bump("kill", SESSION)
    assert realm_store.kills() == {SESSION: 62}
    assert len(realm_store.freezes()) == 60
    assert probe(realm_store.header().incarnation, 62)[4] == b"OK"


def test_the_log_is_trimmed_but_not_before_it_is_taken(
    bump: Callable[..., Any], probe: Callable[..., list[Any]], raw: redis.Redis, realm_store: RevocationStore
) -> None:
    """The last 10,000 entries stay, and whatever the mint has not read; who is further behind copies the kills."""
    incarnation = realm_store.header().incarnation
    realm_store.mark_taken(500)
    many = [f"task:{number}" for number in range(1_000)]
    for _ in range(11):
        bump("kill", *many)
    assert raw.xlen(realm_store.keys.log) == 10_500
    realm_store.mark_taken(11_000)
    bump("kill", SESSION)
    assert raw.xlen(realm_store.keys.log) == 10_000
    assert probe(incarnation, 1_001)[4] == b"OK", "the number before the first entry is still known"
    assert probe(incarnation, 1_000)[4] == b"RESYNC"


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
    keys = [f"~{tag}{part}" for part in ("h", "k", "f", "log", "v", "a")]
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
            ("FCALL", "arx1_bump", len(written), *written, "I", 0, "", "thaw", "", "x", "y", *NO_MORE, "realm"),
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
