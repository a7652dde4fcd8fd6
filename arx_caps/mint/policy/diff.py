# SPDX-License-Identifier: Apache-2.0
"""Compare two policies by their meaning: what is newly granted, no longer granted, changed.

Both are split into single statements, one for each member of each table; the structs of the policy list the members.  A
statement that only the new policy makes is a grant or a restriction, by its member.  A member that its struct
does not mark is a change, and so is a rule that allows neither clearly more nor clearly less.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from arx_caps.durations import parse_duration
from arx_caps.mint.policy.explain import exchanges
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.parse import PolicyTable, as_written, marks_of, members_of
from arx_caps.mint.policy.tables import AudienceTerms, PolicyDocument, SessionTerms, Template

Kind = Literal["granted", "no longer granted", "changed"]
GRANTED: Final[Kind] = "granted"
GONE: Final[Kind] = "no longer granted"
CHANGED: Final[Kind] = "changed"


class Difference(NamedTuple):
    """One difference.

    Attributes:
        kind: What it is: ``granted``, ``no longer granted`` or ``changed``.
        place: The table that it is in.
        member: The member of the table.
        before: What the old policy says; None for nothing.
        after: What the new one says.
    """

    kind: Kind
    place: str
    member: str
    before: Any
    after: Any


def compare(old: Policy, new: Policy) -> list[Difference]:
    """Return every difference in meaning, in the order of the new policy, what is gone last."""
    before, after = dict(_places(old)), dict(_places(new))
    found: list[Difference] = []
    for place in dict.fromkeys((*after, *before)):
        found += _compare(place, before.get(place, {}), after.get(place, {}))
    return found


def covers(outer: str, inner: str) -> bool:
    """Tell whether the outer pattern fits every agent path that the inner one fits."""
    wanted, given = outer.split("/"), inner.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        given = given[:-1] if given[-1] == "**" else given
        return len(given) >= len(wanted) and all(map(_fits, wanted, given[: len(wanted)]))
    return given[-1] != "**" and len(wanted) == len(given) and all(map(_fits, wanted, given))


def _fits(wanted: str, given: str) -> bool:
    return wanted in ("*", given)


# Statements.  A list member is a tuple of plain data, one each; anything else is one limit.


def _places(policy: Policy) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in policy.document.__struct_fields__:
        tables = getattr(policy.document, kind)
        if isinstance(tables, tuple):
            yield f"{kind}s", {kind: as_written(tables)}
            continue
        for name, table in tables.items():
            # An issuer is trusted within its limits, or another one is.
            yield f"{kind} {name}", {"trusted": (as_written(table),)} if kind == "issuer" else _members(table)


def _members(table: PolicyTable) -> dict[str, Any]:
    """Return what a table of the policy says, by the names that the file has for it."""
    return {name: _APART.get(name, _as_it_is)(said) for name, said in members_of(table).items() if name != "name"}


def _as_it_is(value: Any) -> Any:
    return value


# How a member is taken apart, if not as it is.
_APART: Final[dict[str, Callable[[Any], Any]]] = {
    "exchange": lambda services: tuple(exchanges(services)),
    "delegate_to": lambda patterns: ("(who shares the agent's first segment)",) if patterns is None else patterns,
    # Of each tool by itself: how entries are put together means nothing.
    "approvals": lambda entries: tuple(
        {"tool": tool, **_without(one, "tools")} for one in entries for tool in one["tools"]
    ),
}


def _without(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != name}


# Comparison.


def _text(said: Any) -> bytes:
    """Write what is compared: to Python ``true`` and 1 are equal, and no constraint takes the one for the other."""
    return msgspec.json.encode(said, order="sorted")


def _compare(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    if not before or not after:
        yield from _of_table(place, GRANTED if after else GONE, after or before)
        return
    for member in after:
        old, new = before[member], after[member]
        if isinstance(old, tuple) or isinstance(new, tuple):
            yield from _of_lists(place, member, old or (), new or ())
        elif _text(old) != _text(new):
            wider = _WIDER.get(member, _unknown)(old, new)
            kind = CHANGED if wider is None else GRANTED if wider else GONE
            yield Difference(kind, place, member, old, new)


def _of_table(place: str, kind: Kind, said: Mapping[str, Any]) -> Iterator[Difference]:
    """Tell a whole table that came or went: what it grants, and its limits as they are."""
    for member, value in said.items():
        grants = member in _GRANTING
        parts = value if isinstance(value, tuple) else (value,) if value not in (None, {}, 0, "0ms", "none") else ()
        for one in parts:
            sides = (None, one) if kind == GRANTED else (one, None)
            yield Difference(kind if grants else CHANGED, place, member, *sides)


def _of_lists(place: str, member: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Difference]:
    before, after = set(map(_text, old)), set(map(_text, new))
    added, gone = [one for one in new if _text(one) not in before], [one for one in old if _text(one) not in after]
    if member in ("agents", "delegate_to"):
        added = [one for one in added if not any(covers(other, one) for other in old)]
        gone = [one for one in gone if not any(covers(other, one) for other in new)]
    if member in ("allow", "approvals"):
        yield from _changed_rules(place, member, added, gone)
    if member in _ANY_IF_EMPTY and bool(old) != bool(new):
        # An empty list is no restriction: with the first entry most is gone, with the last one all comes back.
        yield Difference(GONE if new else GRANTED, place, member, list(old) or "anyone", list(new) or "anyone")
        return
    come, go = CHANGED, CHANGED  # of a list that nobody has sorted in below
    if member in _GRANTING:
        come, go = GRANTED, GONE
    elif member in _RESTRICTING:
        come, go = GONE, GRANTED
    yield from (Difference(come, place, member, None, one) for one in added)
    yield from (Difference(go, place, member, one, None) for one in gone)


def _changed_rules(place: str, member: str, added: list[Any], gone: list[Any]) -> Iterator[Difference]:
    """Pair what is said of the same tool, and take it out of both lists."""

    def about(rule: Mapping[str, Any]) -> tuple[Any, Any]:
        return rule.get("at"), rule["tool"]

    for rule in tuple(added):
        twin = next((other for other in gone if about(other) == about(rule)), None)
        if twin is not None:
            added.remove(rule)
            gone.remove(twin)
            yield Difference(CHANGED, place, member, twin, rule)


def _unknown(_old: Any, _new: Any) -> bool | None:
    return None


def _longer(old: Any, new: Any) -> bool | None:
    """Tell whether a limit, an integer or a duration, grew, where None is no limit."""
    if old is None or new is None:
        return new is None
    before, after = (parse_duration(limit) if isinstance(limit, str) else limit for limit in (old, new))
    return bool(after > before)


# What each member is, by its name: the tables mark their lists, and an integer is a limit.
_MARKS: Final = {
    name: marks
    for kind in (PolicyDocument, AudienceTerms, SessionTerms, Template)
    for name, marks in marks_of(kind).items()
}
_GRANTING: Final = {"trusted"} | {name for name, marks in _MARKS.items() if marks.get("entry") == "grants"}
_RESTRICTING: Final = {name for name, marks in _MARKS.items() if marks.get("entry") == "restricts"}
_ANY_IF_EMPTY: Final = {name for name, marks in _MARKS.items() if marks.get("empty") == "any"}
_WIDER: Final[dict[str, Callable[[Any, Any], bool | None]]] = dict.fromkeys(
    [name for name, marks in _MARKS.items() if marks["limit"]], _longer
)
