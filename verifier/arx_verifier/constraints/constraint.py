# SPDX-License-Identifier: Apache-2.0
"""The constraint of one argument: its grammar, its checks and its compiled test.  SPEC 7.

``FlatConstraint`` and ``Constraint`` are the grammar, and ``MEMBERS`` is the table of tests.  ``scalars`` and ``text``
match values; ``rule`` tests the arguments of a call.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

import arx_verifier.constraints.containers as containers
import arx_verifier.constraints.scalars as scalars
import arx_verifier.constraints.text as matching
from arx_verifier.constraints.scalars import (
    ABSENT,
    EVERY,
    TEXTS,
    Kinds,
    Predicate,
    Test,
    kind_of,
    kinds_among,
    kinds_between,
    other_kinds,
)
from arx_verifier.errors import AttenuationError, MalformedTokenError, TokenError, shorten
from arx_verifier.jcs import MAX_INTEGER, decode, encode, is_plain_name
from arx_verifier.limits import MAX_NESTING, Kept, nested_parts

Integer: TypeAlias = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Size: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Scalar: TypeAlias = str | Integer | bool
Bound: TypeAlias = str | Integer  # text is a decimal

# msgspec would encode these as text in forms of its own, which no caller's argument has.
_NO_TEXT: Final = (bytes, bytearray, memoryview, datetime, date, time, timedelta)
_EXAMPLES: Final = {
    "allow": '(Rule(tool="orders.get"),)',
    "args": '{"amount": Constraint(max=20), "currency": "EUR"}',
}


# `msgspec.convert` and `msgspec.structs.replace` bypass this check; a verifier checks their results when it compiles
# them.  No compiled test is cached here: a holder that writes rules must not fill a verifier's caches.
class Written(msgspec.StructMeta):
    """The metaclass of structs that a holder makes in Python: a call checks the operands.

    A call converts lists to tuples and plain dicts to structs.
    """

    if not TYPE_CHECKING:  # type checkers must see the members of each struct

        def __call__(self, *args: Any, **members: Any) -> Any:
            """Return the struct, checked.

            Raises:
                AttenuationError: A member is unknown, of another type, or not allowed by SPEC 6 or 7.
            """
            try:
                made = super().__call__(*args, **members)
            except TypeError as error:
                known = ", ".join(self.__struct_fields__)
                raise AttenuationError(
                    f"{self.__name__}: expected members among {known}, by name, got {_shown(args, members)}: {error}"
                ) from error
            try:
                read = msgspec.convert(msgspec.to_builtins(made, builtin_types=_NO_TEXT), self)
                read.check_written()
                encode(read)  # refuses a lone surrogate, which the types accept
            except msgspec.ValidationError as error:
                raise _type_error(self.__name__, members, error) from error
            except (TokenError, TypeError, RecursionError) as error:
                why = " ".join(str(error).split())
                raise AttenuationError(f"{self.__name__}: {why}, got {_shown(args, members)}") from error
            return read


def _type_error(name: str, members: dict[str, Any], error: msgspec.ValidationError) -> AttenuationError:
    """Return msgspec's error in ARx's form: the member, the expected type, and the value."""
    text, _, path = str(error).partition(" - at `$")  # such as: Expected `int`, got `str` - at `$.allow[0].open`
    place, expected = path.strip(".`"), "expected" + text.partition(", got `")[0].removeprefix("Expected")
    member = place.partition(".")[0].partition("[")[0]
    if member in _EXAMPLES:
        expected = f"expected such as {_EXAMPLES[member]}"
    got = _value(members[member]) if member in members else _shown((), members)
    return AttenuationError(f"{f'{name} {place}'.rstrip()}: {expected}, got {got}")


def _shown(args: tuple[Any, ...], members: dict[str, Any]) -> str:
    """Return a call's arguments as text; long ones are shortened."""
    texts = [*map(_value, args), *(f"{name}={_value(value)}" for name, value in members.items() if value is not None)]
    return ", ".join(texts)[:400] or "nothing"


def _value(value: Any) -> str:
    if type(value) is tuple:
        return f"({', '.join(map(_value, value[:4]))}{', …' if len(value) > 4 else ',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return "{" + ", ".join([f"{_value(name)}: {_value(item)}" for name, item in list(value.items())[:4]]) + "}"
    if isinstance(value, msgspec.Struct):
        return type(value).__name__
    return shorten(value)


class Url(Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The parts of a URL that a constraint fixes; see ``text.url``.

    Attributes:
        scheme: The scheme, lower-case, such as ``https``.
        host: A host's name, or ``*.`` and a name for every host below it.
        port: The port; None means the scheme's own.
        path: A path that the URL's path must be at or below; None allows any.

    Raises:
        AttenuationError: A part is not allowed by SPEC 7.3.
    """

    scheme: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    path: str | None = None

    def check_written(self) -> None:
        """Check the parts.

        Raises:
            MalformedTokenError: A part is not allowed by SPEC 7.3.
        """
        _url(self)


class FlatConstraint(
    Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Tests of one value without nesting; see ``Constraint``.  All given tests must hold."""

    equal: Scalar | tuple[Scalar, ...] | None = None
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
    any: bool | None = None

    def check_written(self) -> None:
        """Check the operands.

        Raises:
            MalformedTokenError: An operand is not allowed by SPEC 7.
        """
        tests_of(self)


LeafLike: TypeAlias = Scalar | FlatConstraint  # a bare scalar means ``equal``


class Constraint(FlatConstraint, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The condition of a rule on one argument: tests, one level of logic, its parts, and whether it may be absent.

    Attributes:
        equal: This value, of the same type; or this very list, in this order.
        one_of: One of these values.
        none_of: A value of the same kind as one of these, and none of them.
        range: An integer between two integers, both included; or a number, or a decimal as text, between two decimals
            as text such as ``"10.5"``.
        min: At least this.
        max: At most this.
        glob: Text that matches this pattern, in which ``*`` is any run of characters without ``/``.
        subpath: A path that is this folder or lies below it; ``..``, escapes and backslashes are refused.
        url: A URL with these parts; private addresses only where they are named.
        cidr: An address in this network, such as ``10.0.0.0/8``.
        length: Text of this many characters, or a list of this many items.
        min_length: Text or a list of at least this length.
        max_length: Text or a list of at most this length.
        contains: A list that has all of these.
        subset: A list of nothing but these.
        any: With ``true``, any value; it may not be absent.
        all_of: A value for which all of these hold, each a plain value or a table of members without further logic.
        any_of: A value for which one of these holds.
        not_: A value of the kind that this tests, and for which it does not hold.
        each: A list whose every item satisfies this constraint; or, of a list of constraints, a list of as many items,
            each of which satisfies its own.
        fields: An object whose members satisfy these constraints; other members, and missing ones, are refused.
        open: With ``true``, ``fields`` allows members that it does not name.
        optional: With ``true``, as the other members say, or absent.

    Raises:
        AttenuationError: No test, too many levels of ``each`` and ``fields``, bounds that cross, or an operand that
            SPEC 7 does not allow.
    """

    # One level of logic, as types and not as a recursion: no token decides how deep a verifier goes.
    all_of: tuple[LeafLike, ...] | None = None
    any_of: tuple[LeafLike, ...] | None = None
    not_: LeafLike | None = field(default=None, name="not")
    # These two nest, at most ``MAX_NESTING`` deep.
    each: "ConstraintLike | tuple[ConstraintLike, ...] | None" = None
    fields: "dict[str, ConstraintLike] | None" = None
    open: bool = False
    optional: bool = False


ConstraintLike: TypeAlias = Scalar | Constraint
_CONSTRAINT: Final[msgspec.json.Decoder[ConstraintLike]] = msgspec.json.Decoder(ConstraintLike)

_NONE: Final[Kinds] = frozenset()  # what only a list can pass


def compile_constraint(constraint: ConstraintLike) -> Predicate:
    """Return the test of one argument: a callable that is True for a value that satisfies the constraint.  SPEC 7.

    Args:
        constraint: A scalar, which means ``equal``, or a constraint.

    Raises:
        MalformedTokenError: An operand is not allowed by SPEC 7, or the constraint has no test.
    """
    return all_hold([holds for _, holds in tests_of(constraint)])


class CompiledConstraint(NamedTuple):
    """A checked constraint.

    Attributes:
        holds: Takes the argument's value, or ``ABSENT``.
        weight: The number of its tests.
        optional: Whether it holds for an absent argument.
        tests: The test of each member, in the order of ``said``.
    """

    holds: Predicate
    weight: int
    optional: bool
    tests: tuple[Test, ...]


# Tokens of one policy have the same constraints, so compiled ones are cached.  The key is canonical bytes, because
# structs with ``true`` and ``1`` are equal.  The bytes come from authentic tokens alone, but a holder can attenuate
# without end, so the caches are bounded.
_MAX_TESTS: Final = 16_384  # in one cache; a test takes about 270 bytes: about 5 MB
_KEPT: Final[Kept[bytes, "CompiledConstraint"]] = Kept(_MAX_TESTS, 2)
_SAID: Final[Kept[bytes, tuple["ConstraintMember", ...]]] = Kept(_MAX_TESTS, 2)  # the same, for refusals
_MAX_KEPT_BYTES: Final = 256
_MAX_OPERAND_CHARS: Final = 200  # of an operand in a refusal
_MAX_KEPT_WEIGHT: Final = 16  # a test takes about 270 bytes, and `any_of` has room for a hundred


def compile_written(written: bytes) -> CompiledConstraint:
    """Return the compiled constraint of its bytes in a caveat.

    Args:
        written: The constraint's canonical JSON.

    Raises:
        MalformedTokenError: The bytes are not canonical, or as ``compile_constraint``.
    """
    compiled = _KEPT.get(written)
    if compiled is None:
        constraint = decode(_CONSTRAINT, written)
        tests = tests_of(constraint)
        holds = all_hold([holds for _, holds in tests])
        if not isinstance(constraint, Constraint):  # a scalar, such as one order's id, is often new
            compiled = CompiledConstraint(holds, 1, False, tuple(tests))
        else:
            # ``optional`` is the only member that permits more: it skips the tests for an absent argument.
            optional = constraint.optional
            holds = _or_absent(holds) if optional else holds
            compiled = CompiledConstraint(holds, weigh(constraint), optional, tuple(tests))
        if len(written) <= _MAX_KEPT_BYTES and compiled.weight <= _MAX_KEPT_WEIGHT:
            _KEPT.keep(written, compiled, compiled.weight + nested_parts(written))
    return compiled


class ConstraintMember(NamedTuple):
    """One member of a constraint, for refusals.  Of ``each`` and ``fields``, ``parts`` has the constraints inside.

    Attributes:
        word: The member's name.
        operand: Its operand as text.
        speaks: Takes a value; returns whether it is of a kind that the member tests.
        holds: Takes a value; returns whether the member holds for it.
        parts: The members of each constraint inside, by the name of the object's member or the index of the item; by
            None if they are for every item.
        closed: Whether an object's other members are refused.
    """

    word: str
    operand: str
    speaks: Predicate
    holds: Predicate
    parts: "dict[str | int | None, PartSaid] | None" = None
    closed: bool = False


class PartSaid(NamedTuple):
    """The constraint of an object's member or of a list's item, for refusals.

    Attributes:
        optional: Whether it may be absent.
        members: Its members.
    """

    optional: bool
    members: tuple[ConstraintMember, ...]


def said_written(written: bytes) -> tuple[ConstraintMember, ...]:
    """Return the members of a constraint as texts with their tests, for refusals.

    Args:
        written: Bytes that ``compile_written`` accepted.
    """
    members_said = _SAID.get(written)
    if members_said is None:
        compiled = compile_written(written)
        members_said = _say(decode(_CONSTRAINT, written), compiled.tests)
        if len(written) <= _MAX_KEPT_BYTES and compiled.weight <= _MAX_KEPT_WEIGHT:
            _SAID.keep(written, members_said, compiled.weight + nested_parts(written))
    return members_said


def _say(constraint: Any, tests: Sequence[Test]) -> tuple[ConstraintMember, ...]:
    closed = isinstance(constraint, Constraint) and not constraint.open
    return tuple(
        [
            ConstraintMember(word, _operand_text(operand), *test, _say_parts(word, operand), closed)
            for (word, operand), test in zip(said(constraint), tests, strict=True)
        ]
    )


def _say_parts(word: str, operand: Any) -> dict[str | int | None, PartSaid] | None:
    if word == "fields":
        return {name: _say_part(part) for name, part in operand.items()}
    if word == "each":
        return dict(enumerate(map(_say_part, operand))) if isinstance(operand, tuple) else {None: _say_part(operand)}
    return None


def _say_part(part: Any) -> PartSaid:
    return PartSaid(isinstance(part, Constraint) and part.optional, _say(part, tests_of(part)))


def _operand_text(operand: Any) -> str:
    text = encode(operand).decode()
    return text if len(text) <= _MAX_OPERAND_CHARS else text[: _MAX_OPERAND_CHARS - 1] + "…"


def read_constraint(data: Any) -> ConstraintLike:
    """Parse a constraint from plain data and check its operands.

    Args:
        data: A scalar or a dict, such as a policy has it.

    Raises:
        MalformedTokenError: A member is unknown, of another type, or not allowed by SPEC 7.
    """
    try:
        constraint: ConstraintLike = msgspec.convert(data, ConstraintLike)
    except msgspec.ValidationError as error:
        raise MalformedTokenError(str(error)) from error
    compile_constraint(constraint)
    encode(constraint)  # refuses a lone surrogate, which the types accept
    return constraint


def said(constraint: Any) -> list[tuple[str, Any]]:
    """Return the name and the operand of each member of a constraint."""
    if not isinstance(constraint, FlatConstraint):
        return [("equal", constraint)]
    operands = msgspec.structs.astuple(constraint)
    return [(word, operand) for word, operand in zip(MEMBERS, operands, strict=False) if operand is not None]


def tests_of(constraint: Any) -> list[Test]:
    """Return a test for each member of a constraint, in the order of ``said``, after checking the operands.

    Raises:
        MalformedTokenError: An operand is not allowed by SPEC 7, or there is no test.
    """
    if not isinstance(constraint, FlatConstraint):
        return [scalars.equal(constraint)]
    order = _IN_ORDER
    if isinstance(constraint, Constraint):
        if constraint.each is not None or constraint.fields is not None:
            _refuse_nesting(constraint, MAX_NESTING)
        if constraint.open:
            if constraint.fields is None:
                raise MalformedTokenError("open goes with fields, whose other members it allows")
            order = _IN_ORDER_OPEN
    operands = msgspec.structs.astuple(constraint)[: len(_IN_ORDER)]  # without those that test no value
    count = len(operands) - operands.count(None)
    made: list[Test] = []
    for make, operand in zip(order, operands, strict=False):  # a leaf ends earlier: it has no logic
        if len(made) == count:
            break
        if operand is not None:
            made.append(make(operand))
    if not made:
        # A constraint without a test would allow any value, which its writer cannot have meant.
        raise MalformedTokenError("a constraint must test something, such as { max = 100 } or { any = true }")
    if len(made) > 1:
        _refuse_crossed_bounds(constraint)
    return made


def weigh(constraint: Any) -> int:
    """Return the number of tests of one argument, including those inside its logic."""
    total = len(said(constraint))
    if isinstance(constraint, Constraint):
        inner = (*(constraint.all_of or ()), *(constraint.any_of or ()), constraint.not_, *parts_of(constraint))
        total += sum(weigh(part) for part in inner if part is not None)
    return total


def parts_of(constraint: Constraint) -> tuple[ConstraintLike, ...]:
    """Return the constraints of an object's members and of a list's items."""
    each = constraint.each
    items = each if isinstance(each, tuple) else () if each is None else (each,)
    return (*items, *(constraint.fields or {}).values())


def kinds_of(constraint: Any) -> Kinds:
    """Return the kinds of single value that can pass a constraint: ``text``, ``decimal`` text, ``integer``, ``flag``.

    A policy asks this of its parameters.  The set is empty when only a list, or nothing at all, can pass.
    """
    kinds = EVERY
    for word, operand in said(constraint):
        kinds &= MEMBERS[word].kinds(operand)
    return kinds


def all_hold(tests: Sequence[Predicate]) -> Predicate:
    """Return a predicate that is true if all of these are."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda value: first(value) and second(value)
    return lambda value: all(holds(value) for holds in tests)


def _or_absent(holds: Predicate) -> Predicate:
    return lambda value: value is ABSENT or holds(value)


def _refuse_crossed_bounds(leaf: FlatConstraint) -> None:
    if leaf.min is not None and leaf.max is not None and type(leaf.min) is type(leaf.max):
        scalars.within((leaf.min, leaf.max))
    if leaf.min_length is not None and leaf.max_length is not None and leaf.min_length > leaf.max_length:
        raise MalformedTokenError("min_length is above max_length")


def _refuse_nesting(constraint: Any, levels: int, *, repeated: bool = False) -> None:
    """Check how deep ``each`` and ``fields`` nest, before anything inside is compiled.

    Args:
        constraint: The constraint.
        levels: How many levels may be here.
        repeated: Whether an ``each`` around it tests every item.
    """
    if not isinstance(constraint, Constraint) or (constraint.each is None and constraint.fields is None):
        return
    if levels == 0:
        raise MalformedTokenError(f"each and fields nest at most {MAX_NESTING} deep")
    each = constraint.each
    every = each is not None and not isinstance(each, tuple)
    if every and repeated:  # the work of a test would be the product of the lists' lengths
        raise MalformedTokenError("an each for every item is inside another one: give the outer one a list")
    for part in (each if isinstance(each, tuple) else (each,)) if each is not None else ():
        if isinstance(part, Constraint) and part.optional:
            raise MalformedTokenError("an item of a list is never absent: leave optional out of each")
    for part in parts_of(constraint):
        _refuse_nesting(part, levels - 1, repeated=repeated or every)


def _fields(operand: dict[str, ConstraintLike], *, closed: bool = True) -> Test:
    for name in operand:
        if not is_plain_name(name):
            raise MalformedTokenError("a member's name is empty or has a character beyond U+FFFF")
    return containers.has_members([(name, _part(part)) for name, part in operand.items()], closed=closed)


def _each(operand: ConstraintLike | tuple[ConstraintLike, ...]) -> Test:
    if isinstance(operand, tuple):
        return containers.items_hold(list(map(_part, operand)))
    return containers.each_holds(_part(operand))


def _part(constraint: ConstraintLike) -> Predicate:
    holds = compile_constraint(constraint)
    return _or_absent(holds) if isinstance(constraint, Constraint) and constraint.optional else holds


def _all_of(operand: tuple[LeafLike, ...]) -> Test:
    parts = [_leaf(part) for part in _some("all_of", operand)]
    speaks, holds = zip(*parts, strict=True)
    return all_hold(speaks), all_hold(holds)


def _any_of(operand: tuple[LeafLike, ...]) -> Test:
    parts = [_leaf(part) for part in _some("any_of", operand)]
    speaks, holds = zip(*parts, strict=True)
    return (lambda value: any(speak(value) for speak in speaks)), lambda value: any(hold(value) for hold in holds)


def _not(operand: LeafLike) -> Test:
    speaks, holds = _leaf(operand)
    return speaks, lambda value: speaks(value) and not holds(value)


def _leaf(leaf: LeafLike) -> Test:
    if isinstance(leaf, Constraint):  # made in Python by a holder; the decoder makes none here
        raise MalformedTokenError("all_of, any_of and not take plain tests, without further nesting")
    speaks, holds = zip(*tests_of(leaf), strict=True)
    return all_hold(speaks), all_hold(holds)


def _some(word: str, parts: tuple[LeafLike, ...]) -> tuple[LeafLike, ...]:
    if not parts:
        raise MalformedTokenError(f"{word} needs at least one constraint")
    return parts


def _url(operand: Url) -> Test:
    return matching.url(operand.scheme, operand.host, operand.port, operand.path)


class Member(NamedTuple):
    """The test that a member of a constraint makes of its operand.

    Attributes:
        make: Checks the operand and returns the test.
        kinds: Returns the kinds of single value that can pass the test.
    """

    make: Callable[[Any], Test]
    kinds: Callable[[Any], Kinds]


# Every member but ``open`` and ``optional``, in the order of the structs.  A new constraint is one row here, its field
# in ``FlatConstraint``, and its test in ``scalars`` or ``text``; one that has constraints inside is a field of
# ``Constraint``, with its test in ``containers``.
MEMBERS: Final[dict[str, Member]] = {
    "equal": Member(scalars.equal, lambda operand: _NONE if isinstance(operand, tuple) else kind_of(operand)),
    "one_of": Member(scalars.one_of, kinds_among),
    "none_of": Member(scalars.none_of, lambda operand: other_kinds(kinds_among(operand))),
    "range": Member(scalars.within, kinds_between),
    "min": Member(scalars.at_least, lambda operand: kinds_between([operand])),
    "max": Member(scalars.at_most, lambda operand: kinds_between([operand])),
    "glob": Member(matching.glob, lambda _: TEXTS),
    "subpath": Member(matching.subpath, lambda _: TEXTS),
    "url": Member(_url, lambda _: TEXTS),
    "cidr": Member(matching.cidr, lambda _: TEXTS),
    "length": Member(scalars.has_length, lambda _: TEXTS),
    "min_length": Member(scalars.has_min_length, lambda _: TEXTS),
    "max_length": Member(scalars.has_max_length, lambda _: TEXTS),
    "contains": Member(scalars.contains, lambda _: _NONE),
    "subset": Member(scalars.subset, lambda _: _NONE),
    "any": Member(scalars.anything, lambda _: EVERY),
    "all_of": Member(_all_of, lambda parts: EVERY.intersection(*map(kinds_of, parts))),
    "any_of": Member(_any_of, lambda parts: _NONE.union(*map(kinds_of, parts))),
    "not": Member(_not, lambda part: other_kinds(kinds_of(part))),
    "each": Member(_each, lambda _: _NONE),
    "fields": Member(_fields, lambda _: _NONE),
}
_IN_ORDER: Final = tuple([member.make for member in MEMBERS.values()])
# Beside ``open``: ``fields`` is the last member.
_IN_ORDER_OPEN: Final[tuple[Callable[[Any], Test], ...]] = (*_IN_ORDER[:-1], partial(_fields, closed=False))
assert (*MEMBERS, "open", "optional") == Constraint.__struct_encode_fields__
