# SPDX-License-Identifier: Apache-2.0
"""Ask a rule, made ready, whether a call keeps it.  SPEC 7.

The hot half of ``rule``, which checks what a rule says, makes its tests, and explains what failed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arx_verifier.constraints.constraint import ABSENT
from arx_verifier.constraints.scalars import Predicate, within_integers


class CompiledRule:
    """A rule whose operands were checked, made ready to be asked many times.

    Attributes:
        tool: The tool this rule is for, or None when ``prefix`` says it.
        prefix: What the tool's name begins with (``"orders."``; ``""`` for any tool), or None.
        tests: One callable an argument, value -> bool; an absent argument is tested as ``ABSENT``.
        names: Every argument that a closed rule names.
        closed: Whether other arguments are refused.
        exact: Whether the arguments must be just ``names``, which a count of them shows.
        weight: How many tests it is made of.
    """

    __slots__ = ("closed", "exact", "names", "prefix", "tests", "tool", "weight")

    def __init__(
        self,
        tool: str | None,
        prefix: str | None,
        tests: tuple[tuple[str, Predicate], ...],
        names: frozenset[str],
        closed: bool,
        exact: bool,
        weight: int,
    ) -> None:
        self.tool, self.prefix, self.tests, self.names = tool, prefix, tests, names
        self.closed, self.exact, self.weight = closed, exact, weight

    def matches_tool(self, tool: str) -> bool:
        """Tell whether the rule is about *tool*."""
        if self.prefix is None:
            return tool == self.tool
        return len(tool) > len(self.prefix) and tool.startswith(self.prefix)


def wrong_in(rule: CompiledRule, args: Mapping[str, Any]) -> str | None:
    """Find the first argument for which a call does not keep the rule; its tool was matched before.

    Returns:
        The argument's name; it may be missing, or be none that a closed rule names.  None when the rule is kept.
    """
    if rule.exact and type(args) is dict:  # not for a mapping that could make up what it lacks
        if len(args) != len(rule.tests):
            return odd_in(rule, args)
        try:
            for name, holds in rule.tests:
                if not holds(args[name]):
                    return name
        except KeyError:
            return name
        return None
    if rule.closed and not args.keys() <= rule.names:
        return odd_in(rule, args)
    get = args.get
    for name, holds in rule.tests:
        if not holds(get(name, ABSENT)):
            return name
    return None


def odd_in(rule: CompiledRule, args: Mapping[str, Any]) -> str:
    """Return an argument that a closed rule does not name, or, where it names them all, the first that is missing."""
    unnamed = next((name for name in args if name not in rule.names), None)
    return unnamed if unnamed is not None else next((name for name, _ in rule.tests if name not in args), "")


def permits(rule: CompiledRule, args: Mapping[str, Any]) -> bool:
    """Tell whether a call with these arguments keeps the rule; its tool was matched before."""
    return wrong_in(rule, args) is None


def merge(rules: Sequence[CompiledRule]) -> CompiledRule:
    """Make one rule of several that must all hold, each test of them once.

    Delegations restate most of what they attenuate, and what they attenuate are amounts.  What was compiled from the
    same bytes is the same object, and ranges of integers are intersected, so the time of a check does not grow with
    them.
    """
    if len(rules) == 1:
        return rules[0]
    tests = _intersected(dict.fromkeys(test for rule in rules for test in rule.tests))
    closed = [rule.names for rule in rules if rule.closed]
    names = frozenset.intersection(*closed) if closed else frozenset()
    exact = bool(closed) and len(tests) == len(names) and all(rule.exact or not rule.closed for rule in rules)
    return CompiledRule(None, None, tests, names, bool(closed), exact, sum(rule.weight for rule in rules))


def _intersected(tests: Iterable[tuple[str, Predicate]]) -> tuple[tuple[str, Predicate], ...]:
    """Make one test of all ranges of integers that one argument must be in; it stands where the first one stood."""
    made: dict[tuple[str, Predicate | None], Predicate] = {}
    for name, holds in tests:
        bounds = getattr(holds, "bounds", None)
        if bounds is None:
            made[name, holds] = holds
            continue
        known = made.get((name, None))
        if known is not None:
            least, most = known.bounds  # type: ignore[attr-defined]
            holds = within_integers(max(least, bounds[0]), min(most, bounds[1]))  # noqa: PLW2901
        made[name, None] = holds
    return tuple([(name, holds) for (name, _), holds in made.items()])
