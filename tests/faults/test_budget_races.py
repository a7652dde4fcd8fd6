# SPDX-License-Identifier: Apache-2.0
"""64 processes race for one budget, are killed at random, and lose their ledger: never a unit over.

Each process writes a byte for every unit that it uses, after the ledger gave it.  The bytes are what was spent.
"""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from arx_caps.embedded import server_binary
from arx_verifier.errors import StoreError
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.pools import LOST, PoolDraw, Short, Taken
from tests.ledgers import new_ledger
from tests.servers import free_ports
from tests.topologies.fleet import Server, replicated, running

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("17.5")]

KILLED = 60
PROCESSES, UNITS = 64, 12_000
EACH_SECOND = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--repl-diskless-sync-delay", "0")
_KINDS = ("draw", "leased", "reserve")


def pools(opened: int) -> list[PoolDraw]:
    """A task's pool and a larger one of a delegation: each call draws from both."""
    return [PoolDraw(f"t/{name}/usd/task", most, 0, opened, 1, 1) for name, most in (("-/p", UNITS), ("l/q", 18_000))]


def spend(place: Path, used: Path, opened: int, kind: str) -> NoReturn:
    """Use units until there are none, as one process does.

    Args:
        place: A link to the ledger's socket, which a failover turns.
        used: Where it writes a byte for each unit.
        opened: When the pools were opened.
        kind: How it takes them.
    """
    code, file = 3, os.open(used, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        ledger: Any = new_ledger(f"unix://{place}", "race", 5)
        if kind == "leased":
            ledger = LeasedLedger(ledger, idle_s=0.2)
        number = 0
        while True:
            number += 1
            time.sleep(random.random() / 25)  # its work; else the first processes use all before the last one starts
            op, draws = f"{os.getpid()}-{number}", pools(opened)
            try:
                if kind == "reserve":
                    draws = [each._replace(cost=5, wanted=5) for each in draws]
                taken = ledger.take("reserve" if kind == "reserve" else "draw", op, draws)
                if isinstance(taken, Short):
                    if taken.remaining <= 0:
                        break
                    time.sleep(0.01)  # the rest may be in slices, which go back
                    continue
                os.write(file, b"." * (1 if kind != "reserve" else 1 + number % 5))
                if kind == "reserve":
                    ledger.settle(op, [(each, 1 + number % 5) for each in draws])
            except StoreError:
                time.sleep(0.01)  # it restarts, or another one takes over
        ledger.close()
        code = 0
    finally:
        os._exit(code)


class Race:
    """Processes that work, each killed one replaced by another.

    Args:
        folder: Where they write what they used.
        place: The link to the ledger's socket.
        opened: When the pools or the first sessions were opened.
        kinds: How they work, by turns.
        work: What each of them does.
    """

    def __init__(
        self,
        folder: Path,
        place: Path,
        opened: int,
        kinds: Sequence[str] = _KINDS,
        work: Callable[[Path, Path, int, str], NoReturn] = spend,
    ) -> None:
        self.folder, self.place, self.opened, self._kinds, self._work = folder, place, opened, kinds, work
        self.files: list[Path] = []
        self.alive: set[int] = set()
        self.killed = self.failed = 0
        # None of them spends before all are there: the first ones would have used most of the budget by then.
        self._gate, self._bar = os.pipe()

    def begin(self) -> None:
        """Let all of them spend."""
        os.close(self._bar)
        self._bar = -1

    def start(self) -> None:
        used = self.folder / f"used-{len(self.files)}"
        kind = self._kinds[len(self.files) % len(self._kinds)]
        self.files.append(used)
        child = os.fork()
        if child == 0:
            if self._bar >= 0:
                os.close(self._bar)
            os.read(self._gate, 1)  # returns when no process has the other end
            self._work(self.place, used, self.opened, kind)
        self.alive.add(child)

    def reap(self) -> None:
        """Note the processes that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self.alive.discard(found[0])
                self.failed += os.waitstatus_to_exitcode(found[1]) not in (0, -signal.SIGKILL)

    def kill_one(self, random_: random.Random) -> None:
        """End one of them at any point, and start another one."""
        self.reap()
        if self.alive:
            os.kill(random_.choice(sorted(self.alive)), signal.SIGKILL)
            self.killed += 1
            self.start()

    def used(self) -> int:
        """Return the bytes that they wrote so far, one a unit."""
        return sum(path.stat().st_size for path in self.files if path.exists())

    def wait(self, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while self.alive and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.05)
        for each in self.alive:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)
        os.close(self._gate)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Server, Server, Path]]:
    """A primary and its replica on sockets, and the link by which clients find the primary."""
    ports, place = free_ports(2), tmp_path / "ledger"
    servers = [
        Server(
            tmp_path / name,
            port,
            *EACH_SECOND,
            *("--unixsocket", str(tmp_path / f"{name}.sock")),
            *("--replicaof", f"127.0.0.1 {ports[0]}") * (name == "b"),
            binary=server_binary(),
        )
        for name, port in zip("ab", ports, strict=True)
    ]
    place.symlink_to(tmp_path / "a.sock")
    with running(*servers):
        replicated(servers[0], 1)
        yield servers[0], servers[1], place


def turn(place: Path, to: Path) -> None:
    """Let clients find another server from now on."""
    beside = place.with_suffix(".new")
    beside.symlink_to(to)
    beside.rename(place)


def begin(place: Path) -> int:
    """Start the ledger, and return a time at which pools can be opened."""
    ledger = new_ledger(f"unix://{place}", "race", 5)
    ledger.start()
    time.sleep(0.005)
    opened = time.time_ns() // 1_000_000
    time.sleep(0.005)
    return opened


@pytest.mark.nightly
def test_killed_processes_overspend_nothing(two: tuple[Server, Server, Path], tmp_path: Path) -> None:
    """
    Strict, leased and reserving processes are killed by the dozen: what they used is at most the budget, what is idle
    then is what they had reserved or leased, and all counters together are at most what the pool has.
    """
    primary, _, place = two
    race, random_ = Race(tmp_path, place, begin(place)), random.Random(7)
    for _ in range(PROCESSES):
        race.start()
    race.begin()
    ledger = new_ledger(f"unix://{place}", "race", 5)
    while race.used() < UNITS * 3 // 4 and race.alive:
        # Each leaves some units idle, and most of them have to be used.  Where this process is slow and the others are
        # not, or a look takes long, it catches up: all are killed before two thirds are used.
        due = max(race.killed + 1, race.used() * KILLED * 3 // (UNITS * 2))
        for _ in range(min(KILLED, due) - race.killed):
            race.kill_one(random_)
        race.reap()
        for pool in ledger.shown():
            assert pool["committed"] + pool["reserved"] + pool["leased"] <= pool["max"]
    race.wait(60)
    shown = {pool["pool"]: pool for pool in ledger.shown()}
    idle = shown["p"]["reserved"] + shown["p"]["leased"]
    print(f"{race.killed} killed: {race.used()} of {UNITS} used, {idle} idle, {shown['p']['committed']} committed")
    assert race.failed == 0
    assert race.killed > 20
    assert UNITS // 4 < race.used() <= UNITS
    # Killed between the ledger's answer and the use, a process leaves a unit committed that it did not use.
    assert shown["p"]["committed"] <= UNITS - idle
    assert primary.ask("DBSIZE") >= 3


def test_a_failover_overspends_nothing(two: tuple[Server, Server, Path], tmp_path: Path) -> None:
    """
    While they race, the primary dies and its replica takes over: what was open is exhausted, and never more than the
    budget was used on both servers together.
    """
    primary, replica, place = two
    race, random_ = Race(tmp_path, place, begin(place)), random.Random(8)
    for _ in range(PROCESSES):
        race.start()
    race.begin()
    while race.used() < UNITS // 3 and race.alive:
        race.kill_one(random_)
    primary.kill()
    replica.ask("REPLICAOF", "NO", "ONE")
    turn(place, tmp_path / "b.sock")
    race.wait(60)
    ledger = new_ledger(f"unix://{place}", "race", 5)
    assert all(pool["lost"] and pool["remaining"] == 0 for pool in ledger.shown())
    print(f"{race.killed} killed, one failover: {race.used()} of {UNITS} used")
    assert race.failed == 0
    assert UNITS // 3 <= race.used() <= UNITS


@pytest.mark.nightly
def test_a_failover_and_back_overspends_nothing(two: tuple[Server, Server, Path]) -> None:
    """
    The first server goes on, with what its replica had: what it gave out meanwhile is missing, and no call was made at
    the replica.
    """
    primary, replica, place = two
    (pool, _), ledger = pools(begin(place)), new_ledger(f"unix://{place}", "race", 5)
    assert isinstance(ledger.take("draw", "", [pool]), Taken)
    replicated(primary, 1, 60)
    replica.ask("REPLICAOF", "NO", "ONE")
    assert isinstance(ledger.take("draw", "", [pool._replace(cost=UNITS - 1)]), Taken)
    primary.ask("REPLICAOF", "127.0.0.1", replica.port)
    deadline = time.monotonic() + 60
    while primary.ask("INFO", "replication")["master_link_status"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    primary.ask("REPLICAOF", "NO", "ONE")
    (shown,) = ledger.shown()
    assert shown["committed"] == 1
    short = ledger.take("draw", "", [pool])
    assert isinstance(short, Short)
    assert short.remaining == LOST
    assert ledger.shown()[0]["lost"]
    ledger.close()
