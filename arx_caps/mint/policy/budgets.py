# SPDX-License-Identifier: Apache-2.0
"""``budget`` of a template: what the calls of one task may cost together.  SPEC 17.

``{ usd = "5.00", calls = 200 }`` opens a pool for each unit; ``per = "hour"`` or ``"day"`` fills it again.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

from arx_verifier.amounts import amount_text, is_unit, read_amount
from arx_verifier.errors import shorten
from arx_verifier.token.caveats import Caveat, spend_caveats

Budget: TypeAlias = Mapping[str, str]
Period: TypeAlias = Literal["task", "hour", "day"]
PER: Final = "per"  # beside the units, of which none may have this name
MAX_UNITS: Final = 4  # a token has at most 8 pools, and holders open some of them


def read_budget(written: Any) -> dict[str, str]:
    """Parse a budget: the amount of each unit as decimal text, and the period.

    Args:
        written: The table as plain data.

    Raises:
        ValueError: A unit, an amount or the period is wrong.
    """
    if not isinstance(written, Mapping):
        raise ValueError(f'expected a table such as {{ usd = "5.00", calls = 200 }}; got {shorten(written)}')
    per = written.get(PER, "task")
    if per not in get_args(Period):
        raise ValueError(f"per: expected task, hour or day; got {shorten(per)}")
    units = {unit: amount for unit, amount in written.items() if unit != PER}
    if not 1 <= len(units) <= MAX_UNITS:
        raise ValueError(f"expected 1 to {MAX_UNITS} units, such as usd; got {len(units)}")
    budget = {}
    for unit, amount in units.items():
        if not is_unit(unit):
            raise ValueError(f"expected a unit's name: [a-z][a-z0-9_]*, at most 16 characters; got {shorten(unit)}")
        try:
            budget[unit] = amount_text(read_amount(amount))
        except ValueError as error:
            raise ValueError(f"{unit}: {error}; got {shorten(amount)}") from None
    return budget | {PER: per}


def split_budget(budget: Budget) -> tuple[str, ...]:
    """Return a budget as statements, such as ``5 usd per task``."""
    return tuple(f"{amount} {unit} per {budget[PER]}" for unit, amount in budget.items() if unit != PER)


def caveats_of_budgets(budgets: Mapping[str, Budget], opened: int) -> tuple[Caveat, ...]:
    """Return the caveats that open the pools of a task.

    Args:
        budgets: The budget of each of its templates.
        opened: When the task was started, ms since the Unix epoch.
    """
    caveats: tuple[Caveat, ...] = ()
    for template, budget in budgets.items():
        units = {unit: amount for unit, amount in budget.items() if unit != PER}
        caveats += spend_caveats(template, units, budget[PER], opened) if units else ()
    return caveats
