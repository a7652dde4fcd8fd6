# SPDX-License-Identifier: Apache-2.0
"""Leases: a verifier escrows a slice of each pool, and decides on it without the ledger.  SPEC 17.6.

What a crashed verifier had escrowed stays leased until the pool's period ends: it is lost to the pool, and never spent
twice.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from arx_verifier._platform import reset_at_fork
from arx_verifier.errors import StoreError
from arx_verifier.ledger.pools import (
    BUSY,
    Kind,
    Ledger,
    MarkQuestion,
    PoolDraw,
    Short,
    Stopped,
    Taken,
    UsedKey,
)
from arx_verifier.revocation.store_steps import Steps, by_steps, run, steps_of

# A slice is a 64th of a pool, or 64 calls of this cost: the ledger gives at most a quarter of the rest.
SLICE: Final = 64
_TURN_S: Final = 0.0005  # the ledger answers within such a time
# Hundreds of tasks that look each half millisecond would keep the interpreter from the thread that opens a connection.
_LONGEST_LOOK_S: Final = 0.016
LONGEST_TURN_S: Final = 1.0  # longest wait for the turn: some answers of a slow ledger, or a thousand of a fast one
IDLE_S: Final = 2.0  # a slice that no call has used for this long goes back


class Slice:
    """What this process holds of a pool."""

    __slots__ = ("_others", "draw", "left", "max", "op", "taken", "touched", "until_ns")

    def __init__(self, draw: PoolDraw, op: str, taken: int, remaining: int, until_ns: int) -> None:
        self.draw, self.max, self.op, self.taken, self.left = draw, draw.max, op, taken, taken
        self._others, self.until_ns, self.touched = remaining, until_ns, True

    @property
    def remaining(self) -> int:
        """What the pool had left at the ledger when this was leased, and what is left here, millionths."""
        return self._others + self.left


_NEVER: Final = 1 << 62
_NO_TURN: Final = "the ledger is slow: too many calls wait for it"


class _Turn(NamedTuple):
    """The wait for a lock that a caller keeps while the ledger answers; see ``StoreCall``."""

    lock: threading.Lock

    def run(self) -> None:
        """Wait in this thread.

        Raises:
            StoreError: Others had the turn for too long.
        """
        # A task of this thread's event loop may have it, which goes on only when this thread does.
        if not self.lock.acquire(timeout=LONGEST_TURN_S):
            raise StoreError(_NO_TURN)

    async def run_async(self) -> None:
        """Wait while the event loop runs: the lock's holder may be another of its tasks.

        Raises:
            StoreError: Others had the turn for too long.
        """
        from asyncio import sleep

        until, look_s = time.monotonic() + LONGEST_TURN_S, _TURN_S
        while not self.lock.acquire(blocking=False):
            if time.monotonic() >= until:
                raise StoreError(_NO_TURN)
            await sleep(look_s)
            look_s = min(2 * look_s, _LONGEST_LOOK_S)


class LeasedLedger:
    """A ledger that decides most draws in this process.

    Args:
        ledger: The ledger that keeps the pools.
        idle_s: After how long without a use a slice goes back, s.
    """

    waits = True

    def __init__(self, ledger: Ledger, *, idle_s: float = IDLE_S) -> None:
        self._ledger, self._idle_s = ledger, idle_s
        self._slices: dict[str, Slice] = {}
        self._returns: list[tuple[str, Sequence[tuple[PoolDraw, int]]]] = []
        self._lock, self._renewing = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        _LEDGERS.add(self)

    def take_here(self, draws: Sequence[PoolDraw]) -> list[Slice] | None:
        """Take from this process's slices, or from none; None if one of them has not enough.  It never waits.

        Args:
            draws: The pools, each once.
        """
        found: list[Slice] = []
        slices = self._slices
        with self._lock:
            for draw in draws:
                held, cost = slices.get(draw.pool), draw.cost
                if (
                    held is None
                    or held.left < cost
                    # The caveat's own max: another holder's pool of the same name may have a larger one.
                    or held.max != draw.max
                    or (held.until_ns is not _NEVER and time.monotonic_ns() >= held.until_ns)
                ):
                    # What was taken goes back under the same lock: no other call has seen it taken.
                    for other, before in zip(found, draws, strict=False):
                        other.left += before.cost
                    return None
                held.left -= cost
                held.touched = True
                found.append(held)
        return found

    @by_steps
    def take(
        self,
        kind: Kind,
        op: str,
        draws: Sequence[PoolDraw],
        used: UsedKey | None = None,
        marks: MarkQuestion | None = None,
    ) -> Steps[Taken | Short | Stopped]:
        """Take from all pools, from slices where they have enough and no row about marks is judged; see ``Ledger``.

        Raises:
            StoreError: A slice was needed, and the ledger did not answer.
        """
        if kind != "draw" or marks is not None:
            more = () if marks is None else (used, marks)
            answer = yield from steps_of(self._ledger.take, kind, op, draws, *more)
            # What this process holds of a pool may be what the reservation lacks.
            if isinstance(answer, Short) and answer.remaining >= 0 and (yield from self._give_back(draws)):
                answer = yield from steps_of(self._ledger.take, kind, op, draws, *more)
            return answer
        taken = self._take_here(draws)
        if taken is not None:
            return taken
        yield _Turn(self._renewing)  # one caller leases: several would each escrow a slice
        try:
            for _ in draws:
                short = yield from self._renew(draws)
                if short is not None and short.remaining == BUSY:
                    break  # too many reservations for one more slice: a draw needs none
                if short is not None:
                    return short
                taken = self._take_here(draws)
                if taken is not None:
                    return taken
        finally:
            self._renewing.release()
        # No slice: other callers used it, or its period ended.  This call is decided by the ledger itself.
        return (yield from steps_of(self._ledger.take, kind, op, draws))

    def _take_here(self, draws: Sequence[PoolDraw]) -> Taken | None:
        found = self.take_here(draws)
        if found is None:
            return None
        return Taken(tuple([held.remaining for held in found]), tuple([draw.cost for draw in draws]), ())

    def _renew(self, draws: Sequence[PoolDraw]) -> Steps[Short | None]:
        """Lease a slice of each pool whose slice has not enough; what is left of the old one goes back first."""
        needed = []
        with self._lock:
            for index, draw in enumerate(draws):
                held = self._slices.get(draw.pool)
                if held is not None and held.left >= draw.cost and self._is_live(held, draw):
                    continue
                if held is not None:
                    self._give_up(held)
                needed.append((index, draw._replace(wanted=max(draw.cost * SLICE, draw.max // SLICE))))
        if not needed:
            return None
        yield from self._return()
        op, sent_ns = os.urandom(9).hex(), time.monotonic_ns()
        wanted = [draw for _, draw in needed]
        try:
            answer = yield from steps_of(self._ledger.take, "lease", op, wanted)
        except (StoreError, GeneratorExit):
            # It may have been leased: it goes back when the ledger answers again.
            with self._lock:
                self._returns.append((op, [(draw, 0) for draw in wanted]))
            raise
        if isinstance(answer, Short):
            return answer._replace(at=needed[answer.at][0])
        with self._lock:
            for draw, remaining, amount, left_ms in zip(wanted, *answer, strict=True):
                # By this clock since before the question: the slice ends before its period does at the ledger.
                until = _NEVER if left_ms < 0 else sent_ns + left_ms * 1_000_000
                self._slices[draw.pool] = Slice(draw, op, amount, remaining, until)
        self._watch()
        return None

    @staticmethod
    def _is_live(held: Slice, draw: PoolDraw) -> bool:
        return held.draw.max == draw.max and time.monotonic_ns() < held.until_ns

    def _give_up(self, held: Slice) -> None:
        """Stop using a slice; the caller has the lock."""
        # Before the ledger hears of it: what goes back is never used again.
        del self._slices[held.draw.pool]
        self._returns.append((held.op, [(held.draw, held.taken - held.left)]))

    def _give_back(self, draws: Sequence[PoolDraw]) -> Steps[bool]:
        """Give back the slices of pools; return whether there was one.

        Raises:
            StoreError: The ledger did not answer.
        """
        yield _Turn(self._renewing)
        try:
            with self._lock:
                found = [self._slices[draw.pool] for draw in draws if draw.pool in self._slices]
                for held in found:
                    self._give_up(held)
            yield from self._return()
        finally:
            self._renewing.release()
        return bool(found)

    def _return(self) -> Steps[None]:
        """Settle the slices that were given up; those that the ledger does not answer for stay for later."""
        while True:
            with self._lock:
                if not self._returns:
                    return
                op, used = self._returns[0]
            yield from steps_of(self._ledger.settle, op, used)
            with self._lock:
                self._returns = [entry for entry in self._returns if entry[1] is not used]

    @by_steps
    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Steps[Short | None]:
        """Settle a reservation; see ``Ledger``."""
        return (yield from steps_of(self._ledger.settle, op, used))

    @by_steps
    def undo(self, draws: Sequence[PoolDraw]) -> Steps[None]:
        """Give back a draw of a refused call; see ``Ledger``."""
        beyond = []
        with self._lock:
            for draw in draws:
                held = self._slices.get(draw.pool)
                if held is None or held.left + draw.cost > held.taken:
                    beyond.append(draw)
                else:
                    held.left += draw.cost
        # A slice that was settled since then was settled with this cost: it is given back at the ledger.
        if beyond:
            yield from steps_of(self._ledger.undo, beyond)

    def start(self) -> None:
        """As the ledger's own."""
        self._ledger.start()

    def close(self) -> None:
        """Give back every slice, and close the ledger."""
        self._closed = True
        self._wake.set()
        has_turn = self._renewing.acquire(timeout=LONGEST_TURN_S)  # or a task of this thread has it
        with self._lock:
            for held in [*self._slices.values()]:
                self._give_up(held)
        if has_turn:
            self._renewing.release()
        # The slices stay leased until their periods end.
        with suppress(StoreError):
            run(self._return())
        self._ledger.close()

    def _watch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._give_back_idle, name="arx-budget-leases", daemon=True)
            self._thread.start()

    def _give_back_idle(self) -> None:
        while not self._closed:
            self._wake.wait(self._idle_s)
            with self._lock:
                for held in [*self._slices.values()]:
                    if not held.touched:
                        self._give_up(held)
                    held.touched = False
            # The next round tries again.
            with suppress(StoreError):
                run(self._return())

    def _forget(self) -> None:
        """In a forked child: the slices are the parent's."""
        self._slices, self._returns = {}, []
        self._lock, self._renewing = threading.Lock(), threading.Lock()
        self._wake, self._thread = threading.Event(), None


_LEDGERS: Final = reset_at_fork(LeasedLedger._forget)  # noqa: SLF001 - of this module
