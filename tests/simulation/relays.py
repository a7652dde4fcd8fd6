# SPDX-License-Identifier: Apache-2.0
"""Relays in the simulated world: the real ``Hub`` and the real ``Passing`` view, on a machine with two threads.

What ``relay.upstream`` does with a thread and ``relay.connection`` with an event loop is done with the world's events:
the follower hands facts to the loop, in order and perhaps late; the loop serves those behind, in order, and may stand
still.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from arx_caps.relay.hub import Copy
from arx_verifier.revocation.follower_core import StoreQuestion
from arx_verifier.revocation.relay_link import Probe, Push, RelayAnswer, RelayPage
from arx_verifier.revocation.store_link import EpochEntry
from tests.simulation.network import Connection
from tests.simulation.verifiers import Machine
from tests.simulation.world import LONG, MS, World

TICK = 50 * MS
PARTS = {"kills": "k", "freezes": "f"}


class Listener:
    """A follower behind a relay, as the hub sees it."""

    def __init__(self, relay: "Relay", connection: Connection) -> None:
        self.copy: Copy | None = None
        self._relay, self._connection = relay, connection
        relay.listened += 1
        self._number = relay.listened

    def __hash__(self) -> int:
        return self._number  # the hub keeps a set: a run must be repeatable

    def send(self, message: RelayAnswer | Push | RelayPage) -> None:
        """Send it on, as the link at the other end would read it."""
        if self._connection not in self._relay.subscribers:
            return
        if isinstance(message, RelayPage):
            self._connection.push((message.cursor or None, message.found))
        elif isinstance(message, Push):
            self._connection.push(EpochEntry(message.incarnation, message.seq, message.op, message.target))
        else:
            self._connection.push(message.answer())

    def drop(self) -> None:
        """End the connection; the other end finds out later."""
        if self._connection in self._relay.subscribers:
            self._relay.forget(self._connection)
            self._relay.world.after(self._relay.world.delay(), self._connection.cut)


class Relay(Machine):
    """A process that follows, and serves those who follow it.  A restarted one has another name.

    Args:
        world: Where it is.
        name: How it is called.
        servers: What it follows: the store's servers, or other relays.
        several: Whether they are relays, which it follows in turn.
    """

    def __init__(self, world: World, name: str, servers: list[Any], *, several: bool = False) -> None:
        self._base, self._processes, self._free_at, self.listened = name, 0, 0, 0
        self._limit = world.random.choice([1, 2, 1000])  # entries in an answer
        self.subscribers: dict[Connection, Listener] = {}
        super().__init__(world, name, servers, several=several)

    def restart(self) -> None:
        """Begin anew: every connection ends, nothing is known, and nothing is reported for those of before."""
        for connection in tuple(self.subscribers):
            connection.cut()
        self._processes += 1
        self.name = f"relay:{self._base}-{self._processes}"
        self._hub = self.world.code.hub(lambda: self.following.state, self._stand_for, self._later, self.clocks.boot)
        super().restart()
        self._later(TICK / 1e9, self._tick)

    def freeze(self, length: int) -> None:
        """Stop the whole process from now on."""
        self._free_at = max(self._free_at, self.world.now + length)
        self.hold_up(length)

    def receive(self, connection: Connection, request: tuple[Any, ...]) -> None:
        """Take the message of a follower behind it."""
        self._soon(lambda: self._serve(connection, *request))

    def forget(self, connection: Connection) -> None:
        """Notice that a connection has ended."""
        listener = self.subscribers.pop(connection, None)
        if listener is not None:
            self._soon(lambda: self._hub.take_end(listener))

    # The follower's thread.

    def _new_view(self) -> Any:
        clocks = {"boot": self.clocks.boot, "wall": self.clocks.wall}
        return self.world.code.passing(hand=self._hand, hearer=self._hub, **clocks)

    def _question(self, question: StoreQuestion) -> Probe:
        probe = super()._question(question)
        return msgspec.structs.replace(probe, crowd=self.following.crowd_in(question.place.incarnation))

    def _hand(self, what: Callable[..., None], *facts: object) -> None:
        self._soon(lambda: what(*facts))

    # The loop.

    def _soon(self, call: Callable[[], None]) -> None:
        world, hub = self.world, self._hub
        if world.faults and world.random.random() < world.stalls / 10:
            self._free_at = max(self._free_at, world.now + int(world.random.uniform(0, 1) * LONG))
        self._free_at = max(self._free_at, world.now + MS // 20)
        world.at(self._free_at, lambda: call() if hub is self._hub else None)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        hub = self._hub
        self.world.after(int(seconds * 1e9), lambda: self._soon(call) if hub is self._hub else None)

    def _tick(self) -> None:
        self._hub.tick()
        self._later(TICK / 1e9, self._tick)

    def _stand_for(self, incarnation: str, crowd: Any, now: bool, hurry: bool) -> None:
        self.following.stand_for(incarnation, crowd, now=now, hurry=hurry)
        if now or hurry:
            self.world.after(MS // 100, self._turn)

    def _serve(self, connection: Connection, what: str, *facts: Any) -> None:
        if what == "subscribe":
            listener = self.subscribers[connection] = Listener(self, connection)
            self._hub.listeners.add(listener)
            return
        known = self.subscribers.get(connection)
        if known is None:
            return
        if what == "probe":
            known.copy = None
            self._hub.take_probe(known, msgspec.structs.replace(facts[0], limit=self._limit))
        elif known.copy is None:
            known.drop()
        else:
            part, cursor = facts
            known.send(known.copy.page(PARTS[part], max(0, cursor)))
