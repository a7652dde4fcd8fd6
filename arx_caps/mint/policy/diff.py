# SPDX-License-Identifier: Apache-2.0
"""Compare two policies by their meaning: what is granted, what is no longer granted, and what changed otherwise.

Each is split into statements, one for each member of each table.  What the mint does with a difference is not in here.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from arx_caps.mint.policy.budgets import split_budget
from arx_caps.mint.policy.directions import ChangeEffect, SessionCases, compare_approvals, compare_args, compare_rules
from arx_caps.mint.policy.explain import exchanges, upstream_scopes
from arx_caps.mint.policy.members import as_written, marks_of, members_of
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.tables import AudienceTerms, PolicyDocument, SessionTerms, Template
from arx_caps.settings.durations import parse_duration
from arx_caps.settings.toml_file import TomlTable

Kind = Literal["granted", "no longer granted", "changed"]
Direction = Literal["widening", "narrowing", "unclear"]
GRANTED: Final[Kind] = "granted"
GONE: Final[Kind] = "no longer granted"
CHANGED: Final[Kind] = "changed"
_DIRECTIONS: Final[Mapping[Kind, Direction]] = {GRANTED: "widening", GONE: "narrowing", CHANGED: "unclear"}


class Difference(NamedTuple):
    """One difference between two policies.

    Attributes:
        kind: ``granted`` if the difference by itself only allows more, ``no longer granted`` if it only allows less,
            else ``changed``.
        place: The table.
        member: The member of the table.
        before: The old policy's value; None for none.
        after: The new policy's value; None for none.
    """

    kind: Kind
    place: str
    member: str
    before: Any
    after: Any

    @property
    def direction(self) -> Direction:
        """Whether the new policy allows more by this difference: ``widening``, ``narrowing`` or ``unclear``."""
        return _DIRECTIONS[self.kind]

    def shown(self) -> dict[str, Any]:
        """Return the difference as plain data."""
        return {"direction": self.direction, **self._asdict()}


def compare(old: Policy, new: Policy) -> list[Difference]:
    """Return every difference in meaning, in the new policy's order, removed tables last."""
    before, after = dict(_places(old)), dict(_places(new))
    differences: list[Difference] = []
    sessions, later = dict(old.document.session), new.document.session
    cases = SessionCases([*sessions.values(), *later.values()])
    for place in dict.fromkeys((*after, *before)):
        found = list(_compare(place, before.get(place, {}), after.get(place, {})))
        kind, _, name = place.partition(" ")
        if kind == "session":
            found = _judge_sessions(found, sessions, name, later.get(name), cases)
        differences += found
    return differences


def covers(outer: str, inner: str) -> bool:
    """Return whether the outer pattern matches every agent path that the inner one matches."""
    wanted, given = outer.split("/"), inner.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        given = given[:-1] if given[-1] == "**" else given
        return len(given) >= len(wanted) and all(map(_fits, wanted, given[: len(wanted)]))
    return given[-1] != "**" and len(wanted) == len(given) and all(map(_fits, wanted, given))


def _fits(wanted: str, given: str) -> bool:
    return wanted in ("*", given)


# Sessions.  The tables that match an agent restrict it together: an agent that leaves one gains, another loses.


def _judge_sessions(
    differences: list[Difference],
    tables: dict[str, SessionTerms],
    name: str,
    after: SessionTerms | None,
    cases: SessionCases,
) -> list[Difference]:
    """Return the differences of a table with the kind of their effect on sessions.

    They are made in ``tables`` one after the other, as two changes can do together what neither does alone.

    Args:
        differences: Those of the table.
        tables: All tables, changed in place.
        name: The name of the table.
        after: The new table; None for none.
        cases: Of both policies.
    """
    shown = {each.after for each in differences if each.member == "agents"}
    terms = tables.get(name)
    if terms is None:
        assert after is not None
        terms = replace(after, agents=())
    elif after is not None:  # agents that a pattern of the table matched before
        terms = replace(terms, agents=(*terms.agents, *(set(after.agents) - shown)))
    judged = []
    for difference in differences:
        others = [table for other, table in tables.items() if other != name]
        changed = _change(terms, difference, after)
        concerned = (difference.after or difference.before,) if difference.member == "agents" else terms.agents
        effect = cases.compare([*others, terms], [*others, changed], concerned)
        judged.append(difference._replace(kind=_kind(effect)))
        terms = changed
    if name not in tables or after is None:
        # What else the table has comes and goes with its agents.
        kinds = {difference.kind for difference in judged if difference.member == "agents"}
        of_table = kinds.pop() if len(kinds) == 1 else CHANGED
        judged = [each if each.member == "agents" else each._replace(kind=of_table) for each in judged]
    tables.pop(name, None)
    if after is not None:
        tables[name] = after
    return judged


def _change(terms: SessionTerms, difference: Difference, after: SessionTerms | None) -> SessionTerms:
    """Return a table with one difference made; a member that sessions do not depend on changes nothing."""
    if difference.member == "agents":
        kept = tuple(agent for agent in terms.agents if agent != difference.before)
        return replace(terms, agents=kept if difference.after is None else (*kept, difference.after))
    if after is None:  # its agents have left, or leave: what else it had has no effect
        return terms
    if difference.member in ("subject", "subjects"):  # one has no meaning without the other
        return replace(terms, subject=after.subject, subjects=after.subjects)
    fields = {"ttl": "ttl_ms", "idle": "idle_ms", "max_open": "max_open", "subject_outlives": "outlives_ms"}
    name = fields.get(difference.member)
    return terms if name is None else replace(terms, **{name: getattr(after, name)})


def _kind(effect: ChangeEffect) -> Kind:
    if effect.gains == effect.loses:  # also without an effect
        return CHANGED
    return GRANTED if effect.gains else GONE


# Statements.  A list is a tuple of plain data, a statement for each element; any other member is one statement.


def _places(policy: Policy) -> Iterator[tuple[str, dict[str, Any]]]:
    # Members come from the structs, so that a new member cannot be missing here.
    for kind in policy.document.__struct_fields__:
        tables = getattr(policy.document, kind)
        if isinstance(tables, tuple):
            yield f"{kind}s", {kind: as_written(tables)}
            continue
        if isinstance(tables, TomlTable):
            yield kind, _members(tables)
            continue
        for name, table in tables.items():
            # One statement for the whole issuer: with another URL or key source, another party is trusted.
            yield f"{kind} {name}", {"trusted": (as_written(table),)} if kind == "issuer" else _members(table)


def _members(table: TomlTable) -> dict[str, Any]:
    """Return a table's statements, by the names of its members in the file."""
    return {name: _SPLIT.get(name, _unsplit)(value) for name, value in members_of(table).items() if name != "name"}


def _unsplit(value: Any) -> Any:
    return value


# How a member is split into statements, if not by its elements.
_SPLIT: Final[dict[str, Callable[[Any], Any]]] = {
    "budget": split_budget,
    "exchange": lambda services: tuple(exchanges(services)),
    "upstream": lambda connections: tuple(upstream_scopes(connections)),
    "delegate_to": lambda patterns: ("(agents with the same first segment)",) if patterns is None else patterns,
    # By tool: how tools are grouped into entries has no meaning.
    "approvals": lambda entries: tuple(
        {"tool": tool, **_without(entry, "tools")} for entry in entries for tool in entry["tools"]
    ),
}


def _without(members: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key != name}


# Comparison.


def _text(statement: Any) -> bytes:
    """Return a statement's canonical text, for comparison."""
    # Python's ``==`` takes True for 1, which are different values to every constraint.
    return msgspec.json.encode(statement, order="sorted")


def _compare(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    if not before or not after:
        yield from _of_table(place, GRANTED if after else GONE, after or before)
        return
    for member in after:
        old, new = before[member], after[member]
        if isinstance(old, tuple) or isinstance(new, tuple):
            yield from _of_lists(place, member, old or (), new or ())
        elif _text(old) != _text(new):
            # A member without an order is shown as changed: the reader judges it.
            yield Difference(_KINDS.get(member, _unknown)(old, new), place, member, old, new)


def _of_table(place: str, kind: Kind, members: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the differences of a table that was added or removed: its limits come and go with what it grants."""
    known = place.partition(" ")[0] in _TABLES
    for member, value in members.items():
        parts = (
            value
            if isinstance(value, tuple)
            else (value,)
            if value not in (None, {}, 0, "0ms", "none", "bearer")
            else ()
        )
        for element in parts:
            sides = (None, element) if kind == GRANTED else (element, None)
            yield Difference(kind if known or member in _GRANTING else CHANGED, place, member, *sides)


def _of_lists(place: str, member: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Difference]:
    before, after = set(map(_text, old)), set(map(_text, new))
    added, gone = (
        [element for element in new if _text(element) not in before],
        [element for element in old if _text(element) not in after],
    )
    # An agent that another pattern of the list matches as well gains or loses nothing.
    if member in ("agents", "delegate_to"):
        added = [element for element in added if not any(covers(other, element) for other in old)]
        gone = [element for element in gone if not any(covers(other, element) for other in new)]
    if member in _IDENTITIES:
        yield from _changed_rules(place, member, added, gone)
    if member == "budget":
        yield from _changed_amounts(place, added, gone)
    if member in _ANY_IF_EMPTY and bool(old) != bool(new):
        # An empty list does not restrict: the first entry takes rights away, and removing the last one gives them back.
        yield Difference(GONE if new else GRANTED, place, member, list(old) or "anyone", list(new) or "anyone")
        return
    # An unmarked list may grant or restrict: it is shown as changed, and never left out.
    addition, removal = CHANGED, CHANGED
    if member in _GRANTING:
        addition, removal = GRANTED, GONE
    elif member in _RESTRICTING:
        addition, removal = GONE, GRANTED
    yield from (Difference(addition, place, member, None, element) for element in added)
    yield from (Difference(removal, place, member, element, None) for element in gone)


def _changed_rules(place: str, member: str, added: list[Any], gone: list[Any]) -> Iterator[Difference]:
    """Yield the rules that changed for one tool, or for the same marks and tools, and remove them from both lists."""
    names, judge = _IDENTITIES[member]
    for rule in tuple(added):
        before = next((other for other in gone if all(other.get(name) == rule.get(name) for name in names)), None)
        if before is not None:
            added.remove(rule)
            gone.remove(before)
            yield Difference(judge(before, rule), place, member, before, rule)


def _changed_amounts(place: str, added: list[str], gone: list[str]) -> Iterator[Difference]:
    """Yield the budgets whose amount alone changed, and remove them from both lists."""
    for budget in tuple(added):
        amount, _, unit = budget.partition(" ")
        before = next((other for other in gone if other.partition(" ")[2] == unit), None)
        if before is not None:
            added.remove(budget)
            gone.remove(before)
            more = Decimal(amount) > Decimal(before.partition(" ")[0])
            yield Difference(GRANTED if more else GONE, place, "budget", before, budget)


def _unknown(_old: Any, _new: Any) -> Kind:
    return CHANGED


def _longer(old: Any, new: Any) -> Kind:
    """Return the kind of another limit, an integer or a duration; None is no limit."""
    if old is None or new is None:
        return GRANTED if new is None else GONE
    before, after = (parse_duration(limit) if isinstance(limit, str) else limit for limit in (old, new))
    return GRANTED if after > before else GONE


def _more_replays(old: Any, new: Any) -> Kind:
    """Return the kind of other terms for access tokens; those of a template without the member depend on others."""
    if old is None or new is None:
        return CHANGED
    return GRANTED if _BEARER.index(new) > _BEARER.index(old) else GONE


# The marks of each member, by its name: the tables mark their lists, and an integer is a limit.
_MARKS: Final = {
    name: marks
    for kind in (PolicyDocument, AudienceTerms, SessionTerms, Template)
    for name, marks in marks_of(kind).items()
}
_GRANTING: Final = {"trusted"} | {name for name, marks in _MARKS.items() if marks.get("entry") == "grants"}
_RESTRICTING: Final = {name for name, marks in _MARKS.items() if marks.get("entry") == "restricts"}
_ANY_IF_EMPTY: Final = {name for name, marks in _MARKS.items() if marks.get("empty") == "any"}
# By list of rules: the members that name what a rule is about, and what a change of the others does.
_IDENTITIES: Final[dict[str, tuple[tuple[str, ...], Callable[[Any, Any], Kind]]]] = {
    "allow": (("at", "tool"), lambda old, new: _kind(compare_rules(old, new))),
    "approvals": (("at", "tool"), lambda old, new: _kind(compare_approvals(old, new))),
    "after": (("mark", "tools"), lambda _old, new: GRANTED if new.get("do") == "approve" else GONE),
}
_TABLES: Final = ("audience", "issuer", "session", "task")
_BEARER: Final = ("refuse", "dpop", "allow")
_KINDS: Final[dict[str, Callable[[Any, Any], Kind]]] = dict.fromkeys(
    [name for name, marks in _MARKS.items() if marks["limit"]], _longer
) | {
    "binding": lambda _old, new: GRANTED if new == "bearer" else GONE,
    "bearer": _more_replays,
    "carry": lambda old, new: CHANGED if None in (old, new) else GONE if _longer(old, new) == GRANTED else GRANTED,
    # Who starts a task chooses the values: more of them are more grants.
    "params": lambda old, new: _kind(compare_args(old, new)),
}
