# SPDX-License-Identifier: Apache-2.0
"""Recorded calls that a policy would refuse, and its rules that no recorded call used.

Tool, arguments, agent and session are judged.  Subjects, networks, approvals, budgets and lifetimes are not.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import asdict

from arx_caps.mint.drafts.calls import RecordedCall
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.policy.tables import Template
from arx_caps.mint.policy.templates import TemplateRule, is_parameter
from arx_verifier.constraints.constraint import Constraint, compile_constraint
from arx_verifier.constraints.rule import CompiledRule, Rule, compile_rule, explain, permits, permits_with_any
from arx_verifier.errors import MalformedTokenError
from arx_verifier.names import matches_any_path, matches_tool

# Of `$subject`, which the policy takes from elsewhere.
_ANY: Final = Constraint(any=True)

Place = tuple[str, int]  # a template, and the index of its rule


class RefusedCalls(Struct):
    """Calls of one tool that a policy would refuse for one reason.

    Attributes:
        agent: The agent.
        audience: The service.
        tool: The tool.
        why: The reason, of the first of them.
        calls: All of them.
    """

    agent: str
    audience: str
    tool: str
    why: str
    calls: list[RecordedCall] = []

    def shown(self) -> dict[str, Any]:
        """Return it as plain data, with numbers in place of the calls."""
        sessions, last = {call.session for call in self.calls}, max(call.at for call in self.calls)
        return asdict(self) | {"calls": len(self.calls), "sessions": len(sessions), "last": last or None}


class PolicyGap(NamedTuple):
    """What a policy and recorded calls lack of each other.

    Attributes:
        refused: The calls that it would refuse.
        unknown: The calls whose arguments were not recorded, and that it judges by them.
        used: How many calls each rule allows, by template and index; 0 for a rule without one.
    """

    refused: list[RefusedCalls]
    unknown: list[RecordedCall]
    used: dict[Place, int]

    def unused(self, policy: Policy) -> list[dict[str, Any]]:
        """Return the rules of the policy that allow none of the calls, as plain data, each with its line."""
        rules = [(name, n, policy.templates[name].rules[n]) for (name, n), count in self.used.items() if not count]
        return [
            {"task": name, "line": policy.text.line(("task", name, "allow", n)), "tool": rule.tool, "at": rule.at}
            | {"args": rule.shown({})}
            for name, n, rule in rules
        ]


class _FilledRule(NamedTuple):
    """A rule with the parameters of one piece of work; ``filled`` is None if the work has none that it takes."""

    place: Place
    written: TemplateRule
    filled: tuple[Rule, CompiledRule] | None

    def permits(self, call: RecordedCall) -> bool:
        """Return whether it allows a call of its tool; of one without recorded arguments, whether it allows any."""
        if self.filled is None:
            return False
        rule = self.filled[1]
        return permits_with_any(rule, {}) if call.args is None else permits(rule, call.args)


def find_gap(policy: Policy, calls: Iterable[RecordedCall]) -> PolicyGap:
    """Return the calls that a policy would refuse, and how many calls used each rule.

    Each piece of work may use every template of its agent, each with one value for each parameter.

    Args:
        policy: The policy.
        calls: The calls.
    """
    gap = PolicyGap([], [], {(each.name, n): 0 for each in policy.templates.values() for n in range(len(each.rules))})
    works: dict[tuple[str, str, str], list[RecordedCall]] = {}
    for call in calls:
        works.setdefault(call.work, []).append(call)
    refused: dict[tuple[str, ...], RefusedCalls] = {}
    for (agent, _, _), members in works.items():
        rules = list(_fill(policy, agent, members))
        for call in members:
            if reason := _judge(policy, call, rules, gap):
                place = (agent, call.audience, call.tool)
                refused.setdefault((*place, reason[1]), RefusedCalls(*place, reason[0])).calls.append(call)
    gap.refused.extend(refused.values())
    return gap


def _judge(policy: Policy, call: RecordedCall, rules: list[_FilledRule], gap: PolicyGap) -> tuple[str, str] | None:
    """Return why a call is refused, and a key of the reason; None if it is allowed, or if that is unknown."""
    if not any(matches_any_path(terms.agents, call.agent) for terms in policy.sessions.values()):
        return f"no [session] lets {call.agent} open one", "session"
    about = [each for each in rules if each.written.at == call.audience and matches_tool(each.written.tool, call.tool)]
    if not about:
        return f"no task of {call.agent} has a rule for {call.tool} at {call.audience}", "tool"
    fitting = [each for each in about if each.permits(call)]
    for each in fitting:
        gap.used[each.place] += 1
    if fitting:
        return None
    if call.args is None:
        gap.unknown.append(call)
        return None
    for (task, _), _, filled in about:
        if filled is not None:
            failure = explain(filled[0], call.args, f"[task.{task}]", 1)[0]
            return str(failure), failure.rule
    return f"[task.{about[0].place[0]}]: no value of its parameters allows the call", "parameters"


def _fill(policy: Policy, agent: str, calls: list[RecordedCall]) -> Iterator[_FilledRule]:
    """Yield the rules of each template that an agent may start, with the parameters that its calls would need."""
    for template in policy.templates.values():
        if not matches_any_path(template.agents, agent):
            continue
        values = _values(template, calls)
        for index, written in enumerate(template.rules):
            filled = None
            # Else no call has a value for a parameter of this rule, or it does not fit beside its other bound.
            with suppress(KeyError, MalformedTokenError):
                rule = written.fill(values)
                filled = rule, compile_rule(rule)
            yield _FilledRule((template.name, index), written, filled)


def _values(template: Template, calls: Iterable[RecordedCall]) -> dict[str, Any]:
    """Return the parameters with which a template allows most of the calls of one piece of work."""
    used: dict[tuple[str, str], list[Any]] = {}
    for rule in template.rules:
        for call in calls:
            if rule.at == call.audience and matches_tool(rule.tool, call.tool):
                for name, word, value in _uses({"fields": rule.args or {}}, call.args):
                    if type(value) in (str, int, bool) and compile_constraint(template.params.get(name, _ANY))(value):
                        used.setdefault((name, word), []).append(value)
    values: dict[str, Any] = {}
    for (name, word), seen in sorted(used.items(), key=lambda item: item[0][1] == "equal"):  # an exact value last
        if word == "equal":
            values[name] = max(seen, key=seen.count)
        else:
            values[name] = (min if word == "min" else max)(seen, key=lambda value: Decimal(str(value)))
    return values


def _uses(written: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield each parameter in a constraint, the word that it is the operand of, and the value that a call has there."""
    if is_parameter(written):
        yield written[1:], "equal", value
    for word, operand in written.items() if isinstance(written, Mapping) else ():
        inner: list[tuple[Any, Any]] = []
        if word == "fields" and isinstance(value, Mapping):
            inner = [(operand[name], value[name]) for name in operand.keys() & value.keys()]
        elif word == "each" and isinstance(value, list):
            inner = [*zip(operand if isinstance(operand, list) else [operand] * len(value), value, strict=False)]
        elif word in ("all_of", "any_of"):
            inner = [(part, value) for part in operand]
        for part, item in inner:
            yield from _uses(part, item)
        operands = {"min": operand[0], "max": operand[1]} if word == "range" else {word: operand}
        yield from ((each[1:], side, value) for side, each in operands.items() if is_parameter(each))
