# SPDX-License-Identifier: Apache-2.0
"""Machines that run the real ``Following``: its follower's thread as events, its readers as checks.

What ``feed.Follower`` does with a thread and a socket is done here with the world's events: subscribe, ask, take what
arrives in order, drop the connection on any error and try again after a pause.
"""

from collections import deque
from functools import partial
from typing import Any, NamedTuple

from arx_verifier.revocation.epoch import EpochRefusal, Lease
from arx_verifier.revocation.follower_core import StoreQuestion
from arx_verifier.revocation.relay_link import Probe
from arx_verifier.revocation.store_link import ENTRIES, EpochEntry, FeedError, StoreAnswer
from tests.simulation.network import Connection, Refused
from tests.simulation.world import DEPTH, LONG, MS, Clocks, World

RECONNECT = 0.08  # how often a connection breaks after a probe was sent on it
REPLICA = 0.12  # how often a connection ends up at a replica
HURRY = 0.02  # how often a caller waits for news


class Token(NamedTuple):
    """A token, as far as revocation is concerned.

    Attributes:
        incarnation: The history it names.
        born: The sequence it names.
        root: History and sequence of the oldest authority it was derived from, which its holder cannot see.
        targets: What it names.
    """

    incarnation: str
    born: int
    root: tuple[str, int]
    targets: tuple[str, ...]


class Machine:
    """A process with a follower and readers.

    Args:
        world: Where it is.
        name: Its verifier id.
        servers: The primary, then replicas; or relays.
        several: Whether they are relays, which it follows in turn.
    """

    def __init__(self, world: World, name: str, servers: list[Any], *, several: bool = False) -> None:
        self.world, self.name, self._servers, self._several = world, name, servers, several
        self.clocks = Clocks(world)
        self.restart()

    def restart(self) -> None:
        """Begin with an empty view, as a new process does."""
        self._drop()
        self.following = self._new_view()
        self.following.several = self._several
        self.left: dict[str, int] = {}  # histories that this process has seen end, and when
        self._pause = 20 * MS
        self._connect()

    def check(self, token: Token) -> EpochRefusal | None:
        """Decide on a token, perhaps slowly."""
        following = self.following
        # Where nothing would be accepted anyway there is little to lose by being held up.
        chance = self.world.reader_pauses
        if following.check(token.incarnation, token.born, token.targets) is not None:
            chance /= 20
        return self.world.interleaved(
            chance,
            lambda: following.check(token.incarnation, token.born, token.targets),
            lambda length: self.world.reader_held_up(self, token, length),
        )

    def hold_up(self, length: int) -> None:
        """Hold the follower's thread up from now on."""
        self._held_until = max(self._held_until, self.world.now + length)
        self.world.at(self._held_until, self._turn)

    def arrived(self, connection: Connection, frame: EpochEntry | StoreAnswer | Refused | None) -> None:
        """Receive a frame, or find the connection closed."""
        if connection is self._connection:
            if frame is not None:
                self._inbox.append(frame)
            self._turn()

    # The follower's thread.

    def _new_view(self) -> Any:
        return self.world.code.following(boot=self.clocks.boot, wall=self.clocks.wall)

    def _question(self, question: StoreQuestion) -> Probe:
        return Probe(self.name, *question.place, ENTRIES, question.hurry)

    _connection: Connection | None = None
    _busy = False
    _held_until = 0
    _wakes_at = -1

    def _connect(self) -> None:
        draw = self.world.random
        replica = self.world.faults and draw.random() < REPLICA
        if self._several:
            self._servers = [*self._servers[1:], self._servers[0]]
        server = self._servers[-1 if replica and not self._several else 0]
        self._connection = connection = Connection(self.world, server, self)
        connection.send("subscribe")
        self.following.begin()
        self._turn()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.open = False
            self._connection = None
        self._inbox: deque[EpochEntry | StoreAnswer | Refused] = deque()

    def _turn(self) -> None:
        world, connection = self.world, self._connection
        if self._busy or connection is None or world.now < self._held_until:
            return
        if world.faults and world.random.random() < world.stalls:
            self.hold_up(int(world.random.uniform(0, 1) * LONG))
            return
        following, self._busy = self.following, True
        hurry = world.faults and world.random.random() < HURRY
        try:
            self._take(connection)
            while following is self.following and (question := following.ask(hurry=hurry)) is not None:
                connection.send("probe", self._question(question))
                self._perhaps_break(connection)
                self._take(connection)
        except FeedError as error:
            world.note(self.name, "dropped:", str(error))
            if following is self.following:
                self._drop()
                world.after(int(self._pause * world.random.uniform(0.5, 1)), self._reconnect(following))
                self._pause = min(2 * self._pause, 500 * MS)
        finally:
            self._busy = False
        if self._connection is not None:
            self._wake()

    def _take(self, connection: Connection) -> None:
        following, world = self.following, self.world
        held_up = partial(world.writer_held_up, self)
        while self._inbox or connection.broken:
            if following is not self.following:
                return  # the process was restarted while this was going on
            if connection.broken:
                raise FeedError("closed")
            frame = self._inbox.popleft()
            before, lease = following._state, following._state.lease
            if isinstance(frame, Refused):
                raise FeedError(f"the store refused: {frame.why}")
            if isinstance(frame, EpochEntry):
                world.interleaved(world.writer_pauses, partial(following.take_push, frame), held_up)
            else:
                world.interleaved(world.writer_pauses, partial(following.take_answer, frame, self._copy), held_up)
            self._look(before.incarnation, lease, following)

    def _look(self, incarnation: str, lease: Lease | None, following: Any) -> None:
        after = following._state
        if following is not self.following:
            return
        if incarnation and incarnation != after.incarnation:
            self.left.setdefault(incarnation, self.world.now)
        if after.lease is not None and after.lease is not lease:
            self._pause = 20 * MS
            self.world.note(self.name, "live at", after.applied, "of", after.incarnation)
            if lease is None or lease.boot <= self.clocks.boot():
                self.world.writer_held_up(self, MS)  # come to life again: a good moment to try what died meanwhile

    def _copy(self, part: str) -> dict[str, int]:
        world, connection, following = self.world, self._connection, self.following
        found: dict[str, int] = {}
        cursor: int | None = -1
        assert connection is not None
        if world.depth >= DEPTH:
            raise FeedError("the simulator's stack is deep enough")
        while cursor is not None:
            connection.page = None
            connection.send("scan", {"k": "kills", "f": "freezes"}[part], cursor)
            over = world.now + int(following._timeout_s * 1e9)
            world.run(over, lambda: connection.page is not None or connection.broken or not connection.open)
            if connection.page is None or not connection.open:
                raise FeedError("a scan was not answered")
            cursor, page = connection.page
            found.update({target: max(seq, found.get(target, 0)) for target, seq in page.items()})
        return found

    def _reconnect(self, following: Any) -> Any:
        def again() -> None:
            if following is self.following and self._connection is None:
                self._connect()

        return again

    def _perhaps_break(self, connection: Connection) -> None:
        world = self.world
        if world.faults and world.random.random() < RECONNECT:
            world.after(int(world.random.uniform(0, 500) * MS), connection.cut)

    def _wake(self) -> None:
        when = self.world.now + max(MS // 10, self.following.next_at() - self.clocks.boot() + MS // 100)
        if self.world.now < self._wakes_at <= when:
            return
        self._wakes_at = when

        def wake() -> None:
            if self._wakes_at == when:
                self._turn()

        self.world.at(when, wake)
