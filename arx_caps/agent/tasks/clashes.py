# SPDX-License-Identifier: Apache-2.0
"""Whether rules that must all hold leave a call at all, as far as that can be known from the rules alone.  SPEC 7.

A holder is warned of a delegation that allows no call.  What is not known is left to the verifier: this never
says that rules clash where some value keeps both.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from arx_caps.agent.tasks.outline import Outline, meet, needs
from arx_verifier.constraints.constraint import Constraint, ConstraintLike, FlatConstraint, compile_constraint, said
from arx_verifier.constraints.rule import Rule
from arx_verifier.constraints.scalars import is_decimal
from arx_verifier.errors import MalformedTokenError
from arx_verifier.jcs import MAX_INTEGER, encode

_BOUNDS: Final = ("range", "min", "max")
_VALUES: Final = ("equal", "one_of")
_MAX_SHOWN: Final = 80
# The members that may hold for an object, and for a list, beside logic.
_OF_OBJECTS: Final = ("fields", "any")
_OF_LISTS: Final = ("each", "any", "length", "min_length", "max_length", "contains", "subset")


def clash(held: Outline, tool: str, rules: Sequence[Rule]) -> str | None:
    """Return why no call of a tool could keep both a token's rules and these.

    Args:
        held: What the token says.
        tool: The tool, or a pattern.
        rules: One of them must hold for a call; each is open.

    Returns:
        The argument and the reason; None where a call may be possible.
    """
    why = "no rule is left for it"
    groups = [[other for other in group if meet(other.tool, tool)] for group in held.groups]
    for rule in rules:
        if meet(rule.tool, tool) is None:
            continue
        # A call needs one matching rule of each group, so one group that clashes excludes this rule.
        clashes = [_with_all(rule, group, groups) for group in groups]
        found = next((each for each in clashes if each is not None), None)
        if found is None:
            return None
        why = found
    return why


def _with_all(rule: Rule, others: Sequence[Rule], groups: Sequence[Sequence[Rule]]) -> str | None:
    """Return why a rule clashes with each of some rules, of which one must hold."""
    # What one group requires of every call is there, whatever another one says of its absence.
    needed = {
        name: constraint
        for name, constraint in (rule.args or {}).items()
        if needs(rule, name) or any(all(needs(other, name) for other in group) for group in groups)
    }
    clashes = [_of_two(needed, other) for other in others]
    return None if None in clashes else next(iter(clashes), "no rule allows it")


def _of_two(needed: Mapping[str, ConstraintLike], other: Rule) -> str | None:
    """Return the required argument that cannot keep a rule too; None if each may."""
    for name, mine in needed.items():
        theirs = (other.args or {}).get(name)
        if theirs is None:
            if other.args is not None and not other.open:
                return f"{name}: the task takes no such argument there"
        elif not may_both_hold(mine, theirs):
            return f"{name}: no value is both {_shown(mine)}, as is asked for, and {_shown(theirs)}, as the task has it"
    return None


def may_both_hold(one: ConstraintLike, other: ConstraintLike) -> bool:
    """Return whether some value may keep two constraints; False only where none can."""
    # No solver: a few values that the constraints name decide, and in doubt the answer is that both may hold.
    both = (one, other)
    try:
        tests = [compile_constraint(each) for each in both]
    except MalformedTokenError:
        # Never refuse offline what a verifier of a later version may allow.
        return True  # for the verifier to judge
    if not _parts_may_hold(one, other):
        return False
    # Between two neighbouring numbers that either names nothing changes, so one value there speaks for all of them.
    values = (True, False, *_samples(one), *_samples(other))
    if any(all(holds(value) for holds in tests) for value in values):
        return True
    plain = all(word in _BOUNDS + _VALUES for each in both for word, _ in said(each))
    return not (plain or _is_sampled(one) or _is_sampled(other))


def _parts_may_hold(one: ConstraintLike, other: ConstraintLike) -> bool:
    """Return whether some object or list may keep two constraints, as far as ``fields`` and ``each`` decide it."""
    constraints = [each for each in (one, other) if isinstance(each, Constraint)]
    fields = [each for each in constraints if each.fields is not None]
    lists = [each.each for each in constraints if each.each is not None]
    if fields and not (_takes_object(one) and _takes_object(other)):
        return False
    if lists and not (_takes_list(one) and _takes_list(other)):
        return False
    if len(fields) == 2 and not _members_may_hold(*fields):
        return False
    return len(lists) < 2 or _items_may_hold(*lists)


def _takes_object(constraint: ConstraintLike) -> bool:
    return all(
        word in _OF_OBJECTS
        or (word == "all_of" and all(map(_takes_object, operand)))
        or (word == "any_of" and any(map(_takes_object, operand)))
        for word, operand in said(constraint)
    )


def _takes_list(constraint: ConstraintLike) -> bool:
    return all(
        word in _OF_LISTS
        or (word == "equal" and isinstance(operand, tuple))
        or word == "not"
        or (word == "all_of" and all(map(_takes_list, operand)))
        or (word == "any_of" and any(map(_takes_list, operand)))
        for word, operand in said(constraint)
    )


def _members_may_hold(one: Constraint, other: Constraint) -> bool:
    for mine, theirs in ((one, other), (other, one)):
        for name, constraint in (mine.fields or {}).items():
            if isinstance(constraint, Constraint) and constraint.optional:
                continue  # an object without the member keeps it
            others = (theirs.fields or {}).get(name)
            if not theirs.open if others is None else not may_both_hold(constraint, others):
                return False
    return True


def _items_may_hold(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(may_both_hold, one, other))
    pinned, every = (one, other) if isinstance(one, tuple) else (other, one)
    # Where neither is pinned, an empty list keeps both.
    return not isinstance(pinned, tuple) or all(may_both_hold(item, every) for item in pinned)


def _is_sampled(constraint: Any) -> bool:
    """Return whether a constraint holds for integers and values that it names alone."""
    return any(
        word in _VALUES
        or (word == "range" and int in map(type, operand))
        or (word in ("min", "max") and type(operand) is int)
        or (word == "all_of" and any(map(_is_sampled, operand)))
        or (word == "any_of" and all(map(_is_sampled, operand)))
        for word, operand in said(constraint)
    )


def _samples(operand: Any) -> Iterator[Any]:
    """Yield each text, number and list that an operand names, and the integers around its numbers."""
    if isinstance(operand, FlatConstraint):
        for _, inner in said(operand):
            yield from _samples(inner)
    elif isinstance(operand, tuple):
        yield list(operand)
        for item in operand:
            yield from _samples(item)
    elif type(operand) is int or is_decimal(operand):
        whole = int(Decimal(operand))
        yield operand
        yield from (near for near in (whole - 1, whole, whole + 1) if abs(near) <= MAX_INTEGER)
    elif type(operand) is str:
        yield operand


def _shown(constraint: ConstraintLike) -> str:
    shown: Any = constraint
    if isinstance(constraint, Constraint):
        alone = [word for word, _ in said(constraint)] == ["equal"]
        shown = constraint.equal if alone else msgspec.structs.replace(constraint, optional=False)
    text = encode(shown).decode()
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
