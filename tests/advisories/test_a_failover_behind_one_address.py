# SPDX-License-Identifier: Apache-2.0
"""A kill that was reported as confirmed was lost in a failover behind one address, and its token was accepted again.

Without ``replicas`` the mint assumed that no other server can answer at a plain address: a promoted replica granted
leases at once, without a mint for ever.  A store that shows or hides a replica was as durable as one without.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.cli import exit_codes
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore, functions
from arx_caps.revocation.wire import REPLICA_MS, read_replication
from arx_verifier.revocation.epoch import boot_clock
from tests.cli.helpers import arx
from tests.faults.conftest import BY, L_NS, token
from tests.faults.proxy import Proxy
from tests.faults.witness import Witness
from tests.mint.harness import make_realm
from tests.relay.processes import RelayProcess
from tests.servers import FAST_LEASE_MS, begun_store, free_ports, until
from tests.topologies.fleet import LASTING, NAMES, Server, need, replicated, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.8")]

SESSION = "session:s-aaaaaaaaaaaaaaaa"


class Managed(NamedTuple):
    """A store behind one address that moves, with an asynchronous replica, as services run it.

    Attributes:
        address: Where clients find the primary.
        far: The same, for a verifier whose network fails first.
        between: From the replica to the primary.
    """

    primary: Server
    replica: Server
    address: Proxy
    far: Proxy
    between: Proxy
    store: RevocationStore
    mint: MintRuntime

    def fail_over(self) -> int:
        """Lose the primary, promote the replica, and move the address; returns when, boot clock, ns."""
        self.primary.kill()
        self.between.cut()
        self.replica.ask("REPLICAOF", "NO", "ONE")
        for link in (self.address, self.far):
            link.upstream = self.replica.port
            link.drop()
            link.heal()
        return boot_clock()


@pytest.fixture(params=[NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])])
def managed(request: pytest.FixtureRequest, tmp_path: Path, realm_name: str) -> Iterator[Managed]:
    """Both in step; the realm's settings do not mention a replica, and its mint runs."""
    ports, binary = free_ports(2), need(request.param)
    primary = Server(tmp_path / "p", ports[0], *LASTING, "--repl-diskless-sync-delay", "0", binary=binary)
    links = [Proxy(ports[0]) for _ in range(3)]
    replica = Server(tmp_path / "r", ports[1], *LASTING, "--replicaof", "127.0.0.1", str(links[2].port), binary=binary)
    url = links[0].url
    try:
        with running(primary, replica), begun_store(url, realm_name, lease_ms=FAST_LEASE_MS):
            replicated(primary, 1)
            mint = MintRuntime.open(make_realm(tmp_path / "realm", realm_name), store_url=url)
            mint.start()
            store = RevocationStore(url, realm_name)
            try:
                store.kill(["session:s-bbbbbbbbbbbbbbbb"], "test", BY)
                replicated(primary, 1)
                yield Managed(primary, replica, *links, store, mint)
            finally:
                store.close()
                mint.close()
    finally:
        for link in links:
            link.close()


@pytest.fixture
def witnesses() -> Iterator[list[Witness]]:
    """Processes that end with the test."""
    started: list[Witness] = []
    yield started
    for witness in started:
        witness.close()


def lose_a_kill(managed: Managed, witnesses: list[Witness], *, direct: bool) -> tuple[str, int, RevocationStore]:
    """Kill a session that the replica does not learn of, and fail over; returns its token and when it was killed."""
    killed = token(managed.store)
    for name, link in (("near", managed.address), ("cut-off", managed.far)):
        witness = Witness(link.url, managed.store.realm, name)
        witnesses.append(witness)
        witness.watch(token=killed)
        witness.until("ok")
    managed.far.hold(managed.far.to_store, managed.far.from_store)
    managed.between.hold(managed.between.to_store, managed.between.from_store)
    if direct:
        bump = managed.store.kill([SESSION], "test", BY)
        report = managed.store.wait_confirmed(bump, 0)
    else:
        report = managed.mint.revoker.end("kill", [SESSION], reason="test", by=BY, wait=False)
    done = boot_clock()
    assert (report.durable, report.status) == (False, "unconfirmed")
    assert "NOT DURABLE, a failover of the store could undo it" in report.summary
    witnesses[0].until("revoked")
    managed.fail_over()
    with managed.replica.client() as raw:
        assert not raw.hexists(managed.store.keys.kills, SESSION), "the kill was not lost"
    return killed, done, managed.store


def expect_none_accepted(witnesses: list[Witness], done: int) -> None:
    """No verifier accepted the token a lease after the kill; one that began after the failover never did."""
    assert witnesses[-1].last_accepted() == 0
    for witness in witnesses:
        assert witness.last_accepted() - done < L_NS


@pytest.mark.slow
def test_without_a_mint_every_verifier_refuses(managed: Managed, witnesses: list[Witness]) -> None:
    """The promoted replica grants no lease for as long as no mint runs; then every older token is revoked."""
    managed.mint.close()
    killed, done, store = lose_a_kill(managed, witnesses, direct=True)
    witnesses.append(Witness(managed.address.url, store.realm, "new"))
    witnesses[-1].watch(token=killed)
    until(lambda: boot_clock() - done > 6 * L_NS and witnesses[-1].code() != "")
    assert [witness.code() for witness in witnesses[:2]] == ["revoked", "stale"]
    assert {run.code for run in witnesses[-1].runs()} == {"syncing"}
    expect_none_accepted(witnesses, done)
    again = MintRuntime.open(managed.mint.realm, store_url=managed.address.url)
    again.start()
    try:
        for witness in witnesses:
            witness.until("revoked")
        expect_none_accepted(witnesses, done)
        for witness in witnesses:
            witness.watch(token=token(store))
            witness.until("ok")
    finally:
        again.close()


@pytest.mark.slow
def test_with_a_mint_no_verifier_accepts(managed: Managed, witnesses: list[Witness]) -> None:
    """The mint ends the history before any verifier gets a lease from the promoted replica."""
    killed, done, store = lose_a_kill(managed, witnesses, direct=False)
    witnesses.append(Witness(managed.address.url, store.realm, "new"))
    witnesses[-1].watch(token=killed)
    for witness in witnesses:
        witness.until("revoked")
    expect_none_accepted(witnesses, done)
    for witness in witnesses:
        witness.watch(token=token(store))
        witness.until("ok")


@pytest.mark.slow
def test_a_relay_passes_it_on(managed: Managed, witnesses: list[Witness], tmp_path: Path) -> None:
    """A relay whose own link was cut off does not learn of the kill, and gets no lease that it could pass on."""
    managed.mint.close()
    relay = RelayProcess(managed.far.url, managed.store.realm, tmp_path / "relay")
    try:
        killed, done, store = lose_a_kill(managed, witnesses, direct=True)
        witnesses.append(Witness(relay.url, store.realm, "behind"))
        witnesses[-1].watch(token=killed)
        until(lambda: boot_clock() - done > 6 * L_NS and witnesses[-1].code() != "")
        for witness in witnesses:
            assert witness.last_accepted() - done < L_NS
        assert witnesses[-1].code() in ("syncing", "stale")
    finally:
        relay.kill()


def test_no_report_calls_it_durable(managed: Managed) -> None:
    """While a replica is connected, after it left, and in the report that `arx kills show` gives later."""
    managed.mint.close()
    url, store = managed.address.url, managed.store
    command = ("kill", SESSION, "--direct", "--reason", "test", "--yes", "--store", url, "--realm", store.realm)
    ran = arx(*command, "--json")
    assert ran.exit_code == exit_codes.INCOMPLETE
    assert (ran.json["status"], ran.json["durable"]) == ("unconfirmed", False)
    assert "could undo it: set `replicas` in realm.toml, the server has a replica" in ran.json["summary"]
    managed.replica.kill()
    until(lambda: managed.primary.client().info("replication")["connected_slaves"] == 0)
    assert not store.kill([SESSION], "test", BY).durable, "it may come back, and be promoted"
    assert store.header().replicas == 1
    with managed.primary.client() as raw:
        raw.hset(store.keys.header, "had_replica", store.header().at_ms - REPLICA_MS)
    assert store.kill([SESSION], "test", BY).durable
    with RevocationStore(url, store.realm, replicas=1, timeout_ms=200) as waits:
        assert not waits.kill([SESSION], "test", BY).durable


def test_a_number_of_replicas_that_is_hidden(managed: Managed) -> None:
    """A service that leaves the line out of INFO: no kill is durable, and a restart counts as a failover."""
    hidden = functions().replace(
        "redis.call('INFO', 'replication')", "string.gsub(redis.call('INFO', 'replication'), 'connected_slaves', 'x')"
    )
    managed.replica.kill()
    with managed.primary.client() as raw:
        raw.function_load(hidden, replace=True)
        raw.hset(managed.store.keys.header, "had_replica", 0)
        bump = managed.store.kill([SESSION], "test", BY)
    assert (bump.durable, bump.header.replicas) == (False, -1)
    assert "the server hides whether it has replicas" in managed.store.wait_confirmed(bump, 0).summary
    shown = read_replication(b"role:master\r\nmaster_replid:" + b"a" * 40 + b"\r\n")
    assert shown.promotable(0, 1) == -1
