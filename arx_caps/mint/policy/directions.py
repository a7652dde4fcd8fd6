# SPDX-License-Identifier: Apache-2.0
"""Whether one part of a policy allows more than another one: rules, approvals, and all ``[session]`` tables.

What cannot be decided both gains and loses.  ``diff`` splits a policy into parts, and is the caller.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain, combinations
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from arx_caps.mint.policy.tables import SessionTerms
from arx_caps.settings.durations import parse_duration
from arx_verifier import names
from arx_verifier.constraints.scalars import is_decimal

MAX_WORK: Final = 4096  # bounds agents and subjects that are tried for each change; beyond it, it is not decided
MAX_SEGMENTS: Final = names.MAX_PATH_SEGMENTS

_Limits: TypeAlias = tuple[float, ...] | None


class ChangeEffect(NamedTuple):
    """What a change does.

    Attributes:
        gains: Whether something may be allowed that was not.
        loses: Whether something may not be allowed that was.
    """

    gains: bool = False
    loses: bool = False

    def __or__(self, other: "ChangeEffect") -> "ChangeEffect":
        return ChangeEffect(self.gains or other.gains, self.loses or other.loses)


UNDECIDED: Final = ChangeEffect(gains=True, loses=True)


def compare_args(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> ChangeEffect:
    """Return the effect of another set of constraints by name; None is any arguments.

    Args:
        old: The constraints before, as written.
        new: The constraints after.
    """
    if old is None or new is None:
        return ChangeEffect(gains=new is None and old is not None, loses=old is None and new is not None)
    if old.keys() != new.keys():
        return UNDECIDED  # an argument that is not named is refused, and one that is named must be there
    return _together(compare_constraints(old[name], new[name]) for name in old)


def compare_rules(old: Mapping[str, Any], new: Mapping[str, Any]) -> ChangeEffect:
    """Return the effect of another rule for the same tool, as written; rules that differ in more are not decided."""
    first, second = ({name: each for name, each in rule.items() if name not in ("args", "any")} for rule in (old, new))
    return compare_args(old.get("args"), new.get("args")) if _text(first) == _text(second) else UNDECIDED


def compare_approvals(old: Mapping[str, Any], new: Mapping[str, Any]) -> ChangeEffect:
    """Return the effect of other terms of the approval that a tool needs."""
    found = ChangeEffect()
    for name in old.keys() | new.keys():
        if _text(old.get(name)) != _text(new.get(name)):
            found |= _TERMS.get(name, _undecided)(old.get(name), new.get(name))
    return found


def compare_constraints(old: Any, new: Any) -> ChangeEffect:
    """Return the effect of another constraint.  SPEC 7.2.

    Args:
        old: The constraint before, as written.
        new: The constraint after.
    """
    before, after = _members(old), _members(new)
    found = ChangeEffect()
    for name in before.keys() | after.keys():
        if name == "any" or _text(before.get(name)) == _text(after.get(name)):
            continue
        if name in before and name in after:
            found |= _OPERANDS.get(name, _undecided)(before[name], after[name])
        else:  # members hold together: one more restricts, but for those that only allow
            allows = (name in after) == (name in ("optional", "open"))
            found |= ChangeEffect(gains=allows, loses=not allows)
    return found


def _members(constraint: Any) -> Mapping[str, Any]:
    members = constraint if isinstance(constraint, Mapping) else {"equal": constraint}
    if "equal" in members and "one_of" not in members and not isinstance(members["equal"], list | tuple):
        return {**{name: each for name, each in members.items() if name != "equal"}, "one_of": [members["equal"]]}
    return members


def _undecided(_old: Any, _new: Any) -> ChangeEffect:
    return UNDECIDED


def _bound(old: Any, new: Any) -> ChangeEffect:
    """Compare upper bounds; one with a parameter is not decided."""
    if _text(old) == _text(new):
        return ChangeEffect()
    if type(old) is not type(new) or type(old) not in (int, str) or (type(old) is str and not _are_decimals(old, new)):
        return UNDECIDED
    return ChangeEffect(gains=Decimal(new) > Decimal(old), loses=Decimal(new) < Decimal(old))


def _are_decimals(*texts: str) -> bool:
    return all(map(is_decimal, texts))


def _range(old: Any, new: Any) -> ChangeEffect:
    if not (isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new) == 2):
        return UNDECIDED
    return _bound(new[0], old[0]) | _bound(old[1], new[1])


def _items(old: Any, new: Any) -> ChangeEffect:
    """Compare lists of allowed values."""
    if not (isinstance(old, list | tuple) and isinstance(new, list | tuple)):
        return UNDECIDED
    before, after = set(map(_text, old)), set(map(_text, new))
    return ChangeEffect(gains=not after <= before, loses=not before <= after)


def _excluded(old: Any, new: Any) -> ChangeEffect:
    """Compare lists of values that are refused, or that must all be there."""
    kinds = [{type(item) for item in items} if isinstance(items, list | tuple) else {None} for items in (old, new)]
    return _items(new, old) if kinds[0] == kinds[1] else UNDECIDED  # with another kind, it speaks of other values


_OPERANDS: Final[dict[str, Callable[[Any, Any], ChangeEffect]]] = {
    "range": _range,
    "max": _bound,
    "max_length": _bound,
    "min": lambda old, new: _bound(new, old),
    "min_length": lambda old, new: _bound(new, old),
    "one_of": _items,
    "subset": _items,
    "none_of": _excluded,
    "contains": _excluded,
}


_TERMS: Final[dict[str, Callable[[Any, Any], ChangeEffect]]] = {
    "need": lambda old, new: _bound(new, old),
    "ttl": lambda old, new: _bound(parse_duration(old), parse_duration(new)),
    "once": lambda _old, new: ChangeEffect(gains=not new, loses=new),
}


class SessionCases:
    """Sessions of which one is in each case that the tables of two policies distinguish.

    Args:
        tables: All tables of both.
    """

    def __init__(self, tables: Collection[SessionTerms]) -> None:
        patterns = {pattern for terms in tables for pattern in terms.agents}
        self._agents = _agents(patterns)
        self._subjects = _subjects([rule for terms in tables for rule in terms.subjects])
        self._of_pattern = dict.fromkeys(patterns, frozenset[str]())
        for pattern in patterns:
            found = (agent for agent in self._agents or () if names.matches_path(pattern, agent))
            self._of_pattern[pattern] = frozenset(found) if "*" in pattern else frozenset([pattern])
        self._matching: dict[tuple[str, ...], frozenset[str]] = {}

    def compare(
        self, old: Collection[SessionTerms], new: Collection[SessionTerms], concerned: Sequence[str]
    ) -> ChangeEffect:
        """Return the effect on sessions of other tables, all of which restrict an agent together.

        Args:
            old: The tables before.
            new: The tables after.
            concerned: Patterns of the only agents for which they differ.
        """
        if self._agents is None or self._subjects is None:
            return UNDECIDED
        agents = self._match(concerned)
        if len(agents) * len(self._subjects) > MAX_WORK:
            return UNDECIDED
        found = ChangeEffect()
        for agent in agents:
            before, after = ([terms for terms in tables if agent in self._match(terms.agents)] for tables in (old, new))
            for subject in self._subjects:
                found |= _of_limits(_limits(before, subject), _limits(after, subject))
            if found == UNDECIDED:
                break
        return found

    def _match(self, patterns: Sequence[str]) -> frozenset[str]:
        key = tuple(patterns)
        if key not in self._matching:
            self._matching[key] = frozenset[str]().union(*(self._of_pattern[pattern] for pattern in key))
        return self._matching[key]


def _of_limits(old: _Limits, new: _Limits) -> ChangeEffect:
    if old is None or new is None:
        return ChangeEffect(gains=old is None and new is not None, loses=new is None and old is not None)
    pairs = [*zip(old, new, strict=True)]
    return ChangeEffect(any(after > before for before, after in pairs), any(after < before for before, after in pairs))


def _limits(matching: Sequence[SessionTerms], subject: frozenset[bytes] | None) -> _Limits:
    """Return the limits of a session, as ``Policy.may_open`` and ``most_open`` find them; None for no session.

    Args:
        matching: The tables that match the agent.
        subject: The rules that match the subject; None for a session without one.
    """
    fitting = matching
    if subject is not None:
        fitting = [t for t in matching if t.subject != "none" and any(_text(rule) in subject for rule in t.subjects)]
    elif any(terms.subject == "required" for terms in matching):
        return None
    if not fitting:
        return None
    ttl = min(terms.ttl_ms for terms in fitting)
    idle = min((terms.idle_ms for terms in fitting if terms.idle_ms is not None), default=ttl)
    most = min((terms.max_open for terms in matching if terms.max_open is not None), default=float("inf"))
    outlives = min(terms.outlives_ms for terms in fitting) if subject is not None else 0
    return ttl, min(idle, ttl), most, outlives


def _agents(patterns: Collection[str]) -> list[str] | None:
    """Return agents of which one matches each combination of patterns that any agent matches; None for too many."""
    # An agent matches the meet of its patterns, and an agent made of that meet, with segments that no pattern has,
    # matches no other pattern than those; only the number of segments that `**` takes makes a difference.
    meets = {pattern for pattern in patterns if "*" in pattern}  # without a star it meets others in itself alone
    recent = meets
    while recent:
        recent = {meet for one in recent for other in meets if (meet := meet_of(one, other)) is not None} - meets
        meets = meets | recent
        if len(meets) > MAX_WORK // MAX_SEGMENTS:
            return None
    literals = {segment for pattern in patterns for segment in pattern.split("/")}
    other = next(segment for segment in ("0" * size for size in range(1, len(literals) + 2)) if segment not in literals)
    found: set[str] = set()
    for meet in meets.union(patterns):
        segments, is_open = _segments(meet)
        agent = [other if segment == "*" else segment for segment in segments]
        for more in range(MAX_SEGMENTS - len(agent) + 1 if is_open else 1):
            found.add("/".join([*agent, *[other] * more]))
    return sorted(found - {""})


def _segments(pattern: str) -> tuple[list[str], bool]:
    """Return the segments of a pattern without a last `**`, and whether it has that."""
    *segments, last = pattern.split("/")
    return (segments, True) if last == "**" else ([*segments, last], False)


def meet_of(one: str, other: str) -> str | None:
    """Return the pattern of the agents that match both of two patterns; None for none."""
    (short, short_is_open), (long, long_is_open) = sorted(map(_segments, (one, other)), key=lambda each: len(each[0]))
    if len(short) < len(long) and not short_is_open:
        return None
    if any(a != b and "*" not in (a, b) for a, b in zip(short, long, strict=False)):
        return None
    met = [b if a == "*" else a for a, b in zip(short, long, strict=False)] + long[len(short) :]
    return "/".join([*met, "**"] if short_is_open and long_is_open else met)


def _subjects(rules: Iterable[Any]) -> list[frozenset[bytes] | None] | None:
    """Return sets of rules that a subject may match together, and None for no subject; None for too many."""
    by_issuer: dict[str, set[bytes]] = {}
    for rule in rules:
        by_issuer.setdefault(rule.issuer, set()).add(_text(rule))
    if sum(2 ** len(texts) for texts in by_issuer.values()) > MAX_WORK:
        return None
    sets = chain.from_iterable(
        combinations(sorted(texts), size) for texts in by_issuer.values() for size in range(1, len(texts) + 1)
    )
    return [None, *map(frozenset, sets)]


def _together(effects: Iterable[ChangeEffect]) -> ChangeEffect:
    found = ChangeEffect()
    for effect in effects:
        found |= effect
        if found == UNDECIDED:
            break
    return found


def _text(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
