# SPDX-License-Identifier: Apache-2.0
"""Rules about tools and their arguments, and whether a call keeps them.  SPEC 7.

A rule names a tool and constrains its arguments in a closed world: what it does not name is refused, what it names must
be there.  ``compile_rule`` checks every operand and makes one callable an argument; ``permits`` is the hot path and
``explain`` the slow one that says what was wrong, and they agree.  What can be said of one argument is in
``constraint``; which rules a token has, in ``caveats``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from arx_verifier.constraints.constraint import (
    ABSENT,
    ConstraintLike,
    Written,
    compile_written,
    said_written,
    tests_of,
)
from arx_verifier.constraints.scalars import Predicate, within_integers
from arx_verifier.errors import Failure, MalformedTokenError, shorten
from arx_verifier.jcs import encode, is_plain_name
from arx_verifier.names import is_tool_pattern

MAX_TOLD: Final = 32  # failures of one refusal: a person reads no more, and a caller chose how many there are
_SHOWN_CHARS: Final = 64  # a longer name is looked at for where to cut it
# A value of a wrong kind fails under ``not`` too; without a word about it the refusal would puzzle.
_ODD_KIND: Final = " (a kind or form it does not speak of)"
_NO_NAMES: Final[frozenset[str]] = frozenset()
_failure: Final[Callable[[tuple[str, str, str, str]], Failure]] = partial(tuple.__new__, Failure)  # runs no Python


class Rule(Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that a token allows.

    Attributes:
        tool: Exact, ``prefix.*`` (cut at a dot), or ``*``.
        args: Constraints by argument.  None means any arguments, an empty dict none.
        open: Lets arguments through that ``args`` does not name: what a holder writes when it attenuates one of them,
            because the mint's closed rule still holds beside it.  False is never written.

    Raises:
        AttenuationError: A tool, an argument's name or a constraint that SPEC 7 does not allow.
    """

    tool: str
    args: dict[str, ConstraintLike] | None = None
    open: bool = False

    def check(self) -> "CompiledRule":
        """Refuse operands that SPEC 7 does not allow, and return the tests made on the way.

        Raises:
            MalformedTokenError: As ``compile_rule``.
        """
        return compile_rule(self)

    def check_written(self) -> None:
        """Refuse what ``check`` refuses, and keep nothing."""
        _refuse_odd_tool(self.tool)
        for name, constraint in (self.args or {}).items():
            _refuse_odd_name(name)
            tests_of(constraint)


class WireRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A rule as it stands in a proven caveat, its constraints not read yet: most were compiled before."""

    tool: str
    args: dict[str, Raw] | None = None
    open: bool = False


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


def compile_rule(rule: Rule) -> CompiledRule:
    """Check a rule's operands and make its tests.

    Raises:
        MalformedTokenError: A name or an operand that SPEC 7 does not allow, wherever in the rule it is.
    """
    return _compile(rule, encode)


def compile_wire(rule: WireRule) -> CompiledRule:
    """Do as ``compile_rule`` does, for a rule as it stands in a caveat.

    Raises:
        MalformedTokenError: As ``compile_rule``, or a constraint is not canonical.
    """
    return _compile(rule, bytes)


def _compile(rule: Rule | WireRule, write: Callable[[Any], bytes]) -> CompiledRule:
    tool, args = rule.tool, rule.args
    _refuse_odd_tool(tool)
    tests: list[tuple[str, Predicate]] = []
    weight, exact, names = 1, False, _NO_NAMES
    if args:
        exact = True
        for name, constraint in args.items():
            if not name.isascii() or not name:
                _refuse_odd_name(name)
            holds, tests_of_it, optional, _ = compile_written(write(constraint))
            weight += tests_of_it
            if optional:
                exact = False
            tests.append((name, holds))
    closed = args is not None and not rule.open
    if closed:
        names, exact = frozenset(args or ()), exact or not args
    if tool.endswith("*"):
        return CompiledRule(None, tool[:-1], tuple(tests), names, closed, closed and exact, weight)
    return CompiledRule(tool, None, tuple(tests), names, closed, closed and exact, weight)


def _refuse_odd_tool(tool: str) -> None:
    if not is_tool_pattern(tool):
        raise MalformedTokenError("a rule's tool must be a tool's name, 'prefix.*' or '*'")


def _refuse_odd_name(name: str) -> None:
    if not is_plain_name(name):
        raise MalformedTokenError("an argument's name is empty or has a character beyond U+FFFF")


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


def explain(
    rule: Rule | WireRule,
    args: Mapping[str, Any],
    place: str,
    most: int = MAX_TOLD,
    compiled: CompiledRule | None = None,
) -> list[Failure]:
    """Name the arguments for which ``permits`` says no; empty when it says yes.

    Args:
        rule: The rule, as it stands in the token.
        args: The call's arguments.
        place: Where the rule stands, for the failures.
        most: How many to name; a caller chooses how many there are.
        compiled: What the rule was made into, where it is at hand.

    Raises:
        MalformedTokenError: As ``compile_rule``.
    """
    write: Callable[[Any], bytes] = bytes if isinstance(rule, WireRule) else encode
    compiled = compiled or _compile(rule, write)
    constraints: Mapping[str, Any] = rule.args or {}
    failures: list[Failure] = []
    for name, holds in compiled.tests:
        value = args.get(name, ABSENT)
        if holds(value):
            continue
        _tell_of(failures, place, name, rule, value)
        if len(failures) >= most:
            return failures[:most]
    if compiled.closed:
        others = (name for name in args if name not in constraints)
        for name in islice(others, most - len(failures)):
            failures.append(Failure(place, _shown(name), "no argument of this name", shorten(args[name])))
    return failures


def explain_last(
    asked: Sequence[Sequence[CompiledRule]],
    said: Sequence[Sequence[tuple[CompiledRule, Rule | WireRule]]],
    places: Sequence[str],
    args: Mapping[str, Any],
) -> tuple[Failure, ...]:
    """Name each argument for which rules that must all hold say no: once, by the last of them that does.

    Delegations restate what they attenuate, so the last one to refuse is nearly always the one that requires most.

    Args:
        asked: The rules as they were asked, merged or not, each alone: which arguments are wrong is seen by them.
        said: The same rules as they were written, each alone, in the order of the chain.
        places: Where each of ``said`` stands.
        args: The call's arguments.
    """
    get = args.get
    wrong = {name for (rule,) in asked for name, holds in rule.tests if not holds(get(name, ABSENT))}
    for (rule,) in asked:
        if rule.closed and not args.keys() <= rule.names:
            wrong.update(args.keys() - rule.names)
    failures: list[Failure] = []
    at = len(said)
    while wrong and at:
        at -= 1
        ((compiled, written),) = said[at]
        for name, holds in compiled.tests:
            if name in wrong and not holds(value := get(name, ABSENT)):
                wrong.discard(name)
                _tell_of(failures, places[at], name, written, value)
                if len(failures) >= MAX_TOLD:
                    return tuple(failures[:MAX_TOLD])
        if wrong and compiled.closed:
            others = (name for name in args if name in wrong and name not in compiled.names)
            for name in list(islice(others, MAX_TOLD - len(failures))):  # a caller sends a hundred thousand of them
                wrong.discard(name)
                failures.append(Failure(places[at], _shown(name), "no argument of this name", shorten(args[name])))
            if len(failures) >= MAX_TOLD:
                break
    return tuple(failures)


def tell_first(
    said: Sequence[Sequence[tuple[CompiledRule, Rule | WireRule]]],
    places: Sequence[str],
    args: Mapping[str, Any],
    name: str,
) -> tuple[Failure, ...]:
    """Tell of one argument alone what ``explain_last`` tells of it: that much is said before a record is written.

    Args:
        said: As in ``explain_last``.
        places: Where each of ``said`` stands.
        args: The call's arguments.
        name: What ``wrong_in`` found.

    Returns:
        The failure; none for a mapping that says something else each time.
    """
    value = args.get(name, ABSENT)
    at = len(said)
    while at:
        at -= 1
        ((compiled, written),) = said[at]
        constraints = written.args
        constraint: Any = constraints.get(name) if constraints is not None else None
        if constraint is None:
            if compiled.closed and value is not ABSENT:
                return (_failure((places[at], _shown(name), "no argument of this name", shorten(value))),)
            continue
        raw = bytes(constraint) if type(constraint) is Raw else encode(constraint)
        if value is ABSENT:
            if not compile_written(raw).optional:
                return (_failure((places[at], _shown(name), "a value", "nothing")),)
            continue
        for word, operand, speaks, holds in said_written(raw):
            if not holds(value):
                shown = name if name.isidentifier() and len(name) <= _SHOWN_CHARS else _shown(name)
                came = shorten(value) if speaks(value) else shorten(value) + _ODD_KIND
                return (_failure((places[at], f"{shown} {word}", operand, came)),)
    return ()


def _tell_of(failures: list[Failure], place: str, name: str, rule: Rule | WireRule, value: Any) -> None:
    """Say what does not hold of one argument."""
    shown = name if name.isidentifier() and len(name) <= _SHOWN_CHARS else _shown(name)
    if value is ABSENT:
        failures.append(Failure(place, shown, "a value", "nothing"))
        return
    constraint = (rule.args or {})[name]
    came = shorten(value)
    for word, operand, speaks, holds in said_written(
        bytes(constraint) if isinstance(constraint, Raw) else encode(constraint)
    ):
        if not holds(value):
            note = came if speaks(value) else came + _ODD_KIND
            failures.append(_failure((place, f"{shown} {word}", operand, note)))


def read_rule(data: Any) -> Rule:
    """Make a rule of plain data, as it comes from TOML or a caller's dicts, and check its operands.

    Raises:
        MalformedTokenError: A member that is unknown, of another type, or not allowed by SPEC 7.
    """
    try:
        rule = msgspec.convert(data, Rule)
    except msgspec.ValidationError as error:
        raise MalformedTokenError(str(error)) from error
    compile_rule(rule)
    encode(rule)  # half of a surrogate pair in a name, which the types let through
    return rule


def _shown(name: str) -> str:
    # Nearly every name is shown as it is.
    return name if name.isidentifier() and len(name) <= _SHOWN_CHARS else shorten(name).strip('"')
