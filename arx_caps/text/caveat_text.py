# SPDX-License-Identifier: Apache-2.0
"""Write rules and caveats as text for people: what each of them removes.  SPEC 6, 7."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from arx_caps.settings.durations import show_span, show_time
from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat


def show_json(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": "))


def describe_rule(rule: Rule) -> str:
    """Return one rule as text: the tool, then its arguments in parentheses."""
    if rule.args is None:
        return f"{rule.tool} with any arguments"
    arguments = [f"{name} {_constraint(constraint)}" for name, constraint in rule.args.items()]
    if rule.open:
        arguments.append("others as before")
    if not arguments:
        return f"{rule.tool} without arguments"
    return f"{rule.tool}({', '.join(arguments)})"


def _constraint(constraint: Any) -> str:
    said = msgspec.to_builtins(constraint)
    if not isinstance(said, dict):
        return f"= {show_json(said)}"
    optional = "optional, " if said.pop("optional", False) else ""
    return optional + " and ".join(f"{word} {show_json(operand)}" for word, operand in said.items())


_REQUIRED: Final = {
    "call": "calls without a proof made for that call",
    "holder": "calls of a bearer token",
    "signature": "calls that their holder has not signed",
}
_PER: Final = {"task": "in all", "hour": "an hour", "day": "a day"}
_KIND: Final = ("to", "hop", "key", "sig")  # shown as the kind of the caveat
_NO_LIMIT: Final = ("marks", "opened")  # what other rows are about: by themselves they remove nothing
# In the order of the output.
_PHRASES: Final[dict[str, Callable[[Any], str]]] = {
    "allow": lambda rules: "every tool but " + "; ".join(map(describe_rule, rules)),
    "exp": lambda exp: f"all time from {show_time(exp)} on",
    "nbf": lambda nbf: f"all time before {show_time(nbf)}",
    "depth": lambda depth: f"delegations after the next {depth}" if depth else "every further delegation",
    "delegate_to": lambda patterns: "delegations to agents other than " + " or ".join(patterns),
    "aud": lambda audiences: "services other than " + " or ".join(audiences),
    "net": lambda networks: "callers in none of " + ", ".join(networks),
    "require": lambda proofs: " and ".join(
        _REQUIRED.get(proof, f"calls without {show_json(proof)}") for proof in proofs
    ),
    "spend": lambda spend: f"spending above {spend[2]} {spend[1]} {_PER[spend[3]]} (pool {spend[0]})",
    "after": lambda rows: "; ".join(f"{_any(tools)} once {' and '.join(marks)} is set" for marks, tools in rows),
    "only_after": lambda rows: "; ".join(
        f"{_any(tools)} without {mark}" + (f" of the last {show_span(within)}" if within else "")
        for mark, within, tools in rows
    ),
    "distinct": lambda rows: "; ".join(
        f"{_any(tools)} with more than {most} different values of {', '.join(arguments)} in one {of}"
        for tools, arguments, most, of in rows
    ),
    "fresh": lambda fresh: f"verifiers whose view of revocations is older than {show_span(fresh)}",
    "task": lambda task: f"everything once sub-task {task} has ended",
    "shown": lambda shown: (
        "calls after a mark that the approver was not shown; shown: "
        + (", ".join(f"{mark} of {show_time(at)}" for mark, at in shown) or "none")
    ),
    "operators": lambda operators: "everything once an approver is frozen or removed: " + ", ".join(operators),
    "once": lambda once: f"every call but one with this approval, {once[0]}",
    "call": lambda call: f"every call but the one signed at {show_time(call[1])}",
}


def after_any(when: Sequence[Sequence[str]]) -> str:
    """Return the marks after which a call needs an approval, such as ``a and b, or c is set``."""
    return ", or ".join(" and ".join(marks) for marks in when) + " is set"


def _any(tools: Sequence[str]) -> str:
    return "calls of " + " or ".join(tools)


def removals(caveat: Caveat) -> list[str]:
    """Return a phrase for each restriction of a caveat: what it removes."""
    # A member without a phrase of its own is shown as JSON: a new kind of restriction must not be hidden.
    members = {name: value for name, value in msgspec.structs.asdict(caveat).items() if value is not None}
    phrases = [write(members[name]) for name, write in _PHRASES.items() if name in members]
    others = [name for name in members if name not in _PHRASES and name not in (*_KIND, *_NO_LIMIT)]
    return phrases + [f"calls outside of {name} = {show_json(msgspec.to_builtins(members[name]))}" for name in others]
