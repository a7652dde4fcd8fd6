# SPDX-License-Identifier: Apache-2.0
"""Budgets: a call draws its cost from every pool of its chain.  SPEC 17.

``price`` computes the cost before anything is spent.  ``draw`` takes it, in step 6 of a verification.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from arx_verifier.amounts import Amount, amount_text, read_amount
from arx_verifier.errors import Failure, Shortfall, StoreError, refusal, shorten
from arx_verifier.ledger.costs import Cost, Costs
from arx_verifier.ledger.leases import LeasedLedger, Slice
from arx_verifier.ledger.pools import (
    BUSY,
    EARLY,
    LOST,
    USED,
    WAKING,
    Kind,
    Ledger,
    MarkQuestion,
    PoolDraw,
    Short,
    Stopped,
    Taken,
    UsedKey,
)
from arx_verifier.limits import MAX_TOOLS
from arx_verifier.names import MAX_TOOL_CHARS
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.store_steps import Steps, by_steps, steps_of
from arx_verifier.token import call_proof
from arx_verifier.token.call_proof import PresentedCall
from arx_verifier.verification.chain_state import BudgetPool, ProvenChain
from arx_verifier.verification.nonces import judge_call
from arx_verifier.verification.reasons import NO_STORE, REPLAYED, Refused, pool_ahead

NO_LEDGER: Final = "a ledger at this service"


class Priced(NamedTuple):
    """What a call costs.

    Attributes:
        draws: What it asks of each pool, in the order of the chain's pools.
        reserved: The units that the service commits the actual cost of later.
    """

    draws: tuple[PoolDraw, ...]
    reserved: frozenset[str]


class Drawn(msgspec.Struct, eq=False):
    """What a call took from its pools.

    Attributes:
        ledger: Keeps them.
        op: The id of its reservation.
        pools: The pools.
        priced: What it cost.
        taken: What the ledger gave, or the slices that gave it.
        reserved: Whether it was reserved, and is not committed yet; also until ``keep``.
        begun: ``time.monotonic_ns`` before it asked a ledger that may wait for a network; 0 if it asked none.
    """

    ledger: Ledger
    op: str
    pools: Sequence[BudgetPool]
    priced: Priced
    taken: Taken | list[Slice]
    reserved: bool = False
    begun: int = 0

    @property
    def draws(self) -> tuple[PoolDraw, ...]:
        """What it took from each pool."""
        return self.priced.draws

    @property
    def remaining(self) -> dict[str, int]:
        """By unit the least that a pool has left, millionths."""
        taken, least = self.taken, dict[str, int]()
        each = taken.remaining if isinstance(taken, Taken) else [held.remaining for held in taken]
        for pool, left in zip(self.pools, each, strict=True):
            least[pool.unit] = min(left, least.get(pool.unit, left))
        return least

    def of_reserved(self, actual: Amount) -> dict[str, Amount]:
        """Return a cost by the one unit that is reserved.

        Raises:
            ValueError: Several units are.
        """
        units = self.priced.reserved
        if len(units) > 1:
            raise ValueError(f"this call reserved several units: name each of {', '.join(sorted(units))}")
        return dict.fromkeys(units, actual)

    @by_steps
    def commit(self, actual: Mapping[str, Amount]) -> Steps[None]:
        """Commit what a reserved call cost, and give the rest back.

        Args:
            actual: The cost by unit; a unit that is not named costs what was reserved.

        Raises:
            ValueError: Nothing was reserved, it was committed before, or a cost or unit is wrong.
            BudgetError: ``insufficient_budget``: it cost more than was reserved, and a pool has not so much
                left.  What was reserved is then committed whole.
            StoreError: The ledger did not answer; call it again.
        """
        taken = self.taken
        if not self.reserved or not isinstance(taken, Taken):
            raise ValueError("this call has no reservation that is open: see `reserve` in the costs of the service")
        units = {pool.unit for pool in self.pools}
        # A unit that this token has no pool of costs it nothing: the service prices alike for all callers.
        costs = {unit: read_amount(amount) for unit, amount in actual.items() if unit in units}
        used = [(draw, costs.get(pool.unit, draw.cost)) for pool, draw in zip(self.pools, self.draws, strict=True)]
        short = yield from steps_of(self.ledger.settle, self.op, used)
        self.reserved = False
        left = [had + draw.cost - amount for had, (draw, amount) in zip(taken.remaining, used, strict=True)]
        self.taken = taken._replace(remaining=tuple([max(0, each) for each in left]))
        if short is not None:
            pool, (draw, amount) = self.pools[short.at], used[short.at]
            raise refusal(*_too_little(pool, short.remaining, amount - draw.cost)[:2])

    def keep(self) -> Steps[None]:
        """Commit the whole cost of a call that was reserved until each ``once`` was spent."""
        if self.reserved and not self.priced.reserved:
            self.reserved = False
            with suppress(StoreError):  # it stays reserved
                yield from steps_of(self.ledger.settle, self.op, [(draw, draw.cost) for draw in self.draws])

    @by_steps
    def undo(self) -> Steps[None]:
        """Give back what a call took that was then refused."""
        # A pool of an hour may be in its next one already: there it would give back what others drew.
        try:
            if self.reserved:
                yield from steps_of(self.ledger.settle, self.op, [(draw, 0) for draw in self.draws])
            elif draws := [draw for draw in self.draws if draw.cost and not draw.period_ms]:
                yield from steps_of(self.ledger.undo, draws)
        except StoreError:
            pass  # it stays drawn


class Budgets:
    """The pools of all callers of a service.

    Args:
        ledger: Keeps the pools; None refuses every token with a pool.
        costs: What its tools cost.
    """

    def __init__(self, ledger: Ledger | None, costs: Costs) -> None:
        self.ledger, self._costs = ledger, costs
        self._take_here = ledger.take_here if isinstance(ledger, LeasedLedger) else None

    def price(self, proven: ProvenChain, request: AccessRequest) -> Priced | Refused:
        """Return what a call asks of each pool of its chain, or the refusal of a call whose cost is not known."""
        if self.ledger is None:
            return _unsupported(proven.pools[0], NO_LEDGER, "none")
        known: Priced | None = proven.prices.get(request.tool)
        if known is not None:
            return known
        costs, draws, reserved, fixed = self._costs.of(request.tool), [], set(), True
        session = proven.identifier.session or ""
        for pool in proven.pools:
            declared = costs.get(pool.unit)
            if declared is None:
                expected = f"a cost in {pool.unit} for {shorten(request.tool)} in `costs` of this service"
                return _unsupported(pool, expected, "none")
            cost = declared.fixed
            if declared.argument is not None or declared.reserves:
                fixed = False
                read = _read_cost(declared, request)
                if isinstance(read, Refused):
                    return read
                cost = read
                if declared.reserves:
                    reserved.add(pool.unit)
            draws.append(PoolDraw(pool.id, pool.max, pool.period_ms, pool.opened, cost, cost, session))
        priced = Priced(tuple(draws), frozenset(reserved))
        if fixed and len(request.tool) <= MAX_TOOL_CHARS:
            if len(proven.prices) >= MAX_TOOLS:  # with a rule `*` a holder could otherwise fill memory with names
                proven.prices.clear()
            proven.prices[request.tool] = priced
        return priced

    def key_beside(self, nonces: Any, call: PresentedCall, request: AccessRequest) -> UsedKey | None:
        """Return the key of a call, if the server that keeps the pools keeps it too; else None."""
        if not getattr(self.ledger, "keeps_calls_of", _no)(nonces):
            return None
        key: UsedKey = nonces.key_of(call.signature, call.issued_at + call_proof.KEEP_MS, request.at)
        return key

    def judge_beside(self, nonces: Any, call: PresentedCall) -> Refused | None:
        """Return the refusal of a call that was new when it was drawn for: it may be from before the server's start."""
        ledger: Any = self.ledger
        # By the ledger's connections: they spent it, and the nonces' own may be from before a restart, or none.
        return judge_call(nonces, call, True, ledger.calls_since())

    def draw(
        self, proven: ProvenChain, priced: Priced, used: UsedKey | None = None, marks: MarkQuestion | None = None
    ) -> Steps[Drawn | Refused]:
        """Take what a call costs from all of its pools and set its marks, or do nothing.

        Args:
            proven: Its chain.
            priced: What it costs.
            used: Its key, which is spent with the draw; None if it is spent.
            marks: What it asks of marks, and which it sets; None for nothing.
        """
        assert self.ledger is not None
        # A draw of a pool per hour cannot be undone: a holder could empty it with an approval that was used before.
        holds = not priced.reserved and proven.once and any(draw.period_ms for draw in priced.draws)
        kind: Kind = "reserve" if priced.reserved else "hold" if holds else "draw"
        if self._take_here is not None and kind == "draw" and marks is None:
            held = self._take_here(priced.draws)
            if held is not None:
                return Drawn(self.ledger, "", proven.pools, priced, held)
        begun = time.monotonic_ns() if self.ledger.waits else 0
        op = "" if kind == "draw" else os.urandom(9).hex()
        try:
            more = () if used is None and marks is None else (used,) if marks is None else (used, marks)
            taken = yield from steps_of(self.ledger.take, kind, op, priced.draws, *more)
        except StoreError:
            return NO_STORE
        if isinstance(taken, Stopped):
            return NO_STORE if proven.marks is None or marks is None else proven.marks.refusal(marks.tool, taken)
        if isinstance(taken, Short):
            if not priced.draws:
                return REPLAYED if taken.remaining == USED else NO_STORE
            return _refused(proven.pools[taken.at], taken, priced.draws[taken.at].cost)
        return Drawn(self.ledger, op, proven.pools, priced, taken, kind != "draw", begun)


NOTHING: Final = Priced((), frozenset())


def _no(_: object) -> bool:
    return False


def _read_cost(cost: Cost, request: AccessRequest) -> int | Refused:
    """Return a cost that an argument has, or that is reserved."""
    amount = cost.fixed
    if cost.argument is not None:
        try:
            amount = read_amount(request.args[cost.argument])
        except (KeyError, ValueError):
            given = shorten(request.args[cost.argument]) if cost.argument in request.args else "nothing"
            return _bad_cost(cost.argument, "a cost from 0 to 1000000000", given)
    if cost.reserves and amount == 0:
        return _bad_cost(cost.argument or "cost", "a cost above 0, to be reserved", "0")
    return amount


def _bad_cost(argument: str, expected: str, came: str) -> Refused:
    return Refused("argument_not_allowed", (Failure("request", argument, expected, came),))


def _unsupported(pool: BudgetPool, expected: str, came: str) -> Refused:
    return Refused("budget_unsupported", (Failure(pool.place, "spend", expected, came),))


def _refused(pool: BudgetPool, short: Short, cost: int) -> Refused:
    if short.remaining == USED:
        return REPLAYED
    if short.remaining == WAKING:
        return NO_STORE
    if short.remaining == EARLY:
        return pool_ahead(pool.place, short.wait_ms)
    if short.remaining == BUSY:
        came = f"too many open reservations of {pool.name}: commit some"
        return Refused("insufficient_budget", (Failure(pool.place, "spend", "a further reservation", came),))
    return _too_little(pool, short.remaining, cost, short.wait_ms)


def _too_little(pool: BudgetPool, remaining: int, cost: int, wait_ms: int = 0) -> Refused:
    code = "insufficient_budget" if remaining > 0 else "budget_exhausted"
    lost_ms = wait_ms if remaining == LOST else None
    shortfall = Shortfall.of(
        pool.place, pool.name, pool.hop, pool.unit, amount_text(max(0, remaining)), amount_text(cost), lost_ms=lost_ms
    )
    return Refused(code, (shortfall,))


def remaining_texts(drawn: Any) -> dict[str, str]:
    """Return by unit what is left as decimal text; empty without a budget."""
    return {} if drawn is None else {unit: amount_text(left) for unit, left in drawn.remaining.items()}
