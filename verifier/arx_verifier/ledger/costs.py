# SPDX-License-Identifier: Apache-2.0
"""What a call costs, as the tool service declares it.  SPEC 17.4.

``{"payments.refund": {"usd": "$amount"}, "llm.complete": {"usd": {"reserve": "$max_usd"}}, "orders.*": {"usd": 0}}``
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from arx_verifier.amounts import is_unit, read_amount
from arx_verifier.errors import SettingsError
from arx_verifier.names import is_tool_pattern, matches_tool

CALLS: Final = "calls"  # the unit that each call costs 1 of, where nothing else is declared
_ARGUMENT: Final = re.compile(r"\$([^$\s][^\s]{0,95})")


class Cost(NamedTuple):
    """The cost of a tool in one unit.

    Attributes:
        fixed: The millionths; 0 if an argument has the cost.
        argument: The argument that has the cost, or None.
        reserves: Whether the cost is reserved, and the service commits the actual one later.
    """

    fixed: int
    argument: str | None
    reserves: bool


_ONE_CALL: Final = {CALLS: Cost(1_000_000, None, reserves=False)}


class Costs:
    """The costs of the tools of a service.

    Args:
        declared: By tool or pattern the cost by unit: a number, decimal text, ``"$argument"``, or one of these as
            ``{"reserve": …}``.  The first entry that matches a tool counts, in the order of declaration.

    Raises:
        SettingsError: A tool, a unit or a cost is malformed.
    """

    def __init__(self, declared: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._declared = {tool: _read(tool, units) for tool, units in (declared or {}).items()}

    def of(self, tool: str) -> Mapping[str, Cost]:
        """Return the declared costs of a tool by unit; a unit without one is missing.

        Args:
            tool: The tool's name.
        """
        for pattern, costs in self._declared.items():
            if matches_tool(pattern, tool):
                return costs
        return _ONE_CALL


def _read(tool: str, units: Any) -> dict[str, Cost]:
    if not is_tool_pattern(tool):
        raise SettingsError(f"costs: {tool!r:.100} is no tool and no pattern of tools")
    if not isinstance(units, Mapping):
        raise SettingsError(f'costs: {tool}: expected costs by unit, such as {{ usd = "$amount" }}')
    return {**_ONE_CALL, **{unit: _read_cost(tool, unit, written) for unit, written in units.items()}}


def _read_cost(tool: str, unit: Any, written: Any) -> Cost:
    place = f"costs: {tool}: {unit!s:.40}"
    if not is_unit(unit):
        raise SettingsError(f"{place}: a unit is named by [a-z][a-z0-9_]*, at most 16 characters")
    reserves = isinstance(written, Mapping)
    if reserves:
        if [*written] != ["reserve"]:
            raise SettingsError(f"{place}: expected {{ reserve = … }} and nothing else in it")
        written = written["reserve"]
    if isinstance(written, str) and (named := _ARGUMENT.fullmatch(written)) is not None:
        return Cost(0, named[1], reserves)
    try:
        return Cost(read_amount(written), None, reserves)
    except ValueError as error:
        raise SettingsError(f'{place}: {error}, or "$" and the name of an argument') from None
