# SPDX-License-Identifier: Apache-2.0
"""*Budgets* and *Budget*: what the pools of open tasks have left, the emptiest first, and an administrator's top-up."""

import secrets
from typing import Final

from starlette.responses import Response

from arx_caps.console.command import command, quoted
from arx_caps.console.gauge import Gauge, ask_budgets, gauges_of
from arx_caps.console.submissions import Submissions
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.work.budgets import show_pools, top_up_pool
from arx_verifier.errors import GrantError, RequestError, StoreError

HOME: Final = "/console/budgets"
FILTERS: Final = ("session", "agent", "unit")
SHOWN: Final = 50

_SUBMISSIONS: Final = Submissions[str]()


def show_list(visit: Visit) -> Response:
    """List the pools that match the filters, those with the least left first."""
    filters = {name: visit.query.get(name, "").strip() for name in FILTERS}
    budgets = ask_budgets(visit, **filters, limit=SHOWN, after=visit.query.get("after"))
    return visit.render(
        "budgets.html",
        title="Budgets",
        command=command("budget list", filters),
        budgets=budgets,
        gauges=gauges_of(budgets),
        filters=filters,
        filtered=any(filters.values()),
    )


def show_one(visit: Visit) -> Response:
    """Show a pool, and the form that tops it up."""
    return _show(visit, _find(visit))


def top_up(visit: Visit) -> Response:
    """Add to a pool, and lead to it."""
    body = {name: visit.form.get(name, "").strip() for name in ("amount", "unit", "reason")} | {"pool": _pool(visit)}
    sent = (visit.operator.id, visit.form.get("form", ""), *body.values())
    try:
        # Once, however often the form is sent: each top-up adds.
        _SUBMISSIONS.once(sent, lambda: visit.call(top_up_pool, body=body).remaining)
    except StoreError as error:
        return _show(visit, None, error=error)
    except RequestError as error:
        return _show(visit, _find(visit), problem=f"{error}.")
    return visit.redirect(f"{HOME}/{_pool(visit)}")


def _find(visit: Visit) -> Gauge:
    found = visit.call(show_pools, query={"pool": _pool(visit)}).pools
    if not found:
        raise GrantError("no such pool, or no call has drawn on it", code="not_found")
    return Gauge.of(found[0])


def _show(visit: Visit, one: Gauge | None, *, problem: str = "", error: StoreError | None = None) -> Response:
    pool = _pool(visit)
    *_, name, unit, _ = pool.split("/")
    return visit.render(
        "budget.html",
        503 if error is not None else 400 if problem else 200,
        title=f"Budget {name} in {unit}",
        command=f"arx budget show {quoted(pool)}",
        top_up=f"arx budget top-up {quoted(pool)} AMOUNT {quoted(unit)} --reason …",
        one=one,
        problem=problem,
        error=error,
        form=secrets.token_hex(8),
    )


def _pool(visit: Visit) -> str:
    return str(visit.request.path_params["pool"])


PAGES: Final = (
    Page("GET", HOME, show_list),
    Page("GET", f"{HOME}/{{pool:path}}", show_one),
    Page("POST", f"{HOME}/{{pool:path}}", top_up),
)
