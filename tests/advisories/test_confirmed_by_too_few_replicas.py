# SPDX-License-Identifier: Apache-2.0
"""A call was accepted although replicas of its shard lacked it, just after its slot had moved there.

A node that names another one for a slot does not say how many replicas that one has.  As many as the former shard has
were waited for, so that a replica without the call could take over, where the call is new.
"""

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arx_verifier.revocation.store_cluster import StoreCluster, UnconfirmedError
from arx_verifier.revocation.store_steps import run
from arx_verifier.revocation.store_url import Address
from tests.servers import until
from tests.topologies.shards import PATIENT, Node, Shards, sharded
from tests.topologies.test_shards import moved

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.spec("8.3", "17.7")]

TAG = "06"


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    """A cluster whose second shard has two replicas, and the first one has one."""
    with sharded(tmp_path, more=PATIENT) as running:
        second, spare = running.nodes[1], running.nodes[5]
        spare.ask("CLUSTER", "REPLICATE", second.ask("CLUSTER", "MYID"))
        until(lambda: all(count_replicas(node, second) == 2 for node in running.nodes))
        until(lambda: second.ask("INFO", "replication")["connected_slaves"] == 2)
        yield running


def count_replicas(node: Node, primary: Node) -> int:
    """Return how many replicas of a primary a node lists."""
    return next(len(nodes) for _, _, (_, port, *_), *nodes in node.ask("CLUSTER", "SLOTS") if port == primary.port)


def put(cluster: StoreCluster, name: str) -> object:
    """Change a key of the slot."""
    return run(cluster.command("SET", f"{{{TAG}}}{name}", "", "NX", tag=TAG))


def test_every_replica_of_the_new_shard_confirms(shards: Shards) -> None:
    """While the slot moves and after it, a change that one of the two replicas lacks counts as not made."""
    first, second, spare = shards.nodes[0], shards.nodes[1], shards.nodes[5]
    address = Address(shards.url())
    with (
        closing(StoreCluster(address, 2, lambda _: None)) as early,
        closing(StoreCluster(address, 2, lambda _: None)) as late,
    ):
        assert early.shard_of(TAG).port == late.shard_of(TAG).port == first.port
        assert late.shard_of(TAG).replicas == 1
        with moved(shards, TAG, first, second):
            spare.signal(signal.SIGSTOP)
            with pytest.raises(UnconfirmedError):
                put(early, "early")
            spare.signal(signal.SIGCONT)  # a slot moves only when all replicas know of it
            until(lambda: second.ask("WAIT", 2, 100) == 2)
        spare.signal(signal.SIGSTOP)
        with pytest.raises(UnconfirmedError):
            put(late, "late")
        spare.signal(signal.SIGCONT)
        until(lambda: is_confirmed(late))
        assert late.shard_of(TAG).port == second.port


def is_confirmed(cluster: StoreCluster) -> bool:
    """Whether a change is confirmed."""
    try:
        put(cluster, "again")
    except UnconfirmedError:
        return False
    return True
