# SPDX-License-Identifier: Apache-2.0
"""A store watched by Sentinels: the mint ends the history after a failover, and the old primary convinces nobody."""

import functools
import signal
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.mint.core import Mint
from arx_caps.mint.founding import init_realm
from arx_caps.realm import Realm
from arx_verifier.feed import Follower
from tests.servers import until
from tests.topologies.fleet import LASTING, Server, free_ports, replicated, running, wait_for

pytestmark = pytest.mark.servers

SESSION, BY = "session:s-" + "a" * 16, "operator:ada"
WATCH = """
sentinel monitor kills 127.0.0.1 {port} 2
sentinel down-after-milliseconds kills 500
sentinel failover-timeout kills 3000
"""


class Watched(NamedTuple):
    """Three servers, three Sentinels."""

    servers: list[Server]
    sentinels: list[Server]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/kills"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, ports = tmp_path_factory.mktemp("watched"), free_ports(6)
    safe = (*LASTING, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "2", "--repl-diskless-sync-delay", "0")
    first = Server(folder / "s0", ports[0], *safe)
    others = [Server(folder / f"s{n}", ports[n], *safe, "--replicaof", "127.0.0.1", str(ports[0])) for n in (1, 2)]
    sentinels = [Server(folder / f"sentinel{n}", ports[3 + n], "--sentinel") for n in range(3)]
    for sentinel in sentinels:
        (sentinel.folder / "server.conf").write_text(WATCH.format(port=ports[0]))
    with running(first, *others):
        replicated(first, 2)
        with running(*sentinels):  # later, because they look for replicas at once and then every ten seconds
            for sentinel in sentinels:
                until(functools.partial(sentinel_knows, sentinel), 20)
            yield Watched([first, *others], sentinels)


def sentinel_knows(sentinel: Server) -> bool:
    """Whether it has found the replicas and the other Sentinels, without which there is no failover."""
    with sentinel.client() as client:
        told = client.sentinel_master("kills")
    return bool(told["num-slaves"] == 2 and told["num-other-sentinels"] == 2)


def patience(watched: Watched, ms: int) -> None:
    """Say after how long without an answer a failover begins."""
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "SET", "kills", "down-after-milliseconds", str(ms))


def realm_with(folder: Path, name: str, url: str, more: str) -> Realm:
    """Found a realm whose store is replicated."""
    init_realm(folder, name=name, issuer="http://127.0.0.1:8700", store=url)
    settings = folder / "realm.toml"
    settings.write_text(settings.read_text() + more)
    assert tomllib.loads(settings.read_text())["store"] == url
    return Realm.open(folder)


def test_a_primary_that_restarts_keeps_its_history(watched: Watched, realm_name: str, tmp_path: Path) -> None:
    """
    Down for less than the Sentinels' patience: the same server with its own file, so tokens live on; yet it grants
    nothing until the mint has looked, and none of it needs anybody's hand.
    """
    realm = realm_with(tmp_path / "realm", realm_name, watched.url, 'replicas = 1\nfailover_window = "3s"\n')
    with ExitStack() as stack:
        mint = Mint.open(realm, store_url=watched.url)
        stack.callback(mint.close)
        mint.start()
        header = mint.store.kill([SESSION], "test", BY).header
        patience(watched, 60_000)
        primary = watched.servers[0]
        before = primary.client().info("replication")["master_replid"]
        primary.kill()
        primary.start()
        wait_for(primary)
        until(lambda: primary.client().hget(mint.store.keys.header, "replid") not in (None, before), 20)
        until(lambda: mint.epochs.check(header.inc, header.seq, ()) is None, 20)
        refused = mint.epochs.check(header.inc, 0, (SESSION,))
        assert refused is not None
        assert refused.code == "revoked"


def test_a_failover_ends_the_history_and_everyone_moves(watched: Watched, realm_name: str, tmp_path: Path) -> None:
    """
    The primary freezes: leases end.  The Sentinels promote another, which grants nothing until the mint has ended the
    history; then verifiers are live again, older tokens are dead, and the old primary, awake again, convinces nobody.
    """
    realm = realm_with(tmp_path / "realm", realm_name, watched.url, 'replicas = 1\nfailover_window = "3s"\n')
    with ExitStack() as stack:
        mint = Mint.open(realm, store_url=watched.url)
        stack.callback(mint.close)
        mint.start()
        follower = Follower(watched.url, realm_name, "v")
        stack.callback(follower.close)
        assert follower.catch_up(0, 0, 10)
        replicated(watched.servers[0], 2)
        old = mint.store.kill([SESSION], "test", BY)
        assert old.durable
        inc = old.header.inc
        assert follower.catch_up(0, old.header.seq, 10)
        primary = watched.servers[0]
        patience(watched, 500)
        primary.signal(signal.SIGSTOP)
        began = follower.boot_ns()
        until(lambda: follower.check(inc, old.header.seq, ()) is not None)
        assert follower.boot_ns() - began <= 1.5e9, "a lease of one second"
        until(lambda: (seen := follower.check(inc, old.header.seq, ())) is not None and seen.code == "revoked", 30)
        new = mint.store.kill([SESSION], "test", BY)
        assert new.header.inc != inc
        assert new.header.lag_ms == 3_000
        assert new.durable
        fooled = Follower(f"redis://127.0.0.1:{primary.port}", realm_name, "fooled")
        stack.callback(fooled.close)
        primary.signal(signal.SIGCONT)
        assert not fooled.catch_up(0, 0, 1.0), "a deposed primary granted a lease"
        assert mint.ready() == []
