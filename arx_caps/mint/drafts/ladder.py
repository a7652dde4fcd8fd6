# SPDX-License-Identifier: Apache-2.0
"""The narrowest constraint that allows given values, from a fixed ladder.  SPEC 7.

The rungs are ``equal``, ``one_of``, ``range``, ``subpath``, ``glob``, ``length`` and ``any``; of objects ``fields`` and
of lists ``subset`` and ``each``, with a ladder for what is inside.  The verifier's own test decides whether a rung
allows every value.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from arx_caps.mint.drafts.calls import key_of
from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.constraints.scalars import is_decimal
from arx_verifier.errors import MalformedTokenError

MAX_CHOICES: Final = 8  # a person compares no more values at one glance
MAX_CHARS: Final = 512  # of what a constraint lists; a token must fit into one header
_RUN: Final = re.compile(r"(?:[^\W\d_]+|\d+)$")  # a word or a number at the end


def narrowest(values: Iterable[Any], *, fixed: bool = True) -> Any:
    """Return the first constraint of the ladder that allows all values, as plain data.

    Args:
        values: At least one value, of JSON.
        fixed: Whether it may list the values themselves, by ``equal``, ``one_of`` and ``subset``.
    """
    distinct = list({key_of(value): value for value in map(_as_canonical, values)}.values())
    return next(each for each in (*rungs(distinct, fixed=fixed), {"any": True}) if allows(each, distinct))


def allows(constraint: Any, values: Iterable[Any]) -> bool:
    """Return whether a constraint, as plain data, is one and allows all values."""
    try:
        return all(map(compile_constraint(read_constraint(constraint)), values))
    except MalformedTokenError:
        return False


def optional(constraint: Any) -> dict[str, Any]:
    """Return a constraint, as plain data, that allows an absent argument as well."""
    return {**(constraint if isinstance(constraint, dict) else {"equal": constraint}), "optional": True}


def fields_of(objects: Sequence[Any]) -> dict[str, Any]:
    """Return the narrowest constraint of each member of several objects, as plain data."""
    constraints = {}
    for name in dict.fromkeys(name for each in objects for name in each):
        given = [each[name] for each in objects if name in each]
        constraints[name] = narrowest(given) if len(given) == len(objects) else optional(narrowest(given))
    return constraints


def rungs(values: Sequence[Any], *, fixed: bool = True) -> Iterator[Any]:
    """Yield the ladder's constraints for distinct values, the narrowest first; some may be none, or not allow all."""
    texts, lists, objects = (all(isinstance(value, kind) for value in values) for kind in (str, list, dict))
    scalars = all(isinstance(value, str | int) for value in values)  # a flag is an int; a float is no operand
    if fixed and len(key_of(values)) <= MAX_CHARS:
        if len(values) == 1 and (scalars or lists):
            yield {"equal": values[0]} if lists else values[0]
        if scalars and len(values) <= MAX_CHOICES:
            yield {"one_of": sorted(values, key=lambda value: (str(type(value)), value))}
    if all(type(value) is int for value in values):
        yield {"range": [min(values), max(values)]}
    elif all(type(value) in (int, float) or is_decimal(value) for value in values):
        amounts = [Decimal(str(value)) for value in values]
        yield {"range": [decimal_text(min(amounts)), decimal_text(max(amounts))]}
    if texts:
        if all(value.startswith("/") for value in values):
            yield {"subpath": os.path.commonpath([value.rpartition("/")[0] or "/" for value in values])}
        yield {"glob": _pattern([value.split("/") for value in values])}
    if lists:
        items = list({key_of(item): item for value in values for item in value}.values())
        if fixed and len(items) <= MAX_CHOICES and len(key_of(items)) <= MAX_CHARS:
            yield {"subset": items}
        if items:
            yield {"each": narrowest(items)}
    if objects:
        yield {"fields": fields_of(values)}
    if texts or lists:
        lengths = set(map(len, values))
        yield {"length" if len(lengths) == 1 else "max_length": max(lengths)}


def decimal_text(amount: Decimal) -> str:
    """Return a decimal as a bound of a constraint has it."""
    return f"{amount.normalize():f}" if amount else "0"


def _as_canonical(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value  # RFC 8785 writes 5.0 as 5


def _pattern(texts: Sequence[Sequence[str]]) -> str | None:
    """Return a pattern of what several texts have in common, in segments; None if a length says as much."""
    if len(set(map(len, texts))) > 1 or any("*" in part for parts in texts for part in parts):
        return None
    found = "/".join(_segment(list(dict.fromkeys(parts))) for parts in zip(*texts, strict=True))
    return found if "*" in found and any(map(str.isalnum, found)) and len(found) <= MAX_CHARS else None


def _segment(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    start = _common_start(parts)
    return f"{start}*{_common_start([part[len(start) :][::-1] for part in parts])[::-1]}"


def _common_start(texts: Sequence[str]) -> str:
    """Return what texts begin with, without a word or a number that goes on differently."""
    start = os.path.commonprefix(texts)  # noqa: RUF071 - of texts, character by character
    run = _RUN.search(start)
    longer = [_RUN.search(text[: len(start) + 1]) for text in texts if len(text) > len(start)]
    return start[: run.start()] if run and any(each and each.start() == run.start() for each in longer) else start
