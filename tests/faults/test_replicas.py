# SPDX-License-Identifier: Apache-2.0
"""The store is not the only one: promoted with a hole, deposed and unaware, a replica.  The bound has its terms."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.revocation.failover import Topology, attest
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from tests.faults.conftest import BY, L_NS, bounded, kill, token
from tests.faults.proxy import Proxy
from tests.faults.witness import Witness
from tests.servers import FAST_LEASE_MS, free_ports, until
from tests.topologies.fleet import LASTING, Server, replicated, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.8")]

LAG_S = 1
WINDOW_MS = (LAG_S + 2) * 1000  # how long a deposed primary may go on answering
ROTATE = Topology(replicas=1, window_ms=WINDOW_MS)


class Two(NamedTuple):
    """A primary that wants its replica, the replica, and the links between them and to the verifiers."""

    primary: Server
    replica: Server
    between: Proxy
    link: Proxy
    store: RevocationStore

    def promote(self) -> RevocationStore:
        """Make the replica a primary, and return the realm's store there."""
        self.replica.ask("REPLICAOF", "NO", "ONE")
        return open_store(self.replica, self.store.realm)


def socket_of(server: Server) -> Path:
    return server.folder / "s"


def open_store(server: Server, realm: str) -> RevocationStore:
    return RevocationStore(f"unix://{socket_of(server)}", realm, replicas=1, timeout_ms=300)


def server(folder: Path, port: int, *options: str) -> Server:
    return Server(folder, port, *LASTING, "--unixsocket", str(folder / "s"), *options)


@pytest.fixture
def two(tmp_path_factory: pytest.TempPathFactory, realm_name: str) -> Iterator[Two]:
    """Both running, in step, and looked at by a mint that ends the history on a failover."""
    folder, ports = tmp_path_factory.mktemp("two"), free_ports(2)
    wants = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", str(LAG_S), "--repl-diskless-sync-delay", "0")
    primary = server(folder / "p", ports[0], *wants, "--repl-ping-replica-period", "1")
    between, link = Proxy(socket_of(primary)), Proxy(socket_of(primary))
    port = between.url.rpartition(":")[2].partition("/")[0]
    replica = server(folder / "r", ports[1], "--replicaof", "127.0.0.1", port)
    try:
        with running(primary, replica), open_store(primary, realm_name) as store:
            replicated(primary, 1)
            store.load_functions()
            store.init(lease_ms=FAST_LEASE_MS)
            attest(store, ROTATE)
            kill(store, "s-bbbbbbbbbbbbbbbb")  # acknowledged by both disks
            yield Two(primary, replica, between, link, store)
    finally:
        for end in (link, between):
            end.close()


@pytest.fixture
def witnesses() -> Iterator[list[Witness]]:
    """Processes that end with the test."""
    started: list[Witness] = []
    yield started
    for witness in started:
        witness.close()


@pytest.mark.slow
def test_a_replica_promoted_with_a_hole(two: Two, witnesses: list[Witness]) -> None:
    """
    The replica misses a kill, the primary is killed, the replica promoted: no verifier goes live on it, one without a
    memory included, until the mint has ended the history.  Then there is service, and what was born before is dead.
    """
    witness = Witness(two.link.url, two.store.realm)
    witnesses.append(witness)
    killed, other = token(two.store), token(two.store, "s-cccccccccccccccc")
    witness.watch(token=killed, other=other)
    witness.until("ok", "other")
    two.between.hold(two.between.to_store, two.between.from_store)
    bump = two.store.kill(["session:s-aaaaaaaaaaaaaaaa"], "test", BY)
    assert not bump.durable, "said to be on one disk only"
    done = boot_clock()
    witness.until("revoked")
    two.primary.kill()
    dead = boot_clock()
    two.between.cut()  # what was on its way is lost
    with two.promote() as store:
        assert store.header().seq < bump.header.seq
        two.link.upstream = socket_of(two.replica)
        late = Witness(two.link.url, store.realm, "late")
        witnesses.append(late)
        late.watch(token=killed, other=other)
        witness.until("stale", "other")
        bounded(witness, done)
        assert witness.last_accepted("other") - dead < L_NS
        until(lambda: len(late.runs()) > 0 and boot_clock() - dead > 3 * L_NS)
        assert {run.code for run in late.runs()} == {"syncing"}
        assert attest(store, ROTATE, seq_at_least=bump.header.seq)[1] is not None
        for process in (witness, late):
            process.until("revoked", "other")
            process.until("revoked")
            process.watch(token=token(store))
            process.until("ok")


@pytest.mark.slow
def test_a_deposed_primary(two: Two, witnesses: list[Witness]) -> None:
    """
    Cut off from its replica in silence, the primary goes on answering verifiers that reach it, for the window F at
    most: a kill at the new primary is in force everywhere within L + F.  Its verifiers then follow the new history.
    """
    witness = Witness(two.link.url, two.store.realm)
    witnesses.append(witness)
    witness.watch(token=token(two.store))
    witness.until("ok")
    two.between.hold(two.between.to_store, two.between.from_store)
    with two.promote() as store:
        attest(store, ROTATE)
        store.kill(["session:s-aaaaaaaaaaaaaaaa"], "test", BY)
        killed = boot_clock()
        witness.until("stale")
        bounded(witness, killed, bound_ns=L_NS + WINDOW_MS * 1_000_000)
        two.primary.ask("REPLICAOF", "127.0.0.1", two.replica.port)
        two.link.upstream = socket_of(two.replica)
        witness.until("revoked")
        witness.watch(token=token(store))
        witness.until("ok")


def test_a_probe_through_a_replica(two: Two, witnesses: list[Witness]) -> None:
    """A replica refuses it, whatever it knows: who asks there is never live; pointed at the primary, it is."""
    two.link.upstream = socket_of(two.replica)
    witness = Witness(two.link.url, two.store.realm)
    witnesses.append(witness)
    witness.watch(token=token(two.store))
    began = boot_clock()
    until(lambda: boot_clock() - began > 3 * L_NS and witness.code() != "")
    assert {run.code for run in witness.runs()} == {"syncing"}
    two.link.upstream = socket_of(two.primary)
    witness.until("ok")


def test_a_primary_made_a_replica(two: Two, witnesses: list[Witness]) -> None:
    """Its verifiers keep their connection and their lease, and no more than that."""
    witness = Witness(two.link.url, two.store.realm)
    witnesses.append(witness)
    witness.watch(token=token(two.store))
    witness.until("ok")
    with two.promote() as store:
        attest(store, ROTATE)
        two.primary.ask("REPLICAOF", "127.0.0.1", two.replica.port)
        swapped = boot_clock()
        store.kill(["session:s-aaaaaaaaaaaaaaaa"], "test", BY)
        witness.until("stale")
        bounded(witness, swapped)
        two.link.upstream = socket_of(two.replica)
        witness.until("revoked")
