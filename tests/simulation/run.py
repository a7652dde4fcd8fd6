# SPDX-License-Identifier: Apache-2.0
"""One run: an operator who kills, a mint, verifiers, and faults; then calm, in which everything must work again.

``python -m tests.simulation.run --runs 10000`` looks longer than the tests do; ``--seed`` prints one run's story.
"""

import argparse
import logging
import time
from collections.abc import Callable
from typing import Any

from arx_verifier.revocation.history import NOWHERE
from tests.simulation.code import Code, load
from tests.simulation.judge import FOREIGN, Judge
from tests.simulation.mint import Session, SimulatedMint
from tests.simulation.mutations import MUTATIONS
from tests.simulation.network import Server
from tests.simulation.operator import Intruder
from tests.simulation.relays import Relay
from tests.simulation.verifiers import Machine, Token
from tests.simulation.world import MS, SECOND, World

FAULTS_BEGIN, FAULTS_END = SECOND // 2, 8 * SECOND
# How often the mint, the operator and the readers do something, ms.
PERIODS = (("_kill", (150, 450)), ("_open", (400,)), ("_start", (150,)), ("_look", (60,)), ("_confirm", (40,)))
CALM_WITHIN = 10 * SECOND
DEPTHS = (0, 0, 0, 0, 0, 0, 1, 2)  # relays between the store and the verifiers
BESIDE = 0.5  # how often another relay is beside them, and verifiers follow one of two


class Run:
    """A realm in a world; everything follows from the seed."""

    def __init__(self, seed: int, code: Code) -> None:
        self.world = world = World(seed, code)
        self.random = world.random
        self.lease_ms = world.lease_ms
        self.judge = Judge(world, self.lease_ms)
        self.primary, replica = Server(world, replica=False), Server(world, replica=True)
        self.primary.followers = [replica]
        self.histories = 0
        self.doubtful = False  # a rotation comes soon
        self.primary.call(lambda store: store.init(self._name(), self.lease_ms, 3_600_000, 0))
        direct, depth = [self.primary, replica], self.random.choice(DEPTHS)
        beside = bool(depth) and self.random.random() < BESIDE
        self.relays = [Relay(world, "beside", direct)] if beside else []
        for level in range(depth):
            below = [*self.relays] if beside else self.relays[-1:]
            self.relays.append(Relay(world, f"r{level}", below if level else direct, several=beside and level > 0))
        behind = [self.random.sample(self.relays, 2) if beside else self._one(direct) for _ in range(2)]
        self.machines = [Machine(world, f"v{number}", each, several=beside) for number, each in enumerate(behind)]
        office = Machine(world, "mint", [self.primary])
        self.mint = SimulatedMint(world, office, self.judge)
        self.operator = Intruder(world, self.primary, self.judge, self.machines, self.lease_ms)
        self.operator.mint = self.mint
        world.reader_held_up, world.writer_held_up = self.operator.reader_held_up, self.operator.writer_held_up
        world.subscribed = self.operator.subscribed
        self.everyone = [*self.machines, office, *self.relays]
        self.tokens = self.mint.tokens
        self.tokens.append(Token(FOREIGN, 0, (FOREIGN, 0), ("realm",)))

    def _one(self, direct: list[Server]) -> list[Any]:
        return [self.random.choice([*self.relays, self.relays[-1]])] if self.relays else direct

    def play(self) -> "Run":
        """Run the faults, then the calm."""
        for _ in range(self.random.choice([0, 1, 1, 2, 3])):
            self.world.at(self.random.randrange(FAULTS_BEGIN, FAULTS_END), self._fault())
        for work, periods_ms in PERIODS:
            self._often(self.random.choice(periods_ms) * MS, getattr(self, work))
        self.world.at(FAULTS_BEGIN, self._begin)
        self.world.at(FAULTS_END, self._mend)
        self.world.run(FAULTS_END)
        self._end()
        return self

    # What goes on all the time.

    def _often(self, period: int, work: Callable[[], None]) -> None:
        def again() -> None:
            if self.world.now < FAULTS_END:
                self.world.after(int(self.random.expovariate(1 / period)), again)
                work()

        self.world.after(int(self.random.uniform(0, period)), again)

    def _kill(self) -> None:
        self.operator.kill()

    def _confirm(self) -> None:
        self.operator.confirm()

    def _open(self) -> None:
        self.mint.open_session(self.random.choice("abcdef"))

    def _start(self) -> None:
        if self.mint.sessions:
            sessions, before = [*filter(self._works, self.mint.sessions)], len(self.tokens)
            self.mint.start_task(self.random.choice(sessions[-6:] or self.mint.sessions))
            for token in self.tokens[before:]:
                self.operator.try_out(token)

    def _works(self, session: Session) -> bool:
        return session.token.incarnation == self._incarnation and self.judge.alive(session.token)

    def _look(self) -> None:
        alive = [
            token for token in self.tokens[-12:] if token.incarnation == self._incarnation and self.judge.alive(token)
        ]
        token = self.random.choice(alive or self.tokens[-5:]) if self.random.random() < 0.97 else self.tokens[0]
        self.judge.look(self.random.choice(self.machines), token)

    # Faults.

    def _fault(self) -> Callable[[], None]:
        faults = [self._freeze, self._rotate, self._fail_over, self._regress, self._return, self._evict, self._forget]
        faults += [self._step, self._step, self._end_process, self._freeze, self._fail_over, self._overwrite]
        return self.random.choice([*faults, self._restart, self._overwrite])

    def _freeze(self) -> None:
        length = int(self.random.uniform(0.1, 3) * SECOND)
        if self.relays and self.random.random() < 0.5:
            relay = self.random.choice(self.relays)
            relay.freeze(length)
            self.world.note(relay.name, "frozen for", length)
            return
        self.primary.frozen_until = self.world.now + length
        self.world.note("store frozen until", self.primary.frozen_until)

    def _restart(self) -> None:
        self.world.note("store restarted")
        self.primary.begin()
        self.world.after(int(self.random.uniform(0.02, 1.5) * SECOND), self._attest)

    def _attest(self) -> None:
        """Look at the server, as the mint does, and find nothing missing."""
        if self.primary.store.header is not None and not self.doubtful:
            self.primary.store.attest()

    def _rotate(self) -> None:
        """End the history, as operators and mints do when something is wrong."""
        if self.primary.store.header is None:
            self.primary.call(lambda store: store.init(self._name(), self.lease_ms, 3_600_000, self.operator.seen.seq))
        else:
            old, freezes = self._incarnation, dict(self.primary.store.freezes)
            self.primary.call(lambda store: store.rotate(old, self._name(), self.operator.seen.seq, 0, 0))
            for record in self.judge.rotated(old, self._incarnation, freezes):
                record.returned = self.world.now
            self.primary.store.attest()
        self.doubtful = False
        self.world.note("rotated to", self._incarnation)
        self.world.after(self.world.delay(), self.operator.learn)

    def _rotate_soon(self) -> None:
        self.doubtful = True
        self.world.after(int(self.random.uniform(0.2, 3) * SECOND), lambda: self._rotate() if self.doubtful else None)

    def _older(self, among: list[tuple[Any, ...]], *, fenced: bool = False) -> bool:
        """Go back to a copy, and forgive the kills that are lost with it unless every verifier waits for a mint."""
        if among:
            kept = self.random.choice(among)
            incarnation, before = self._incarnation, self.primary.store.header
            self.world.note("store went back from", before and before.seq, "to", kept[0].incarnation, kept[0].seq)
            self.primary.store.restore(kept)
            if fenced:
                self.primary.begin()
                return True
            self.judge.lost(kept[0].incarnation, kept[0].seq, self.everyone, self.tokens)
            self.judge.lost(incarnation, -1, self.everyone) if incarnation != kept[0].incarnation else None
            self.primary.restart()
        return bool(among)

    def _fail_over(self) -> None:
        """Let another server, without the last entries, answer at the address, and rotate when the mint has seen it."""
        if self._older(self.primary.snapshots[-6:], fenced=True):
            if self.random.random() < 0.3:
                self.operator.seen = NOWHERE  # and no operator remembers how far it was
            self._rotate_soon()

    def _regress(self) -> None:
        """Lose the last entries, go on under the same name, and rotate when the mint has seen it."""
        incarnation = self._incarnation
        if self._older([kept for kept in self.primary.snapshots[:-1] if kept[0].incarnation == incarnation]):
            self._rotate_soon()

    def _overwrite(self) -> None:
        """Lose the last entries, and give their numbers to other kills before any probe."""
        before = self.primary.store.header
        if self._older(
            [kept for kept in self.primary.snapshots[:-1] if before and kept[0].incarnation == before.incarnation]
        ):
            now = self.primary.store.header
            assert before is not None
            assert now is not None
            self.operator.strike_unaware(before.seq - now.seq + self.random.choice([0, 0, 1]))
            self._rotate_soon()

    def _return(self) -> None:
        """Restore a backup of a history that had ended."""
        incarnation = self._incarnation
        if self._older([kept for kept in self.primary.snapshots if kept[0].incarnation != incarnation]):
            self._rotate_soon()

    def _evict(self) -> None:
        kills = self.primary.store.kills
        if kills:
            del kills[self.random.choice(list(kills))]
            self.world.note("store lost a kill")
            self._rotate_soon()

    def _forget(self) -> None:
        self.world.note("store lost everything")
        self.judge.lost(self._incarnation, -1, self.everyone) if self.primary.store.header else None
        self.primary.store.restore((None, {}, {}, {}, []))
        self.primary.restart()
        self._rotate_soon()

    def _step(self) -> None:
        for machine in self.everyone:
            machine.clocks.step()

    def _end_process(self) -> None:
        machine = self.random.choice([*self.machines, *self.relays])
        self.world.note(machine.name, "restarted")
        machine.restart()

    # Afterwards.

    def _begin(self) -> None:
        self.world.faults = True

    def _mend(self) -> None:
        self.world.faults = False
        self.world.note("no more faults")
        self._step()
        self.primary.frozen_until = 0
        if self.doubtful or self.primary.store.header is None:
            self._rotate()
        self._attest()

    def _end(self) -> None:
        """Every view must become live, and accept what is alive and nothing else."""
        world = self.world
        until = world.now + CALM_WITHIN
        while not world.violations:
            world.run(world.now + 200 * MS)
            refused = [machine.check(self._alive()) for machine in self.everyone]
            if not any(refused):
                break
            if world.now > until:
                world.blame(f"not live in time: {refused}")
        for token in self.tokens:
            for machine in self.machines:
                self.judge.look(machine, token)

    def _alive(self) -> Token:
        header = self.primary.store.header
        assert header is not None
        return Token(header.incarnation, header.seq, (header.incarnation, header.seq), ("agent:new", "session:new"))

    @property
    def _incarnation(self) -> str:
        header = self.primary.store.header
        return header.incarnation if header is not None else ""

    def _name(self) -> str:
        self.histories += 1
        return f"{self.histories:012x}history"


def story(run: Run, lines: int = 40) -> str:
    """Return what happened last, for people."""
    values = [f"{at / MS:12.3f} ms  {' '.join(map(str, what))}" for at, *what in run.world.trace[-lines:]]
    return f"seed {run.world.seed}:\n" + "\n".join(values)


def main() -> None:
    """Look for violations from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, help="only this run, with its story")
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="break the code in this way")
    asked = parser.parse_args()
    logging.disable()
    code = load(MUTATIONS[asked.mutation] if asked.mutation else None)
    began, events, violations, worst = time.process_time(), 0, 0, 0
    for seed in range(asked.runs) if asked.seed is None else [asked.seed]:
        run = Run(seed, code).play()
        events += run.world.events
        worst = max(worst, run.judge.worst)
        violations += bool(run.world.violations)
        if run.world.violations or asked.seed is not None:
            print(story(run, 40 if asked.seed is None else 100_000) if not violations > 3 else seed)
    print(
        f"{events} events, {violations} runs with a violation, last accept {worst / MS:.1f} ms after a kill, "
        f"{time.process_time() - began:.1f} s"
    )


if __name__ == "__main__":
    main()
