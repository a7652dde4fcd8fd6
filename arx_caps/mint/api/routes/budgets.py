# SPDX-License-Identifier: Apache-2.0
"""Routes of budgets: what is left of the pools of a task or a link, and an operator's top-up.  CONTROL 2.11."""

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Body, Endpoint, Query, RouteAnswer, RouteCall
from arx_caps.mint.db.events import Event
from arx_verifier.amounts import MAX_AMOUNT, amount_text, read_amount
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.ledger import RedisLedger

# A pool's identity, SPEC 17.3: task, link, name, unit and period.
_POOL: Final = r"^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9._-]{1,64}/[a-z][a-z0-9_]{0,15}/(task|hour|day)$"
_Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class PoolsQuery(Query, frozen=True):
    """The pools to show: of a task, or of a delegation's link."""

    task: _Id | None = None
    link: _Id | None = None


class TopUpBody(Body, frozen=True):
    """A pool by its ``id``, what to add to it as decimal text, its unit, and the reason."""

    pool: Annotated[str, Meta(pattern=_POOL)]
    amount: Annotated[str, Meta(max_length=32)]
    unit: Annotated[str, Meta(max_length=16)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class PoolShown(RouteAnswer, frozen=True):
    """A pool; amounts are decimal text, times ms since the Unix epoch.

    ``used`` is committed.  ``lost``: the ledger may have lost what was drawn, so that nothing is left but top-ups.
    """

    id: str
    task: str
    pool: str
    unit: str
    per: str
    max: str
    topped_up: str
    used: str
    reserved: str
    leased: str
    remaining: str
    lost: bool
    opened_at: int
    drawn_at: int
    link: str | UnsetType = UNSET
    ends_at: int | UnsetType = UNSET


class Pools(RouteAnswer, frozen=True):
    """Pools, the one that was drawn on last first; a pool that no call has drawn on is not among them."""

    pools: list[PoolShown]


class ToppedUp(RouteAnswer, frozen=True):
    """A pool that was topped up, and what it has left."""

    pool: str
    remaining: str


def show_pools(call: RouteCall) -> Pools:
    """Show the pools of a task or a link that calls have drawn on, the last 1000 of them."""
    asked = call.query
    if (asked.task is None) == (asked.link is None):
        raise RequestError("invalid query: expected either task or link; send exactly one")
    return Pools(pools=[_show(row) for row in _pools_of(call).shown(asked.task, asked.link)])


def top_up_pool(call: RouteCall) -> ToppedUp:
    """Add to a pool in its period; a pool that was lost has exactly so much then."""
    body, ledger = call.body, _pools_of(call)
    task, _, _, unit, _ = body.pool.split("/")
    if body.unit != unit:
        raise RequestError(f"invalid unit: expected {unit}, the unit of the pool, got {body.unit}")
    try:
        amount = read_amount(body.amount)
    except ValueError as error:
        raise RequestError(f"invalid amount: {error}") from error
    if not amount:
        raise RequestError("invalid amount: expected more than 0")
    found = ledger.find(body.pool)
    if found is None:
        raise _no_pool()
    if found["topped_up"] + amount > MAX_AMOUNT:
        raise GrantError("a pool cannot be topped up by more than 1000000000 in a period", code="conflict")
    # Before the ledger adds it: no top-up without a record.
    facts = {"pool": body.pool, "task": task, "amount": amount_text(amount), "unit": unit, "reason": body.reason}
    call.mint.db.record(Event.of("budget.topped_up", call.authenticated.actor, **facts))
    left = ledger.top_up(body.pool, amount)
    if left is None:
        raise _no_pool()
    if left < 0:
        raise GrantError("a pool cannot be topped up by more than 1000000000 in a period", code="conflict")
    return ToppedUp(pool=body.pool, remaining=amount_text(left))


def _pools_of(call: RouteCall) -> RedisLedger:
    if call.mint.ledger is None:
        raise GrantError("this realm has no ledger: set `ledger` in realm.toml", code="not_found")
    return call.mint.ledger


def _no_pool() -> GrantError:
    return GrantError("no such pool, or no call has drawn on it", code="not_found")


def _show(row: dict[str, Any]) -> PoolShown:
    texts: dict[str, Any] = {
        name: amount_text(row[name]) for name in ("max", "topped_up", "reserved", "leased", "remaining")
    }
    same: dict[str, Any] = {
        name: row[name] for name in ("id", "task", "pool", "unit", "per", "lost", "opened_at", "drawn_at")
    }
    return PoolShown(
        **same,
        **texts,
        used=amount_text(row["committed"]),
        link=row["link"] or UNSET,
        ends_at=row["ends_at"] or UNSET,
    )


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/budgets", "arx.tasks.read", show_pools, query=PoolsQuery, problems=("not_found",)),
    Endpoint(
        "POST", "/v1/budgets/top-up", "arx.budgets.write", top_up_pool, TopUpBody, problems=("not_found", "conflict")
    ),
)
