# SPDX-License-Identifier: Apache-2.0
"""A ledger in the memory of one process.  SPEC 17."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from arx_verifier._platform import reset_at_fork
from arx_verifier.clock import now_ms
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import (
    BUSY,
    EARLY,
    KEEP_MS,
    LOST,
    MARGIN_MS,
    MAX_HELD,
    MAX_MARK_FIELDS,
    MAX_WITH_HOLDS,
    Kind,
    MarkQuestion,
    PoolDraw,
    Short,
    Stopped,
    Taken,
    UsedKey,
)


@dataclass
class PoolState:
    """One pool, in one period.  All amounts are millionths.

    Attributes:
        period: The index of its period.
        committed: What calls used.
        held: By id, what a reservation or a lease has.
        drawn_ms: When it was drawn on last, ms since the Unix epoch.
    """

    period: int = 0
    committed: int = 0
    held: dict[str, int] = field(default_factory=dict)
    drawn_ms: int = 0

    @property
    def used(self) -> int:
        """What is not left."""
        return self.committed + sum(self.held.values())


class MemoryLedger:
    """Pools in this process's memory: for exactly one process, and for tests.

    Another process or a forked child would give out the same pools again.  A forked child refuses.

    Attributes:
        since: Pools that were opened before this time may have been lost, ms since the Unix epoch.
        pools: The pools by identity.
        marks: By session its marks, the fields of ``MarkQuestion``, and when it was marked last; see ``ledger.lua``.

    Args:
        clock: The time, ms since the Unix epoch.
    """

    waits = False

    def __init__(self, *, clock: Callable[[], int] = now_ms) -> None:
        self.since = clock() - 1  # a millisecond earlier: what is opened from now on is kept
        self.pools: dict[str, PoolState] = {}
        self.marks: dict[str, tuple[dict[str | tuple[str, str], str], int]] = {}
        self._clock, self._seen, self._lock, self._forked = clock, self.since, threading.Lock(), False
        _LEDGERS.add(self)

    def take(
        self,
        kind: Kind,
        op: str,
        draws: Sequence[PoolDraw],
        used: UsedKey | None = None,  # noqa: ARG002 - of no other store
        marks: MarkQuestion | None = None,
    ) -> Taken | Short | Stopped:
        """Take from all pools; see ``Ledger``."""
        with self._lock:
            now = self._now()
            for name in [name for name, pool in self.pools.items() if pool.drawn_ms + KEEP_MS <= now]:
                del self.pools[name]
            for name in [name for name, (_, at) in self.marks.items() if at + KEEP_MS <= now]:
                del self.marks[name]
            changes = {} if marks is None else self._judge(marks, now)
            if isinstance(changes, Stopped):
                return changes
            pools, remaining, amounts = [], [], []
            for index, draw in enumerate(draws):
                if draw.opened > now:
                    return Short(index, EARLY, draw.opened - now)
                pool = self._pool(draw, now)
                left = self._left(draw, pool, now)
                if left < draw.cost and self._is_lost(draw, pool, now):
                    return Short(index, LOST, max(0, self.since - self._clock()))
                if left < draw.cost:
                    return Short(index, max(0, left))
                if kind != "draw" and len(pool.held) >= (MAX_WITH_HOLDS if kind == "hold" else MAX_HELD):
                    return Short(index, BUSY)
                amounts.append(min(draw.wanted, max(draw.cost, left // 4)) if kind == "lease" else draw.cost)
                pools.append(pool)
                remaining.append(left - amounts[-1])
            if marks is not None and (changes or marks.session in self.marks):
                fields, _ = self.marks.get(marks.session, ({}, 0))
                known = fields or {"s": str(self._lost_until(fields, now))}
                # A call that sets nothing anew keeps the marks as well.
                self.marks[marks.session] = known | changes if changes else known, now
            for draw, pool, amount in zip(draws, pools, amounts, strict=True):
                if kind == "draw":
                    pool.committed += amount
                elif amount:
                    pool.held[op] = amount
                if amount:
                    self._keep(draw, pool, now)
            ends = (
                (pool.period + 1) * draw.period_ms - now if draw.period_ms else -1
                for draw, pool in zip(draws, pools, strict=True)
            )
            return Taken(tuple(remaining), tuple(amounts), tuple(ends))

    def _judge(self, asked: MarkQuestion, now: int) -> dict[str | tuple[str, str], str] | Stopped:
        """Return the fields that a call changes, or the row that does not allow it."""
        if asked.opened > now + MARGIN_MS:
            return Stopped("early", 0)
        fields, _ = self.marks.get(asked.session, ({}, 0))
        lost = asked.opened <= self._lost_until(fields, now)
        refused = len(asked.after) - len(asked.shown)
        unapproved: Stopped | None = None
        for index, row in enumerate(asked.after):
            all_of = [[fields[field] for field in any_of if field in fields] for any_of in row]
            if lost and index >= refused:  # no approver was shown what may be lost
                return Stopped("after", index, ("",) * len(row))
            if lost or all(all_of):
                stopped = Stopped("after", index, tuple([values[0] if values else "" for values in all_of]))
                if index < refused:
                    return stopped
                shown = zip(all_of, asked.shown[index - refused], strict=True)
                if not all(int(value.partition(" ")[0]) in times for values, times in shown for value in values):
                    unapproved = unapproved or stopped
        for index, (any_of, within_ms) in enumerate(asked.only_after):
            value = None if lost else next((fields[field] for field in any_of if field in fields), None)
            if value is None or (within_ms and max(now, asked.at) - int(value.partition(" ")[0]) >= within_ms):
                return Stopped("only_after", index, () if value is None else (value,))
        changes: dict[str | tuple[str, str], str] = {}
        for index, (name, most, digests) in enumerate(asked.distinct):
            new, count = [each for each in digests if (name, each) not in fields], int(fields.get(f"n:{name}", 0))
            if new and (lost or count + len(new) > most):
                return Stopped("distinct", index)
            if new:
                changes |= {(name, each): "" for each in new} | {f"n:{name}": str(count + len(new))}
        if unapproved is not None:  # last: a call that is refused for another reason must not ask for approval
            return unapproved
        new = [field for field in asked.sets if field[0] == "w" and field not in fields]
        warned = max(now, int(fields.get("a", 0)) + 1)  # also while the clock stands still; see ``ledger.lua``
        changes |= dict.fromkeys(new, f"{warned} {asked.by}")
        changes |= {field: f"{now} {asked.by}" for field in asked.sets if field[0] == "p"}
        if changes and len(fields) - ("a" in fields) + len(changes) > MAX_MARK_FIELDS:
            return Stopped("full", 0)
        if new:
            changes["a"] = str(warned)
        return changes

    def _lost_until(self, fields: dict[str | tuple[str, str], str], now: int) -> int:
        """Return the time at or before which a session was opened if it may have lost marks."""
        return max(self.since, int(fields["s"]) if fields else now - KEEP_MS)

    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Short | None:
        """Settle a reservation; see ``Ledger``."""
        with self._lock:
            now, held, short = self._now(), [], None
            for index, (draw, amount) in enumerate(used):
                pool = self._pool(draw, now)
                if op not in pool.held:  # settled before, or of a period that is over
                    continue
                held.append((draw, pool, amount))
                left = max(0, self._left(draw, pool, now))
                if short is None and amount - pool.held[op] > left:
                    short = Short(index, left)
            for draw, pool, amount in held:
                taken = pool.held.pop(op)
                pool.committed += min(amount, taken) if short is not None else amount
                self._keep(draw, pool, now)
            return short

    def undo(self, draws: Sequence[PoolDraw]) -> None:
        """Give back a draw; see ``Ledger``."""
        with self._lock:
            now = self._now()
            for draw in draws:
                pool = self._pool(draw, now)
                if self.pools.get(draw.pool) is pool:
                    pool.committed = max(0, pool.committed - draw.cost)
                    self._keep(draw, pool, now)

    def start(self) -> None:
        """Do nothing; see ``Ledger``."""

    def close(self) -> None:
        """Do nothing; see ``Ledger``."""

    def _refuse(self) -> None:
        """In a forked child: the budgets are the parent's."""
        self._forked = True
        self._lock = threading.Lock()  # another thread of the parent may have held it

    def _now(self) -> int:
        """Return the time, which never goes back."""
        if self._forked:
            raise StoreError("a forked process shares no budgets with its parent: use RedisLedger")
        self._seen = max(self._seen, self._clock())
        return self._seen

    def _keep(self, draw: PoolDraw, pool: PoolState, now: int) -> None:
        self.pools[draw.pool], pool.drawn_ms = pool, now

    def _pool(self, draw: PoolDraw, now: int) -> PoolState:
        """Return the pool in its period: a later one begins anew, an earlier one never comes again."""
        period = now // draw.period_ms if draw.period_ms else 0
        known = self.pools.get(draw.pool)
        return PoolState(period) if known is None or known.period < period else known

    def _is_lost(self, draw: PoolDraw, pool: PoolState, now: int) -> bool:
        opened = max(draw.opened, pool.period * draw.period_ms)
        return opened <= self.since or (draw.pool not in self.pools and opened <= now - KEEP_MS)

    def _left(self, draw: PoolDraw, pool: PoolState, now: int) -> int:
        return 0 if self._is_lost(draw, pool, now) else draw.max - pool.used


_LEDGERS: Final = reset_at_fork(MemoryLedger._refuse)  # noqa: SLF001 - of this module
