# SPDX-License-Identifier: Apache-2.0
"""Routes of budgets: what is left of pools, and an operator's top-up.  CONTROL 2.11."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, UnsetType

from arx_caps.mint.api.endpoint import Body, Endpoint, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery
from arx_caps.mint.api.views import show_row
from arx_caps.mint.context import BudgetParts, HasDatabase, HasLedger
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import TaskRow
from arx_caps.mint.tasks.liveness import task_state
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_verifier.amounts import MAX_AMOUNT, amount_text, read_amount
from arx_verifier.errors import GrantError, RequestError
from arx_verifier.ledger.redis_ledger import MOST_SHOWN, RedisLedger
from arx_verifier.names import MAX_PATH_BYTES, is_agent_path

# A pool's identity, SPEC 17.3: task, link, name, unit and period.
_POOL: Final = r"^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9._-]{1,64}/[a-z][a-z0-9_]{0,15}/(task|hour|day)$"
_Pool = Annotated[str, Meta(pattern=_POOL)]
_TASKS: Final = 100  # the newest of a session, whose pools are shown before a call draws on them
_Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class PoolsQuery(PageQuery, frozen=True):
    """The pools to show.

    All that calls have drawn on of a task or of a delegation's link, or one by its ``id``.  Otherwise a page of those
    of open tasks, or of all tasks of a session; of an agent (or, as ``acme/**``, of it and those below it); in a unit.
    """

    task: _Id | None = None
    link: _Id | None = None
    pool: _Pool | None = None
    session: Annotated[str, Meta(max_length=32)] | None = None
    agent: Annotated[str, Meta(max_length=MAX_PATH_BYTES + 3)] | None = None
    unit: Annotated[str, Meta(max_length=16)] | None = None


class TopUpBody(Body, frozen=True):
    """A pool by its ``id``, what to add to it as decimal text, its unit, and the reason."""

    pool: _Pool
    amount: Annotated[str, Meta(max_length=32)]
    unit: Annotated[str, Meta(max_length=16)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class PoolShown(RouteAnswer, frozen=True):
    """A pool; amounts are decimal text, times ms since the Unix epoch.

    ``used`` is committed.  ``lost``: the ledger may have lost what was drawn, so that nothing is left but top-ups.
    ``session`` and ``agent`` are the task's, if the mint knows it.  No call has drawn on a pool without ``drawn_at``.
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
    drawn_at: int | UnsetType = UNSET
    session: str | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    link: str | UnsetType = UNSET
    ends_at: int | UnsetType = UNSET


class Pools(Paged, frozen=True):
    """Pools: those of a task or link, the one that was drawn on last first; or a page, the emptiest first.

    ``total`` is the number on all pages.  ``complete`` is false if calls have drawn on more pools of the realm than the
    1000 last ones, among which a page is found.
    """

    pools: list[PoolShown]
    total: int | UnsetType = UNSET
    complete: bool | UnsetType = UNSET


class ToppedUp(RouteAnswer, frozen=True):
    """A pool that was topped up, and what it has left."""

    pool: str
    remaining: str


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("GET", "/v1/budgets", "arx.tasks.read", query=PoolsQuery, problems=("not_found",))
def show_pools(call: RouteCall) -> Pools:
    """Show pools: of a task, a link or an id those that calls have drawn on, otherwise a page of the open ones."""
    asked, ledger = call.query, ledger_of(call.mint)
    named = [each for each in (asked.task, asked.link, asked.pool) if each is not None]
    if not named:
        return list_pools(call.mint, asked)
    if len(named) > 1 or (asked.session, asked.agent, asked.unit) != (None, None, None):
        raise RequestError("invalid query: expected one of task, link and pool, or any of session, agent and unit")
    rows = ledger.read([asked.pool]) if asked.pool is not None else ledger.shown(asked.task, asked.link)
    tasks = call.mint.db.tasks.by_id([*{row["task"] for row in rows}])
    return Pools(pools=[_show(row, tasks.get(row["task"])) for row in rows])


def list_pools(mint: BudgetParts, asked: PoolsQuery) -> Pools:
    """Return a page of the pools of open tasks, or of all tasks of a session, the emptiest first.

    Args:
        mint: The mint.
        asked: Session, agent and unit, and the page.

    Raises:
        RequestError: The agent is neither a path nor one with ``/**``.
        GrantError: ``not_found``: the realm has no ledger.
        StoreError: The ledger did not answer.
    """
    if asked.agent is not None and not is_agent_path(asked.agent.removesuffix("/**")):
        raise RequestError("invalid agent: expected a path, or a path and /**")
    ledger = ledger_of(mint)
    latest = ledger.latest()
    tasks = mint.db.tasks.by_id([*{pool.partition("/")[0] for pool in latest}], asked.session)
    granted: dict[str, tuple[int, int]] = {}
    if asked.session is not None:
        newest = mint.db.tasks.list(session=asked.session, limit=_TASKS)
        tasks |= {row.id: row for row in newest}
        granted = _granted(mint, [row.id for row in newest])
    else:
        tasks = {name: row for name, row in tasks.items() if task_state(mint.kills, row) in ("open", "frozen")}
    wanted = [pool for pool in dict.fromkeys([*latest, *granted]) if _matches(pool, tasks, asked)]
    rows = sorted(ledger.read(wanted, granted, asked.session), key=_order_of)
    left = [row for row in rows if asked.after is None or _order_of(row) > asked.after]
    page = left[: asked.limit]
    return Pools(
        pools=[_show(row, tasks[row["task"]]) for row in page],
        next=_order_of(page[-1]) if len(page) < len(left) else UNSET,
        total=len(rows),
        complete=len(latest) < MOST_SHOWN,
    )


def _matches(pool: str, tasks: Mapping[str, TaskRow], asked: PoolsQuery) -> bool:
    task, _, _, unit, _ = pool.split("/")
    if task not in tasks or asked.unit not in (None, unit):
        return False
    agent, of = tasks[task].agent, asked.agent
    return of is None or agent == of.removesuffix("/**") or (of.endswith("/**") and agent.startswith(of[:-2]))


def _granted(mint: HasDatabase, tasks: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the pools that the mint opened for some tasks: ``max`` in millionths, and when.  SPEC 17.3."""
    pools: dict[str, tuple[int, int]] = {}
    for row in mint.db.grants.of_tasks(tasks):
        for pool, its in StoredGrant.read(row.content).pools(row.task).items():
            most, opened = pools.get(pool, (its.max, its.opened))
            pools[pool] = min(most, its.max), min(opened, its.opened)
    return pools


def _order_of(row: Mapping[str, Any]) -> str:
    """Return a text that orders pools by the share of them that is left."""
    whole = row["remaining"] + row["committed"] + row["reserved"] + row["leased"]
    return f"{row['remaining'] * 10**6 // whole if whole else 0:07}{row['id']}"


@endpoint("POST", "/v1/budgets/top-up", "arx.budgets.write", TopUpBody, problems=("not_found", "conflict"))
def top_up_pool(call: RouteCall) -> ToppedUp:
    """Add to a pool in its period; a pool that was lost has exactly so much then."""
    body, ledger = call.body, ledger_of(call.mint)
    task, _, _, unit, _ = body.pool.split("/")
    if body.unit != unit:
        raise RequestError(f"invalid unit: expected {unit}, the unit of the pool, got {body.unit}")
    try:
        amount = read_amount(body.amount)
    except ValueError as error:
        raise RequestError(f"invalid amount: {error}") from error
    if not amount:
        raise RequestError("invalid amount: expected more than 0")
    found = ledger.read([body.pool])
    if not found:
        raise _no_pool()
    if found[0]["topped_up"] + amount > MAX_AMOUNT:
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


def ledger_of(mint: HasLedger) -> RedisLedger:
    """Return the realm's ledger; raise ``not_found`` if it has none."""
    if mint.ledger is None:
        raise GrantError("this realm has no ledger: set `ledger` in realm.toml", code="not_found")
    return mint.ledger


def _no_pool() -> GrantError:
    return GrantError("no such pool, or no call has drawn on it", code="not_found")


def _show(row: Mapping[str, Any], task: TaskRow | None) -> PoolShown:
    amounts = {name: amount_text(row[name]) for name in ("max", "topped_up", "reserved", "leased", "remaining")}
    return show_row(
        PoolShown,
        row,
        **amounts,
        used=amount_text(row["committed"]),
        drawn_at=row["drawn_at"] or UNSET,
        link=row["link"] or UNSET,
        ends_at=row["ends_at"] or UNSET,
        session=task.session if task is not None else UNSET,
        agent=task.agent if task is not None else UNSET,
    )
