# SPDX-License-Identifier: Apache-2.0
"""The narrowest constraint that allows given values, from a fixed ladder.  SPEC 7.

The rungs are ``equal``, ``one_of``, ``range``, ``subpath``, ``glob``, ``length`` and ``any``; of objects ``fields`` and
of lists ``subset`` and ``each``, with a ladder for what is inside.  The verifier's own test decides whether a rung
allows every value.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from arx_caps.mint.drafts.calls import key_of
from arx_verifier.constraints import compile_constraint, is_decimal, read_constraint
from arx_verifier.errors import MalformedTokenError

MAX_CHOICES: Final = 8  # a person compares no more values at one glance
MAX_CHARS: Final = 512  # of the values that a constraint lists; a token must fit into one header
_RUN: Final = re.compile(r"(?:[^\W\d_]+|\d+)$")  # a word or a number at the end


def narrowest(values: Iterable[Any], *, fixed: bool = True) -> Any:
    """Return the first constraint of the ladder that allows all values, as plain data.

    Args:
        values: At least one value, of JSON.
        fixed: Whether it may list the values themselves, by ``equal``, ``one_of`` and ``subset``.
    """
    distinct = list({key_of(value): value for value in map(_as_canonical, values)}.values())
    for rung in _RUNGS if fixed else _OPEN_RUNGS:
        constraint = rung(distinct)
        if constraint is not None and allows(constraint, distinct):
            return constraint
    return {"any": True}


def _as_canonical(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value  # RFC 8785 writes 5.0 as 5


def allows(constraint: Any, values: Sequence[Any]) -> bool:
    """Return whether a constraint, as plain data, is one and allows all values."""
    try:
        holds = compile_constraint(read_constraint(constraint))
    except MalformedTokenError:
        return False
    return all(map(holds, values))


def optional(constraint: Any) -> dict[str, Any]:
    """Return a constraint, as plain data, that allows an absent argument as well."""
    members = constraint if isinstance(constraint, dict) else {"equal": constraint}
    return {**members, "optional": True}


def fields_of(objects: Sequence[Any]) -> dict[str, Any]:
    """Return the narrowest constraint of each member of several objects, as plain data."""
    constraints = {}
    for name in dict.fromkeys(name for each in objects for name in each):
        given = [each[name] for each in objects if name in each]
        constraint = narrowest(given)
        constraints[name] = constraint if len(given) == len(objects) else optional(constraint)
    return constraints


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int)  # a flag is an int; a float is no operand


def _are_short(values: Iterable[Any]) -> bool:
    return sum(len(str(value)) for value in values) <= MAX_CHARS


def _equal(values: Sequence[Any]) -> Any:
    if len(values) > 1:
        return None
    value = values[0]
    if isinstance(value, list):
        return {"equal": value} if all(map(_is_scalar, value)) and _are_short(value) else None
    return value if _is_scalar(value) and _are_short([value]) else None


def _one_of(values: Sequence[Any]) -> Any:
    listed = len(values) <= MAX_CHOICES and all(map(_is_scalar, values)) and _are_short(values)
    return {"one_of": list(values)} if listed else None


def _range(values: Sequence[Any]) -> Any:
    if all(type(value) is int for value in values):
        return {"range": [min(values), max(values)]}
    if not all(type(value) in (int, float) or is_decimal(value) for value in values):
        return None
    amounts = [Decimal(str(value)) for value in values]
    return {"range": [decimal_text(min(amounts)), decimal_text(max(amounts))]}


def decimal_text(amount: Decimal) -> str:
    """Return a decimal as a bound of a constraint has it."""
    return f"{amount.normalize():f}" if amount else "0"


def _subpath(values: Sequence[Any]) -> Any:
    if not all(type(value) is str and value.startswith("/") for value in values):
        return None
    folder = os.path.commonpath([value.rpartition("/")[0] or "/" for value in values])
    return {"subpath": folder} if folder != "/" else None


def _glob(values: Sequence[Any]) -> Any:
    if not all(type(value) is str for value in values):
        return None
    segments = [value.split("/") for value in values]
    if len(set(map(len, segments))) > 1 or any("*" in value for value in values):
        return None
    pattern = "/".join(_segment(list(dict.fromkeys(parts))) for parts in zip(*segments, strict=True))
    # A pattern of stars and marks alone is no narrower than a length.
    narrow = "*" in pattern and any(map(str.isalnum, pattern)) and len(pattern) <= MAX_CHARS
    return {"glob": pattern} if narrow else None


def _segment(parts: Sequence[str]) -> str:
    """Return a pattern of what several texts begin and end with."""
    if len(parts) == 1:
        return parts[0]
    start = _common_start(parts)
    return f"{start}*{_common_start([part[len(start) :][::-1] for part in parts])[::-1]}"


def _common_start(texts: Sequence[str]) -> str:
    """Return what texts begin with, without a word or a number that goes on differently."""
    first, last = min(texts), max(texts)
    differ = (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    start = first[: next(differ, len(first))]
    run = _RUN.search(start)
    longer = [_RUN.search(text[: len(start) + 1]) for text in texts if len(text) > len(start)]
    return start[: run.start()] if run and any(each and each.start() == run.start() for each in longer) else start


def _subset(values: Sequence[Any]) -> Any:
    if not all(isinstance(value, list) for value in values):
        return None
    items = list({key_of(item): item for value in values for item in value}.values())
    listed = len(items) <= MAX_CHOICES and all(map(_is_scalar, items)) and _are_short(items)
    return {"subset": items} if listed else None


def _each(values: Sequence[Any]) -> Any:
    if not all(isinstance(value, list) for value in values):
        return None
    items = [item for value in values for item in value]
    return {"each": narrowest(items)} if items else None


def _fields(values: Sequence[Any]) -> Any:
    return {"fields": fields_of(values)} if all(isinstance(value, dict) for value in values) else None


def _length(values: Sequence[Any]) -> Any:
    if not all(isinstance(value, str | list) for value in values):
        return None
    lengths = {len(value) for value in values}
    return {"length" if len(lengths) == 1 else "max_length": max(lengths)}


_OPEN_RUNGS: Final[tuple[Callable[[Sequence[Any]], Any], ...]] = (_range, _subpath, _glob, _each, _fields, _length)
_RUNGS: Final = (_equal, _one_of, _range, _subpath, _glob, _subset, _each, _fields, _length)
