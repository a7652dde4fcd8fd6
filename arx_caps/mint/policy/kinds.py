# SPDX-License-Identifier: Apache-2.0
"""Which kinds of value can keep a constraint, worked out from the constraint alone.

A policy is refused when it is loaded, not when a task is started, if a parameter could never be given or could not be
compared where it is used.  Text that is a decimal number is a kind of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from arx_verifier.constraints.constraint import Constraint, said
from arx_verifier.constraints.scalars import is_decimal

Kinds: TypeAlias = frozenset[str]

NUMBERS: Final[Kinds] = frozenset(["integer", "decimal"])
TEXTS: Final[Kinds] = frozenset(["text", "decimal"])
EVERY: Final[Kinds] = NUMBERS | TEXTS | {"flag"}


def kinds_of(constraint: Any) -> Kinds:
    """Tell what single values can keep *constraint*: ``text``, ``decimal`` text, ``integer`` or ``flag``.

    Empty when only a list, or nothing at all, could.

    Raises:
        KeyError: The constraint has a member that is not in ``_KINDS``.
    """
    kinds = EVERY
    for word, operand in said(constraint):
        kinds &= _KINDS[word](operand)
    return kinds


def _of_scalar(value: Any) -> Kinds:
    if isinstance(value, bool):
        return frozenset(["flag"])
    if isinstance(value, int):
        return frozenset(["integer"])
    return frozenset(["decimal" if is_decimal(value) else "text"])


def _of_scalars(values: Iterable[Any]) -> Kinds:
    return frozenset[str]().union(*map(_of_scalar, values))


def _of_bounds(*bounds: Any) -> Kinds:
    return NUMBERS if any(isinstance(bound, str) for bound in bounds) else frozenset(["integer"])


def _other_than(kinds: Kinds) -> Kinds:
    # What is unlike one text can be any other text, a decimal or not.
    return kinds | TEXTS if kinds & TEXTS else kinds


def _texts(_: Any) -> Kinds:
    return TEXTS


def _none(_: Any) -> Kinds:
    return frozenset()


# Every member but ``optional``: what is not known here must not pass for text.
_KINDS: Final[dict[str, Callable[[Any], Kinds]]] = {
    "equal": lambda operand: _none(operand) if isinstance(operand, tuple) else _of_scalar(operand),
    "one_of": _of_scalars,
    "none_of": lambda operand: _other_than(_of_scalars(operand)),
    "range": lambda operand: _of_bounds(*operand),
    "min": _of_bounds,
    "max": _of_bounds,
    "glob": _texts,
    "subpath": _texts,
    "url": _texts,
    "cidr": _texts,
    "length": _texts,
    "min_length": _texts,
    "max_length": _texts,
    "contains": _none,
    "subset": _none,
    "all_of": lambda parts: EVERY.intersection(*map(kinds_of, parts)),
    "any_of": lambda parts: frozenset[str]().union(*map(kinds_of, parts)),
    "not": lambda part: _other_than(kinds_of(part)),
}
assert {*_KINDS, "optional"} == {*Constraint.__struct_encode_fields__}
