# SPDX-License-Identifier: Apache-2.0
"""Rules about tools and their arguments, and whether a call keeps them.  SPEC 5.

A rule names a tool and constrains its arguments in a closed world: what it does not name is refused, what it names must
be there.  ``compile_rule`` checks every operand and makes one callable an argument; ``permits`` is the hot path and
``explain`` the slow one that says what was wrong, and they agree.  How one value is matched is in ``comparing`` and
``matching``; which rules a token has, in ``caveats``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from arx_verifier import comparing, matching
from arx_verifier.canonical import MAX_INTEGER, encode, is_plain_name
from arx_verifier.comparing import Predicate, Test
from arx_verifier.errors import Failure, MalformedTokenError, shorten
from arx_verifier.names import is_tool_pattern

Integer: TypeAlias = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Size: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Scalar: TypeAlias = str | Integer | bool
Bound: TypeAlias = str | Integer  # text is a decimal

ABSENT: Final = object()  # what an argument that is not there is tested as: no constraint takes it


class Url(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The parts of a URL that a constraint fixes; see ``matching.url``."""

    scheme: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    path: str | None = None


class Leaf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tests of one value, without nesting.  Every member restricts; together they are a conjunction."""

    equal: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    none_of: tuple[Scalar, ...] | None = None
    range: tuple[Bound, Bound] | None = None
    min: Bound | None = None
    max: Bound | None = None
    glob: str | None = None
    subpath: str | None = None
    url: Url | None = None
    cidr: str | None = None
    length: Size | None = None
    min_length: Size | None = None
    max_length: Size | None = None
    contains: tuple[Scalar, ...] | None = None
    subset: tuple[Scalar, ...] | None = None


LeafLike: TypeAlias = Scalar | Leaf  # a bare scalar means ``equal``


class Constraint(Leaf, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a rule says of one argument: the tests of ``Leaf``, one level of logic, and whether it may be absent.

    The levels are types, not a recursion, so that no token decides how deep a verifier goes.
    """

    all_of: tuple[LeafLike, ...] | None = None
    any_of: tuple[LeafLike, ...] | None = None
    not_: LeafLike | None = field(default=None, name="not")
    optional: bool = False


ConstraintLike: TypeAlias = Scalar | Constraint


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that a token allows.  ``compile_rule`` checks what the types cannot say.

    Attributes:
        tool: Exact, ``prefix.*`` (cut at a dot), or ``*``.
        args: Constraints by argument.  None means any arguments, an empty dict none.
        open: Lets arguments through that ``args`` does not name: what a holder writes when it narrows one of them,
            because the mint's closed rule still holds beside it.  False is never written.
    """

    tool: str
    args: dict[str, ConstraintLike] | None = None
    open: bool = False

    def check(self) -> "CompiledRule":
        """Refuse operands that SPEC 5 does not allow, and return the tests made on the way.

        Raises:
            MalformedTokenError: As ``compile_rule``.
        """
        return compile_rule(self)


class CompiledRule(Struct, frozen=True, kw_only=True):
    """A rule whose operands were checked, made ready to be asked many times.

    Attributes:
        tool: The tool this rule is for, or None when ``prefix`` says it.
        prefix: What the tool's name begins with (``"orders."``; ``""`` for any tool), or None.
        tests: One callable an argument, value -> bool; an absent argument is tested as ``ABSENT``.
        names: Every argument the rule names.
        required: Those of them that must be there.
        closed: Whether other arguments are refused.
        exact: Whether the arguments must be just ``names``, which a count of them shows.
    """

    tool: str | None
    prefix: str | None
    tests: tuple[tuple[str, Predicate], ...]
    names: frozenset[str]
    required: frozenset[str]
    closed: bool
    exact: bool

    def matches_tool(self, tool: str) -> bool:
        """Tell whether the rule is about *tool*."""
        if self.prefix is None:
            return tool == self.tool
        return len(tool) > len(self.prefix) and tool.startswith(self.prefix)


def compile_rule(rule: Rule) -> CompiledRule:
    """Check a rule's operands and make its tests.

    Raises:
        MalformedTokenError: A name or an operand that SPEC 5 does not allow, wherever in the rule it is.
    """
    if not is_tool_pattern(rule.tool):
        raise MalformedTokenError("a rule's tool must be a tool's name, 'prefix.*' or '*'")
    tests: list[tuple[str, Predicate]] = []
    required: list[str] = []
    for name, constraint in (rule.args or {}).items():
        if not is_plain_name(name):
            raise MalformedTokenError("an argument's name is empty or has a character beyond U+FFFF")
        holds = compile_constraint(constraint)
        if isinstance(constraint, Constraint) and constraint.optional:
            holds = _or_absent(holds)  # the one member that takes a restriction away: it says when not to ask
        else:
            required.append(name)
        tests.append((name, holds))
    closed = rule.args is not None and not rule.open
    wild = rule.tool.endswith("*")
    return CompiledRule(
        tool=None if wild else rule.tool,
        prefix=rule.tool[:-1] if wild else None,
        tests=tuple(tests),
        names=frozenset(rule.args or ()),
        required=frozenset(required),
        closed=closed,
        exact=closed and len(required) == len(tests),
    )


def compile_constraint(constraint: ConstraintLike) -> Predicate:
    """Make the test of one argument: a callable that takes any value and is True when the constraint holds.

    Raises:
        MalformedTokenError: An operand that SPEC 5 does not allow, or a constraint that says nothing.
    """
    return _all_hold([holds for _, holds in _tests(constraint)])


def permits(rule: CompiledRule, args: Mapping[str, Any]) -> bool:
    """Tell whether a call with these arguments keeps the rule; its tool was matched before."""
    if rule.exact and type(args) is dict:  # not for a mapping that could make up what it lacks
        if len(args) != len(rule.tests):
            return False
        try:
            for name, holds in rule.tests:
                if not holds(args[name]):
                    return False
        except KeyError:
            return False
        return True
    if rule.closed and not args.keys() <= rule.names:
        return False
    return all(holds(args.get(name, ABSENT)) for name, holds in rule.tests)


def explain(rule: Rule, args: Mapping[str, Any], place: str) -> list[Failure]:
    """Name every argument for which ``permits`` says no; empty when it says yes.

    Args:
        rule: The rule, as it stands in the token.
        args: The call's arguments.
        place: Where the rule stands, for the failures.

    Raises:
        MalformedTokenError: As ``compile_rule``.
    """
    failures: list[Failure] = []
    named = rule.args or {}
    for name, constraint in named.items():
        shown = shorten(name)[1:-1]
        if name not in args:
            if not (isinstance(constraint, Constraint) and constraint.optional):
                failures.append(Failure(place, shown, "a value", "nothing"))
            continue
        value = args[name]
        for (word, operand), (speaks, holds) in zip(_said(constraint), _tests(constraint), strict=True):
            if not holds(value):
                # A value of a wrong kind fails under ``not`` too; without a word about it the refusal would puzzle.
                note = "" if speaks(value) else " (a kind or form it does not speak of)"
                failures.append(Failure(place, f"{shown} {word}", _written(operand), shorten(value) + note))
    if rule.args is not None and not rule.open:
        for name in args:
            if name not in named:
                failures.append(Failure(place, shorten(name)[1:-1], "no argument of this name", shorten(args[name])))
    return failures


def weight(rule: Rule) -> int:
    """Count a rule's tests, each of them linear in its argument: what a verifier multiplies to bound its work."""
    return 1 + sum(_weigh(constraint) for constraint in (rule.args or {}).values())


def read_rule(data: Any) -> Rule:
    """Make a rule of plain data, as it comes from TOML or a caller's dicts, and check its operands.

    Raises:
        MalformedTokenError: A member that is unknown, of another type, or not allowed by SPEC 5.
    """
    try:
        rule = msgspec.convert(data, Rule)
    except msgspec.ValidationError as error:
        raise MalformedTokenError(str(error)) from error
    compile_rule(rule)
    return rule


def read_constraint(data: Any) -> ConstraintLike:
    """Make a constraint of plain data and check its operands.

    Raises:
        MalformedTokenError: As ``read_rule``.
    """
    try:
        constraint: ConstraintLike = msgspec.convert(data, ConstraintLike)
    except msgspec.ValidationError as error:
        raise MalformedTokenError(str(error)) from error
    compile_constraint(constraint)
    return constraint


def _said(constraint: Any) -> list[tuple[str, Any]]:
    """List what a constraint says: each member's name and operand."""
    if not isinstance(constraint, Leaf):
        return [("equal", constraint)]
    operands = msgspec.structs.astuple(constraint)
    return [(word, operand) for word, operand in zip(_MAKERS, operands, strict=False) if operand is not None]


def _tests(constraint: Any) -> list[Test]:
    """Check what a constraint says and make a test of each member, in the order of ``_said``."""
    if not isinstance(constraint, Leaf):
        return [comparing.equal(constraint)]
    operands = msgspec.structs.astuple(constraint)
    left = len(operands) - operands.count(None) - isinstance(constraint, Constraint)  # ``optional`` tests no value
    made: list[Test] = []
    for make, operand in zip(_IN_ORDER, operands, strict=False):  # a leaf ends earlier: it has no logic
        if len(made) == left:
            break
        if operand is not None:
            made.append(make(operand))
    if not made:
        # Nothing to test would let any value through without having said so.
        raise MalformedTokenError("a constraint must test something")
    if len(made) > 1:
        _refuse_crossed_bounds(constraint)
    return made


def _refuse_crossed_bounds(leaf: Leaf) -> None:
    if leaf.min is not None and leaf.max is not None and type(leaf.min) is type(leaf.max):
        comparing.within((leaf.min, leaf.max))
    if leaf.min_length is not None and leaf.max_length is not None and leaf.min_length > leaf.max_length:
        raise MalformedTokenError("min_length is above max_length")


def _all_of(operand: tuple[LeafLike, ...]) -> Test:
    parts = [_leaf(part) for part in _some("all_of", operand)]
    speaks, holds = zip(*parts, strict=True)
    return _all_hold(speaks), _all_hold(holds)


def _any_of(operand: tuple[LeafLike, ...]) -> Test:
    parts = [_leaf(part) for part in _some("any_of", operand)]
    speaks, holds = zip(*parts, strict=True)
    return (lambda value: any(speak(value) for speak in speaks)), lambda value: any(hold(value) for hold in holds)


def _not(operand: LeafLike) -> Test:
    speaks, holds = _leaf(operand)
    return speaks, lambda value: speaks(value) and not holds(value)


def _leaf(leaf: LeafLike) -> Test:
    if isinstance(leaf, Constraint):  # a holder's own struct; the decoder would not make one here
        raise MalformedTokenError("all_of, any_of and not take plain tests, without further nesting")
    speaks, holds = zip(*_tests(leaf), strict=True)
    return _all_hold(speaks), _all_hold(holds)


def _some(word: str, parts: tuple[LeafLike, ...]) -> tuple[LeafLike, ...]:
    if not parts:
        raise MalformedTokenError(f"{word} needs at least one constraint")
    return parts


def _url(operand: Url) -> Test:
    return matching.url(operand.scheme, operand.host, operand.port, operand.path)


# Every member there is but ``optional``, in the order of the structs, and what makes its test.
_MAKERS: Final[dict[str, Callable[[Any], Test]]] = {
    "equal": comparing.equal,
    "one_of": comparing.one_of,
    "none_of": comparing.none_of,
    "range": comparing.within,
    "min": comparing.at_least,
    "max": comparing.at_most,
    "glob": matching.glob,
    "subpath": matching.subpath,
    "url": _url,
    "cidr": matching.cidr,
    "length": comparing.has_length,
    "min_length": comparing.has_min_length,
    "max_length": comparing.has_max_length,
    "contains": comparing.contains,
    "subset": comparing.subset,
    "all_of": _all_of,
    "any_of": _any_of,
    "not": _not,
}
_IN_ORDER: Final = tuple(_MAKERS.values())
assert (*_MAKERS, "optional") == Constraint.__struct_encode_fields__


def _all_hold(tests: Sequence[Predicate]) -> Predicate:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda value: first(value) and second(value)
    return lambda value: all(holds(value) for holds in tests)


def _or_absent(holds: Predicate) -> Predicate:
    return lambda value: value is ABSENT or holds(value)


def _weigh(constraint: Any) -> int:
    total = len(_said(constraint))
    if isinstance(constraint, Constraint):
        inner = (*(constraint.all_of or ()), *(constraint.any_of or ()), constraint.not_)
        total += sum(_weigh(part) for part in inner if part is not None)
    return total


def _written(operand: Any) -> str:
    text = encode(operand).decode()
    return text if len(text) <= 200 else text[:199] + "…"
