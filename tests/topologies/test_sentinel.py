# SPDX-License-Identifier: Apache-2.0
"""A store watched by Sentinels: the mint ends the history after a failover, and no verifier trusts the old primary."""

import contextlib
import functools
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.errors import StoreError
from arx_verifier.revocation.follower import Follower
from tests.relay.processes import RelayProcess
from tests.servers import free_ports, until
from tests.topologies.fleet import NAMES, Server, replicated, running, wait_for
from tests.topologies.guarded import FINDER, Guard, enrol, password

pytestmark = pytest.mark.servers

SESSION, BY = "session:s-" + "a" * 16, "operator:ada"
SETTINGS = "sentinel down-after-milliseconds kills 500\nsentinel failover-timeout kills 3000\n"
MORE = 'replicas = 1\nfailover_window = "3s"\n'


class Watched(NamedTuple):
    """Three servers, three Sentinels, which all ask for a login, and for TLS where they have it."""

    guard: Guard
    servers: list[Server]
    sentinels: list[Server]

    def url(self, role: str, realm: str) -> str:
        """The realm's store as its Sentinels find it, for a role."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return self.guard.url("+sentinel", role, realm, f"{hosts}/kills")


@pytest.fixture(scope="module")
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, ports = tmp_path_factory.mktemp("watched"), free_ports(6)
    guard = Guard.of(request.param, folder)
    safe = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2", "--repl-diskless-sync-delay", "0")
    first = guard.node(folder / "s0", ports[0], *safe)
    others = [guard.node(folder / f"s{n}", ports[n], *safe, "--replicaof", "127.0.0.1", str(ports[0])) for n in (1, 2)]
    sentinels = [guard.sentinel(folder / f"sentinel{n}", ports[3 + n], ports[0], SETTINGS) for n in range(3)]
    with running(first, *others):
        replicated(first, 2)
        with running(*sentinels):  # later, because they look for replicas at once and then every ten seconds
            for sentinel in sentinels:
                until(functools.partial(sentinel_knows, sentinel))
            yield Watched(guard, [first, *others], sentinels)


def sentinel_knows(sentinel: Server) -> bool:
    """Whether it has found the replicas and the other Sentinels, without which there is no failover."""
    with sentinel.client() as client:
        answer = client.sentinel_master("kills")
    return bool(answer["num-slaves"] == 2 and answer["num-other-sentinels"] == 2)


def patience(watched: Watched, ms: int) -> None:
    """Say after how long without an answer a failover begins."""
    for sentinel in watched.sentinels:
        sentinel.ask("SENTINEL", "SET", "kills", "down-after-milliseconds", str(ms))


@contextlib.contextmanager
def minting(watched: Watched, name: str, folder: Path) -> Iterator[MintRuntime]:
    """Found a realm in a replicated store, as its operator does, and run its mint as the mint's user."""
    enrol(name, *watched.servers)
    url = watched.url("mint", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARX_STORE_PASSWORD", password("admin"))
        with RevocationStore(watched.url("admin", name), name, password=password("admin")) as store:
            assert store.load_functions()
        patch.setenv("ARX_STORE_PASSWORD", password("mint"))
        settings = init_realm(folder, name=name, issuer="http://127.0.0.1:8700", store=url).folder / "realm.toml"
        settings.write_text(settings.read_text() + MORE)
        mint = MintRuntime.open(Realm.open(folder), store_url=url)
        try:
            mint.start()
            yield mint
        finally:
            mint.close()


@pytest.mark.parametrize("watched", NAMES[:1], indirect=True)
def test_a_primary_that_restarts_keeps_its_history(watched: Watched, realm_name: str, tmp_path: Path) -> None:
    """
    Down for less than the Sentinels' patience: the same server with its own file, so tokens live on; yet it grants
    nothing until the mint has looked, and none of it needs an operator.
    """
    with minting(watched, realm_name, tmp_path / "realm") as mint:
        header = mint.store.kill([SESSION], "test", BY).header
        patience(watched, 60_000)
        primary = watched.servers[0]
        before = primary.client().info("replication")["master_replid"]
        primary.kill()
        primary.start()
        wait_for(primary)
        enrol(realm_name, primary)
        until(lambda: primary.client().hget(mint.store.keys.header, "replid") not in (None, before))
        until(lambda: mint.epochs.check(header.incarnation, header.seq, ()) is None)
        refused = mint.epochs.check(header.incarnation, 0, (SESSION,))
        assert refused is not None
        assert refused.code == "revoked"


@pytest.mark.slow
@pytest.mark.spec("10.8")
@pytest.mark.parametrize(
    "watched", [NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])], indirect=True
)
def test_a_failover_ends_the_history_and_everyone_moves(watched: Watched, realm_name: str, tmp_path: Path) -> None:
    """
    The primary freezes: leases end.  The Sentinels promote another, which grants nothing until the mint has ended the
    history; then verifiers are live again, older tokens are revoked, and the old primary, awake again, convinces
    no verifier.  So does a follower behind a relay.  Each user has a login with the least rights needed, at servers and
    Sentinels, and TLS where there is any.
    """
    with minting(watched, realm_name, tmp_path / "realm") as mint, contextlib.ExitStack() as stack:
        primary, url = watched.servers[0], watched.url("verifier", realm_name)

        def follow(url: str, name: str) -> Follower:
            follower = Follower(url, realm_name, name, password=password("verifier"))
            stack.callback(follower.close)
            return follower

        login = {"ARX_STORE_PASSWORD": password("verifier")}
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arx"))) / "relay.sock"
        relay = RelayProcess(url, realm_name, socket, variables=login)
        stack.callback(relay.kill)
        follower, behind = follow(url, "v"), follow(relay.url, "behind")
        assert follower.catch_up(0, 0, 10)
        assert behind.catch_up(0, 0, 10)
        replicated(primary, 2)
        old = mint.store.kill([SESSION], "test", BY)
        assert old.durable
        incarnation = old.header.incarnation
        assert follower.catch_up(0, old.header.seq, 10)
        patience(watched, 500)
        primary.signal(signal.SIGSTOP)
        began = follower.boot_ns()
        until(lambda: follower.check(incarnation, old.header.seq, ()) is not None)
        assert follower.boot_ns() - began <= 1.5e9, "a lease of one second"
        until(
            lambda: (seen := follower.check(incarnation, old.header.seq, ())) is not None and seen.code == "revoked", 30
        )
        new = mint.store.kill([SESSION], "test", BY)
        assert new.header.incarnation != incarnation
        until(
            lambda: (
                behind.view()[:2] == (new.header.incarnation, new.header.seq)
                and behind.check(*behind.view()[:2], ()) is None
            )
        )
        assert new.header.lag_ms == 3_000
        assert new.durable
        direct = watched.guard.url("", "verifier", realm_name, f"127.0.0.1:{primary.port}")
        fooled = follow(direct, "fooled")
        primary.signal(signal.SIGCONT)
        assert not fooled.catch_up(0, 0, 1.0), "a deposed primary granted a lease"
        assert mint.ready() == []


@pytest.mark.slow
@pytest.mark.parametrize("watched", NAMES[-1:], indirect=True)
def test_sentinels_that_refuse_the_login_are_named(watched: Watched, realm_name: str) -> None:
    """
    A wrong password for the Sentinels leads to no server; the error says where to look, and not the password.
    """
    url = watched.url("operator", realm_name).replace(f"sentinel_password={FINDER}", "sentinel_password=guess")
    with RevocationStore(url, realm_name, password=password("operator")) as store:
        with pytest.raises(StoreError, match="Sentinels refused the login") as caught:
            store.header()
        assert "guess" not in str(caught.value)
