# SPDX-License-Identifier: Apache-2.0
"""``arx budget``: what is left of the budgets of a task or a delegation, and top up a pool.  SPEC 17."""

from typing import Any, Final

import click

from arx_caps.cli.display import facts_of
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.name_completion import complete_names
from arx_caps.cli.options import Verbs, common_options, pass_console, yes_option
from arx_caps.cli.place import Place, operator_options
from arx_caps.cli.terminal import Console, pairs, table
from arx_caps.durations import show_time

LINK_CHARS: Final = 22


@click.group("budget", cls=Verbs)
def budget_command() -> None:
    """Show what is left of budgets, and top up a pool."""


@budget_command.command("show")
@click.argument("of", metavar="TASK|LINK", shell_complete=complete_names("task"))
@operator_options
@common_options
@pass_console
def show(console: Console, of: str, place: Place) -> None:
    """Show the pools of a task, or of one delegation by its link, that calls have drawn on.

    REMAINING is MAX and what was topped up, without USED, RESERVED and LEASED.
    """
    # A link has 22 characters.  The session stands for the task of a token without one (SPEC 17.3).
    query = {"task" if of.startswith(("t-", "s-")) and len(of) < LINK_CHARS else "link": of}
    pools = place.mint().call("GET", "/v1/budgets", query=query)["pools"]
    heads = ("POOL", "USED", "RESERVED", "LEASED", "REMAINING", "MAX", "FULL AGAIN")
    console.data("budgets", {"pools": pools}, lambda: table(heads, [_row(pool) for pool in pools]) if pools else "")
    if not pools:
        console.say(f"no call has drawn on a budget of {of[:60]}")
    elif any(pool["lost"] for pool in pools):
        console.hint("(lost): the ledger may have lost what was drawn; `arx budget top-up` gives it a new amount")


@budget_command.command("top-up")
@click.argument("pool")
@click.argument("amount")
@click.argument("unit")
@click.option("--reason", required=True, help="reason, recorded in the audit log")
@yes_option
@operator_options
@common_options
@pass_console
def top_up(console: Console, pool: str, amount: str, unit: str, reason: str, place: Place, yes: bool) -> None:
    """Add AMOUNT of UNIT to a POOL, as `arx budget show` names it, for its period.

    \b
        arx budget top-up t-abcdefghijklmnop/-/refund/usd/task 2.50 usd --reason "a larger order"
    """
    console.confirm(f"add {amount[:32]} {unit[:16]} to {pool[:200]}?", yes=yes)
    body = {"pool": pool, "amount": amount, "unit": unit, "reason": reason}
    try:
        # Once: a repeat of a call whose answer was lost could add the amount twice.
        told = place.mint().call("POST", "/v1/budgets/top-up", body, repeats=False)
    except Stop as error:
        error.hint = error.hint or "`arx budget show TASK` lists the pools, and what is left of each"
        raise
    console.data("budget", told, lambda: pairs(facts_of(told)))


def _row(pool: dict[str, Any]) -> tuple[Any, ...]:
    amounts = (pool["used"], pool["reserved"], pool["leased"], pool["remaining"])
    limit = pool["max"] if pool["topped_up"] == "0" else f"{pool['max']} + {pool['topped_up']}"
    again = show_time(pool["ends_at"]) if "ends_at" in pool else None
    return (pool["id"], *amounts, f"{limit} (lost)" if pool["lost"] else limit, again)
