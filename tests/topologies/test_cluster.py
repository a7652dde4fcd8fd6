# SPDX-License-Identifier: Apache-2.0
"""A cluster: the owner of the realm's slot is spoken to directly, followed when it moves, and useless when cut off."""

import binascii
import contextlib
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from arx_caps.revocation.failover import Topology, attest, must_attest
from arx_caps.revocation.store import RevocationStore
from arx_verifier.errors import StoreError
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.store_link import Link
from tests.servers import FAST_LEASE_MS, free_ports, until
from tests.topologies.fleet import NAMES, Server, running
from tests.topologies.guarded import ROOT, Guard, enrol, password

pytestmark = pytest.mark.servers

SESSION, BY = "session:s-" + "a" * 16, "operator:ada"
TOPOLOGY = Topology(0, "rotate", 2_000)
NODE_TIMEOUT_MS = 1_000


class Cluster(NamedTuple):
    """Three masters and a replica of the first, which all ask for a login, and for TLS where they have it."""

    guard: Guard
    masters: list[Server]
    replica: Server

    def url(self, role: str, realm: str) -> str:
        """A realm's store as its nodes know it, for a role."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in [*self.masters, self.replica])
        return self.guard.url("+cluster", role, realm, hosts)

    def follow(self, realm: str) -> Follower:
        """Follow a realm as a verifier's user."""
        return Follower(self.url("verifier", realm), realm, "v", password=password("verifier"))

    def owner(self, slot: int) -> Server:
        for first, last, node, *_ in self.masters[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.masters if server.port == node[1])
        raise AssertionError("no node owns it")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, ports = tmp_path_factory.mktemp("cluster"), free_ports(4)
    guard = Guard.of(request.param, folder)
    settings = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS))
    more = ("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
    servers = [guard.node(folder / f"n{n}", port, *settings, *more) for n, port in enumerate(ports)]
    with running(*servers):
        first = servers[0]
        for n, (low, high) in enumerate(((0, 5460), (5461, 10922), (10923, 16383))):
            servers[n].ask("CLUSTER", "ADDSLOTSRANGE", low, high)
            servers[n].ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for server in servers[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", first.port)
        until(lambda: all(str(known(server)) == "4" for server in servers))
        servers[3].ask("CLUSTER", "REPLICATE", first.ask("CLUSTER", "MYID"))
        until(lambda: all(state(server) == "ok" for server in servers))
        until(lambda: servers[3].client().info("replication")["master_link_status"] == "up")
        yield Cluster(guard, servers[:3], servers[3])


def state(server: Server) -> str:
    with server.client() as client:
        return str(client.execute_command("CLUSTER INFO")["cluster_state"])


def known(server: Server) -> int:
    with server.client() as client:
        return int(client.execute_command("CLUSTER INFO")["cluster_known_nodes"])


def slot_of(realm: str) -> int:
    return binascii.crc_hqx(realm.encode(), 0) % 16384


def realm_of(cluster: Cluster, server: Server) -> str:
    """A realm whose slot a server owns."""
    return next(name for n in range(1000) if cluster.owner(slot_of(name := f"realm{n}")) is server)


def port_of(follower: Follower) -> int:
    """Which server it is connected to."""
    assert isinstance(follower._link, Link)
    return int(follower._link._connection.port)


@contextlib.contextmanager
def begin(cluster: Cluster, realm: str) -> Iterator[RevocationStore]:
    """Begin a realm as a cluster's administrator and its mint do, and give the mint's store."""
    masters = [server for server in cluster.masters if server.process is not None]
    enrol(realm, *masters, cluster.replica)
    for server in masters:  # a slot may move to any of them
        direct = cluster.guard.url("", "admin", realm, f"127.0.0.1:{server.port}")
        with RevocationStore(direct, realm, password=password("admin")) as admin:
            assert admin.load_functions()
    with RevocationStore(cluster.url("mint", realm), realm, password=password("mint"), timeout_ms=500) as store:
        store.init(lease_ms=FAST_LEASE_MS)
        assert attest(store, TOPOLOGY)[1] is None
        assert not must_attest(store, TOPOLOGY)
        yield store


def look_again(store: RevocationStore) -> str | None:
    """Do what a mint's keeper does, until it succeeds; returns why the history ended."""
    found: list[str | None] = []

    def done() -> bool:
        try:
            found.append(attest(store, TOPOLOGY, seq_at_least=1)[1])
        except StoreError:
            return False
        return True

    until(done)
    return found[0]


@pytest.mark.parametrize("cluster", NAMES[:1], indirect=True)
def test_each_realm_lives_at_its_owner(cluster: Cluster) -> None:
    """
    Wherever the slot lies, kills and pushes go through its owner; a realm's verifier never reaches another node.  The
    one with a replica does not call a kill durable that waited for none.
    """
    for server in cluster.masters:
        realm = realm_of(cluster, server)
        with begin(cluster, realm) as store:
            follower = cluster.follow(realm)
            assert follower.catch_up(0, 0, 10)
            bump = store.kill([SESSION], "test", BY)
            assert bump.durable is (server is not cluster.masters[0])
            assert follower.catch_up(0, bump.header.seq, 10)
            assert port_of(follower) == server.port
            follower.close()
            assert server.client().exists(store.keys.header) == 1


@pytest.mark.parametrize("cluster", NAMES[:1], indirect=True)
def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    """
    The keys move to another node: the subscription ends, the owner is looked for, and grants nothing until the mint has
    looked; by default the history ends, because a move and a failover look alike.
    """
    source, target = cluster.masters[1:]
    realm = realm_of(cluster, source)
    with begin(cluster, realm) as store:
        follower = cluster.follow(realm)
        assert follower.catch_up(0, 0, 10)
        incarnation = follower.view()[0]
        move(cluster, slot_of(realm), source, target)
        until(lambda: follower.check(incarnation, follower.view()[1], ()) is not None)
        assert look_again(store) == "the store failed over to another server, which may lack kills"
        until(lambda: follower.view()[0] != incarnation and follower.check(*follower.view()[:2], ()) is None)
        assert port_of(follower) == target.port
        follower.close()


def move(cluster: Cluster, slot: int, source: Server, target: Server) -> None:
    """Migrate a slot with its keys."""
    source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
    login = ("AUTH2", ROOT, ROOT)
    source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *login, "KEYS", *keys)
    for server in (target, source, *(other for other in cluster.masters if other not in (source, target))):
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


@pytest.mark.slow
@pytest.mark.spec("10.8")
@pytest.mark.parametrize(
    "cluster", [NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])], indirect=True
)
def test_an_owner_that_is_cut_off_grants_nothing_and_its_replica_takes_over(cluster: Cluster) -> None:
    """
    The owner dies: leases end, the replica is promoted and the mint ends the history.  A master that sees no majority
    refuses probes after the node time-out, which is what the report's window covers.  Every user has a login with no
    more rights than needed, and TLS where there is any.
    """
    owner = cluster.masters[0]
    realm = realm_of(cluster, owner)
    with begin(cluster, realm) as store:
        follower, other = cluster.follow(realm), realm_of(cluster, cluster.masters[2])
        assert follower.catch_up(0, 0, 10)
        incarnation = follower.view()[0]
        owner.kill()
        assert look_again(store) is not None
        until(lambda: follower.view()[0] != incarnation and follower.check(*follower.view()[:2], ()) is None)
        assert port_of(follower) == cluster.replica.port
        assert store.kill([SESSION], "test", BY).header.lag_ms == 2_000
        follower.close()
    with begin(cluster, other) as store:
        follower = cluster.follow(other)
        assert follower.catch_up(0, 0, 10)
        for server in (cluster.masters[1], cluster.replica):
            server.signal(signal.SIGSTOP)
        cut_off = follower.boot_ns()
        incarnation, seq, _ = follower.view()
        until(lambda: follower.check(incarnation, seq, ()) is not None)
        assert follower.boot_ns() - cut_off < 10e9
        with pytest.raises(StoreError, match="takes no writes"):
            store.exchange.once(lambda: store.exchange.client.hset(store.keys.header, "x", "y"))
        follower.close()
