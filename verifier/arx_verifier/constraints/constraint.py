# SPDX-License-Identifier: Apache-2.0
"""The constraint of one argument, its compiled test, and the check of what a holder writes.  SPEC 7.

``FlatConstraint`` and ``Constraint`` are the whole grammar and ``_MAKERS`` the whole table.  ``scalars`` and ``text``
match one value; ``rule`` tests the arguments of a call.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

import arx_verifier.constraints.scalars as scalars
import arx_verifier.constraints.text as matching
from arx_verifier.constraints.scalars import Predicate, Test
from arx_verifier.errors import AttenuationError, MalformedTokenError, TokenError, shorten
from arx_verifier.jcs import MAX_INTEGER, decode, encode
from arx_verifier.limits import Kept

Integer: TypeAlias = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Size: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Scalar: TypeAlias = str | Integer | bool
Bound: TypeAlias = str | Integer  # text is a decimal

# msgspec would write these as text of its own choice, which no caller's argument is.
_NO_TEXT: Final = (bytes, bytearray, memoryview, datetime, date, time, timedelta)
_EXAMPLES: Final = {
    "allow": '(Rule(tool="orders.get"),)',
    "args": '{"amount": Constraint(max=20), "currency": "EUR"}',
}


class Written(msgspec.StructMeta):
    """The type of structs that a holder writes in Python: a call checks the operands, which decoding does not.

    A call returns lists as tuples and plain dicts as the structs that they describe.  ``msgspec.convert`` and
    ``msgspec.structs.replace`` do not come this way; a verifier checks what they read where it compiles it.  Nothing
    here keeps a compiled test, so that writing a rule warms no verifier's memory.
    """

    if not TYPE_CHECKING:  # a checker is to see the members of each struct

        def __call__(self, *args: Any, **members: Any) -> Any:
            """Make the struct and check it.

            Raises:
                AttenuationError: A member that is unknown, of another type, or not allowed by SPEC 6 or 7.
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
                encode(read)  # half of a surrogate pair, which the types let through
            except msgspec.ValidationError as error:
                raise _type_error(self.__name__, members, error) from error
            except (TokenError, TypeError, RecursionError) as error:
                why = " ".join(str(error).split())
                raise AttenuationError(f"{self.__name__}: {why}, got {_shown(args, members)}") from error
            return read


def _type_error(name: str, members: dict[str, Any], error: msgspec.ValidationError) -> AttenuationError:
    """Write msgspec's error in the words of ARx: the member, what it takes, and what it got."""
    text, _, path = str(error).partition(" - at `$")  # such as: Expected `int`, got `str` - at `$.allow[0].open`
    place, expected = path.strip(".`"), "expected" + text.partition(", got `")[0].removeprefix("Expected")
    member = place.partition(".")[0].partition("[")[0]
    if member in _EXAMPLES:
        expected = f"expected such as {_EXAMPLES[member]}"
    got = _value(members[member]) if member in members else _shown((), members)
    return AttenuationError(f"{f'{name} {place}'.rstrip()}: {expected}, got {got}")


def _shown(args: tuple[Any, ...], members: dict[str, Any]) -> str:
    """Write a call's arguments; long ones shortened."""
    each = [*map(_value, args), *(f"{name}={_value(value)}" for name, value in members.items() if value is not None)]
    return ", ".join(each)[:400] or "nothing"


def _value(value: Any) -> str:
    if type(value) is tuple:
        return f"({', '.join(map(_value, value[:4]))}{', …' if len(value) > 4 else ',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return "{" + ", ".join([f"{_value(name)}: {_value(item)}" for name, item in list(value.items())[:4]]) + "}"
    if isinstance(value, msgspec.Struct):
        return type(value).__name__
    return shorten(value)


class Url(Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The parts of a URL that a constraint fixes; see ``matching.url``.

    Attributes:
        scheme: Such as ``https``, lower-case.
        host: A host's name, or ``*.`` and a name for every host below it.
        port: The port; None means the scheme's own.
        path: A path that the URL's path must be at or below; None lets any through.

    Raises:
        AttenuationError: A part that SPEC 7.3 does not allow.
    """

    scheme: str
    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    path: str | None = None

    def check_written(self) -> None:
        """Refuse parts that SPEC 7.3 does not allow."""
        _url(self)


class FlatConstraint(
    Struct, metaclass=Written, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Tests of one value without nesting; see ``Constraint``.  Every member restricts; together all must hold."""

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

    def check_written(self) -> None:
        """Refuse operands that SPEC 7 does not allow."""
        tests_of(self)


LeafLike: TypeAlias = Scalar | FlatConstraint  # a bare scalar means ``equal``


class Constraint(FlatConstraint, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a rule says of one argument: the tests of ``FlatConstraint``, one level of logic, may it be absent.

    The levels are types, not a recursion, so that no token decides how deep a verifier goes.

    Attributes:
        equal: This very value, of the same type; or this very list.
        one_of: One of these values.
        none_of: A value of the same kind as one of these, and none of them.
        range: Least and most, both included; decimals as text, such as ``("0.5", "19.9")``.
        min: At least this.
        max: At most this.
        glob: Text of this pattern, in which ``*`` is any run of characters without ``/``.
        subpath: A path that is this folder or lies below it.
        url: A URL with these parts.
        cidr: An address in this network, such as ``10.0.0.0/8``.
        length: Text of so many characters, or a list of so many items.
        min_length: At least so many of them.
        max_length: At most so many of them.
        contains: A list that has all of these.
        subset: A list that has nothing but these.
        all_of: All of these hold, each a plain value or a ``FlatConstraint``.
        any_of: One of these holds.
        not_: This does not hold, of a value of the kind that it speaks of; ``not`` in a token and in plain data.
        optional: Lets the argument be absent.

    Raises:
        AttenuationError: No test, bounds that cross, or an operand that SPEC 7 does not allow.
    """

    all_of: tuple[LeafLike, ...] | None = None
    any_of: tuple[LeafLike, ...] | None = None
    not_: LeafLike | None = field(default=None, name="not")
    optional: bool = False


ConstraintLike: TypeAlias = Scalar | Constraint
_CONSTRAINT: Final[msgspec.json.Decoder[ConstraintLike]] = msgspec.json.Decoder(ConstraintLike)

ABSENT: Final = object()  # what an argument that is not there is tested as: no constraint takes it


def compile_constraint(constraint: ConstraintLike) -> Predicate:
    """Make the test of one argument: a callable that takes any value and is True when the constraint holds.

    Raises:
        MalformedTokenError: An operand that SPEC 7 does not allow, or a constraint that says nothing.
    """
    return all_hold([holds for _, holds in tests_of(constraint)])


class CompiledConstraint(NamedTuple):
    """A constraint whose operands were checked.

    Attributes:
        holds: Takes the argument's value, or ``ABSENT``.
        weight: How many tests it is made of.
        optional: Whether it holds for an absent argument.
        tests: The test of each member, in the order of ``said``.
    """

    holds: Predicate
    weight: int
    optional: bool
    tests: tuple[Test, ...]


# Policies write the same constraints into every token, so what was compiled is kept, by canonical bytes: equality of
# structs would take ``true`` for ``1``.  Only proven tokens come this far; still the number and size are bounded.
_MAX_TESTS: Final = 16_384  # of all that is kept; one takes about 270 bytes: about 5 MB
_KEPT: Final[Kept[bytes, "CompiledConstraint"]] = Kept(_MAX_TESTS, 2)
_SAID: Final[Kept[bytes, tuple["ConstraintMember", ...]]] = Kept(_MAX_TESTS, 2)  # the same, for refusals
_MAX_KEPT_BYTES: Final = 256
_MAX_TOLD_CHARS: Final = 200  # of an operand
_MAX_KEPT_WEIGHT: Final = 16  # a test takes about 270 bytes, and `any_of` has room for a hundred


def compile_written(written: bytes) -> CompiledConstraint:
    """Make the test of one argument from its constraint's bytes.

    Args:
        written: The constraint as it stands in a caveat.

    Raises:
        MalformedTokenError: Not canonical, or as ``compile_constraint``.
    """
    found = _KEPT.get(written)
    if found is None:
        constraint = decode(_CONSTRAINT, written)
        tests = tests_of(constraint)
        holds = all_hold([holds for _, holds in tests])
        if not isinstance(constraint, Constraint):  # a scalar, such as one order's id: often never seen before
            found = CompiledConstraint(holds, 1, False, tuple(tests))
        else:
            # ``optional`` is the one member that takes a restriction away: it says when not to ask.
            optional = constraint.optional
            holds = _or_absent(holds) if optional else holds
            found = CompiledConstraint(holds, weigh(constraint), optional, tuple(tests))
        if len(written) <= _MAX_KEPT_BYTES and found.weight <= _MAX_KEPT_WEIGHT:
            _KEPT.keep(written, found, found.weight)
    return found


class ConstraintMember(NamedTuple):
    """One member of a constraint, ready to be told of.

    Attributes:
        word: The member's name.
        operand: Its operand as text.
        speaks: Whether it speaks of a value at all.
        holds: Whether it holds for a value.
    """

    word: str
    operand: str
    speaks: Predicate
    holds: Predicate


def said_written(written: bytes) -> tuple[ConstraintMember, ...]:
    """Say what a constraint says, for people, with what tells which of it does not hold.

    Args:
        written: A constraint that ``compile_written`` took.
    """
    found = _SAID.get(written)
    if found is None:
        compiled = compile_written(written)
        members = zip(said(decode(_CONSTRAINT, written)), compiled.tests, strict=True)
        found = tuple([ConstraintMember(word, _told(operand), *test) for (word, operand), test in members])
        if len(written) <= _MAX_KEPT_BYTES and compiled.weight <= _MAX_KEPT_WEIGHT:
            _SAID.keep(written, found, compiled.weight)
    return found


def _told(operand: Any) -> str:
    text = encode(operand).decode()
    return text if len(text) <= _MAX_TOLD_CHARS else text[: _MAX_TOLD_CHARS - 1] + "…"


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
    encode(constraint)  # half of a surrogate pair, which the types let through
    return constraint


def said(constraint: Any) -> list[tuple[str, Any]]:
    """List what a constraint says: each member's name and operand."""
    if not isinstance(constraint, FlatConstraint):
        return [("equal", constraint)]
    operands = msgspec.structs.astuple(constraint)
    return [(word, operand) for word, operand in zip(_MAKERS, operands, strict=False) if operand is not None]


def tests_of(constraint: Any) -> list[Test]:
    """Check what a constraint says and make a test of each member, in the order of ``said``."""
    if not isinstance(constraint, FlatConstraint):
        return [scalars.equal(constraint)]
    operands = msgspec.structs.astuple(constraint)[: len(_IN_ORDER)]  # without ``optional``, which tests no value
    count = len(operands) - operands.count(None)
    made: list[Test] = []
    for make, operand in zip(_IN_ORDER, operands, strict=False):  # a leaf ends earlier: it has no logic
        if len(made) == count:
            break
        if operand is not None:
            made.append(make(operand))
    if not made:
        # Nothing to test would let any value through without having said so.
        raise MalformedTokenError("a constraint must test something")
    if len(made) > 1:
        _refuse_crossed_bounds(constraint)
    return made


def weigh(constraint: Any) -> int:
    """Count the tests of one argument, those inside its logic included."""
    total = len(said(constraint))
    if isinstance(constraint, Constraint):
        inner = (*(constraint.all_of or ()), *(constraint.any_of or ()), constraint.not_)
        total += sum(weigh(part) for part in inner if part is not None)
    return total


def all_hold(tests: Sequence[Predicate]) -> Predicate:
    """Make one predicate of several that must all be true."""
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
    if isinstance(leaf, Constraint):  # a holder's own struct; the decoder would not make one here
        raise MalformedTokenError("all_of, any_of and not take plain tests, without further nesting")
    speaks, holds = zip(*tests_of(leaf), strict=True)
    return all_hold(speaks), all_hold(holds)


def _some(word: str, parts: tuple[LeafLike, ...]) -> tuple[LeafLike, ...]:
    if not parts:
        raise MalformedTokenError(f"{word} needs at least one constraint")
    return parts


def _url(operand: Url) -> Test:
    return matching.url(operand.scheme, operand.host, operand.port, operand.path)


# Every member there is but ``optional``, in the order of the structs, and what makes its test.
_MAKERS: Final[dict[str, Callable[[Any], Test]]] = {
    "equal": scalars.equal,
    "one_of": scalars.one_of,
    "none_of": scalars.none_of,
    "range": scalars.within,
    "min": scalars.at_least,
    "max": scalars.at_most,
    "glob": matching.glob,
    "subpath": matching.subpath,
    "url": _url,
    "cidr": matching.cidr,
    "length": scalars.has_length,
    "min_length": scalars.has_min_length,
    "max_length": scalars.has_max_length,
    "contains": scalars.contains,
    "subset": scalars.subset,
    "all_of": _all_of,
    "any_of": _any_of,
    "not": _not,
}
_IN_ORDER: Final = tuple(_MAKERS.values())
assert (*_MAKERS, "optional") == Constraint.__struct_encode_fields__
