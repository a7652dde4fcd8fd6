# SPDX-License-Identifier: Apache-2.0
"""A draft as a policy file, with a comment for each rule, and its calls as questions to it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from arx_caps.mint.drafts.calls import key_of
from arx_caps.mint.drafts.draft import DraftRule, DraftTemplate, longest
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.tasks.policy_questions import PolicyQuestion, ask_policy, toml_key, toml_value, write_question
from arx_caps.settings.durations import MAX_MS, UNITS, show_span, show_time
from arx_caps.settings.toml_file import MAX_BYTES

PLACE: Final = "https://{}.invalid"  # where a service lives is not recorded
MAX_RULES: Final = 12_000  # characters; a packet of a token has at most 16,383 bytes, and other caveats
UNKNOWN_PLACE: Final = " # write where it lives"


def write_policy(
    templates: Sequence[DraftTemplate],
    origins: Mapping[str, Sequence[str]],
    min_seen: int,
    unseen: Sequence[str] = (),
) -> str:
    """Return a draft as the text of a policy.

    Args:
        templates: The templates.
        origins: The origins of the audiences for which they are known.
        min_seen: In how many sessions each kept rule was seen.
        unseen: Tools that no call was of.
    """
    lines = ["# A draft: read each line, and delete what the agents should not do."]
    calls = [call for each in templates for call in each.calls]
    if calls:
        sessions, times = {call.session for call in calls}, _times([call.at for call in calls if call.at])
        seen = f"{_count(len(calls), 'call')} of {_count(len(sessions), 'session')}"
        lines += [f"# It allows what {seen} did{times}."]
    granted = [each for each in templates if each.kept_rules]
    for audience in sorted({rule.at for each in granted for rule in each.kept_rules}):
        known = origins.get(audience)
        lines += ["", f"[audience.{toml_key(audience)}]"]
        lines += [f"origins = {toml_value(known or [PLACE.format(audience)])}{'' if known else UNKNOWN_PLACE}"]
    agents = sorted({agent for each in granted for agent in each.agents})
    if agents:
        lines += ["", "[session]", f"agents = {toml_value(agents)}", _ttl(longest(calls, of_tasks=False))]
    for each in templates:
        lines += ["", *(line if each in granted else f"# {line}" for line in _template(each, min_seen))]
    if unseen:
        lines += ["", _comment(f"No call was of: {', '.join(unseen)}")]
    return "\n".join(lines) + "\n"


def show_template(template: DraftTemplate) -> dict[str, Any]:
    """Return a template as plain data, without its calls."""
    members = ("name", "agents", "purpose", "sessions", "params", "depth", "delegate_to", "rules")
    return {name: msgspec.to_builtins(getattr(template, name)) for name in members}


def write_questions(policy: Policy, templates: Iterable[DraftTemplate]) -> tuple[list[str], int]:
    """Return a question to the policy for each different call, with its answer, in the form of ``arx policy test``.

    A call without recorded arguments is left out, and so is one with a null, which TOML does not have.

    Returns:
        The questions that a file has room for, those of each tool in turn, and the number of the others.
    """
    asked: dict[str, tuple[int, PolicyQuestion]] = {}
    turns: Counter[tuple[str, str]] = Counter()
    for template in templates:
        for call in template.calls:
            params = template.values.get(call.work, {})
            key = key_of([call.agent, template.name, params, call.tool, call.args])
            if key not in asked and call.args is not None and not _has_null(call.args):
                turns[template.name, call.tool] += 1
                question = PolicyQuestion(
                    agent=call.agent, task=template.name, params=params, tool=call.tool, args=call.args
                )
                asked[key] = turns[template.name, call.tool], question
    texts, room = list[str](), MAX_BYTES
    for number, (_, question) in enumerate(sorted(asked.values(), key=lambda each: each[0]), 1):
        text = write_question(question, ask_policy(policy, question), number)
        room -= len(text.encode()) + 2
        if room < 0:
            break
        texts.append(text)
    return texts, len(asked) - len(texts)


def _template(template: DraftTemplate, min_seen: int) -> Iterator[str]:
    kept = template.kept_rules
    yield f"[task.{template.name}]"
    if template.sessions:
        purpose = f", for the purpose {toml_value(template.purpose)}" if template.purpose else ""
        yield _comment(f"{_count(template.sessions, 'session')}{purpose}")
    yield f"agents = {toml_value(template.agents)}"
    if template.params:
        yield f"params = {toml_value(template.params)} # each has one value in a task"
    yield _ttl(template.took)
    yield f"depth = {template.depth}"
    if template.delegate_to:
        yield f"delegate_to = {toml_value(template.delegate_to)}"
    if len(key_of([_written(rule) for rule in kept])) > MAX_RULES:
        yield "# Its rules do not fit into a token: delete some, or write several tasks."
    yield f"audience = {toml_value(sorted({rule.at for rule in kept or template.rules}))}"
    yield "allow = ["
    for rule in template.rules:
        if facts := "; ".join(_facts(rule, min_seen)):
            yield f"  {_comment(facts)}"
        yield f"  {'' if rule.kept else '# '}{toml_value(_written(rule))},"
    yield "]"


def _ttl(took: int) -> str:
    """Return a lifetime in whole hours, at least twice as long as what took longest, ms."""
    return f'ttl = "{min(1 + 2 * took // UNITS["h"], MAX_MS // UNITS["h"])}h"' + (
        f" # the longest took {show_span(took)}" if took else ""
    )


def _facts(rule: DraftRule, min_seen: int) -> Iterator[str]:
    if rule.calls:
        yield f"{_count(rule.calls, 'call')} in {_count(rule.sessions, 'session')}{_times([rule.first, rule.last])}"
    if rule.sessions < min_seen and rule.calls:
        yield f"left out: seen in fewer than {min_seen} sessions"
    yield from rule.notes


def _comment(text: str) -> str:
    """Return a comment; agents and callers choose names and purposes, and must not begin a line of the policy."""
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _written(rule: DraftRule) -> dict[str, Any]:
    place = {} if rule.tool.partition(".")[0] == rule.at else {"at": rule.at}
    return {"tool": rule.tool, **place, **({"any": True} if rule.args is None else {"args": rule.args})}


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return any(map(_has_null, value.values() if isinstance(value, Mapping) else value))
    return value is None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _times(times: Sequence[int]) -> str:
    """Return from when to when, ms since the Unix epoch, as text; empty if that is unknown."""
    known = [show_time(at) for at in (min(times, default=0), max(times, default=0)) if at]
    return f", {' to '.join(dict.fromkeys(known))}" if known else ""
