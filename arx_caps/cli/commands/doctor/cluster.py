# SPDX-License-Identifier: Apache-2.0
"""The checks of a ledger that is a cluster: each node, each shard, and the buckets of the realm.  SPEC 17.7.

They read as the user of its URL, and change nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import redis

from arx_caps.cli.commands.doctor.check import Check, find_address
from arx_caps.cli.commands.doctor.ledger import (
    ROLE,
    TIMEOUT_S,
    check_eviction,
    check_history,
    check_persistence,
    check_rights,
    no_answer,
)
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.revocation.store_cluster import BUCKETS
from arx_verifier.revocation.store_url import Address, FoundShard, is_cluster, refused_login, slot_of

MAX_CLOCK_MS: Final = 1_000  # a service that is further ahead of a node is refused: SPEC 8.3
MAX_NODE_TIMEOUT_MS: Final = 5_000


class ClusterNode(NamedTuple):
    """A node that answers.

    Attributes:
        place: Its host and port.
        client: A client of it.
        info: Its INFO.
        away_ms: How far its clock is from this machine's, ms.
    """

    place: str
    client: Any
    info: Mapping[str, Any]
    away_ms: int


def check_cluster(realm: Realm) -> Iterator[Check]:
    """Check a realm's ledger if it is a cluster; nothing otherwise.

    Args:
        realm: The realm.
    """
    if realm.ledger is None or not is_cluster(realm.ledger):
        return
    address = find_address("ledger", realm.ledger, realm)
    if isinstance(address, Check):
        yield address
        return
    try:
        shards = address.find_shards(TIMEOUT_S)
    except redis.RedisError as error:
        yield no_answer(error, "start the nodes, or correct `ledger` in realm.toml")
        return
    nodes: dict[tuple[str, int], ClusterNode] = {}
    silent = []
    for place in dict.fromkeys(place for shard in shards for place in (shard[2:4], *shard.replica_places)):
        try:
            nodes[place] = _ask(address, place)
        except (redis.RedisError, OSError) as error:
            silent.append(f"{place[0]}:{place[1]} {refused_login(error, 'ARX_LEDGER_PASSWORD', '') or 'is silent'}")
    if silent:
        mend = f"start it; {ROLE}, on every node"
        yield Check("ledger", False, f"of the nodes {'; '.join(silent[:3])}: its shard refuses calls", mend)
    else:
        yield Check("ledger", True, f"{len(nodes)} nodes answer")
    try:
        yield from _check_nodes(realm, shards, nodes)
    except (redis.RedisError, OSError) as error:
        yield Check("ledger cluster", None, f"it could not be read ({type(error).__name__})", ROLE)


def _ask(address: Address, place: tuple[str, int]) -> ClusterNode:
    client: Any = address.client(TIMEOUT_S, place, decode_responses=True)
    before, (seconds, rest) = now_ms(), client.time()
    clock, after = seconds * 1000 + rest // 1000, now_ms()
    away_ms = max(0, before - clock, clock - after)
    return ClusterNode(f"{place[0]}:{place[1]}", client, client.info(), away_ms)


def _check_nodes(
    realm: Realm, shards: list[FoundShard], nodes: Mapping[tuple[str, int], ClusterNode]
) -> Iterator[Check]:
    of_bucket = {
        bucket: nodes[shard[2:4]]
        for bucket in BUCKETS
        for shard in shards
        if shard.first <= slot_of(f"{realm.name}.{bucket}") <= shard.last and shard[2:4] in nodes
    }
    primaries = {node.place: (bucket, node) for bucket, node in of_bucket.items()}
    yield _worst(primaries.values(), lambda bucket, node: check_rights(node.client, realm, bucket))
    each = [("", node) for node in nodes.values()]
    yield _worst(each, lambda _, node: check_eviction(node.info))
    yield _worst(each, lambda _, node: check_persistence(node.client, node.info))
    yield _replicas(shards, nodes)
    yield _settings(shards, [*nodes.values()])
    far = max(nodes.values(), key=lambda node: node.away_ms)
    found = f"the clock of {far.place} is {far.away_ms} ms away"
    mend = "set the clocks of all nodes, services and this machine by NTP" if far.away_ms > MAX_CLOCK_MS else ""
    yield Check("ledger clocks", not mend, f"{found}: calls of services are refused" if mend else found, mend)
    at = now_ms()
    yield _worst(of_bucket.items(), lambda bucket, node: check_history(node.client, realm, node.info, at, bucket))


def _worst(each: Any, check: Callable[[str, ClusterNode], Check]) -> Check:
    """Return the first check that is not in order, with the node's place; else the last one."""
    found = None
    for bucket, node in each:
        found = check(bucket, node)
        if not found.ok:
            return found._replace(found=f"{node.place}: {found.found}")
    assert found is not None
    return found


def _replicas(shards: list[FoundShard], nodes: Mapping[tuple[str, int], ClusterNode]) -> Check:
    name, few = "ledger replication", []
    for shard in shards:
        node = nodes.get(shard[2:4])
        if node is not None and min(shard.replicas, int(node.info.get("connected_slaves", 0))) < 1:
            few.append(node.place)
    if few:
        found = f"{', '.join(dict.fromkeys(few))} has no replica: its shard refuses every call and every draw"
        return Check(name, False, found, "start its replica, or add one: CLUSTER REPLICATE")
    slots = sum(shard.last - shard.first + 1 for shard in shards)
    if slots < 16384:
        return Check(name, False, f"{16384 - slots} slots have no primary", "assign them: CLUSTER ADDSLOTSRANGE")
    one = sum(count == 1 for count in Counter(shard[2:4] for shard in shards for _ in shard.replica_places).values())
    more = "add a second one: then a shard goes on while a server is away" if one else ""
    return Check(name, True, "each primary has a replica", more)


def _settings(shards: list[FoundShard], nodes: list[ClusterNode]) -> Check:
    """Check the settings of the cluster, if the user may ask for them."""
    name = "ledger cluster"
    try:
        settings = {node.place: node.client.config_get("cluster-*") for node in nodes}
    except redis.RedisError:
        return Check(name, True, "this user may not ask for the settings of the cluster")
    for place, its in settings.items():
        timeout = int(its["cluster-node-timeout"])
        if timeout > MAX_NODE_TIMEOUT_MS:
            found = f"{place}: cluster-node-timeout is {timeout} ms: a shard refuses for longer when its primary ends"
            return Check(name, False, found, "run CONFIG SET cluster-node-timeout 2000, and set it in its file")
        if its["cluster-require-full-coverage"] != "no":
            found = f"{place}: cluster-require-full-coverage is yes: a shard that is away stops all others"
            return Check(name, False, found, "run CONFIG SET cluster-require-full-coverage no, and set it in its file")
    return Check(name, True, f"{len({shard[2:4] for shard in shards})} shards")
