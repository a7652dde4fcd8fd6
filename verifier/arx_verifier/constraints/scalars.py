# SPDX-License-Identifier: Apache-2.0
"""Compare an argument with scalars, numbers, lengths and lists.  SPEC 7.2.

A member's function checks an operand once and returns a ``Test``; it raises ``MalformedTokenError`` for one that SPEC
7.2 does not allow.  ``text`` has the text forms (glob, path, URL, network); ``constraint`` names the members and
combines the tests.
"""

# A JSON number is the decimal that RFC 8785 writes and a proof covers: a float of a whole number is that integer, and
# any other float is the decimal of its shortest digits, which ``repr`` returns.

import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from arx_verifier.errors import MalformedTokenError
from arx_verifier.jcs import MAX_INTEGER

ABSENT: Final = object()  # the value of an absent argument or member; no test holds for it
Predicate: TypeAlias = Callable[[Any], bool]
# (speaks, holds): whether a value is of a kind that the constraint tests, and whether the constraint holds for it.  A
# value of another kind fails, under ``not`` as well, so ``holds`` implies ``speaks``.
Test: TypeAlias = tuple[Predicate, Predicate]
Kinds: TypeAlias = frozenset[str]

# The kinds of single value.  Text that is a decimal number is a kind of its own.
NUMBERS: Final[Kinds] = frozenset(["integer", "decimal"])
TEXTS: Final[Kinds] = frozenset(["text", "decimal"])
EVERY: Final[Kinds] = NUMBERS | TEXTS | {"flag"}

_MAX_ITEMS: Final = 1 << 16  # an item takes a hundred times as long as a character of text
MAX_DECIMAL_CHARS: Final = 32  # more digits than any money amount; bounds the cost of one comparison

_OPERAND: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?")
# A value may be 19.90 where an operand must be 19.9: amounts of money come with trailing zeros.
_VALUE: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def is_text(value: Any) -> bool:
    """Return whether *value* is text."""
    return type(value) is str


def is_integer(value: Any) -> bool:
    """Return whether *value* is a whole number, not a bool, that JSON carries without loss; ``5.0`` is one."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)  # Python compares a float with an integer exactly
    return False


def is_number(value: Any) -> bool:
    """Return whether *value* is a number, not a bool, that JSON carries without loss."""
    return (type(value) is int or type(value) is float) and bool(-MAX_INTEGER <= value <= MAX_INTEGER)


def is_bool(value: Any) -> bool:
    """Return whether *value* is true or false."""
    return type(value) is bool


def is_sized(value: Any) -> bool:
    """Return whether *value* has a length: text (in code points) or a list (in items)."""
    return type(value) is str or type(value) is list


_SPEAKS: Final[dict[type, Predicate]] = {str: is_text, int: is_integer, bool: is_bool}


def scalar(value: Any) -> Any:
    """Return *value* if it can be an operand: text, an integer within 2**53 - 1, or a bool.

    Raises:
        MalformedTokenError: It is something else.
    """
    if is_text(value) or _is_integer_operand(value) or is_bool(value):
        return value
    raise MalformedTokenError("an operand must be text, an integer within 2**53 - 1, or true or false")


def kind_of(value: Any) -> Kinds:
    """Return the kind of a scalar, in a set."""
    if isinstance(value, bool):
        return frozenset(["flag"])
    if isinstance(value, int):
        return frozenset(["integer"])
    return frozenset(["decimal" if is_decimal(value) else "text"])


def kinds_among(values: Iterable[Any]) -> Kinds:
    """Return the kinds of several scalars."""
    return frozenset[str]().union(*map(kind_of, values))


def kinds_between(bounds: Iterable[Any]) -> Kinds:
    """Return the kinds that can lie between bounds: a bound that is text is a decimal."""
    return NUMBERS if any(isinstance(bound, str) for bound in bounds) else frozenset(["integer"])


def other_kinds(kinds: Kinds) -> Kinds:
    """Return the kinds that can differ from values of these kinds."""
    # A value that differs from one text can be any other text, decimal or not.
    return kinds | TEXTS if kinds & TEXTS else kinds


def equal(operand: Any) -> Test:
    """Return the test: the value is this scalar, of the same type, or this list.

    ``"5"`` is not ``5``, and ``true`` is not ``1``.
    """
    if isinstance(operand, tuple | list):
        return _same_list([scalar(item) for item in operand])
    kind = type(scalar(operand))
    if kind is bool:
        return is_bool, lambda value: value is operand
    if kind is int:
        return is_integer, lambda value: (type(value) is int or type(value) is float) and value == operand
    return is_text, same_text(operand)


def same_text(operand: str) -> Predicate:
    """Return the test: the value is this text."""
    return lambda value: type(value) is str and value == operand


def _same_list(wanted: list[Any]) -> Test:
    kinds = [type(item) for item in wanted]
    sets = _by_kind("equal", wanted) if wanted else {}

    def holds(value: Any) -> bool:
        # ``==`` takes ``True`` for ``1``, so the types are compared as well.
        return type(value) is list and value == wanted and [_type_of(item) for item in value] == kinds

    return lambda value: _items_by_kind(value, sets) is not None, holds


def one_of(operand: Sequence[Any]) -> Test:
    """Return the test: the value is one of these scalars."""
    sets = _by_kind("one_of", operand)
    if len(sets) == 1:
        [(kind, wanted)] = sets.items()
        return _SPEAKS[kind], among(kind, wanted)
    return _speaks_of(sets), lambda value: _is_among(value, sets)


def among(kind: type, wanted: frozenset[Any]) -> Predicate:
    """Return the test: the value is one of these, which are all of this type."""
    if kind is int:  # a float of a whole number is equal to that integer, and has its hash
        return lambda value: (type(value) is int or type(value) is float) and value in wanted
    return lambda value: type(value) is kind and value in wanted


def none_of(operand: Sequence[Any]) -> Test:
    """Return the test: the value is of the same kind as one of these scalars, and none of them."""
    sets = _by_kind("none_of", operand)
    speaks = _speaks_of(sets)
    return speaks, lambda value: speaks(value) and value not in sets[_type_of(value)]


def within(operand: Sequence[Any]) -> Test:
    """Return the test: the value is in this closed range.

    With integer bounds the value is an integer; with decimal text it is a number or decimal text.

    Args:
        operand: The lowest and the highest value.

    Raises:
        MalformedTokenError: Not two bounds, not numbers, or the lower one is above the upper one.
    """
    if len(operand) != 2:
        raise MalformedTokenError("range needs two bounds")
    return _between("range", operand[0], operand[1])


def within_integers(least: int, most: int) -> Predicate:
    """Return the test of a closed range of integers; its ``bounds`` allow ``rule.merge`` to intersect several."""

    def holds(value: Any) -> bool:
        if type(value) is int:
            return least <= value <= most
        return type(value) is float and value.is_integer() and least <= value <= most

    holds.bounds = least, most  # type: ignore[attr-defined]  # a function carries them
    return holds


def at_least(operand: Any) -> Test:
    """Return the test: the value is not below this number."""
    return _between("min", operand, None)


def at_most(operand: Any) -> Test:
    """Return the test: the value is not above this number."""
    return _between("max", None, operand)


def has_length(operand: Any) -> Test:
    """Return the test: the text or list has this length."""
    wanted = _size("length", operand)
    return is_sized, within_lengths(wanted, wanted)


def has_min_length(operand: Any) -> Test:
    """Return the test: the text or list is not shorter."""
    least = _size("min_length", operand)
    return is_sized, within_lengths(least, MAX_INTEGER)


def has_max_length(operand: Any) -> Test:
    """Return the test: the text or list is not longer."""
    most = _size("max_length", operand)
    return is_sized, within_lengths(0, most)


def within_lengths(least: int, most: int) -> Predicate:
    """Return the test: the length of the text or list is in this closed range."""
    return lambda value: (type(value) is str or type(value) is list) and least <= len(value) <= most


def contains(operand: Sequence[Any]) -> Test:
    """Return the test: the list has all of these scalars, and only items of their kinds."""
    sets = _by_kind("contains", operand)

    def holds(value: Any) -> bool:
        items_of = _items_by_kind(value, sets)
        return items_of is not None and all(wanted.issubset(items_of.get(kind, ())) for kind, wanted in sets.items())

    return lambda value: _items_by_kind(value, sets) is not None, holds


def subset(operand: Sequence[Any]) -> Test:
    """Return the test: every item of the list is among these scalars; an empty operand allows the empty list only."""
    sets = _by_kind("subset", operand) if operand else {}

    def holds(value: Any) -> bool:
        items_of = _items_by_kind(value, sets)
        return items_of is not None and all(sets[kind].issuperset(items) for kind, items in items_of.items())

    return lambda value: _items_by_kind(value, sets) is not None, holds


def anything(operand: Any) -> Test:
    """Return the test: there is a value, of any kind."""
    # Written as true alone: false would have no meaning, and a second form of leaving the member out.
    if operand is not True:
        raise MalformedTokenError("any must be true")
    return is_given, is_given


def is_given(value: Any) -> bool:
    """Return whether there is a value."""
    return value is not ABSENT


def _items_by_kind(value: Any, sets: dict[type, frozenset[Any]]) -> dict[type, list[Any]] | None:
    """Return a list's items by type; None for another value, or an item of a type without operand."""
    # Only functions in C visit each item: a caller may send 65 536 items, and a rule may have thirty tests.
    if type(value) is not list or len(value) > _MAX_ITEMS:
        return None
    kinds = set(map(type, value))
    floats = float in kinds
    if not kinds - {float} <= sets.keys() or (floats and int not in sets):
        return None
    by_kind = {kind: value if len(kinds) == 1 else [item for item in value if type(item) is kind] for kind in kinds}
    if floats:
        if not all(map(float.is_integer, by_kind[float])):
            return None
        by_kind[int] = by_kind.get(int, []) + by_kind.pop(float)
    numbers = by_kind.get(int)
    if numbers is not None and not (min(numbers) >= -MAX_INTEGER and max(numbers) <= MAX_INTEGER):
        return None
    return by_kind


def decimal_of(value: Any) -> Decimal | None:
    """Return a number, or decimal text, as the decimal that RFC 8785 writes; None for other values.

    Args:
        value: The value.  Beyond 2**53 - 1 a float is no value, as an integer is none: JSON could round it.
    """
    if type(value) is float:
        return Decimal(repr(value)) if is_number(value) else None
    return Decimal(value) if is_decimal(value) or is_number(value) else None


def is_decimal(value: Any) -> bool:
    """Return whether *value* is decimal text: plain digits, at most 32 characters, no exponent, no leading zeros."""
    return type(value) is str and len(value) <= MAX_DECIMAL_CHARS and _VALUE.fullmatch(value) is not None


def _by_kind(word: str, operand: Sequence[Any]) -> dict[type, frozenset[Any]]:
    """Return scalars by type, because a set takes ``True`` for ``1``."""
    if not operand:
        raise MalformedTokenError(f"{word} needs at least one value")
    sets: dict[type, set[Any]] = {}
    for item in operand:
        sets.setdefault(type(scalar(item)), set()).add(item)
    return {kind: frozenset(items) for kind, items in sets.items()}


def _is_among(value: Any, sets: dict[type, frozenset[Any]]) -> bool:
    wanted = sets.get(_type_of(value))
    return wanted is not None and value in wanted


def _type_of(value: Any) -> type:
    """Return the type of a value; that of a float of a whole number is ``int``."""
    kind = type(value)
    return int if kind is float and value.is_integer() else kind


def _speaks_of(sets: dict[type, frozenset[Any]]) -> Predicate:
    kinds = tuple(_SPEAKS[kind] for kind in sets)
    return lambda value: any(speaks(value) for speaks in kinds)


def _size(word: str, operand: Any) -> int:
    if not _is_integer_operand(operand) or operand < 0:
        raise MalformedTokenError(f"{word} must be an integer that is not negative")
    return int(operand)


def _between(word: str, low: Any, high: Any) -> Test:
    least = -MAX_INTEGER if low is None else low
    most = MAX_INTEGER if high is None else high
    if _is_integer_operand(least) and _is_integer_operand(most):
        if least > most:
            raise MalformedTokenError(f"{word}: the lower bound is above the upper one")
        return is_integer, within_integers(least, most)
    bounds = [bound for bound in (low, high) if bound is not None]
    if all(map(_is_decimal_operand, bounds)):
        return _decimal_between(word, *(None if bound is None else Decimal(bound) for bound in (low, high)))
    raise MalformedTokenError(f"{word} needs integers, or decimals as text such as '10.5' without trailing zeros")


def _decimal_between(word: str, low: Decimal | None, high: Decimal | None) -> Test:
    if low is not None and high is not None and low > high:
        raise MalformedTokenError(f"{word}: the lower bound is above the upper one")
    # Integers are compared with integers: converting a huge one to Decimal takes more than linear time.
    least = -MAX_INTEGER if low is None else max(-MAX_INTEGER, math.ceil(low))
    most = MAX_INTEGER if high is None else min(MAX_INTEGER, math.floor(high))

    def holds(value: Any) -> bool:
        if type(value) is int:
            return least <= value <= most
        amount = decimal_of(value)
        return amount is not None and (low is None or low <= amount) and (high is None or amount <= high)

    return lambda value: is_number(value) or is_decimal(value), holds


def _is_integer_operand(value: Any) -> bool:
    return type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER  # canonical JSON writes no float


def _is_decimal_operand(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_DECIMAL_CHARS and _OPERAND.fullmatch(value) is not None
