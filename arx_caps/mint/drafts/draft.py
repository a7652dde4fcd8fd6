# SPDX-License-Identifier: Apache-2.0
"""Templates drafted from recorded calls: one for each agent and purpose, with the rules that its calls need.

``ladder`` finds the constraints, ``policy_file`` writes the result.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final

from msgspec import Struct

from arx_caps.mint.drafts.calls import RecordedCall, key_of
from arx_caps.mint.drafts.ladder import fields_of, narrowest
from arx_caps.mint.policy.templates import SUBJECT
from arx_verifier.jcs import is_plain_name
from arx_verifier.names import matches_path

MIN_SEEN: Final = 3  # otherwise the sender of a few calls would write the policy
MAX_PARAMETER: Final = 256  # characters of a value, which is in every token of its task
_DIGITS: Final = re.compile(r"\d+")
_ID: Final = re.compile(r"(?:^|[_-])id$|I[Dd]$")  # the name of an argument whose numbers are ids
_ODD: Final = re.compile(r"[^a-z0-9]+")

Work = tuple[str, str, str]


class DraftRule(Struct, kw_only=True):
    """A rule for the calls of one tool.

    Attributes:
        tool: The tool.
        at: The audience.
        args: The constraint of each argument, as a policy writes it; None for any arguments.
        calls: The number of its calls; 0 for a rule that a document proposes.
        sessions: The number of their sessions.
        first: The time of the first call, ms since the Unix epoch; 0 if it is unknown.
        last: The time of the last one.
        kept: Whether it is part of the policy, and not left out as a comment.
        notes: Facts for its reader, in the comment.
    """

    tool: str
    at: str
    args: dict[str, Any] | None = None
    calls: int = 0
    sessions: int = 0
    first: int = 0
    last: int = 0
    kept: bool = True
    notes: list[str] = []


class DraftTemplate(Struct, kw_only=True):
    """A template with its rules.

    Attributes:
        name: Its name.
        agents: The agents that may start it.
        purpose: The purpose of its sessions, or empty.
        rules: Its rules, the kept ones first.
        calls: The calls of which it was drafted.
        params: The constraint of each parameter, as a policy writes it.
        values: The parameters' values, by piece of work.
        sessions: The number of its sessions.
        took: How long its longest task took, ms.
        delegate_to: The agents to which it was delegated.
        depth: The longest chain of delegations.
    """

    name: str
    agents: list[str]
    rules: list[DraftRule]
    calls: list[RecordedCall] = []
    purpose: str = ""
    params: dict[str, Any] = {}
    values: dict[Work, dict[str, Any]] = {}
    sessions: int = 0
    took: int = 0
    delegate_to: list[str] = []
    depth: int = 0

    @property
    def kept_rules(self) -> list[DraftRule]:
        """The rules that are part of the policy."""
        return [rule for rule in self.rules if rule.kept]

    @property
    def kept_calls(self) -> list[RecordedCall]:
        """The calls of these rules."""
        kept = {(rule.at, rule.tool) for rule in self.kept_rules}
        return [call for call in self.calls if (call.audience, call.tool) in kept]


class _Constant(Struct):
    """A value that is constant in each piece of work, and the arguments that have it."""

    places: list[tuple[str, str, str]]  # audience, tool, argument
    values: dict[Work, Any]


def draft_templates(
    calls: Iterable[RecordedCall], patterns: Sequence[str] = (), min_seen: int = MIN_SEEN
) -> list[DraftTemplate]:
    """Return templates that allow the calls.

    Args:
        calls: The calls.
        patterns: Patterns of agents: those that match one are drafted together, and other agents not at all.
        min_seen: How many sessions a rule must be seen in to be kept.
    """
    groups: dict[tuple[str, str], list[RecordedCall]] = {}
    for call in calls:
        agent = next((each for each in patterns if matches_path(each, call.agent)), None) if patterns else call.agent
        if agent is not None:
            # Purposes often name an order or a date; such sessions do the same kind of work.
            groups.setdefault((agent, _DIGITS.sub("#", call.purpose)), []).append(call)
    templates, taken = [], set[str]()
    for (agent, purpose), members in sorted(groups.items()):
        name = name_for(f"{agent.rpartition('/')[2]} {purpose}", taken)
        templates.append(_template(name, agent, purpose, members, min_seen))
    return templates


def name_for(text: str, taken: set[str], most: int = 48, between: str = "-") -> str:
    """Return a name made of a text, which is not among those taken, and add it to them."""
    base = _ODD.sub(between, text.lower()).strip(between)[:most].strip(between) or "all"
    name = next(each for n in count(1) if (each := base if n == 1 else f"{base}{between}{n}") not in taken)
    taken.add(name)
    return name


def longest(calls: Iterable[RecordedCall], *, of_tasks: bool) -> int:
    """Return how long the longest task took from its first call to its last, or the longest session, ms."""
    times: dict[tuple[str, ...], list[int]] = {}
    for call in (call for call in calls if call.at):
        times.setdefault(call.work if of_tasks else call.work[:2], []).append(call.at)
    return max((max(at) - min(at) for at in times.values()), default=0)


def _template(name: str, agent: str, purpose: str, calls: list[RecordedCall], min_seen: int) -> DraftTemplate:
    by_tool: dict[tuple[str, str], list[RecordedCall]] = {}
    for call in calls:
        by_tool.setdefault((call.audience, call.tool), []).append(call)
    rules = {place: _rule(place, members, min_seen) for place, members in by_tool.items()}
    kept = {place: by_tool[place] for place, rule in rules.items() if rule.kept}
    template = DraftTemplate(
        name=name,
        agents=[agent],
        calls=calls,
        purpose=purpose,
        rules=sorted(rules.values(), key=lambda rule: (not rule.kept, rule.at, rule.tool)),
        sessions=len({call.session for call in calls}),
        took=longest(calls, of_tasks=True),
        delegate_to=sorted({to for call in calls for to in call.named}),
        depth=max(len(call.named) for call in calls),
    )
    taken = {SUBJECT}
    for constant in _parameters(kept):
        param = name_for(constant.places[0][2], taken, 28, "_")
        if not param[0].isalpha():
            param = name_for(f"p_{param}", taken, 28, "_")
        # It lists values only if several sessions had each of them.
        seen = Counter(key_of(value) for _, value in {(work[1], value) for work, value in constant.values.items()})
        fixed = min(seen.values()) >= max(min_seen, MIN_SEEN)
        template.params[param] = escape(narrowest(constant.values.values(), fixed=fixed))
        for work, value in constant.values.items():
            template.values.setdefault(work, {})[param] = value
        for audience, tool, argument in constant.places:
            args = rules[audience, tool].args
            assert args is not None
            args[escape(argument)] = f"${param}"
    return template


def _rule(place: tuple[str, str], calls: Sequence[RecordedCall], min_seen: int) -> DraftRule:
    times, sessions = [call.at for call in calls if call.at], {call.session for call in calls}
    rule = DraftRule(
        tool=place[1],
        at=place[0],
        calls=len(calls),
        sessions=len(sessions),
        first=min(times, default=0),
        last=max(times, default=0),
        kept=len(sessions) >= min_seen,
    )
    recorded = [call.args for call in calls if call.args is not None]
    if not recorded:
        rule.notes.append("any arguments: none were recorded")
        return rule
    known = [args for args in recorded if all(map(is_plain_name, args))]
    rule.kept &= bool(known)
    rule.args = args = escape(fields_of(known))
    wide = [name for name, each in args.items() if isinstance(each, dict) and "any" in each]
    facts = {
        f"drawn from {len(known)} calls: others have no recorded arguments, or names that no rule has": len(known)
        < len(calls),
        "it lacks arguments whose names look like those of secrets, which were not recorded: add them": any(
            call.is_part for call in calls
        ),
        f"any value of {', '.join(wide)}: the values have no kind or length in common": bool(wide),
    }
    rule.notes += [text for text, holds in facts.items() if holds]
    return rule


def _parameters(by_tool: Mapping[tuple[str, str], Sequence[RecordedCall]]) -> list[_Constant]:
    """Return what is constant in each piece of work and varies between them, of each piece of work."""
    every = {call.work for calls in by_tool.values() for call in calls}
    constants: list[_Constant] = []
    for place, calls in by_tool.items():
        for argument in dict.fromkeys(name for call in calls for name in call.args or ()):
            values = _constant_values(calls, argument)
            if values is None:
                continue
            same = next((each for each in constants if _agree(each.values, values)), None)
            if same is None:
                constants.append(_Constant([(*place, argument)], values))
            else:
                same.places.append((*place, argument))
                same.values |= values
    # A task is started with all its parameters, so a value that some work lacks cannot be one.
    return [each for each in constants if each.values.keys() == every]


def _constant_values(calls: Sequence[RecordedCall], argument: str) -> dict[Work, Any] | None:
    """Return the value of an argument by piece of work, if it has one in each and not the same in all."""
    values: dict[Work, Any] = {}
    for call in calls:
        value = None if call.args is None else call.args.get(argument)
        if type(value) not in (str, int) or len(str(value)) > MAX_PARAMETER:
            return None
        if key_of(values.setdefault(call.work, value)) != key_of(value):
            return None
    # One call has one amount and one note in any case; only an id, or several calls with it, show what a task is about.
    kinds = len(set(map(key_of, values.values())))
    is_id = 2 * kinds > len(values) and all(_is_id(argument, value) for value in values.values())
    return values if kinds > 1 and (is_id or 2 * len(calls) > 3 * len(values)) else None


def _is_id(argument: str, value: Any) -> bool:
    return _ID.search(argument) is not None if type(value) is int else len(value.split()) == 1


def _agree(one: Mapping[Work, Any], other: Mapping[Work, Any]) -> bool:
    """Return whether two arguments have one value in each piece of work that has both, and not by chance."""
    pairs = {(key_of(one[work]), key_of(other[work])) for work in one.keys() & other.keys()}
    return len(pairs) > 1 and all(mine == theirs for mine, theirs in pairs)


def escape(value: Any) -> Any:
    """Return plain data in which no text is read as a parameter."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [escape(item) for item in value]
    if isinstance(value, dict):
        return {escape(name): escape(item) for name, item in value.items()}
    return value
