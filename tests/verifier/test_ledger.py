# SPDX-License-Identifier: Apache-2.0
"""The ledger: no unit over, whatever is drawn, reserved, leased, lost or repeated; in memory and in Redis alike."""

import copy
import os
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from decimal import ROUND_DOWN, Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from arx_verifier.amounts import MAX_AMOUNT, amount_text, is_amount, millionths_of, read_amount
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.ledger import leases
from arx_verifier.ledger.costs import Costs
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import (
    BUSY,
    EARLY,
    KEEP_MS,
    LOST,
    MARGIN_MS,
    MAX_HELD,
    NEW,
    PoolDraw,
    Short,
    Taken,
    number_of,
)
from tests.ledgers import look, new_ledger, only_bucket
from tests.servers import run_together
from tests.support import QUICK
from tests.verifier import ledger_model
from tests.verifier.ledger_model import LedgerState, ModelLedger

pytestmark = pytest.mark.spec("17.5")

T0 = 1_800_000_000_000
THOROUGH = settings(
    max_examples=400, stateful_step_count=30, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
)
HOUR = 3_600_000
CLOCK_GOES_BACK = ("now = max(clock_ms, self.seen)", "now = clock_ms")


def draw(cost: int, most: int = 100, pool: str = "p", opened: int = T0 + 1, period_ms: int = 0) -> PoolDraw:
    """What a call asks of a pool."""
    return PoolDraw(f"t/-/{pool}/usd/{'hour' if period_ms else 'task'}", most, period_ms, opened, cost, cost)


class Clock:
    """A clock that a test moves."""

    def __init__(self, now: int = T0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def started() -> tuple[ModelLedger, Clock]:
    """A ledger that began a while ago."""
    clock = Clock()
    ledger = ModelLedger(clock=clock)
    clock.now += 10
    return ledger, clock


@pytest.mark.spec("17.2")
@given(st.integers(0, MAX_AMOUNT))
@QUICK
def test_an_amount_has_one_text(millionths: int) -> None:
    """Millionths and text are each other's, without a float between."""
    text = amount_text(millionths)
    assert is_amount(text)
    assert millionths_of(text) == read_amount(text) == millionths
    assert Decimal(text) * 1_000_000 == millionths
    assert 4 * MAX_AMOUNT < 2**53


@pytest.mark.spec("17.2")
@pytest.mark.parametrize(
    "value",
    [
        -1,
        "-1",
        "+1",
        "1e3",
        " 1",
        "1 ",
        "",
        "١",
        "nan",
        float("nan"),
        float("inf"),
        True,
        None,
        [1],
        1e10,
        -0.5,
        ".",
        "1.",
        "10000000000",
        "1" * 65,
        Decimal(-1),
        Decimal("1e9999999"),
        10**30,
    ],
)
def test_what_is_no_amount_costs_nothing_to_refuse(value: Any) -> None:
    """Signs, exponents, other scripts, truth values and what is beyond the bound are no costs."""
    with pytest.raises(ValueError, match="expected a number"):
        read_amount(value)


@pytest.mark.spec("17.2")
def test_a_cost_is_rounded_up() -> None:
    """A cost below a millionth is not free, and a float counts as it is written."""
    assert read_amount("0.0000001") == 1
    assert read_amount(Decimal("1.0000001")) == 1_000_001
    assert read_amount(0.1) == 100_000
    assert read_amount(1e-7) == 1
    assert read_amount(0) == 0


@pytest.mark.spec("17.2")
def test_a_service_that_rounds_its_own_numbers_changes_no_cost() -> None:
    """The decimal context of the thread, with few digits and rounding down, is not used for amounts."""
    with localcontext(prec=2, rounding=ROUND_DOWN):
        assert read_amount("12.345678") == 12_345_678
        assert read_amount(Decimal("0.0000011")) == 2
    assert read_amount("1." + "0" * 40 + "1") == 1_000_001


@pytest.mark.spec("17.4")
@pytest.mark.parametrize(
    "declared",
    [
        {"a b": {}},
        {"a": 1},
        {"a": {"USD": 1}},
        {"a": {"usd": -1}},
        {"a": {"usd": "$"}},
        {"a": {"usd": {"reserve": 1, "more": 2}}},
        {"a": {"usd": {}}},
        {"a": {"usd": None}},
    ],
)
def test_costs_are_read_at_the_start(declared: Any) -> None:
    """A mistake in the costs is one of the start, and not of the first call."""
    with pytest.raises(SettingsError, match="costs"):
        Costs(declared)


def test_all_pools_give_or_none() -> None:
    """A call that one pool cannot take leaves the other as it was."""
    ledger, _ = started()
    assert ledger.take("draw", "", [draw(60), draw(5, most=4, pool="q")]) == Short(1, 4)
    assert ledger.take("draw", "", [draw(100), draw(4, most=4, pool="q")]) == Taken((0, 0), (100, 4), (-1, -1))
    assert ledger.take("draw", "", [draw(1)]) == Short(0, 0)
    assert isinstance(ledger.take("draw", "", [draw(0)]), Taken)


@pytest.mark.spec("17.4")
def test_a_reservation_is_committed_once() -> None:
    """The rest goes back once; a repeat, a stranger's id and a larger use change nothing beyond the pool."""
    ledger, _ = started()
    ledger.take("reserve", "a", [draw(60)])
    assert ledger.take("draw", "", [draw(41)]) == Short(0, 40)
    assert ledger.settle("b", [(draw(60), 0)]) is None
    assert ledger.settle("a", [(draw(60), 20)]) is None
    assert ledger.settle("a", [(draw(60), 0)]) is None
    assert ledger.take("draw", "", [draw(81)]) == Short(0, 80)
    ledger.take("reserve", "c", [draw(60)])
    assert ledger.settle("c", [(draw(60), 90)]) == Short(0, 20)
    assert ledger.take("draw", "", [draw(21)]) == Short(0, 20)
    ledger.take("reserve", "d", [draw(10)])
    assert ledger.settle("d", [(draw(10), 20)]) is None
    assert ledger.take("draw", "", [draw(1)]) == Short(0, 0)


def test_a_pool_has_bounded_reservations() -> None:
    """A holder that reserves as little as it can does not fill the ledger."""
    ledger, _ = started()
    for number in range(MAX_HELD):
        assert isinstance(ledger.take("reserve", str(number), [draw(1, most=10**6)]), Taken)
    assert ledger.take("reserve", "more", [draw(1, most=10**6)]) == Short(0, BUSY)
    assert isinstance(ledger.take("draw", "", [draw(1, most=10**6)]), Taken)


@pytest.mark.spec("17.6")
def test_a_reservation_takes_what_this_process_holds() -> None:
    """A slice of its pool goes back first if the ledger has too little without it; what was drawn stays drawn."""
    ledger, _ = started()
    leased = LeasedLedger(ledger, idle_s=60)
    assert isinstance(leased.take("draw", "", [draw(1)]), Taken)
    assert ledger.state.pools[draw(1).pool].leased > 1
    assert leased.take("reserve", "a", [draw(100)]) == Short(0, 99)
    assert leased.take("reserve", "b", [draw(99)]) == Taken((0,), (99,), (-1,))
    assert ledger.state.pools[draw(1).pool].leased == 0


@pytest.mark.spec("17.6")
def test_a_pool_full_of_reservations_needs_no_slice() -> None:
    """A verifier that leases draws at the ledger then: small reservations stop no call that reserves nothing."""
    ledger, _ = started()
    for number in range(MAX_HELD):
        ledger.take("reserve", str(number), [draw(1, most=10**6)])
    leased = LeasedLedger(ledger, idle_s=60)
    assert isinstance(leased.take("draw", "", [draw(1, most=10**6)]), Taken)
    assert ledger.state.pools[draw(1).pool].committed == 1
    leased.close()


def test_no_period_begins_twice() -> None:
    """A new hour fills the pool; a clock that goes back fills nothing, and one that jumped ahead stands still."""
    ledger, clock = started()
    assert isinstance(ledger.take("draw", "", [draw(100, period_ms=HOUR)]), Taken)
    clock.now += HOUR
    ledger.take("reserve", "r", [draw(70, period_ms=HOUR)])
    clock.now -= HOUR
    assert ledger.take("draw", "", [draw(31, period_ms=HOUR)]) == Short(0, 30)
    clock.now += 5 * HOUR
    assert isinstance(ledger.take("draw", "", [draw(100, period_ms=HOUR)]), Taken)
    assert ledger.settle("r", [(draw(70, period_ms=HOUR), 0)]) is None, "a reservation of an hour that is over"
    assert ledger.take("draw", "", [draw(1, period_ms=HOUR)]) == Short(0, 0)
    clock.now -= 2 * HOUR
    assert ledger.take("draw", "", [draw(1, period_ms=HOUR)]) == Short(0, 0)


def test_what_may_be_lost_is_exhausted() -> None:
    """After another server process took over, no open pool gives anything; later ones, and later periods, do."""
    ledger, clock = started()
    state = ledger.state
    assert isinstance(ledger.take("draw", "", [draw(10)]), Taken)
    now = state.begin("another", clock.now)
    assert state.take("draw", "", [draw(1)], now) == Short(0, LOST, MARGIN_MS)
    assert state.take("draw", "", [draw(1, pool="new", opened=now)], now) == Short(0, LOST, MARGIN_MS)
    assert state.take("draw", "", [draw(1, period_ms=HOUR)], now) == Short(0, LOST, MARGIN_MS)
    later = state.begin("another", now + MARGIN_MS + 2)
    assert isinstance(state.take("draw", "", [draw(1, pool="new", opened=later)], later), Taken)
    hour = state.begin("another", now + HOUR)
    assert isinstance(state.take("draw", "", [draw(1, period_ms=HOUR)], hour), Taken)
    assert state.take("draw", "", [draw(1)], hour) == Short(0, LOST)


def test_an_operator_fills_what_was_lost_with_no_more_than_named() -> None:
    """A lost pool has what it was topped up by; one that was not lost has that in addition."""
    ledger, clock = started()
    state = ledger.state
    state.take("draw", "", [draw(100)], clock.now)
    pool = draw(0).pool
    assert state.top_up(pool, 0, None, 5, clock.now) == 5
    assert state.take("draw", "", [draw(6)], clock.now) == Short(0, 5)
    now = state.begin("another", clock.now)
    assert state.top_up(pool, 0, None, 7, now) == 7
    assert state.take("draw", "", [draw(8)], now) == Short(0, 7)
    assert isinstance(state.take("draw", "", [draw(7)], now), Taken)
    assert state.top_up("t/-/x/usd/task", 0, None, 7, now) is None
    assert state.top_up(pool, 0, None, MAX_AMOUNT, now) == -1


def test_what_was_topped_up_can_be_lost_again() -> None:
    """Also by a second restart while the ledger's time stands still."""
    ledger, clock = started()
    state = ledger.state
    state.take("draw", "", [draw(100)], clock.now)
    state.top_up(draw(0).pool, 0, None, 7, state.begin("second", clock.now))
    kept = copy.deepcopy(state)
    assert isinstance(state.take("draw", "", [draw(7)], clock.now), Taken)
    assert isinstance(kept.take("draw", "", [draw(7)], kept.begin("third", clock.now)), Short)


def test_a_pool_of_the_future_waits() -> None:
    """A ledger that began anew before its opening would take it for a full one."""
    ledger, clock = started()
    assert ledger.take("draw", "", [draw(1, opened=clock.now + 5)]) == Short(0, EARLY, 5)


def test_what_was_forgotten_is_exhausted() -> None:
    """A pool that no call drew on for two days is not full again."""
    ledger, clock = started()
    assert isinstance(ledger.take("draw", "", [draw(100)]), Taken)
    clock.now += KEEP_MS + 120_000
    assert ledger.take("draw", "", [draw(1)]) == Short(0, LOST)
    assert draw(1).pool not in ledger.state.pools


SPARED = st.integers(0, 7)  # most steps lose nothing: from the first loss on, few pools give anything


class Accounts(RuleBasedStateMachine):
    """Anything that callers, crashes and clocks can do to one ledger, against what was really given out."""

    made: Any = LedgerState

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.state, self.run, self.count = T0, self.made(), "run-0", 0
        self.state.begin(self.run, self.clock, (0, NEW))
        self.clock += 1
        self.seen = (self.state.number, self.run)  # the newest beginning that a caller saw
        self.cut_off: list[tuple[Any, str]] = []  # servers that were in use, as they were left
        self.copies: list[Any] = []  # of the data of clean ends
        self.given: dict[tuple[str, int], int] = {}  # by pool and period: what calls have used or may still use
        self.open: dict[str, tuple[tuple[PoolDraw, int, int], ...]] = {}
        self.extra: dict[str, int] = {}
        self.issued: list[PoolDraw] = []  # of tasks that a mint started later

    def _draws(self, costs: list[int], hourly: int) -> list[PoolDraw]:
        made = [draw(cost, most=50 * (number + 1), pool=f"p{number}") for number, cost in enumerate(costs)]
        one = draw(costs[0], most=25, pool="hourly", period_ms=HOUR)
        return [made, [*made, one], [one]][hourly]

    def _now(self) -> int:
        """The ledger's time, at a call of a caller that remembers."""
        now = int(self.state.begin(self.run, self.clock, self.seen))
        self.seen = (self.state.number, self.run)
        return now

    def _period(self, each: PoolDraw) -> int:
        return self.state.seen // HOUR if each.period_ms else 0

    @rule(
        kind=st.sampled_from(["draw", "reserve", "hold", "lease"]),
        costs=st.lists(st.integers(0, 40), min_size=1, max_size=3),
        hourly=st.integers(0, 2),
        wanted=st.integers(0, 60),
    )
    def take(self, kind: Any, costs: list[int], hourly: int, wanted: int) -> None:
        self.count += 1
        op, draws = f"op-{self.count}", self._draws(costs, hourly)
        if kind == "lease":
            draws = [each._replace(wanted=max(each.cost, wanted)) for each in draws]
        taken = self.state.take(kind, op, draws, self._now())
        if not isinstance(taken, Taken):
            return
        for each, amount in zip(draws, taken.amounts, strict=True):
            key = (each.pool, self._period(each))
            self.given[key] = self.given.get(key, 0) + amount
        if kind != "draw":
            held = zip(draws, taken.amounts, strict=True)
            # What is nothing is not kept; no service reserves it.
            self.open[op] = tuple((each, amount, self._period(each)) for each, amount in held if amount)

    @rule(which=st.integers(0, 7), amounts=st.lists(st.integers(0, 80), min_size=4, max_size=4), again=st.booleans())
    def settle(self, which: int, amounts: list[int], again: bool) -> None:
        if not self.open:
            return
        op = sorted(self.open)[which % len(self.open)]
        held = self.open.pop(op)
        used = [(each, min(spent, amount + 20)) for (each, amount, _), spent in zip(held, amounts, strict=False)]
        # A ledger that lost the reservation draws nothing in addition: the service alone knows of what it cost more.
        pools = self.state.pools
        known = {each.pool for each, _, _ in held if each.pool in pools and op in pools[each.pool].held}
        short = self.state.settle(op, used, self._now())
        for (each, amount, period), (_, spent) in zip(held, used, strict=True):
            if self._period(each) == period:
                drawn = spent if short is None and each.pool in known else min(spent, amount)
                self.given[(each.pool, period)] += drawn - amount
        if again:
            self.state.settle(op, [(each, 0) for each, _, _ in held], self._now())

    @rule(ms=st.sampled_from([1, 1000, HOUR, -5000, -HOUR, 9 * HOUR]))
    def move(self, ms: int) -> None:
        self.clock += ms

    @rule(spared=SPARED, supervised=st.booleans())
    def restart(self, spared: int = 0, supervised: bool = False) -> None:
        """Another process, with all that was written; of a supervisor that has seen the one before end, or not."""
        if spared:
            return
        self.count += 1
        self.run = f"run-{self.count}"
        if supervised:
            self.state.open("", self.run, self.clock)

    @rule(cost=st.integers(0, 40), hourly=st.booleans(), late=st.sampled_from([0, 0, -MARGIN_MS + 1]))
    def issue(self, cost: int, hourly: bool, late: int = 0) -> None:
        """A mint registers a new pool, by its own clock, and its holder draws on it."""
        self.count += 1
        each = draw(cost, most=40, pool=f"new{self.count}", opened=self.clock + late, period_ms=HOUR if hourly else 0)
        self.state.register([each], self._now())
        self.issued.append(each)
        self.spend(-1)

    @rule(which=st.integers(0, 7))
    def spend(self, which: int) -> None:
        """A holder of a later task draws on its pool."""
        if not self.issued:
            return
        each = self.issued[which % len(self.issued)]
        if isinstance(self.state.take("draw", "", [each], self._now()), Taken):
            key = (each.pool, self._period(each))
            self.given[key] = self.given.get(key, 0) + each.cost

    @rule(spared=SPARED)
    def lose(self, spared: int = 0) -> None:
        """Another process, with some of the pools; or another instance without any data."""
        if spared:
            return
        self.count += 1
        self.run = f"run-{self.count}"
        if self.count % 2:
            self.clock = max(self.clock, self.state.seen - MARGIN_MS + 1)  # clocks differ by less than the margin
            self.state = self.made()
        else:
            kept = dict([*self.state.pools.items()][::2])
            self.state.pools, self.state.kept = kept, {name: self.state.kept[name] for name in kept}
        self._now()  # a call on another pool

    @rule(spared=SPARED, which=st.integers(0, 3), late=st.integers(0, 2))
    def end_cleanly(self, spared: int = 0, which: int = 0, late: int = 0) -> None:
        """Another process with all that was written and the seal; or with a copy of this or an earlier end."""
        if spared:
            return
        self.count += 1
        seal = f"seal-{self.count}"
        if self.state.seal(seal, self.run, self.clock):
            self.copies.append(copy.deepcopy(self.state))
        self.run = f"run-{self.count}"
        self.clock += (0, 5000, HOUR)[late]
        opened = self.state.open(seal, self.run, self.clock)
        if which == 0 and self.copies:  # the seal is used up
            self.state = copy.deepcopy(self.copies[self.count % len(self.copies)])
            opened = self.state.open("", f"{self.run}-copy", self.clock)
            assert not opened
        self._now()

    @rule(spared=SPARED, lags=st.booleans())
    def take_over(self, spared: int = 0, lags: bool = False) -> None:
        """A replica, with the data of before; the primary is cut off with its own."""
        if spared:
            return
        self.count += 1
        self.cut_off.append((copy.deepcopy(self.state), self.run))
        self.run = f"run-{self.count}"
        if lags:
            self.state.pools, self.state.kept = {}, {}
        self._now()

    @rule(spared=SPARED, which=st.integers(0, 3))
    def come_back(self, spared: int = 0, which: int = 0) -> None:
        """A server that was cut off is the ledger again, without a restart."""
        if spared or not self.cut_off:
            return
        back = self.cut_off.pop(which % len(self.cut_off))
        self.cut_off.append((self.state, self.run))
        self.clock = max(self.clock, self.state.seen - MARGIN_MS + 1)
        self.state, self.run = back

    @rule()
    def forget(self) -> None:
        """Another verifier, which remembers nothing; a mint has looked at the ledger before."""
        self._now()
        self.seen = (0, "")

    @rule(amount=st.integers(1, 20))
    def top_up(self, amount: int) -> None:
        each = draw(0, most=50, pool="p0")
        added = self.state.top_up(each.pool, 0, each.opened, amount, self._now())
        if added is not None and added >= 0:
            self.extra[each.pool] = self.extra.get(each.pool, 0) + amount

    @invariant()
    def no_unit_over(self) -> None:
        limits = {draw(0, pool=f"p{number}").pool: 50 * (number + 1) for number in range(3)}
        limits[draw(0, pool="hourly", period_ms=HOUR).pool] = 25
        limits |= {each.pool: each.max for each in self.issued}
        for (pool, _), given_out in self.given.items():
            assert given_out <= limits[pool] + self.extra.get(pool, 0)
        for pool, state in self.state.pools.items():
            assert min(state.committed, state.reserved, state.leased) >= 0
            assert state.reserved + state.leased == sum(amount for amount, _ in state.held.values())
            assert state.used <= limits[pool] + self.extra.get(pool, 0)


def test_no_sequence_of_events_overspends() -> None:
    """Draws, reservations, leases, repeats, clocks, restarts and losses in any order: never a unit over."""
    seldom(Accounts)
    run_state_machine_as_test(Accounts, settings=QUICK)


# Simplifications of the ledger that each give away more than there is: what they replace, and by what.
MUTATIONS = {
    "a reservation takes nothing": (
        ("                    state.reserved += amount\n", "                    state.reserved += 0\n"),
    ),
    "a slice takes nothing": (
        ("                    state.leased += amount\n", "                    state.leased += 0\n"),
    ),
    "a commit is repeated": (("state.held.pop(op)", "state.held[op]"),),
    "more than was reserved is committed": (("if short is None and amount", "if False and amount"),),
    "what goes back is not held against the period": (
        (
            "            if op not in state.held:  # settled before, or of a period that is over\n"
            "                continue\n",
            "            state = self.pools.get(draw.pool, state)\n"
            "            if op not in state.held:\n"
            "                state.committed = max(0, state.committed - draw.cost)\n"
            "                continue\n",
        ),
    ),
    "the clock goes back": (CLOCK_GOES_BACK,),
    # Where the time never goes back, no earlier period is asked for: either of the two is enough.
    "a period begins again": (CLOCK_GOES_BACK, ("state.period < period", "state.period != period")),
    "a lost pool is full": (("return state.reopened not in (self.whole, registered_in(self.whole))", "return False"),),
    "a failover loses nothing": (("or self.run != run or older:", "or older:"),),
    "a lost pool that was topped up has its max": (
        (
            "return state.extra if state.reopened >= 0 else draw.max + state.extra",
            "return draw.max + state.extra",
        ),
    ),
    "a slice is a quarter of the pool": (("remaining[number] // 4", "draw.max // 4"),),
    "no margin without data": (("if self.since < 0 and its_run == NEW:", "if self.since < 0:"),),
    "an older beginning is taken": (("or self.run != run or older:", "or self.run != run:"),),
    "equal beginnings are one": ((" or (latest == self.number and its_run != run)", ""),),
}


def seldom(machine: type[Accounts]) -> None:
    """Events that chance seldom makes in this order, each on a ledger of its own."""
    # A clock is set back over a period, and then over a loss before an operator tops up.
    made = machine()
    made.move(9 * HOUR)
    made.take("draw", [20], hourly=True, wanted=0)
    for ms in (-HOUR, HOUR):
        made.move(ms)
        made.take("draw", [20 if ms > 0 else 1], hourly=True, wanted=0)
        made.no_unit_over()
    made.move(-10 * HOUR)
    made.lose()
    made.lose()
    made.move(10 * HOUR)
    for _ in range(2):
        made.take("draw", [40], hourly=False, wanted=0)
        made.no_unit_over()
        made.top_up(1)
    # A reservation is settled in the next period, whose units are all drawn.
    made = machine()
    made.take("reserve", [20], hourly=True, wanted=0)
    made.move(HOUR)
    made.take("draw", [25], hourly=True, wanted=0)
    made.settle(0, [0] * 4, again=False)
    made.take("draw", [20], hourly=True, wanted=0)
    made.no_unit_over()
    # A slice of a pool that is nearly used up.
    made = machine()
    made.take("draw", [45], hourly=False, wanted=0)
    made.take("lease", [1], hourly=False, wanted=60)
    made.no_unit_over()
    # A server that was cut off is back: the hour was drawn on at the other one.  It may have been restarted meanwhile.
    for run in ("run-0", "restarted"):
        made = machine()
        made.take_over(lags=True)
        state, _ = made.cut_off.pop()
        state.begin(run, made.clock)
        made.cut_off.append((state, run))
        made.move(HOUR)
        for turn in (made.come_back, made.no_unit_over):
            made.take("draw", [20], hourly=2, wanted=0)
            turn()
    # A ledger without data, whose clock is behind.
    made = machine()
    for _ in range(2):
        made.take("draw", [20], hourly=0, wanted=0)
    made.forget()
    made.move(-5000)
    made.lose()
    made.move(5000)
    made.take("draw", [20], hourly=0, wanted=0)
    made.no_unit_over()
    # Earlier data of a ledger that had registered a pool, whose later draws they lack.
    made = machine()
    made.end_cleanly()
    made.restart(supervised=True)
    made.issue(20, hourly=False)
    earlier = copy.deepcopy(made.state)
    made.spend(-1)
    made.no_unit_over()
    assert made.given[made.issued[0].pool, 0] == 40
    made.state = earlier
    made.restart()
    made.spend(-1)
    made.no_unit_over()
    # Another process has lost the second pool, and its caller remembers nothing.
    made = machine()
    made.take("draw", [1, 70], hourly=False, wanted=0)
    made.forget()
    made.lose()
    made.take("draw", [0, 70], hourly=False, wanted=0)
    made.no_unit_over()


def overspends(patches: Sequence[tuple[str, str]]) -> bool:
    """Whether the events above break a ledger with these lines."""
    text = Path(ledger_model.__file__).read_text("utf-8")
    for old, new in patches:
        assert text.count(old) == 1, "the ledger has changed: change the mutation"
        text = text.replace(old, new)
    module = types.ModuleType("ledger_mutated")
    sys.modules[module.__name__] = module  # where a dataclass looks its annotations up
    exec(compile(text, module.__name__, "exec"), vars(module))
    machine = type("Mutated", (Accounts,), {"made": module.LedgerState})
    try:
        seldom(machine)
        run_state_machine_as_test(machine, settings=THOROUGH)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_in_the_ledger_is_noticed(name: str) -> None:
    """Each of these simplifications of the ledger overspends, and the events above find it."""
    assert overspends(MUTATIONS[name])


def test_what_was_registered_can_be_lost() -> None:
    """A ledger that took a registration for good would overspend with earlier data."""
    assert overspends((("not in (self.whole, registered_in(self.whole))", "== -1"),))


@pytest.mark.nightly
def test_the_same_events_break_no_ledger_without_a_mistake() -> None:
    """A machine that fails whatever it is given would notice every mistake."""
    assert not overspends(())


@pytest.mark.spec("17.6")
def test_a_lease_is_used_here_and_goes_back() -> None:
    """Calls are decided on a slice; what is left goes back at the close, and nothing else."""
    ledger, _ = started()
    leased = LeasedLedger(ledger, idle_s=60)
    for _ in range(5):
        assert isinstance(leased.take("draw", "", [draw(1, most=6400)]), Taken)
    state = ledger.state.pools[draw(1).pool]
    assert (state.committed, state.leased) == (0, 100)
    leased.undo([draw(1, most=6400)])
    leased.close()
    assert (state.committed, state.leased, state.held) == (4, 0, {})


@pytest.mark.spec("17.6")
@given(st.lists(st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=3), st.booleans()), max_size=25))
@QUICK
def test_slices_pay_out_what_calls_drew_and_nothing_else(calls: list[tuple[list[int], bool]]) -> None:
    """All pools of a call give or none; after the close, each has committed exactly what calls drew and kept."""
    ledger, _ = started()
    leased, drew = LeasedLedger(ledger, idle_s=60), dict.fromkeys(map(str, range(3)), 0)
    for costs, refused_later in calls:
        draws = [draw(cost, 100 + number, pool=str(number)) for number, cost in enumerate(costs)]
        taken = leased.take("draw", "", draws)
        if isinstance(taken, Taken) and refused_later:
            leased.undo([each for each in draws if each.cost])
        elif isinstance(taken, Taken):
            for number, cost in enumerate(costs):
                drew[str(number)] += cost
        assert all(state.used <= state.max for state in ledger.state.pools.values())
    leased.close()
    for name, amount in drew.items():
        state = ledger.state.pools.get(draw(0, pool=name).pool)
        assert (amount, 0) == ((0, 0) if state is None else (state.committed, state.leased))


@pytest.mark.spec("17.6")
def test_a_slice_is_for_its_own_max_and_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caveat with a smaller max asks the ledger, as does a call in the pool's next period."""
    ledger, clock = started()
    monkeypatch.setattr(leases, "time", types.SimpleNamespace(monotonic_ns=lambda: clock.now * 1_000_000))
    leased = LeasedLedger(ledger, idle_s=60)
    assert isinstance(leased.take("draw", "", [draw(1, most=6400)]), Taken)
    assert isinstance(leased.take("draw", "", [draw(2, most=1)]), Short)
    hourly = draw(1, most=6400, period_ms=HOUR)
    for committed in (1, 2):
        assert isinstance(leased.take("draw", "", [hourly]), Taken)
        assert leased.take_here([hourly]) is not None
        clock.now += HOUR
        assert leased.take_here([hourly]) is None
        assert ledger.state.pools[hourly.pool].period == clock.now // HOUR - 1, committed
    leased.close()


@pytest.mark.spec("17.6")
def test_an_idle_slice_goes_back() -> None:
    """Another verifier finds again what one does not use."""
    ledger, _ = started()
    settled = threading.Event()
    real = ledger.settle

    def settle(*args: Any) -> Any:
        found = real(*args)
        settled.set()
        return found

    ledger.settle = settle  # type: ignore[method-assign]
    leased = LeasedLedger(ledger, idle_s=0.01)
    assert isinstance(leased.take("draw", "", [draw(1, most=6400)]), Taken)
    assert settled.wait(60)
    assert ledger.state.pools[draw(1).pool].used == 1
    leased.close()


@pytest.mark.spec("17.6")
def test_a_lost_answer_loses_no_slice_for_good() -> None:
    """A lease whose answer was lost goes back with the next question."""
    ledger, _ = started()
    real, lost = ledger.take, [True]

    def take(*args: Any) -> Any:
        found = real(*args)
        if lost.pop() if lost else False:
            raise StoreError("no answer")
        return found

    ledger.take = take  # type: ignore[method-assign]
    leased = LeasedLedger(ledger, idle_s=60)
    with pytest.raises(StoreError):
        leased.take("draw", "", [draw(1, most=6400)])
    assert isinstance(leased.take("draw", "", [draw(1, most=6400)]), Taken)
    state = ledger.state.pools[draw(1).pool]
    assert len(state.held) == 1
    leased.close()
    assert state.used == 1


@pytest.mark.spec("17.6")
def test_threads_share_slices_and_overspend_nothing() -> None:
    """Eight threads on a pool of 1 000 get 1 000 calls through, not one more."""
    ledger, _ = started()
    leased, got = LeasedLedger(ledger, idle_s=60), []

    def work() -> None:
        got.append(sum(isinstance(leased.take("draw", "", [draw(1, most=1000)]), Taken) for _ in range(400)))

    run_together(*[work] * 8)
    assert sum(got) == 1000
    leased.close()
    assert ledger.state.pools[draw(1).pool].committed == 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    embedded = pytest.importorskip("arx_caps.embedded")
    with embedded.EmbeddedValkey(Path(tmp_path_factory.mktemp("ledger"))) as valkey:
        yield valkey.url


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["draw", "reserve", "hold", "lease", "settle", "undo"]),
            st.lists(st.integers(0, 40), min_size=1, max_size=3),
            st.integers(0, 80),
            st.sampled_from([-10, 1, 5000]),
            st.sampled_from([0, 1, -7000, HOUR, -HOUR, KEEP_MS]),
        ),
        max_size=12,
    )
)
@QUICK
def test_the_ledger_in_memory_does_what_the_model_does(steps: Any) -> None:
    """The same answers, step by step: pools of a task and of an hour, lost ones, later ones, clocks that go back."""
    model, clock = started()
    ledger = MemoryLedger(clock=Clock())
    ledger._clock = clock
    held: list[tuple[str, list[PoolDraw]]] = []
    for number, (kind, costs, other, opened, ms) in enumerate(steps):
        clock.now += ms
        pools = zip(costs, (("p", 0), ("q", 0), ("hourly", HOUR)), strict=False)
        draws = [draw(cost, 120, pool, T0 + opened, period_ms) for cost, (pool, period_ms) in pools]
        if kind == "settle":
            op, draws = held.pop() if held else ("", draws)
            used = [(each, other) for each in draws]
            assert ledger.settle(op, used) == model.settle(op, used)
        elif kind == "undo":
            ledger.undo(draws)
            model.undo(draws)
        else:
            draws = [each._replace(wanted=max(each.cost, other)) for each in draws]
            assert ledger.take(kind, str(number), draws) == model.take(kind, str(number), draws)
            held.append((str(number), draws))
        for name, state in model.state.pools.items():
            pool = ledger.pools[name]
            assert (pool.period, pool.committed, pool.used) == (state.period, state.committed, state.used)
        assert ledger.pools.keys() == model.state.pools.keys()


@pytest.mark.servers
def test_the_functions_do_what_the_model_does(server: str) -> None:
    """The functions of the store and the model give the same answers, step by step."""
    real = new_ledger(server, "model")
    real.open("")  # as the supervisor of a server does
    real.start()
    begun = look(real)[1]
    model = LedgerState(run="r", number=1, since=begun, whole=begun, seen=begun, sole="r")
    opened = begun + 1
    while look(real)[0] <= opened:  # a millisecond
        pass
    machine = {"count": 0}

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["draw", "reserve", "hold", "lease", "settle", "undo", "top_up", "register"]),
                st.lists(st.integers(0, 40), min_size=1, max_size=3),
                st.integers(0, 80),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    @QUICK
    def compare(steps: Any) -> None:
        machine["count"] += 1
        held: list[tuple[str, list[PoolDraw]]] = []
        for number, (kind, costs, other, lost) in enumerate(steps):
            at = begun if lost else opened
            draws = [
                draw(cost, most=120, pool=f"m{machine['count']}-{index}", opened=at) for index, cost in enumerate(costs)
            ]
            op, now = f"{machine['count']}-{number}", model.begin("r", model.seen + 1)
            now = max(now, opened + 1)
            if kind == "settle":
                if held:
                    op, draws = held.pop()
                used = [(each, other) for each in draws]
                assert real.settle(op, used) == model.settle(op, used, now)
            elif kind == "undo":
                real.undo(draws)
                model.undo(draws, now)
            elif kind == "register":
                assert real.register(draws) == model.register(draws, now)
            elif kind == "top_up":
                known = None if other % 2 else at
                topped = real.top_up(draws[0].pool, other, known)
                assert topped == model.top_up(draws[0].pool, 0, known, other, now)
            else:
                if kind == "lease":
                    draws = [each._replace(wanted=max(each.cost, other)) for each in draws]
                assert real.take(kind, op, draws) == model.take(kind, op, draws, now)
                held.append((op, draws))
        real_pools = {each["id"]: each for each in real.shown()}
        for name, state in model.pools.items():
            shown = real_pools.get(name)
            if shown is not None:
                have = (shown["committed"], shown["reserved"], shown["leased"], shown["topped_up"], shown["max"])
                assert have == (state.committed, state.reserved, state.leased, state.extra, state.max)
        model.pools.clear()
        model.kept.clear()

    compare()
    assert real.shown(), "nothing was compared"
    real.close()


@pytest.mark.servers
def test_a_restart_of_the_store_exhausts_what_was_open(tmp_path: Path) -> None:
    """With all of its data or without, the store gives nothing of a pool that was open; an operator may."""
    embedded = pytest.importorskip("arx_caps.embedded")
    for keeps in (True, False):
        valkey = embedded.EmbeddedValkey(tmp_path / f"v{keeps}")
        ledger = new_ledger(valkey.start(), "acme")
        ledger.start()
        opened = _next_ms()
        assert isinstance(ledger.take("draw", "", [draw(10, opened=opened)]), Taken)
        if not keeps:
            ledger._client.redis.flushall()
        valkey.stop()
        with pytest.raises(StoreError):
            ledger.take("draw", "", [draw(10, opened=opened)])
        valkey.start()
        short = ledger.take("draw", "", [draw(10, opened=opened)])
        assert isinstance(short, Short)
        assert (short.remaining, 0 < short.wait_ms <= MARGIN_MS) == (LOST, True)
        assert ledger.top_up(draw(0).pool, 7, opened) == 7
        assert ledger.take("draw", "", [draw(8, opened=opened)]) == Short(0, 7)
        ledger.close()
        valkey.stop()


@pytest.mark.servers
def test_pools_are_shown_by_task_and_by_link(server: str) -> None:
    """Those that were drawn on last are the first; a pool that has the name of a link is not the link's."""
    ledger = new_ledger(server, "shown")
    ledger.start()
    opened = _next_ms()
    names = ["t/-/p/usd/task", "t/link/q/usd/task", "t/-/link/usd/task", "u/link/p/usd/task"]
    for name in names:
        assert isinstance(ledger.take("draw", "", [PoolDraw(name, 100, 0, opened, 1, 1)]), Taken)
        _next_ms()
    assert [pool["id"] for pool in ledger.shown()] == names[::-1]
    assert [pool["id"] for pool in ledger.shown("t")] == names[2::-1]
    assert [pool["id"] for pool in ledger.shown(link="link")] == [names[3], names[1]]
    assert [pool["id"] for pool in ledger.shown("t", "link")] == [names[1]]
    assert ledger.shown("t", "none") == []
    ledger.close()


@pytest.mark.servers
def test_a_pool_is_shown_before_a_call_draws_on_it(server: str) -> None:
    """With all of its max, or as lost, exactly as the first call then finds it; an unknown one is left out."""
    ledger = new_ledger(server, "unseen")
    ledger.start()
    since, day = _next_ms(), 24 * 3_600_000
    _next_ms()
    pools = {
        draw(1, pool=name, opened=since - before, period_ms=period): left
        for name, before, period, left in (
            ("new", 0, 0, 100),
            ("old", day, 0, 0),
            ("forgotten", 8 * day, 0, 0),
            ("hourly", 8 * day, 3_600_000, 0),
        )
    }
    granted = {each.pool: (each.max, each.opened) for each in pools}

    def shown() -> dict[str, tuple[int, bool, int]]:
        rows = ledger.read([*granted, "t/-/absent/usd/task"], granted)
        return {row["id"]: (row["remaining"], row["lost"], row["drawn_at"]) for row in rows}

    assert ledger.latest() == []
    assert shown() == {each.pool: (left, not left, 0) for each, left in pools.items()}
    ledger._client.redis.hset(only_bucket(ledger).keys[0], "since", 0)  # a ledger that has begun long ago
    before = shown()
    assert [left for left, _, _ in before.values()] == [100, 100, 0, 100]
    for each in pools:
        assert isinstance(ledger.take("draw", "", [each]), Short) == before[each.pool][1], each
    drawn = [each.pool for each in pools if not before[each.pool][1]]
    assert sorted(ledger.latest()) == sorted(drawn)
    assert [row["remaining"] for row in ledger.read(drawn)] == [99] * 3
    ledger.close()


@pytest.mark.servers
def test_a_user_without_a_right_is_named_the_role(server: str) -> None:
    """Neither the rights of a follower nor the words of the server."""
    root = new_ledger(server, "root")
    root._client.redis.execute_command("ACL", "SETUSER", "little", "on", ">secret", "-@all", "+hello", "+auth", "+info")
    ledger = new_ledger(server.replace("unix://", "unix://little@"), "acme", password="secret")
    with pytest.raises(StoreError, match=r"does not permit this user to do that: `arx redis acl --role ledger` prints"):
        ledger.take("draw", "", [draw(1)])
    ledger.close()
    root.close()


@pytest.mark.servers
def test_two_services_that_load_the_functions_lose_nothing(server: str) -> None:
    """At a server without functions both load them; the second load does not begin the ledger anew."""
    first, second = new_ledger(server, "twice"), new_ledger(server, "twice")
    first.start()
    opened = _next_ms()
    assert isinstance(first.take("draw", "", [draw(10, opened=opened)]), Taken)
    second.load()
    assert isinstance(second.take("draw", "", [draw(10, opened=opened)]), Taken)
    first.close()
    second.close()


def _next_ms() -> int:
    """A time at which the ledger has begun, and that is over."""
    opened = time.time_ns() // 1_000_000 + 1
    while time.time_ns() // 1_000_000 <= opened:
        pass
    return opened


@pytest.mark.servers
def test_a_forked_child_looks_for_itself(server: str) -> None:
    """It has no thread of its parent: its first call begins one, and it remembers what the parent did."""
    ledger = new_ledger(server, "forked")
    ledger.start()
    parent, child = ledger._looker, os.fork()
    if child == 0:
        code = 1
        try:
            ledger.latest()
            ledger.read(["t/-/p/usd/task"])
            own = ledger._looker
            code = int(
                own is None or own is parent or not own.is_alive() or number_of(only_bucket(ledger).remembered) != 1
            )
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ledger.close()
    assert parent is not None
    assert not parent.is_alive()


@pytest.mark.servers
def test_a_server_that_may_evict_keeps_no_budget(server: str) -> None:
    """An evicted pool would be lost without a trace."""
    ledger, other = new_ledger(server, "evict"), redis.Redis.from_url(server)
    other.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match="noeviction"):
            ledger.take("draw", "", [draw(1)])
    finally:
        other.config_set("maxmemory-policy", "noeviction")
    assert isinstance(ledger.take("draw", "", [draw(1)]), Short)
    ledger.close()


@pytest.mark.servers
def test_the_rights_of_the_mint_are_enough(server: str) -> None:
    """A user with them draws, reserves, settles, gives back and tops up; it reaches no key of another realm."""
    acl = pytest.importorskip("arx_caps.revocation.acl")
    root = new_ledger(server, "root")
    root._client.redis.execute_command("ACL", "SETUSER", "budgets", *acl.rules("ledger-mint", "acme", "secret"))
    ledger = new_ledger(server.replace("unix://", "unix://budgets@"), "acme", password="secret")
    ledger.load()
    ledger.start()
    each = draw(10, opened=_next_ms())
    _next_ms()
    assert isinstance(ledger.take("reserve", "a", [each]), Taken)
    assert ledger.settle("a", [(each, 4)]) is None
    assert isinstance(ledger.take("draw", "", [each]), Taken)
    ledger.undo([each])
    assert ledger.top_up(each.pool, 5) == 101
    assert [pool["committed"] for pool in ledger.shown("t")] == [4]
    assert ledger.read([each.pool, draw(0, pool="none").pool]) == ledger.shown("t")[:1]
    other = new_ledger(server.replace("unix://", "unix://budgets@"), "other", password="secret")
    with pytest.raises(StoreError):
        other.take("draw", "", [each])
    for one in (ledger, other, root):
        one.close()
