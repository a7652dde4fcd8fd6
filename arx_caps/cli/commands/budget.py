# SPDX-License-Identifier: Apache-2.0
"""``arx budget``: what is left of budgets, and top up a pool.  SPEC 17."""

from typing import Any, Final

import click

from arx_caps.cli.access.place import Place, operator_options
from arx_caps.cli.display import Row, facts_of, table_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import Verbs, limit_option, yes_option
from arx_caps.cli.resources import BUDGETS
from arx_caps.cli.terminal import Console, pairs

LINK_CHARS: Final = 22
POOL_SLASHES: Final = 4  # task, link, name, unit and period
_LISTS: Final = "`arx budget show TASK` lists the pools, and what is left of each"


@click.group("budget", cls=Verbs)
def budget_command() -> None:
    """Show what is left of budgets, and top up a pool."""


@budget_command.command("list")
@click.option("--session", help="show all pools of this session")
@click.option("--agent", help="show only this agent, or as acme/** it and those below it")
@click.option("--unit", help="show only pools of this unit, such as usd")
@limit_option("show the emptiest N pools", 1000, 1000)
@operator_options
def list_budgets(console: Console, /, place: Place, limit: int, **filters: str | None) -> None:
    """List the pools of open tasks, those with the least left first.

    They are among the 1000 pools that calls drew on last.  With --session also those of tasks that are over, and those
    that no call has drawn on.
    """
    asked = {name: text for name, text in filters.items() if text}
    found = place.mint().call("GET", BUDGETS.path, query={**asked, "limit": limit})
    nothing = "no pool matches" if asked else "no call has drawn on a budget of an open task"
    _show(console, {"pools": found["pools"], "more": "next" in found}, nothing)
    if "next" in found:
        console.hint(f"{found['total']} match: raise --limit to see them")


@budget_command.command("show")
@click.argument("of", metavar="TASK|LINK|POOL")
@operator_options
def show(console: Console, of: str, place: Place) -> None:
    """Show the pools of a task, or of one delegation by its link, that calls have drawn on; or one pool.

    REMAINING is MAX and what was topped up, without USED, RESERVED and LEASED.
    """
    # A link has 22 characters.  The session stands for the task of a token without one (SPEC 17.3).
    kind = "pool" if "/" in of else "task" if of.startswith(("t-", "s-")) and len(of) < LINK_CHARS else "link"
    pools = place.mint().call("GET", BUDGETS.path, query={kind: of})["pools"]
    _show(console, {"pools": pools}, f"no call has drawn on a budget of {of[:60]}")
    if not pools:
        console.hint("a pool is here after the first call that draws on it; `arx task list` has the ids of tasks")


@budget_command.command("top-up")
@click.argument("pool")
@click.argument("amount")
@click.argument("unit")
@click.option("--reason", required=True, help="reason, recorded in the audit log")
@yes_option
@operator_options
def top_up(console: Console, pool: str, amount: str, unit: str, reason: str, place: Place, yes: bool) -> None:
    """Add AMOUNT of UNIT to a POOL, as `arx budget show` names it, for its period.

    \b
        arx budget top-up t-abcdefghijklmnop/-/refund/usd/task 2.50 usd --reason "a larger order"
    """
    if pool.count("/") != POOL_SLASHES:
        text = f"POOL: expected an id such as t-abcdefghijklmnop/-/refund/usd/task, got {pool[:60]!r}"
        raise Stop(text, hint=_LISTS, code="pool")
    console.confirm(f"add {amount[:32]} {unit[:16]} to {pool[:200]}?", yes=yes)
    body = {"pool": pool, "amount": amount, "unit": unit, "reason": reason}
    try:
        # Once: a repeat of a call whose answer was lost could add the amount twice.
        answer = place.mint().call("POST", f"{BUDGETS.path}/top-up", body, repeats=False)
    except Stop as error:
        error.hint = error.hint or _LISTS
        raise
    console.data("budget", answer, lambda: pairs(facts_of(answer)))


def _show(console: Console, value: dict[str, Any], nothing: str) -> None:
    """Print pools, or that there are none."""
    pools = value["pools"]
    columns = "POOL: id, USED, RESERVED, LEASED, REMAINING, MAX, FULL AGAIN: ends_at"
    console.data("budgets", value, lambda: table_of(pools, columns, {"MAX": _show_limit}) if pools else "")
    if not pools:
        console.say(nothing)
    elif any(pool["lost"] for pool in pools):
        console.hint("(lost): the ledger may have lost what was drawn; `arx budget top-up` gives it a new amount")


def _show_limit(pool: Row) -> str:
    limit = pool["max"] if pool["topped_up"] == "0" else f"{pool['max']} + {pool['topped_up']}"
    return f"{limit} (lost)" if pool["lost"] else limit
