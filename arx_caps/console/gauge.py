# SPDX-License-Identifier: Apache-2.0
"""What pages show of budgets: the pools as the API lists them, or why not, and each pool as the parts of a bar."""

from typing import Any, Final, NamedTuple

import msgspec

from arx_caps.console.visit import Visit
from arx_caps.mint.api.routes.work.budgets import Pools, PoolShown, PoolsQuery, list_pools, show_pools
from arx_caps.mint.context import BudgetParts
from arx_caps.mint.db.database import PAGE
from arx_verifier.amounts import read_amount
from arx_verifier.errors import GrantError, StoreError

READ: Final = "arx.tasks.read"
LOW: Final = 10  # per cent


class PoolsView(msgspec.Struct, frozen=True):
    """What is known of some pools.

    Attributes:
        found: A page of them; None if the ledger does not answer, or there is none.
        problem: Why it does not answer; empty if it did, or the realm has no ledger.
    """

    found: Pools | None = None
    problem: str = ""


class Gauge(NamedTuple):
    """A pool as a bar; the parts are percent of all that it has in its period.

    Attributes:
        pool: The pool.
        used: The part that calls have used.
        reserved: The part that waits for a commit.
        leased: The part that services have escrowed.
        left: The part that calls can draw on.
        state: ``lost``, ``exhausted``, ``low``, ``not drawn on``, or ``open``.
        tone: That of the state.
    """

    pool: PoolShown
    used: float
    reserved: float
    leased: float
    left: float
    state: str
    tone: str

    @classmethod
    def of(cls, pool: PoolShown) -> "Gauge":
        """Return the bar of a pool."""
        used, reserved, leased, remaining = map(read_amount, (pool.used, pool.reserved, pool.leased, pool.remaining))
        # What it has is not always ``max`` and the top-ups: of a pool that was lost and topped up, it is the latter.
        percent = 100 / (used + reserved + leased + remaining or 1)
        state, tone = "open", "ok"
        if pool.lost:
            state, tone = "lost", "bad"
        elif not remaining:
            state, tone = "exhausted", "bad"
        elif pool.drawn_at is msgspec.UNSET:
            state, tone = "not drawn on", "quiet"
        elif remaining * percent < LOW:
            state, tone = "low", "warn"
        return cls(pool, used * percent, reserved * percent, leased * percent, remaining * percent, state, tone)


def gauges_of(budgets: PoolsView) -> list[Gauge]:
    """Return the bars of pools."""
    return [] if budgets.found is None else [Gauge.of(pool) for pool in budgets.found.pools]


def ask_budgets(visit: Visit, **query: Any) -> PoolsView:
    """Ask the API for a page of pools as the operator; that the ledger does not answer is no error of the page.

    Args:
        visit: The visit.
        **query: Members of the query.

    Raises:
        ArxError: Any other refusal.
    """
    try:
        return PoolsView(visit.call(show_pools, query=query))
    except StoreError as error:
        return PoolsView(problem=str(error))
    except GrantError as error:
        if error.code != "not_found":
            raise
        return PoolsView()


def show_budgets(visit: Visit, session: str) -> PoolsView:
    """Ask the API for the pools of a session, as far as the role allows."""
    # Without a ledger there is nothing to ask for, and nothing to record.
    if visit.mint.ledger is None or not visit.may(READ):
        return PoolsView()
    return ask_budgets(visit, session=session, limit=PAGE)


def look_at_budgets(mint: BudgetParts, session: str) -> PoolsView:
    """Return the pools of a session, for a stream."""
    if mint.ledger is None:
        return PoolsView()
    try:
        return PoolsView(list_pools(mint, PoolsQuery(session=session, limit=PAGE)))
    except StoreError as error:
        return PoolsView(problem=str(error))
