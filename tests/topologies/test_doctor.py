# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on real servers: whatever can be wrong with a store is found, named, and said how to mend."""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.cli import exits
from arx_caps.mint.core import Mint
from arx_caps.mint.ending import end_scopes
from arx_caps.mint.founding import init_realm
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore, acl
from arx_caps.revocation.wire import Keys
from tests.cli.helpers import Ran, arx
from tests.servers import VerifierProcess, until
from tests.topologies.fleet import LASTING, Server, free_ports, replicated, running

pytestmark = pytest.mark.servers

SESSION, OTHER, AGENT, BY = "session:s-" + "a" * 16, "session:s-" + "b" * 16, "agent:acme/support", "operator:ada"


class Place(NamedTuple):
    """A realm with a server of its own and a mint that has looked at it."""

    server: Server
    realm: Realm

    def bad(self, url: str | None = None, password: str = "m" * 9) -> dict[str, tuple[str, str]]:
        """Name what the doctor finds wrong, with what it says, leaving out that the mint is not served."""
        ran = self.doctor(url, password)
        found = {c["name"]: (c["found"], c["mend"]) for c in ran.json["checks"] if not c["ok"] and c["name"] != "mint"}
        assert ran.exit_code == exits.DENIED
        assert all(mend for _, mend in found.values()), "it says how to mend each"
        return found

    def doctor(self, url: str | None = None, password: str = "m" * 9) -> Ran:
        """Run it, as the mint's user; at another URL, as its default user."""
        words: list[str | Path] = ["doctor", "--realm-dir", self.realm.folder, "--json"]
        return arx(*words, *(("--store", url) if url else ()), env={} if url else {"ARX_STORE_PASSWORD": password})

    @contextlib.contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        with self.server.client() as raw:
            before = raw.config_get(name)[name]
            raw.config_set(name, value)
            yield
            raw.config_set(name, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("doctor")
    server = Server(folder / "server", free_ports(1)[0], *LASTING)
    with running(server):
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", acl.user_name("mint", "acme"), *acl.rules("mint", "acme", "m" * 9))
        url = f"redis://{acl.user_name('mint', 'acme')}@127.0.0.1:{server.port}"
        with pytest.MonkeyPatch.context() as patch:
            admin = f"redis://127.0.0.1:{server.port}"
            realm = init_realm(folder / "realm", name="acme", issuer="http://127.0.0.1:9", store=url)
            assert arx("redis", "load", "--store", admin, "--realm", "acme").exit_code == 0
            patch.setenv("ARX_STORE_PASSWORD", "m" * 9)
            mint = Mint.open(realm, store_url=url)
            mint.start()
            end_scopes(mint, "kill", [SESSION, AGENT], reason="test", by=BY, wait=False)
            mint.close()  # awake, it would mend what the tests break
        yield Place(server, realm)


def test_a_store_that_is_well(place: Place) -> None:
    """
    Seen by the mint's user nothing is wrong; what that user may not ask is said.
    """
    assert place.bad() == {}
    ran = place.doctor()
    told = {check["name"]: check["found"] for check in ran.json["checks"]}
    assert told["persistence"] == told["eviction"] == told["access"] == "this user may not ask"
    assert told["history"] == "at 2; 2 entries in the log"
    assert told["memory"] == "the mint has seen 2 of 2"
    assert told["record"] == "2 entries are as the mint recorded them"


def test_settings_that_lose_kills(place: Place) -> None:
    """
    A default user that is too wide, an eviction policy, no room for a follower that is far behind, fsync once a second,
    no file at all.
    """
    url = f"redis://127.0.0.1:{place.server.port}"
    found = place.bad(url)
    assert set(found) == {"access"}
    assert "the user default has" in found["access"][0]
    with place.setting("maxmemory-policy", "allkeys-lru"):
        assert place.bad(url)["eviction"][0] == "allkeys-lru"
    for limits in ("pubsub 65536 0 0", "pubsub 33554432 65536 5"):
        with place.setting("client-output-buffer-limit", limits):
            found, mend = place.bad(url)["buffer"]
            assert "65536 bytes for a follower" in found
            assert "32mb 8mb 60" in mend
    with place.setting("appendfsync", "everysec"):
        assert "power cut" in place.bad(url)["persistence"][0]
    with place.setting("appendonly", "no"):
        assert "no append-only file" in place.bad(url)["persistence"][0]


def test_users_that_are_too_wide(tmp_path: Path) -> None:
    """
    Asked by an administrator, whose own rights are not the point: everybody's, the realm's users', whoever follows it.
    """
    root = {"username": "root", "password": "r" * 9}
    everything = ("~*", "&*", "+@all")
    options = ("--user", "root", "on", ">" + "r" * 9, *everything)
    server = Server(tmp_path / "server", free_ports(1)[0], *options, login=root)
    place = f"127.0.0.1:{server.port}"
    init_realm(tmp_path / "realm", name="acme", issuer="http://127.0.0.1:9", store=f"redis://arx-mint-acme@{place}")
    words = ("doctor", "--realm-dir", tmp_path / "realm", "--json", "--store", f"redis://root@{place}")
    with running(server), server.client() as raw:

        def user(name: str, *rules: str) -> None:
            raw.execute_command("ACL", "SETUSER", name, *rules)

        def found() -> str:
            ran = arx(*words, env={"ARX_STORE_PASSWORD": "r" * 9})
            [check] = [check for check in ran.json["checks"] if check["name"] == "access"]
            assert bool(check["mend"]) != check["ok"]
            return "" if check["ok"] else str(check["found"])

        assert "the user default has" in found()
        user("default", "off")
        assert found() == ""
        for role in acl.ROLES:
            user(acl.user_name(role, "acme"), *acl.rules(role, "acme", "p" * 9))
        user("monitor", "on", ">" + "m" * 9, "-@all", "+info")
        assert found() == ""
        user("arx-verifier-acme", "+fcall|arx1_bump")
        assert "the user arx-verifier-acme has commands that its role does not need (+fcall|arx1_bump)" in found()
        user("arx-verifier-acme", *acl.rules("verifier", "acme", "p" * 9), "~arx:*")
        assert "arx-verifier-acme has keys beyond the realm's parts (~arx:*)" in found()
        user("arx-verifier-acme", *acl.rules("verifier", "acme", "p" * 9), "(~* +get)")
        assert "arx-verifier-acme has further rights in selectors" in found()
        user("arx-verifier-acme", *acl.rules("verifier", "acme", "p" * 9), "nopass")
        assert "arx-verifier-acme has no password" in found()
        user("arx-verifier-acme", *acl.rules("verifier", "acme", "p" * 9))
        user("tool-7", "on", ">" + "t" * 9, *everything)
        assert found() == "", "a second administrator"
        with server.client(username="tool-7", password="t" * 9, protocol=3) as tool, tool.pubsub() as following:
            following.ssubscribe("arx:{acme}:ch")
            until(lambda: "the user tool-7 has" in found())


def test_functions_that_are_not_ours(place: Place) -> None:
    """
    Another version's, and none.
    """
    url = f"redis://127.0.0.1:{place.server.port}"
    try:
        with place.server.client() as raw:
            raw.function_load("#!lua name=arx1\nredis.register_function('arx1_x', function() end)", replace=True)
            assert "another version" in place.bad(url)["functions"][0]
            raw.function_delete("arx1")
            found = place.bad(url)
            assert "not loaded" in found["functions"][0]
            assert "arx redis load" in found["functions"][1]
    finally:
        assert arx("redis", "load", "--store", url, "--realm", "acme").exit_code == 0


def test_a_clock_that_is_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    This machine's clock and the store's differ by more than they may.
    """
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 20_000_000_000)
    assert "NTP" in place.bad()["clock"][1]


def test_writing_past_the_functions_is_seen(place: Place) -> None:
    """
    What the break-glass user could do with its password: lift a ban, take a kill back, set the sequence back, write
    other kills under old numbers.  Each contradicts the log, the mint's database or its record.
    """
    keys = Keys.of("acme")
    with place.server.client() as raw:
        raw.hdel(keys.bans, AGENT)
        assert AGENT in place.bad()["history"][0]
        raw.hset(keys.bans, AGENT, 2)
        raw.hset(keys.floors, SESSION, 0)
        assert SESSION in place.bad()["history"][0]
        raw.hdel(keys.floors, SESSION)
        raw.hincrby(keys.header, "n", -1)  # so that verifiers do not notice
        assert SESSION in place.bad()["history"][0]
        raw.hincrby(keys.header, "n", 1)
        raw.hset(keys.floors, SESSION, 1)
        raw.hset(keys.header, "seq", 1)
        assert {"history", "memory"} <= set(place.bad())
        assert "lost 1 entries" in place.bad()["memory"][0]
        raw.hset(keys.header, "seq", 2)
        whole = raw.xrange(keys.log)
        raw.delete(keys.log)
        for number, (_, fields) in enumerate(whole, 1):
            raw.xadd(keys.log, fields | {"s": OTHER}, id=f"{number}-0")
        assert f"number 1 is {OTHER} in the store, {SESSION} in the mint's record" in place.bad()["record"][0]
        raw.xdel(keys.log, "1-0")
        assert "number 1 is not in the store" in place.bad()["record"][0]
        raw.xadd(keys.log, whole[-1][1], id="4-0")
        raw.hset(keys.header, "seq", 4)
        assert "entries between 2 and 4 are missing" in place.bad()["history"][0]
        raw.hset(keys.header, "seq", 2)
        raw.delete(keys.log)
        for at, fields in whole:
            raw.xadd(keys.log, fields, id=at)
    assert place.bad() == {}


def test_a_mint_without_its_memory(place: Place) -> None:
    """
    A database that is gone, one that was made anew in its place, and one that knows another history.
    """
    path, aside = place.realm.folder / "mint.db", place.realm.folder / "aside.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        (inc,) = database.execute("select inc from epoch_high_water").fetchone()
        database.execute("update epoch_high_water set inc = 'another'")
        database.commit()
        assert "another history" in place.bad()["memory"][0]
        database.execute("update epoch_high_water set inc = ?", (inc,))
        database.commit()
    shutil.copy(path, aside)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("delete from operators")
        database.commit()
    assert "made anew" in place.bad()["memory"][0]
    aside.rename(path)
    path.rename(aside)
    try:
        found = place.bad()["memory"]
        assert "mint.db is gone" in found[0]
        assert "backup" in found[1]
    finally:
        aside.rename(path)


def test_verifiers_that_lag_and_a_registry_that_lies(place: Place) -> None:
    """
    A frozen verifier is named with how far it is; one that is silent without missing anything is only mentioned; a
    registry that knows the future, or numbers that were never given, is not believed.
    """
    url = f"redis://127.0.0.1:{place.server.port}"
    store = RevocationStore(url, "acme")
    slow = VerifierProcess(url, "acme", "tool-7")
    try:
        os.kill(slow.pid, signal.SIGSTOP)
        store.kill([OTHER], "test", BY)
        found, mend = place.bad(url)["verifiers"]
        assert "tool-7 is at 2 of 3" in found
        assert "refuses every call" in mend
        with place.server.client() as raw:
            raw.zadd(store.keys.probes, {"tool-7": store.header().at_ms - 60_000})
        told = next(check for check in place.doctor(url).json["checks"] if check["name"] == "verifiers")
        assert told["ok"], "it has ended, as far as anybody can tell"
        assert "hold no lease and accept nothing (tool-7, heard 60" in told["found"]
        with place.server.client() as raw:
            raw.zadd(store.keys.probes, {"tool-8": 2e12})
            raw.zadd(store.keys.acks, {"tool-8": 3})
            assert "clock was set back" in place.bad(url)["registry"][0]
            raw.zadd(store.keys.probes, {"tool-8": store.header().at_ms})
            raw.zadd(store.keys.acks, {"tool-8": 99})
            assert "tool-8 has applied 99, the store is at 3" in place.bad(url)["registry"][0]
            raw.zrem(store.keys.probes, "tool-8", "tool-7")
        assert "verifiers" not in place.bad(url)
    finally:
        os.kill(slow.pid, signal.SIGCONT)
        slow.close()
        store.close()


def test_a_store_that_is_not_there(place: Place) -> None:
    """
    Nobody listens: said first, and nothing else is asked.
    """
    ran = arx("doctor", "--realm-dir", place.realm.folder, "--json", "--store", "redis://127.0.0.1:1")
    names = [check["name"] for check in ran.json["checks"] if not check["ok"]]
    assert names == ["store", "mint"]


def test_replicas_that_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Kills that do not wait for replicas, a deposed primary that would go on, a window that is too short, a missing
    replica, a promotion that no mint has looked at, the replica itself.
    """
    ports = free_ports(2)
    primary = Server(tmp_path / "primary", ports[0], *LASTING, "--repl-diskless-sync-delay", "0")
    replica = Server(tmp_path / "replica", ports[1], *LASTING, "--replicaof", "127.0.0.1", str(ports[0]))
    url = f"redis://127.0.0.1:{ports[0]}"
    with running(primary, replica), contextlib.ExitStack() as stack:
        replicated(primary, 1)
        realm = init_realm(tmp_path / "realm", name="acme", issuer="http://127.0.0.1:9", store=url)
        settings = realm.folder / "realm.toml"
        plain = settings.read_text()
        mint = Mint.open(realm, store_url=url)
        stack.callback(mint.close)
        mint.start()

        def found(more: str, at: str = url) -> str:
            settings.write_text(plain + more)
            return Place(primary, Realm.open(realm.folder)).bad(at).get("replication", ("", ""))[0]

        assert "kills do not wait" in found("")
        assert "has not looked" in found("replicas = 1\n")
        mint.close()
        settings.write_text(plain + 'replicas = 1\nfailover_window = "4s"\n')
        mint = Mint.open(Realm.open(realm.folder), store_url=url)
        stack.callback(mint.close)
        mint.start()
        settled = 'replicas = 1\nfailover_window = "4s"\n'
        assert "min-replicas-to-write is 0" in found(settled)
        with primary.client() as raw:
            raw.config_set("min-replicas-to-write", 1)
            raw.config_set("min-replicas-max-lag", 10)
            assert "answers for 12000 ms, reports reckon with 4000 ms" in found(settled)
            raw.config_set("min-replicas-max-lag", 2)
            assert found(settled) == ""
        assert "is a replica" in found(settled, f"redis://127.0.0.1:{ports[1]}")
        mint.close()
        replica.ask("REPLICAOF", "NO", "ONE")
        assert "has not looked" in found(settled, f"redis://127.0.0.1:{ports[1]}")
        until(lambda: "0 of 1 replicas" in found(settled))


def test_a_lookup_as_nobody_fails_as_said(place: Place) -> None:
    """
    A wrong password is the store's answer, told without the password.
    """
    found = place.bad(password="guess")
    assert "AuthenticationError" in found["store"][0]
    assert "guess" not in str(found)


def test_what_was_forgotten_in_time_is_not_missed(place: Place) -> None:
    """
    The mint lets the end of a session be forgotten with the session itself; any other kill has to last for ``max_ttl``.
    """
    url, gone = f"redis://127.0.0.1:{place.server.port}", "session:s-" + "c" * 16
    with RevocationStore(url, "acme") as store, place.server.client() as raw:
        for why, missed in (("session ended", False), ("stolen", True)):
            store.kill([gone], why, BY)
            raw.hdel(store.keys.floors, gone)
            raw.hincrby(store.keys.header, "n", -1)
            assert (gone in place.bad(url).get("history", ("",))[0]) is missed
