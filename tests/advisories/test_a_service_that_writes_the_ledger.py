# SPDX-License-Identifier: Apache-2.0
"""A thief of a service's login at the ledger could write, top up and delete each pool, and replace its functions.

A function runs with its caller's rights: what it writes, its caller may write.  So the names of its keys are a secret
that the mint puts into the functions, and a service names keys without it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation import acl
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import LOST, MarkQuestion, PoolDraw, Short, Stopped, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import header_of, new_ledger
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("17.5")]

BEGIN = "arx:budget:{acme}:"
POOL = "t/-/p/usd/task"
# What the server refuses a service: each would list keys, show the functions, run others, or read what another sends.
REFUSED = (
    "FUNCTION LOAD REPLACE x", "FUNCTION LIST WITHCODE", "FUNCTION DUMP", "FUNCTION FLUSH", "FUNCTION DELETE l",
    "KEYS *", "SCAN 0", "RANDOMKEY", "DUMP k", "RESTORE k 0 x", "RENAME k l", "COPY k l", "OBJECT HELP",
    "EVAL x 0", "SCRIPT FLUSH", "MONITOR", "SLOWLOG GET", "CLIENT LIST", "ACL LIST", "CONFIG GET *", "FLUSHALL",
    "SORT k", "HGETALL k", "ZRANGE k 0 -1", "ZSCAN k 0", "ZREVRANGE k 0 -1", "SWAPDB 0 1",
    "SUBSCRIBE __keyspace@0__:*",
    "FCALL arx2_marks 0", "FCALL arx2_top_up 0", "FCALL arx2_register 0",
    "FCALL arx2_names 0", "FCALL arx2_open 0", "FCALL arx2_seal 0",
)  # fmt: skip


def draw(cost: int, opened: int) -> PoolDraw:
    return PoolDraw(POOL, 100, 0, opened, cost, cost)


def left(ledger: RedisLedger) -> list[tuple[int, int, int]]:
    return [(row["committed"], row["max"], row["remaining"]) for row in ledger.shown()]


class Site:
    """A ledger with the users of a mint and of a service, and a pool of 100 of which 40 are drawn."""

    def __init__(self, server: EmbeddedValkey, stack: ExitStack) -> None:
        self.root = stack.enter_context(redis.Redis.from_url(server.url, decode_responses=True))
        until(lambda: self.root.info("server")["uptime_in_seconds"] > 1)
        for role in (acl.LEDGER, acl.LEDGER_MINT):
            self.root.execute_command("ACL", "SETUSER", role, *acl.rules(role, "acme", role))
        url = server.url.replace("unix://", "unix://{0}:{0}@")
        self.mint = stack.enter_context(closing(new_ledger(url.format(acl.LEDGER_MINT), "acme", hides=True)))
        self.service = stack.enter_context(closing(RedisLedger(url.format(acl.LEDGER), "acme", timeout_s=30)))
        self.thief = stack.enter_context(redis.Redis.from_url(url.format(acl.LEDGER), decode_responses=True))
        self.mint.start()
        self.opened = now_ms()
        until(lambda: now_ms() > self.opened)

    def tries(self, *words: Any) -> Any:
        """Send a command with the stolen login; return the answer, or the error."""
        try:
            return self.thief.execute_command(*words)
        except redis.ResponseError as error:
            return error


@pytest.fixture
def site(own_valkey: EmbeddedValkey) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(own_valkey, stack)


def test_a_service_has_the_functions_of_a_decision(site: Site) -> None:
    """The rights are enough for what a verifier does; the mint's are more."""
    assert isinstance(site.service.take("draw", "", [draw(30, site.opened)]), Taken)
    assert isinstance(site.service.take("reserve", "a", [draw(20, site.opened)]), Taken)
    assert site.service.settle("a", [(draw(20, site.opened), 10)]) is None
    assert isinstance(site.service.take("draw", "", [draw(5, site.opened)]), Taken)
    site.service.undo([draw(5, site.opened)])
    assert left(site.mint) == [(40, 100, 60)]
    assert not acl.exceeds_ledger(site.root.acl_getuser(acl.LEDGER), "acme")
    assert acl.exceeds_ledger(site.root.acl_getuser(acl.LEDGER_MINT), "acme")
    assert not acl.exceeds_ledger(site.root.acl_getuser(acl.LEDGER_MINT), "acme", role=acl.LEDGER_MINT)


def test_each_command_reaches_no_pool(site: Site) -> None:
    """Each command that the role has is sent at each key that the login can name: the pool is as it was."""
    assert isinstance(site.service.take("draw", "", [draw(40, site.opened)]), Taken)
    user = site.root.acl_getuser(acl.LEDGER)
    granted = {word[1:] for word in str(user["commands"]).split() if word.startswith("+")}
    at_a_key = {
        "hget": ("c",), "hmget": ("c",), "hset": ("c", "0", "x", "900"), "hdel": ("c", "p"), "hlen": (), "del": (),
        "zadd": ("0", POOL), "zrangebyscore": ("-inf", "+inf"), "zrem": (POOL,), "set": ("x",),
    }  # fmt: skip
    plain = {*acl.CONNECT.split()} | {word for word in granted if word.startswith("fcall|")}
    assert granted <= at_a_key.keys() | plain, "a command that this test does not try"
    for key in (f"{BEGIN}h", f"{BEGIN}pools", f"{BEGIN}p:{POOL}", f"{BEGIN}x"):
        for command, rest in at_a_key.items():
            assert POOL not in str(site.tries(command, key, *rest)), command
            site.thief.delete(key)
    assert left(site.mint) == [(40, 100, 60)]
    assert isinstance(site.service.take("draw", "", [draw(1, site.opened)]), Taken)
    short = site.service.take("draw", "", [draw(60, site.opened)])
    assert (short.remaining if isinstance(short, Short) else None) == 59 != LOST


@pytest.mark.spec("21.6")
def test_each_command_reaches_no_mark(site: Site) -> None:
    """A service's functions judge and set marks; no command of its login lifts or lists one, or shows who set it."""

    def asking(**changes: Any) -> Any:
        asked = MarkQuestion("s-1", site.opened, site.opened, "web.get web")._replace(**changes)
        return site.service.take("draw", "", [draw(1, site.opened)], None, asked)

    assert isinstance(asking(sets=("w:s:untrusted",)), Taken)
    at_a_key = {
        "hget": ("w:s:untrusted",), "hmget": ("w:s:untrusted",), "hset": ("w:s:untrusted", ""),
        "hdel": ("w:s:untrusted", "u"), "hlen": (), "del": (), "zadd": ("0", "s-1"), "zrangebyscore": ("-inf", "+inf"),
        "zrem": ("s-1",), "set": ("x",),
    }  # fmt: skip
    for key in (f"{BEGIN}marks", f"{BEGIN}m:s-1"):
        for command, rest in at_a_key.items():
            assert "web.get" not in str(site.tries(command, key, *rest)), command
            site.thief.delete(key)
    stopped = asking(after=((("w:s:untrusted",),),))
    assert isinstance(stopped, Stopped)
    assert stopped.found[0].endswith(" web.get web")
    assert left(site.mint) == [(1, 100, 99)], "a call that a mark stops draws nothing"
    misplaced = site.tries(
        "FCALL", "arx2_take", 4, f"{BEGIN}h", f"{BEGIN}pools", f"{BEGIN}m:s-1", f"{BEGIN}p:{POOL}", ""
    )
    assert isinstance(misplaced, redis.ResponseError)


def test_each_other_command_is_refused(site: Site) -> None:
    """Those that list keys or show the functions, and the functions of the mint."""
    for words in REFUSED:
        assert isinstance(site.tries(*words.split()), redis.exceptions.NoPermissionError), words


def test_a_function_takes_each_key_at_its_place(site: Site) -> None:
    """With a pool as the header, or an index of the thief's own, a function could be made to forget the pool."""
    assert isinstance(site.service.take("draw", "", [draw(40, site.opened)]), Taken)
    before = {key: site.root.type(key) for key in site.root.scan_iter()}
    header, index, pool = f"{BEGIN}h", f"{BEGIN}pools", f"{BEGIN}p:{POOL}"
    hidden = header_of(site.root)
    for keys in (
        (pool, index), (header, pool), (f"{BEGIN}p:h", index), (header, index, header), (header, index, index),
        (header, "arx:budget:{other}:pools"), (header.upper(), index), (), (header,), (hidden, f"{hidden[:-1]}pools"),
    ):  # fmt: skip
        for function in ("arx2_take", "arx2_settle", "arx2_undo", "arx2_ledger"):
            answer = site.tries("FCALL", function, len(keys), *keys, "new", "draw", "", "1", "0", "1", "1", "1")
            assert isinstance(answer, redis.ResponseError), (function, keys)
    assert {key: site.root.type(key) for key in site.root.scan_iter()} == before
    assert left(site.mint) == [(40, 100, 60)]


def test_functions_that_were_loaded_without_a_secret(own_valkey: EmbeddedValkey) -> None:
    """An operator loads them anew: open pools are exhausted, and what was drawn is not forgotten."""
    with ExitStack() as stack:
        open_one = stack.enter_context(closing(new_ledger(own_valkey.url, "acme")))
        open_one.start()
        opened = now_ms()
        until(lambda: now_ms() > opened)
        assert isinstance(open_one.take("draw", "", [draw(40, opened)]), Taken)
        raw = stack.enter_context(redis.Redis.from_url(own_valkey.url, decode_responses=True))
        assert raw.exists(f"{BEGIN}p:{POOL}")
        open_one.reload()
        assert not raw.exists(f"{BEGIN}p:{POOL}", f"{BEGIN}h", f"{BEGIN}pools")
        assert [(row["committed"], row["lost"]) for row in open_one.shown()] == [(40, True)]
        short = open_one.take("draw", "", [draw(1, opened)])
        assert isinstance(short, Short)
        assert short.remaining == LOST
        assert open_one.top_up(POOL, 7) == 7
