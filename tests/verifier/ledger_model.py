# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of pools as plain data, and a ledger of it in memory.  SPEC 17.5.

``ledger.lua`` does the same to the keys of a Redis instance; ``test_ledger.py`` compares them step by step, and
``MemoryLedger`` with them.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arx_verifier.amounts import MAX_AMOUNT
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import (
    BUSY,
    EARLY,
    KEEP_MS,
    LOST,
    MARGIN_MS,
    MAX_HELD,
    MAX_WITH_HOLDS,
    NEW,
    Kind,
    PoolDraw,
    Short,
    Taken,
    registered_in,
)


@dataclass
class PoolState:
    """One pool, in one period.  All amounts are millionths.

    Attributes:
        period: The index of its period.
        committed: What calls used.
        reserved: What calls may still use.
        leased: What verifiers hold.
        extra: What an operator topped up.
        reopened: The ledger's ``whole`` when an operator topped up a lost pool; ``registered_in`` of it if the mint
            registered it; else -1.
        max: The largest ``max`` that a call had for it.
        opened: When it was opened, as the first call said.
        held: By id, what a reservation or a lease has, and whether it is a lease.
    """

    period: int = 0
    committed: int = 0
    reserved: int = 0
    leased: int = 0
    extra: int = 0
    reopened: int = -1
    max: int = 0
    opened: int = 0
    held: dict[str, tuple[int, bool]] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """What is not left."""
        return self.committed + self.reserved + self.leased


@dataclass
class LedgerState:
    """The pools of a ledger, and what it knows of its own history.

    Attributes:
        run: The server process that wrote last.
        number: The number of its beginning.
        since: Pools that were opened before this time may have been lost, ms since the Unix epoch; -1 at first.
        whole: The same for pools that it has, in their period: earlier, if its server ended cleanly.
        sealed: The seal under which its server ended; empty while it may change.
        sole: The server process before which the last one was seen to end; empty if no supervisor says that.
        seen: The latest time that it has seen, ms since the Unix epoch.
        clock: The server's clock at the last call, ms since the Unix epoch.
        pools: The pools by identity.
        kept: By pool, when it was drawn on last.
    """

    run: str = ""
    number: int = 0
    since: int = -1
    whole: int = -1
    sealed: str = ""
    sole: str = ""
    seen: int = 0
    clock: int = 0
    pools: dict[str, PoolState] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def begin(self, run: str, clock_ms: int, remembered: tuple[int, str] = (0, "")) -> int:
        """Compare the history with this server process and its caller's memory; return the time, which never goes back.

        Args:
            run: The server process.
            clock_ms: Its clock, ms since the Unix epoch.
            remembered: Number and run of the newest beginning that the caller saw; (0, ``NEW``) if no ledger has kept a
                pool of its realm before.

        Raises:
            StoreError: It is sealed.
        """
        if self.sealed:
            raise StoreError("the ledger is sealed: open it")
        now = max(clock_ms, self.seen)
        latest, its_run = remembered
        older = latest > self.number or (latest == self.number and its_run != run)
        if self.since < 0 and its_run == NEW:
            self.since, self.whole, self.run, self.number = now, now, run, 1
        elif self.since < 0 or self.run != run or older:
            # Draws may be missing: its last writes, all of them, or those that another server took.
            # Later than the one before, also while the time stands still: a pool that was topped up then is lost again.
            self.since, self.run = max(self.since + 1, now + MARGIN_MS), run
            self.whole = self.since
            self.number = max(self.number, latest) + 1
        self.seen, self.clock = now, clock_ms
        return now

    def seal(self, seal: str, run: str, clock_ms: int) -> bool:
        """Change nothing from here on, so that data with the seal have every draw; return whether it was sealed.

        Args:
            seal: Its new and secret name.
            run: The server process; one that has not begun is not sealed, nor is a ledger without pools.
            clock_ms: Its clock, ms since the Unix epoch.
        """
        if self.run != run or self.sealed or not self.kept:
            return False
        self.sealed, self.seen = seal, max(clock_ms, self.seen)
        return True

    def open(self, seal: str, run: str, clock_ms: int) -> bool:
        """Begin anew after a start, but for the pools that it has; return whether the data have this seal.

        Without it, the first call begins it anew for all pools.

        Args:
            seal: The seal that the end before noted, if no start has used it; else empty.
            run: The server process.
            clock_ms: Its clock, ms since the Unix epoch.
        """
        known, self.sealed = self.sealed, ""
        self.sole = run
        if not known or seal != known:
            return False
        self.since = max(self.since + 1, max(clock_ms, self.seen) + MARGIN_MS)
        self.run, self.number = run, self.number + 1
        return True

    def take(self, kind: Kind, op: str, draws: Sequence[PoolDraw], now: int) -> Taken | Short:
        """As ``Ledger.take``, at a time that ``begin`` returned."""
        for name in [name for name, at in self.kept.items() if at + KEEP_MS <= now]:
            del self.kept[name], self.pools[name]
        states, remaining = [], []
        for index, draw in enumerate(draws):
            if draw.opened > now:
                return Short(index, EARLY, draw.opened - now)
            state, period = self._state(draw, now)
            left = self._limit(draw, state, period, now) - state.used
            if left < draw.cost:
                if self._is_lost(draw, state, period, now):
                    return Short(index, LOST, 0 if self.sole == self.run else max(0, self.since - self.clock))
                return Short(index, max(0, left))
            if kind != "draw" and len(state.held) >= (MAX_WITH_HOLDS if kind == "hold" else MAX_HELD):
                return Short(index, BUSY)
            states.append((state, period))
            remaining.append(left)
        amounts = []
        for number, (draw, (state, _)) in enumerate(zip(draws, states, strict=True)):
            amount = draw.cost
            if kind == "lease":
                amount = min(draw.wanted, max(draw.cost, remaining[number] // 4))
            if kind == "draw":
                state.committed += amount
            elif amount:
                state.held[op] = (amount, kind == "lease")
                if kind == "lease":
                    state.leased += amount
                else:
                    state.reserved += amount
            if amount:
                self._keep(draw, state, now)
            amounts.append(amount)
            remaining[number] -= amount
        ends = tuple(
            (period + 1) * draw.period_ms - now if draw.period_ms else -1
            for draw, (_, period) in zip(draws, states, strict=True)
        )
        return Taken(tuple(remaining), tuple(amounts), ends)

    def register(self, pools: Sequence[PoolDraw], now: int) -> bool:
        """As ``RedisLedger.register``, at a time that ``begin`` returned."""
        if self.sole != self.run:
            return False
        for draw in pools:
            state, period = self._state(draw, now)
            if draw.pool not in self.pools and self._is_lost(draw, state, period, now):
                state.reopened = registered_in(self.whole)
                self._keep(draw, state, now)
        return True

    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]], now: int) -> Short | None:
        """As ``Ledger.settle``."""
        held, short = [], None
        for index, (draw, amount) in enumerate(used):
            state, period = self._state(draw, now)
            if op not in state.held:  # settled before, or of a period that is over
                continue
            held.append((draw, state, amount))
            left = max(0, self._limit(draw, state, period, now) - state.used)
            if short is None and amount - state.held[op][0] > left:
                short = Short(index, left)
        for draw, state, amount in held:
            taken, is_lease = state.held.pop(op)
            if is_lease:
                state.leased -= taken
            else:
                state.reserved -= taken
            state.committed += min(amount, taken) if short is not None else amount
            self._keep(draw, state, now)
        return short

    def undo(self, draws: Sequence[PoolDraw], now: int) -> None:
        """As ``Ledger.undo``."""
        for draw in draws:
            state, _ = self._state(draw, now)
            # A pool that was topped up after a loss does not know of the draw.
            if self.pools.get(draw.pool) is state and state.reopened < 0:
                state.committed = max(0, state.committed - draw.cost)
                self._keep(draw, state, now)

    def top_up(self, pool: str, period_ms: int, opened: int | None, amount: int, now: int) -> int | None:
        """Add to a pool, and return what it has left, millionths; -1 if that is more than it may have, None if unknown.

        Args:
            pool: The pool's identity.
            period_ms: The length of its period, ms; 0 for the whole task.
            opened: When it was opened; None if the caller does not know it.
            amount: What to add, millionths.
            now: A time that ``begin`` returned.
        """
        known = self.pools.get(pool)
        if opened is None:
            if known is None:
                return None
            opened = known.opened
        draw = PoolDraw(pool, 0, period_ms, opened, 0, 0)
        state, period = self._state(draw, now)
        if self._is_lost(draw, state, period, now):
            # What it had is not known: it begins with what the operator adds, and nothing else.
            state = PoolState(period, reopened=self.whole, max=state.max, opened=state.opened)
        elif known is None:
            return None
        if state.extra + amount > MAX_AMOUNT:
            return -1
        state.extra += amount
        self._keep(draw, state, now)
        return (state.extra if state.reopened >= 0 else state.max + state.extra) - state.used

    def _keep(self, draw: PoolDraw, state: PoolState, now: int) -> None:
        state.max, state.opened = max(state.max, draw.max), state.opened or draw.opened
        self.pools[draw.pool], self.kept[draw.pool] = state, now

    def _state(self, draw: PoolDraw, now: int) -> tuple[PoolState, int]:
        """Return the pool in its period: a later one begins anew, an earlier one never comes again."""
        period = now // draw.period_ms if draw.period_ms else 0
        state = self.pools.get(draw.pool)
        if state is None or state.period < period:
            anew = PoolState(period, max=state.max if state else 0, opened=state.opened if state else 0)
            # No other ledger gave out the later period either, unless this one has ended since.
            if state is not None and self.whole == self.since and state.reopened == registered_in(self.whole):
                anew.reopened = state.reopened
            return anew, period
        return state, state.period

    def _is_lost(self, draw: PoolDraw, state: PoolState, period: int, now: int) -> bool:
        opened = max(draw.opened, period * draw.period_ms)
        if opened <= (self.whole if self.pools.get(draw.pool) is state else self.since):
            return state.reopened not in (self.whole, registered_in(self.whole))
        return draw.pool not in self.pools and opened <= now - KEEP_MS

    def _limit(self, draw: PoolDraw, state: PoolState, period: int, now: int) -> int:
        if self._is_lost(draw, state, period, now):
            return state.used
        return state.extra if state.reopened >= 0 else draw.max + state.extra


class ModelLedger:
    """A ledger of one process, which keeps the model.

    Args:
        clock: The time, ms since the Unix epoch.
    """

    waits = False

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        self.state = LedgerState()
        self._clock, self._lock = clock, threading.Lock()
        # A millisecond earlier: what is opened from now on is kept.
        self.state.begin("memory", clock() - 1, (0, NEW))

    def take(self, kind: Kind, op: str, draws: Sequence[PoolDraw]) -> Taken | Short:
        """Take from all pools; see ``Ledger``."""
        with self._lock:
            return self.state.take(kind, op, draws, self._now())

    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Short | None:
        """Settle a reservation; see ``Ledger``."""
        with self._lock:
            return self.state.settle(op, used, self._now())

    def undo(self, draws: Sequence[PoolDraw]) -> None:
        """Give back a draw; see ``Ledger``."""
        with self._lock:
            self.state.undo(draws, self._now())

    def start(self) -> None:
        """Do nothing; see ``Ledger``."""

    def close(self) -> None:
        """Do nothing; see ``Ledger``."""

    def _now(self) -> int:
        return self.state.begin("memory", self._clock(), (self.state.number, self.state.run))
