# SPDX-License-Identifier: Apache-2.0
"""What the kill benchmark measures on: a real server with an append-only file, verifier processes, relays."""

import contextlib
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.store import RevocationStore
from arx_verifier.revocation.epoch import boot_clock
from benchmarks.kill_child import Child
from tests.relay.processes import RelayProcess

SESSION = "session:s-abcdefghijklmnop"
BY = "operator:bench"
_realms = itertools.count(1)


class Stage:
    """One server; a realm for each measurement.

    Attributes:
        server: The server.
        store: The present realm's store.
    """

    def __init__(self, server: EmbeddedValkey, folder: Path) -> None:
        self.server, self._folder = server, folder
        self.store = self.realm(1_000)

    def realm(self, lease_ms: int) -> RevocationStore:
        """Begin a realm of its own."""
        self.store = RevocationStore(self.server.url, f"bench{next(_realms)}")
        self.store.load_functions()
        self.store.init(lease_ms=lease_ms)
        return self.store

    @contextlib.contextmanager
    def verifiers(self, count: int, url: str | None = None) -> Iterator[list[Child]]:
        """Start verifiers that have a lease, in a registry that is older than one."""
        began = self.store.unacked(0, 0).since_ms
        children = [Child(url or self.server.url, self.store.realm, f"v{index}") for index in range(count)]
        try:
            for child in children:
                child.ready()
            lease_ms = self.store.header().lease_ms
            while (seen := self.store.unacked(0, 0)).at_ms - began <= lease_ms + 100 or seen.verifiers < count:
                time.sleep(0.01)
            yield children
        finally:
            for child in children:
                child.close()

    @contextlib.contextmanager
    def relays(self, depth: int) -> Iterator[list[RelayProcess]]:
        """Start relays, one behind the other."""
        found: list[RelayProcess] = []
        try:
            for level in range(depth):
                path = self._folder / f"{self.store.realm}-{level}.sock"
                found.append(RelayProcess(found[-1].url if found else self.server.url, self.store.realm, path))
            yield found
        finally:
            for relay in reversed(found):
                relay.kill()

    def watch(self, children: Sequence[Child], pause_s: float = 0.001) -> None:
        """Let verifiers decide about a token born now, and wait until all accept it."""
        header = self.store.header()
        for child in children:
            child.say(decide=(header.incarnation, header.seq, SESSION, pause_s))
        wait_all(children, lambda told: told["last_accepted"] > 0)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Set it up, and take it away."""
    with tempfile.TemporaryDirectory(prefix="arx") as folder, EmbeddedValkey(Path(folder) / "valkey") as server:
        yield Stage(server, Path(folder))


def wait_all(children: Sequence[Child], holds: Callable[[dict[str, int]], bool]) -> list[dict[str, int]]:
    """Wait until something holds for what every process tells; return what they told."""
    while True:
        found = [child.say(tell=True) for child in children]
        if all(holds(told) for told in found):
            return found
        time.sleep(0.005)


def freeze(pid: int) -> int:
    """Stop a process; returns when it had stopped, boot clock, ns."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.0002)
    return boot_clock()


def thaw(pid: int) -> int:
    """Let it go on; returns when, boot clock, ns."""
    now = boot_clock()
    os.kill(pid, signal.SIGCONT)
    return now


def spread(values_ms: Sequence[float]) -> dict[str, Any]:
    """Return median, 99th percentile, maximum and number."""
    ordered = sorted(values_ms)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    facts = {"p50": statistics.median(ordered), "p99": p99, "max": ordered[-1]}
    return {name: round(value, 3) for name, value in facts.items()} | {"n": len(ordered)}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_calm(at_most_s: float) -> None:
    """Wait until others leave half of the machine alone for two seconds, or for so long."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        before = _idle_s()
        time.sleep(2)
        if _idle_s() - before > (os.cpu_count() or 1):
            return


def _idle_s() -> float:
    return int(Path("/proc/stat").read_text().split(maxsplit=5)[4]) / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)
