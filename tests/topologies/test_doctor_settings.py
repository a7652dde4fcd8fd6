# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on real servers: how a store is set up, by which users, functions and replicas."""

import contextlib
import time
from pathlib import Path

import pytest

from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation import acl
from arx_caps.settings.realm import Realm
from tests.cli.helpers import arx
from tests.servers import free_ports, until
from tests.topologies.doctored import Place, place
from tests.topologies.fleet import LASTING, Server, replicated, running

__all__ = ["place"]  # fixtures
pytestmark = pytest.mark.servers


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
            assert "65536 bytes per follower" in found
            assert "32mb 8mb 60" in mend
    with place.setting("appendfsync", "everysec"):
        assert "power cut" in place.bad(url)["persistence"][0]
    with place.setting("appendonly", "no"):
        assert "no append-only file" in place.bad(url)["persistence"][0]


@pytest.mark.nightly
def test_users_that_are_too_wide(tmp_path: Path) -> None:
    """
    Asked by an administrator, whose own rights are not the point: every user's, the realm's users', each follower's.
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


@pytest.mark.slow
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
        mint = MintRuntime.open(realm, store_url=url)
        stack.callback(mint.close)
        mint.start()

        def found(more: str, at: str = url) -> str:
            settings.write_text(plain + more)
            return Place(primary, Realm.open(realm.folder)).bad(at).get("replication", ("", ""))[0]

        assert "kills do not wait" in found("")
        assert "no mint has taken over" in found("replicas = 1\n")
        mint.close()
        settings.write_text(plain + 'replicas = 1\nfailover_window = "4s"\n')
        mint = MintRuntime.open(Realm.open(realm.folder), store_url=url)
        stack.callback(mint.close)
        mint.start()
        settled = 'replicas = 1\nfailover_window = "4s"\n'
        assert "min-replicas-to-write is 0" in found(settled)
        with primary.client() as raw:
            raw.config_set("min-replicas-to-write", 1)
            raw.config_set("min-replicas-max-lag", 10)
            assert "answers for 12000 ms, and failover_window is 4000 ms" in found(settled)
            raw.config_set("min-replicas-max-lag", 2)
            assert found(settled) == ""
        assert "is a replica" in found(settled, f"redis://127.0.0.1:{ports[1]}")
        mint.close()
        replica.ask("REPLICAOF", "NO", "ONE")
        assert "no mint has attested it since" in found(settled, f"redis://127.0.0.1:{ports[1]}")
        until(lambda: "0 of 1 replicas" in found(settled))
