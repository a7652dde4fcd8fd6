# SPDX-License-Identifier: Apache-2.0
"""The operator, who kills, freezes and thaws at random, and the intruder, who calls at the worst moment.

The operator learns what happened, late or never, and remembers how far the store was.  The intruder knows what is
going on inside a verifier: it kills what is being looked at, and shows revoked tokens where a writer is half done.
"""

from typing import TYPE_CHECKING

import msgspec

from arx_caps.revocation.wire import read_registry
from arx_verifier.revocation.history import NOWHERE, UNKNOWN, HistoryPlace
from tests.simulation.judge import Judge, Record
from tests.simulation.model_store import StoreRefused
from tests.simulation.network import Server
from tests.simulation.verifiers import Machine, Token
from tests.simulation.world import MS, World

if TYPE_CHECKING:
    from tests.simulation.mint import SimulatedMint

MARGIN_MS = 100  # as in ``confirm``


class Operator:
    """Bumps, and learns from the answers.

    Attributes:
        seen: Where it knows the store to have been.
    """

    def __init__(self, world: World, server: Server, judge: Judge, machines: list[Machine], lease_ms: int) -> None:
        self._world, self._server, self._judge, self._machines = world, server, judge, machines
        self._lease_ms = lease_ms
        self.seen = NOWHERE
        self.mint: SimulatedMint | None = None
        self._waiting: tuple[list[Record], int] | None = None
        self.learn()

    def kill(self) -> None:
        """Kill, freeze or thaw what a few tokens name."""
        draw = self._world.random
        op = draw.choices(["kill", "kill+freeze", "freeze", "thaw"], [8, 1, 1, 3])[0]
        targets = [self._target(draw.choice(self._tokens[-6:]), op) for _ in range(draw.choice([1, 1, 2, 4]))]
        if op == "thaw" and self._server.store.freezes:
            targets = [draw.choice(list(self._server.store.freezes))]
        self._send(op, targets)

    def strike(self, token: Token) -> None:
        """Kill what this token names."""
        self._send("kill", [self._target(token, "kill")])

    def learn(self) -> None:
        """Look where the store is."""
        header = self._server.store.header
        if header is not None:
            self.seen = HistoryPlace(header.incarnation, header.seq, header.chain)

    def confirm(self) -> None:
        """Ask who has confirmed the last kill, as ``arx_caps.revocation.confirm`` does."""
        header = self._server.store.header
        if self._waiting is None or header is None:
            return
        records, at_ms = self._waiting
        last = records[-1]
        since_ms = at_ms - self._lease_ms - MARGIN_MS
        *facts, missing, relays = self._server.store.unacked(last.seq, since_ms)
        named = [[name.encode(), *rest] for name, *rest in missing]
        crowds = [[name.encode(), applied, msgspec.json.encode(crowd)] for name, applied, crowd in relays]
        registry = read_registry([*facts, named, crowds], last.seq, since_ms)
        whole = registry.verifiers and not registry.missing and registry.since_ms <= at_ms - self._lease_ms
        if whole and last.known_to is None and last.incarnation == header.incarnation:
            self._waiting = None
            self._world.note("operator:", records, "confirmed by", registry.verifiers)
            for record in records:
                record.confirmed = self._world.now

    @property
    def _tokens(self) -> list[Token]:
        assert self.mint is not None
        return self.mint.tokens

    def _target(self, token: Token, op: str) -> str:
        draw = self._world.random
        if draw.random() < 0.03 and op == "kill":
            return "realm"
        targets = token.targets[1:] or ("agent:a",)
        return draw.choice(targets if draw.random() < 0.3 else targets[-2:])

    def strike_unaware(self, times: int) -> None:
        """Kill at once what living tokens name, as an operator who has never seen this store before."""
        header = self._server.store.header
        assert header is not None
        known = [one for one in self._tokens if one.incarnation == header.incarnation and one.born <= header.seq]
        living = [one for one in known if self._judge.alive(one)] or self._tokens
        for _ in range(times):
            self._arrive(
                HistoryPlace(header.incarnation, 0, UNKNOWN),
                "kill",
                [self._target(self._world.random.choice(living[-6:]), "kill")],
            )

    def _send(self, op: str, targets: list[str]) -> None:
        seen = self.seen
        self._world.after(self._world.delay(), lambda: self._arrive(seen, op, targets))

    def _arrive(self, seen: HistoryPlace, op: str, targets: list[str]) -> None:
        world = self._world
        if world.now < self._server.frozen_until:
            world.at(self._server.frozen_until, lambda: self._arrive(seen, op, targets))
            return
        try:
            incarnation, seq, at_ms, _, _, chain, _ = self._server.call(
                lambda store: store.bump(*seen, op, "", *targets)
            )
        except StoreRefused as error:
            if str(error) != "REGRESSED":
                world.after(world.delay(), self.learn)
            return
        first = seq - len(targets) + 1
        records = [
            self._judge.executed(incarnation, number, op, target) for number, target in enumerate(targets, first)
        ]
        world.note("operator:", records, "done")
        if world.random.random() > 0.05:  # else the answer is lost: an unknown outcome binds no verifier
            place = HistoryPlace(incarnation, seq, chain)
            world.after(world.delay(), lambda: self._returned(records, at_ms, None if seen.chain == UNKNOWN else place))

    def _returned(self, records: list[Record], at_ms: int, place: HistoryPlace | None) -> None:
        world = self._world
        world.note("operator:", records, "returned")
        for record in records:
            record.returned = world.now
            self._show(record)
        if place is not None and place.incarnation == self.seen.incarnation and place.seq > self.seen.seq:
            self.seen = place
        self._waiting = (records, at_ms)

    def _show(self, record: Record) -> None:
        """Show what was killed to every verifier, before its lease must be over and after."""
        world = self._world
        dead = [
            token
            for token in self._tokens
            if record.target in token.targets and token.incarnation == record.incarnation
        ]
        for machine in self._machines if dead else ():
            for _ in range(2):
                late = int(world.random.uniform(0.2, 3.2) * self._lease_ms * MS)
                self._look(late, machine, world.random.choice(dead[-4:]))

    def try_out(self, token: Token) -> None:
        """Show a token that was just minted."""
        for machine in self._machines:
            self._look(int(self._world.random.uniform(0, 2.5) * self._lease_ms * MS), machine, token)

    def _look(self, late: int, machine: Machine, token: Token) -> None:
        self._world.after(late, lambda: self._judge.look(machine, token))


class Intruder(Operator):
    """An operator whose kills come when they are least expected, and who tries what is dead."""

    def reader_held_up(self, machine: Machine, token: Token, length: int) -> None:
        """A reader is held up while it decides on a token; perhaps its whole process is."""
        draw = self._world.random
        if draw.random() < 0.8:
            self._world.after(int(draw.uniform(0, length / 4)), lambda: self.strike(token))
        if draw.random() < 0.35:
            machine.hold_up(length)

    def subscribed(self) -> None:
        """A follower is connected again, and has not asked yet what it missed: what is pushed now comes too early."""
        draw = self._world.random
        if self._world.faults and draw.random() < 0.5:
            self.strike(draw.choice(self._tokens[-6:]))

    def writer_held_up(self, machine: Machine, length: int) -> None:
        """A follower is held up while it changes its view, or has just renewed its lease."""
        dead = self._judge.dead[-12:]
        if machine not in self._machines:
            return
        for target in self._world.random.sample(dead, min(len(dead), 5)):
            known = [token for token in self._tokens[-30:] if target in token.targets]
            if known:
                late = int(self._world.random.uniform(0, length))
                self._look(late, machine, self._world.random.choice(known))
