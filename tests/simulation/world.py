# SPDX-License-Identifier: Apache-2.0
"""A world with a hand-moved clock: events in order, threads that are held up, and clocks that are wrong.

Everything random comes from one seed.  While a piece of real code runs, the world may go on between two of its lines,
which is what a thread sees that loses the processor there.
"""

import heapq
import itertools
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from tests.simulation.code import Code

MS = 1_000_000
SECOND = 1_000 * MS
DRIFT = 1e-3  # how wrong the rate of a boot clock may be
START_MS = 1_800_000_000_000
DEPTH = 5  # so many pieces of code wait for each other at most
LONG = 3 * SECOND  # the longest that a thread is held up
T = TypeVar("T")


class World:
    """Real time in ns, and what will happen; everything random in it, the lease included.

    Args:
        seed: Everything follows from it.
        code: What is simulated.
    """

    def __init__(self, seed: int, code: Code) -> None:
        self.seed, self.code = seed, code
        self.random = random.Random(seed)
        self.now = 0
        self.faults = False
        self.lease_ms = self.random.choice([150, 300, 300, 1_000])
        self._slow = self.random.choice([0.002, 0.01, 0.05])  # how often a message is late
        self.reader_pauses = self.random.choice([0.2, 0.9])  # how often a decision may be held up
        self.writer_pauses = self.random.choice([0.01, 0.1])  # how often a change of a view may be
        self.stalls = self.random.choice([0.001, 0.005, 0.02])  # how often a thread is held up between two steps
        self.events = self.depth = 0  # depth: how many pieces of code wait for each other
        self.trace: list[tuple[Any, ...]] = []
        self.violations: list[str] = []
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._tracing = self._paused = False
        self._held_up: Callable[[int], None]
        self.writer_held_up: Callable[[Any, int], None] = lambda machine, length: None
        self.reader_held_up: Callable[[Any, Any, int], None] = lambda machine, token, length: None
        self.subscribed: Callable[[], None] = lambda: None

    def at(self, when: int, happens: Callable[[], None]) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._queue, (when, next(self._order), happens))

    def after(self, delay: int, happens: Callable[[], None]) -> None:
        """Let something happen after a delay."""
        self.at(self.now + delay, happens)

    def run(self, until: int, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass; may be called by what happens meanwhile."""
        queue = self._queue
        self.depth += 1
        while queue and queue[0][0] <= until and not self.violations:
            when, _, happens = heapq.heappop(queue)
            self.now = max(self.now, when)
            self.events += 1
            happens()
            if stop is not None and stop():
                break
        else:
            self.now = max(self.now, until)
        self.depth -= 1

    def note(self, *what: Any) -> None:
        """Remember what happened, to be printed when something goes wrong."""
        self.trace.append((self.now, *what))

    def blame(self, what: str) -> None:
        """Record a violation; time stops."""
        self.note("VIOLATION", what)
        self.violations.append(what)

    def delay(self) -> int:
        """Draw how long a message takes: mostly under a millisecond, now and then up to 4 s."""
        draw = self.random.random()
        if not self.faults or draw > self._slow:
            return int(MS * (0.05 + draw))
        if draw > self._slow / 3:
            return int(self.random.uniform(1, 120) * MS)
        return int(self.random.uniform(0.1, 4) * SECOND)

    def hold_up(self) -> int:
        """Draw how long a thread is held up."""
        draw = self.random.random()
        if draw < 0.3:
            return int(draw * 10 * MS)
        return min(LONG, int(self.random.uniform(0.5, 3) * self.lease_ms * MS))

    def interleaved(self, chance: float, work: Callable[[], T], held_up: Callable[[int], None]) -> T:
        """Run real code; between two of its lines other things may happen.

        Args:
            chance: How often.
            work: Calls the code.
            held_up: Receives for how long, ns, whenever it is held up.
        """
        if self._tracing or self._paused or self.depth > 2 or not self.faults or self.random.random() > chance:
            return work()
        before = sys.gettrace()
        self._tracing, self._held_up = True, held_up
        sys.settrace(self._on_call)
        try:
            return work()
        finally:
            sys.settrace(before)
            self._tracing = False

    def _hold_up(self) -> None:
        length = self.hold_up()
        self._paused = True  # the interpreter does not trace what a tracer calls
        try:
            self._held_up(length)
            self.run(self.now + length)
        finally:
            self._paused = False

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        lines = self.code.pauses.get(frame.f_code)
        if lines is None:
            return None
        where, left = self.random.choice(lines), self.random.choice((1, 1, 1, 3))  # at a line, when it comes again

        def on_line(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
            nonlocal left
            if event == "line" and frame.f_lineno == where:
                left -= 1
                if left == 0:
                    self._hold_up()
            return on_line

        return on_line


class Clocks:
    """A machine's clocks: one whose rate is a little wrong, and one that is set now and then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rate = 1 + world.random.uniform(-DRIFT, DRIFT)
        self._start = world.random.randrange(10**15)
        self.wrong_ms = world.random.randint(-2_000, 2_000)

    def boot(self) -> int:
        """Read the clock that is never set, ns."""
        return self._start + int(self._world.now * self._rate)

    def wall(self) -> int:
        """Read the clock that is set, ns."""
        return (START_MS + self.wrong_ms) * MS + int(self._world.now * self._rate)

    def step(self) -> None:
        """Set the wall clock, to something wrong as long as faults go on."""
        draw = self._world.random
        if not self._world.faults:
            self.wrong_ms = 0
        else:
            self.wrong_ms = draw.randint(-60_000, 60_000) if draw.random() < 0.2 else draw.randint(-3_000, 3_000)
