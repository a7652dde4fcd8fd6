# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` on a real cluster that keeps budgets: what each node and each shard must have.  SPEC 17.7."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation import acl
from arx_verifier.ledger.pools import PoolDraw, Taken
from arx_verifier.ledger.redis_ledger import RedisLedger, secret_of
from arx_verifier.revocation.store_cluster import BUCKETS
from tests.ledgers import new_ledger
from tests.servers import until
from tests.topologies.shards import PATIENT, Shards, sharded
from tests.topologies.test_doctor_ledger import PASSWORD, ROLE, Ledger

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("17.7")]

NAMES = {"rights", "eviction", "persistence", "replication", "cluster", "clocks", "history"}


class ClusterLedger(Ledger):
    """A realm whose budgets a cluster keeps."""

    def __init__(self, folder: Path, shards: Shards) -> None:
        self.shards, self.folder = shards, folder
        self.realm = init_realm(folder, name="acme", issuer="http://127.0.0.1:9", store="redis://127.0.0.1:9")
        self.text = (folder / "realm.toml").read_text()
        self.name(shards.url("budgets@"))
        self.make_user(*acl.rules("ledger-mint", "acme", PASSWORD, cluster=True))

    def make_user(self, *rules: str) -> None:
        """Make the ledger's user on each node, with these rules."""
        for node in self.shards.nodes:
            node.ask("ACL", "SETUSER", "budgets", *rules)

    def set(self, name: str, value: str) -> None:
        """Change a setting of the last node."""
        self.shards.nodes[-1].ask("CONFIG", "SET", name, value)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with sharded(tmp_path_factory.mktemp("shards"), more=PATIENT) as running:
        yield running


@pytest.fixture
def ledger(tmp_path: Path, shards: Shards) -> ClusterLedger:
    for node in shards.primaries():
        node.ask("FLUSHALL")
    return ClusterLedger(tmp_path / "realm", shards)


@contextlib.contextmanager
def begun(ledger: ClusterLedger) -> Iterator[RedisLedger]:
    """The ledger as its mint has it, each bucket begun."""
    with contextlib.closing(new_ledger(ledger.shards.url(), "acme", timeout_s=1, hides=True)) as mint:
        mint.start()
        until(lambda: all(bucket.remembered != "new" for bucket in mint._buckets.values()))
        yield mint


def test_a_cluster_in_order(ledger: ClusterLedger) -> None:
    """With the rights of the role, before and after the first draw; the checks have changed nothing."""
    found = ledger.checks()
    assert set(found) == {"ledger", *(f"ledger {name}" for name in NAMES)}
    assert all(each["ok"] for each in found.values())
    assert found["ledger"]["found"] == "6 nodes answer"
    assert "a second one" in found["ledger replication"]["mend"]
    assert all(node.client().dbsize() == 0 for node in ledger.shards.nodes)
    with begun(ledger) as mint:
        pool = PoolDraw("t/-/p/usd/task", 9, 0, time.time_ns() // 1_000_000, 1, 1, "s1")
        until(lambda: time.time_ns() // 1_000_000 > pool.opened)
        assert isinstance(mint.take("draw", "", [pool]), Taken)
    assert ledger.bad() == {}


def test_rights_that_are_missing_or_too_wide(ledger: ClusterLedger) -> None:
    """Each missing right by its name; a user that only some nodes have; one that may do everything."""
    whole = acl.rules("ledger-mint", "acme", PASSWORD, cluster=True)
    for right in ("wait", "hset", "fcall|arx2_take"):
        ledger.make_user(*(rule for rule in whole if rule != f"+{right}"))
        found, mend = ledger.bad()["ledger rights"]
        assert found.endswith(f"permit the mint's user {right.removeprefix('fcall|')}")
        assert ROLE in mend
    ledger.make_user(*acl.rules("ledger-mint", "acme", PASSWORD))
    assert "hset" in ledger.bad()["ledger rights"][0]
    ledger.make_user(*whole)
    assert ledger.bad() == {}
    ledger.make_user("allkeys", "+@all")
    assert "may do more than the role" in ledger.bad()["ledger rights"][0]
    ledger.make_user(*whole)
    last = ledger.shards.nodes[-1]
    last.ask("ACL", "DELUSER", "budgets")
    found, mend = ledger.bad()["ledger"]
    assert f"{last.place} refused the user or password" in found
    assert "on every node" in mend


@pytest.mark.nightly
def test_settings_of_one_node(ledger: ClusterLedger) -> None:
    """The node is named, whichever role it has."""
    place = ledger.shards.nodes[-1].place
    ledger.make_user("+config|get")
    for name, bad, good, check, words in (
        ("maxmemory-policy", "allkeys-lru", "noeviction", "eviction", "may evict pools"),
        ("appendfsync", "no", "everysec", "persistence", "a crash can lose"),
        ("appendonly", "no", "yes", "persistence", "no append-only file"),
        ("cluster-node-timeout", "15000", "5000", "cluster", "refuses for longer"),
        ("cluster-require-full-coverage", "yes", "no", "cluster", "stops all others"),
    ):
        ledger.set(name, bad)
        found = ledger.bad()[f"ledger {check}"][0]
        assert found.startswith(f"{place}: ")
        assert words in found
        ledger.set(name, good)
        until(lambda: set(ledger.bad()) <= {"ledger rights"})  # the file is written anew


@pytest.mark.nightly
def test_a_shard_without_its_replica(ledger: ClusterLedger) -> None:
    """It refuses, and it is named."""
    replica = ledger.shards.nodes[-1]
    replica.signal(signal.SIGSTOP)
    try:
        until(lambda: "refuses every call and every draw" in ledger.bad().get("ledger replication", ("",))[0])
    finally:
        replica.signal(signal.SIGCONT)
    until(ledger.shards.is_whole)
    assert ledger.bad() == {}


def test_a_cluster_that_is_away_or_is_another_one(ledger: ClusterLedger) -> None:
    """Each is one finding, with what to do."""
    ledger.name("redis+cluster://budgets@127.0.0.1:1")
    ((_, (found, mend)),) = ledger.bad().items()
    assert "did not answer (ConnectionError): every call with a budget is refused" in found
    assert mend == "start the nodes, or correct `ledger` in realm.toml"
    ledger.name(ledger.shards.url("budgets@"))
    ((_, (found, mend)),) = ledger.bad("wrong").items()
    assert "the cluster's nodes refused the user or password" in found
    assert ROLE in mend


def test_pools_that_a_restart_exhausted(ledger: ClusterLedger) -> None:
    """Of one bucket of 64: the node is named, and the pool."""
    with begun(ledger) as mint:
        pool = PoolDraw("t/-/p/usd/task", 9, 0, time.time_ns() // 1_000_000, 1, 1, "s1")
        until(lambda: time.time_ns() // 1_000_000 > pool.opened)
        assert isinstance(mint.take("draw", "", [pool]), Taken)
        bucket = mint._bucket([pool])
        assert bucket.name in BUCKETS
        server, header = mint._client.server(bucket.tag), bucket.keys[0]
        server.hset(f"{header[:-1]}{secret_of(server, header)}{header[-1]}", "since", pool.opened)
        place = mint._client.shard_of(bucket.tag)
    found, mend = ledger.bad()["ledger history"]
    assert found.startswith(f"{place.host}:{place.port}: ")
    assert pool.pool in found
    assert "arx budget top-up" in mend
