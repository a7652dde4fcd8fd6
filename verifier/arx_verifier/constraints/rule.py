# SPDX-License-Identifier: Apache-2.0
"""Rules about a tool and its arguments, and whether a call satisfies them.  SPEC 7.

``permits`` is the hot path, and ``explain`` the slow one that finds the reasons; both give the same verdict.
``constraint`` has the tests of one argument, ``caveats`` the rules of a token.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from arx_verifier.constraints.constraint import (
    ConstraintLike,
    ConstraintMember,
    PartSaid,
    Written,
    compile_written,
    said_written,
    tests_of,
)
from arx_verifier.constraints.scalars import ABSENT, Predicate, is_decimal, is_number, within_integers
from arx_verifier.errors import NOT_GIVEN, NOT_NAMED, Failure, MalformedTokenError, shorten
from arx_verifier.jcs import encode, is_plain_name
from arx_verifier.limits import MAX_EACH
from arx_verifier.names import is_tool_pattern

MAX_TOLD: Final = 32  # people read no more, and the caller chooses how many there are
_SHOWN_CHARS: Final = 64  # names up to this length are shown whole
# What a test takes.  A value of another kind fails under ``not`` as well: without a note on its kind, the refusal would
# be hard to understand.
_TAKES: Final = {
    "glob": "text of one line",
    "subpath": "a path in plain form",
    "url": "a URL in plain form",
    "cidr": "an address of this IP version",
    "length": "text or a list",
    "min_length": "text or a list",
    "max_length": "text or a list",
    "contains": "a list of such items",
    "subset": "a list of such items",
    "each": f"a list of at most {MAX_EACH} items",
    "fields": "an object",
}
_INTEGER: Final = re.compile("-?[0-9]+")
_NO_NAMES: Final[frozenset[str]] = frozenset()
_failure: Final[Callable[[tuple[str, str, str, str]], Failure]] = partial(tuple.__new__, Failure)  # without Python code


# The world is closed: an argument that a rule does not name is refused, and one that it names is required.
class Rule(Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tool that a token allows, with constraints on its arguments.

    Attributes:
        tool: Exact, ``prefix.*`` (cut at a dot), or ``*``.
        args: Constraints by argument.  None allows any arguments, an empty dict none.
        open: Allows arguments that ``args`` does not name.  A holder that attenuates one argument writes it, because
            the mint's closed rule still applies.  False is never encoded.

    Raises:
        AttenuationError: A tool, an argument's name or a constraint is not allowed by SPEC 7.
    """

    tool: str
    args: dict[str, ConstraintLike] | None = None
    open: bool = False

    def check(self) -> "CompiledRule":
        """Check the operands, and return the compiled rule.

        Raises:
            MalformedTokenError: As ``compile_rule``.
        """
        return compile_rule(self)

    def check_written(self) -> None:
        """Check the operands without caching anything.

        Raises:
            MalformedTokenError: As ``compile_rule``.
        """
        _refuse_odd_tool(self.tool)
        for name, constraint in (self.args or {}).items():
            _refuse_odd_name(name)
            tests_of(constraint)


class WireRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A rule in an authentic caveat, its constraints still encoded: most were compiled before."""

    tool: str
    args: dict[str, Raw] | None = None
    open: bool = False


class CompiledRule:
    """A checked rule, ready for many calls.

    Attributes:
        tool: The rule's tool, or None if it has a prefix.
        prefix: The beginning of the tool's name (``"orders."``; ``""`` for any tool), or None.
        tests: A predicate for each argument; an absent argument is tested as ``ABSENT``.
        names: Every argument that a closed rule names.
        closed: Whether other arguments are refused.
        exact: Whether the arguments must be exactly ``names``, so that their number shows an odd one.
        weight: The number of its tests.
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
        """Return whether the rule is about *tool*."""
        if self.prefix is None:
            return tool == self.tool
        return len(tool) > len(self.prefix) and tool.startswith(self.prefix)


def compile_rule(rule: Rule) -> CompiledRule:
    """Return the compiled rule, after checking every operand.

    Args:
        rule: The rule, as a holder or a policy wrote it.

    Raises:
        MalformedTokenError: A name or an operand is not allowed by SPEC 7.
    """
    return _compile(rule, encode)


def compile_wire(rule: WireRule) -> CompiledRule:
    """Return the compiled rule of a rule in a caveat.

    Args:
        rule: The rule, with its constraints as bytes.

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
    """Return the first argument that violates the rule, or None; the caller has matched the tool.

    Args:
        rule: The rule.
        args: The call's arguments.

    Returns:
        The argument's name.  It may be a missing argument, or one that a closed rule does not name.
    """
    if rule.exact and type(args) is dict:  # another mapping could invent values for missing names
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
    """Return an argument that a closed rule does not name; without one, the first missing argument."""
    unnamed = next((name for name in args if name not in rule.names), None)
    return unnamed if unnamed is not None else next((name for name, _ in rule.tests if name not in args), "")


def permits(rule: CompiledRule, args: Mapping[str, Any]) -> bool:
    """Return whether a call with these arguments satisfies the rule; the caller has matched the tool."""
    return wrong_in(rule, args) is None


def could_permit(rule: CompiledRule, known: Mapping[str, Any]) -> bool:
    """Return whether some call with these arguments, and any others, satisfies the rule; the tool was matched.

    Args:
        rule: The rule.
        known: The arguments that are known.
    """
    if rule.closed and not known.keys() <= rule.names:
        return False
    return all(holds(known[name]) for name, holds in rule.tests if name in known)


def permits_with_any(rule: CompiledRule, known: Mapping[str, Any]) -> bool:
    """Return whether each call with these arguments, and any others, satisfies the rule; the tool was matched.

    Args:
        rule: The rule.
        known: The arguments that are known.
    """
    return not rule.closed and all(name in known and holds(known[name]) for name, holds in rule.tests)


def merge(rules: Sequence[CompiledRule]) -> CompiledRule:
    """Return one rule for several that must all hold, with each test once.

    Args:
        rules: At least one; all are for the requested tool.
    """
    # Delegations restate most of the rules that they attenuate, and mostly lower amounts.  Tests compiled from the
    # same bytes are the same object, and ranges of integers are intersected, so the time of a check does not grow.
    if len(rules) == 1:
        return rules[0]
    tests = _intersected(dict.fromkeys(test for rule in rules for test in rule.tests))
    closed = [rule.names for rule in rules if rule.closed]
    names = frozenset.intersection(*closed) if closed else frozenset()
    exact = bool(closed) and len(tests) == len(names) and all(rule.exact or not rule.closed for rule in rules)
    return CompiledRule(None, None, tests, names, bool(closed), exact, sum(rule.weight for rule in rules))


def _intersected(tests: Iterable[tuple[str, Predicate]]) -> tuple[tuple[str, Predicate], ...]:
    """Return the tests with one range of integers for each argument, at the place of its first range."""
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
    """Return the arguments for which ``permits`` is False, as failures; empty if it is True.

    Args:
        rule: The rule, as it is in the token.
        args: The call's arguments.
        place: The rule's place, for the failures.
        most: The largest number of failures; the caller of the tool determines how many there are.
        compiled: The compiled rule, if the caller has it.

    Raises:
        MalformedTokenError: As ``compile_rule``.
    """
    compiled = compiled or _compile(rule, bytes if isinstance(rule, WireRule) else encode)
    return explain_last([compiled], [(compiled, rule)], [place], args, most)


def explain_last(
    asked: Sequence[CompiledRule],
    said: Sequence[tuple[CompiledRule, Rule | WireRule]],
    places: Sequence[str],
    args: Mapping[str, Any],
    most: int = MAX_TOLD,
) -> list[Failure]:
    """Return a failure for each argument that violates one of several rules, from the last such rule.

    Args:
        asked: The rules that were tested, merged or not; they determine which arguments fail.
        said: The same rules as written, in the order of the chain.
        places: The place of each of ``said``.
        args: The call's arguments.
        most: The largest number of failures.
    """
    # Delegations restate what they attenuate: the last rule that refuses is nearly always the strictest.
    get = args.get
    wrong = {name for rule in asked for name, holds in rule.tests if not holds(get(name, ABSENT))}
    for rule in asked:
        if rule.closed and not args.keys() <= rule.names:
            wrong.update(args.keys() - rule.names)
    failures: list[Failure] = []
    for (compiled, written), place in zip(reversed(said), reversed(places), strict=True):
        others = (name for name in args if name not in compiled.names) if compiled.closed else ()
        for name in chain((name for name, _ in compiled.tests), others):
            if name in wrong and (found := _failures_of(compiled, written, place, name, get(name, ABSENT))):
                wrong.discard(name)
                failures += found
                if len(failures) >= most:
                    return failures[:most]
        if not wrong:
            break
    return failures


def explain_first(
    said: Sequence[tuple[CompiledRule, Rule | WireRule]],
    places: Sequence[str],
    args: Mapping[str, Any],
    name: str,
) -> tuple[Failure, ...]:
    """Return the failure of one argument, as ``explain_last`` does; it is computed before the record is written.

    Args:
        said: As in ``explain_last``.
        places: The place of each of ``said``.
        args: The call's arguments.
        name: The result of ``wrong_in``.

    Returns:
        The failure; empty for a mapping that returns another value at each access.
    """
    value = args.get(name, ABSENT)
    for (compiled, written), place in zip(reversed(said), reversed(places), strict=True):
        if found := _failures_of(compiled, written, place, name, value, 1):
            return tuple(found)
    return ()


def _failures_of(
    compiled: CompiledRule, rule: Rule | WireRule, place: str, name: str, value: Any, most: int = MAX_TOLD
) -> list[Failure]:
    """Return the failures of one argument; empty if the rule allows its value."""
    constraint: Any = (rule.args or {}).get(name)
    if constraint is None:
        unnamed = compiled.closed and value is not ABSENT
        return [_failure((place, _shown(name), NOT_NAMED, shorten(value)))] if unnamed else []
    raw = bytes(constraint) if type(constraint) is Raw else encode(constraint)
    if value is ABSENT:
        return [] if compile_written(raw).optional else [_failure((place, _shown(name), NOT_GIVEN, "nothing"))]
    wrong = _wrong_members(said_written(raw), value, _shown(name))
    return [_failure((place, *found)) for found in islice(wrong, most)]


def _wrong_members(members: Iterable[ConstraintMember], value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield rule, operand and value of each test that a value fails, also of those inside objects and lists."""
    for member in members:
        word, operand, speaks, holds, parts, closed = member
        if holds(value):
            continue
        spoken = speaks(value)
        if parts is None or not spoken or (word == "each" and None not in parts and len(parts) != len(value)):
            came = shorten(value)
            yield f"{path} {word}", operand, came if spoken else came + _odd_kind(word, operand, value)
        elif word == "each":
            for index, item in enumerate(value):
                part = parts.get(index) or parts[None]
                yield from _wrong_members(part.members, item, f"{path}[{index}]")
        else:
            for name, part in parts.items():
                yield from _wrong_part(part, value.get(name, ABSENT), f"{path}.{_shown(str(name))}")
            for name in value if closed else ():
                if name not in parts:
                    yield f"{path}.{_shown(name)}", NOT_NAMED, shorten(value[name])


def _wrong_part(part: PartSaid, value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if value is not ABSENT:
        yield from _wrong_members(part.members, value, path)
    elif not part.optional:
        yield path, NOT_GIVEN, "nothing"


def _odd_kind(word: str, operand: str, value: Any) -> str:
    """Return the note on a value that a test does not take, with the operand that would take it."""
    if word in ("range", "min", "max"):
        if '"' in operand:
            return " (not a number or a decimal in text)"
        if not (is_number(value) or is_decimal(value)):
            return " (not an integer)"
        as_text = _INTEGER.sub(r'"\g<0>"', operand)
        return f" (not an integer; for decimals, write {word} = {as_text})"
    # By the short text of the value: Python makes none of an integer of 5,000 digits or of a deep list.
    if word == "equal" and (operand == value if type(value) is str else operand == f'"{shorten(value)}"'):
        return f" (of another type; for {'text' if type(value) is str else 'numbers'}, write {shorten(value)})"
    return f" (not {_TAKES[word]})" if word in _TAKES else " (of another type)"


def read_rule(data: Any) -> Rule:
    """Parse a rule from plain data and check its operands.

    Args:
        data: A dict, such as TOML or a caller has it.

    Raises:
        MalformedTokenError: A member is unknown, of another type, or not allowed by SPEC 7.
    """
    try:
        rule = msgspec.convert(data, Rule)
    except msgspec.ValidationError as error:
        raise MalformedTokenError(str(error)) from error
    compile_rule(rule)
    encode(rule)  # refuses a lone surrogate in a name, which the types accept
    return rule


def _shown(name: str) -> str:
    # The quick test covers nearly every name.
    return name if name.isidentifier() and len(name) <= _SHOWN_CHARS else shorten(name).strip('"')
