# SPDX-License-Identifier: Apache-2.0
"""The servers and the connections to them: in order, as late as the world likes, and cut when it likes.

A connection delivers in order in each direction.  Once a verifier has dropped it, what the store still sends is lost;
what was sent to the store may arrive all the same.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zlib import crc32

from arx_verifier.revocation.relay_link import Probe
from arx_verifier.revocation.store_link import EpochEntry, StoreAnswer
from tests.simulation.model_store import ModelStore, StoreRefused
from tests.simulation.world import MS, SECOND, START_MS, World

if TYPE_CHECKING:
    from tests.simulation.relays import Relay
    from tests.simulation.verifiers import Machine

PAGE = 4  # targets in a page of a scan
KEEP_SNAPSHOTS = 12


class Refused:
    """An error in place of an answer."""

    def __init__(self, why: str) -> None:
        self.why = why


class Connection:
    """One connection from a verifier's machine."""

    def __init__(self, world: World, server: "Server | Relay", machine: "Machine") -> None:
        self._world, self.server, self._machine = world, server, machine
        self.open = True  # as the verifier sees it
        self.broken = False  # the next look finds it closed
        self.page: tuple[int | None, dict[str, int]] | None = None
        self._lost = world.random.random() < 0.5
        self._up = self._down = 0

    def send(self, *request: Any) -> None:
        """Send a request; it arrives in order."""
        self._up = max(self._up, self._world.now + self._world.delay())
        self._world.at(self._up, lambda: self._arrive(request))

    def push(self, frame: EpochEntry | StoreAnswer | Refused | tuple[int | None, dict[str, int]]) -> None:
        """Send a frame to the verifier; it arrives in order."""
        self._down = max(self._down, self._world.now + self._world.delay())
        self._world.at(self._down, lambda: self._deliver(frame))

    def cut(self) -> None:
        """Close it from outside."""
        self.server.forget(self)
        if self.open:
            self.broken = True
            self._machine.arrived(self, None)

    def _arrive(self, request: tuple[Any, ...]) -> None:
        if self.open or not self._lost:
            self.server.receive(self, request)

    def _deliver(self, frame: Any) -> None:
        if not self.open:
            self.server.forget(self)
        elif isinstance(frame, tuple) and not isinstance(frame, (EpochEntry, StoreAnswer)):
            self.page = frame
        else:
            self._machine.arrived(self, frame)


class Server:
    """A primary or a replica, with its own view of the realm's keys."""

    def __init__(self, world: World, *, replica: bool) -> None:
        self._world, self._replica = world, replica
        self.store = ModelStore(
            self.now_ms, self._publish, compares=world.code.chain_compared, guards=world.code.guarded
        )
        self.subscribers: dict[Connection, None] = {}  # in the order in which they came: a run must be repeatable
        self.frozen_until = 0
        self.limit = world.random.choice([1, 1, 2, 1000])  # entries in an answer
        self._askers = world.random.choice([1, 50, 5000])  # as which it counts those who probe
        self.snapshots: list[tuple[Any, ...]] = []
        self.followers: list[Server] = []
        self._published: list[EpochEntry] = []
        self._lag_until = 0

    def now_ms(self) -> int:
        """Read the store's clock."""
        return START_MS + self._world.now // MS

    def call(self, change: Callable[[ModelStore], list[Any]]) -> list[Any]:
        """Run a function that writes: keep a snapshot, and send the change to the replicas.

        Raises:
            StoreRefused: The function refused.
        """
        reply = change(self.store)
        kept, server, published = self.store.kept(), self.store.server, self._published
        self._published = []
        self.snapshots = [*self.snapshots[-KEEP_SNAPSHOTS:], kept]
        for replica in self.followers:
            replica.take(kept, server, published)
        for entry in published:
            self._push_to_subscribers(entry)
        return reply

    def take(self, kept: tuple[Any, ...], server: int, published: list[EpochEntry]) -> None:
        """As a replica: become what the primary was, later, and show its replication id."""
        lag = self._world.random.uniform(0, 6) * SECOND if self._world.random.random() < 0.5 else MS
        self._lag_until = max(self._lag_until, self._world.now + int(lag))

        def arrive() -> None:
            self.store.restore(kept)
            self.store.server = server
            for entry in published:
                self._push_to_subscribers(entry)

        self._world.at(self._lag_until, arrive)

    def receive(self, connection: Connection, request: tuple[Any, ...]) -> None:
        """Serve a request, or keep it while the process is stopped."""
        if self._world.now < self.frozen_until:
            self._world.at(self.frozen_until, lambda: self.receive(connection, request))
        elif request[0] == "subscribe":
            self.subscribers[connection] = None
            self._world.subscribed()
        elif request[0] == "scan":
            connection.push(self._scan(*request[1:]))
        elif self._replica and not self._world.code.replicas_answer:
            connection.push(Refused("READONLY"))
        else:
            connection.push(self._probe(*request[1:]))

    def forget(self, connection: Connection) -> None:
        """Notice that a connection has ended."""
        self.subscribers.pop(connection, None)

    def begin(self) -> None:
        """Be another server at the same address, or the same one after a restart."""
        self.store.server += 1
        self.restart()

    def restart(self) -> None:
        """Drop every connection; what is on disk stays, the registry begins anew."""
        self.store.restore(self.store.kept())
        for connection in tuple(self.subscribers):
            connection.cut()

    def _probe(self, asked: Probe) -> StoreAnswer | Refused:
        place = (asked.incarnation, asked.applied, asked.chain)
        try:
            found, seq, *facts, _, entries = self.store.probe(asked.name, *place, self.limit, asked.crowd)
        except StoreRefused as error:
            return Refused(str(error))
        self._world.note(asked.name, "probed at", asked.applied, "->", facts[2], seq)
        listed = tuple(EpochEntry(found, entry.seq, entry.op, entry.target) for entry in entries)
        return StoreAnswer(found, seq, *facts, listed, self._askers)

    def _scan(self, part: str, cursor: int) -> tuple[int | None, dict[str, int]]:
        # As HSCAN does: what was there all the time is found, what came or went meanwhile perhaps.
        targets: dict[str, int] = getattr(self.store, part)
        every = sorted((crc32(target.encode()), target) for target in targets)
        first = bisect_right(every, cursor, key=lambda pair: pair[0])
        page = every[first : first + PAGE]
        return (page[-1][0] if first + PAGE < len(every) else None), {target: targets[target] for _, target in page}

    def _publish(self, incarnation: str, seq: int, op: str, target: str) -> None:
        self._published.append(EpochEntry(incarnation, seq, op, target))

    def _push_to_subscribers(self, entry: EpochEntry) -> None:
        for connection in tuple(self.subscribers):
            connection.push(entry)
