# SPDX-License-Identifier: Apache-2.0
"""The policy's second law: a whole policy never grants more than its text, to any agent, on any behalf.

What it says is worked out a second time by the plain evaluator below, from the file as it is written and with nothing
of the policy's own code.  Wherever something is granted, both allow the same calls; wherever the evaluator says that an
agent has no such task, nothing is granted.
"""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_caps.settings.durations import format_duration
from arx_verifier.constraints.rule import Rule, compile_rule, permits
from arx_verifier.errors import GrantError, SettingsError
from arx_verifier.names import matches_tool
from tests.mint.test_policy_law import toml

AUDIENCES = ("a", "b")
URL = "https://id.example"
HEAD = f"""\
[audience.a]
origins = ["http://a"]
[audience.b]
origins = ["http://b"]
[issuer.id]
url = "{URL}"
jwks = "{URL}/keys"
audience = ["arx"]
algorithms = ["ES256"]
"""

PARAMS = {"name": {"min_length": 1, "max_length": 2}, "most": {"range": [0, 3]}}
paths = st.sampled_from(["x", "x/y", "x/z", "x/y/z", "w"])
patterns = st.sampled_from(["**", "x/**", "x", "x/*", "*", "x/y", "*/y", "w"])
tools = st.sampled_from(["a.get", "a.put", "a.get.one", "b.get", "b.put"])
tool_patterns = tools | st.sampled_from(["a.*", "b.*", "a.get.*"])
compared: list[Any] = ["$name", "$most", "$subject", "n", 2, True, {"one_of": ["n", 2]}, {"max_length": 1}]
bounded: list[Any] = [{"range": [0, "$most"]}, {"min": "$most"}, {"all_of": [{"max": 2}, {"min": 1}]}]
logical: list[Any] = [{"not": "$name"}, {"any_of": ["$name", 2]}]
constraints = st.sampled_from([*compared, *bounded, *logical])
rules = st.builds(
    lambda tool, at, args: {"tool": tool, "at": at, **({"any": True} if args is None else {"args": args})},
    st.sampled_from(["a.*", "b.*"]) | tool_patterns,
    st.sampled_from(AUDIENCES),
    st.none() | st.dictionaries(st.sampled_from(["p", "q"]), constraints, max_size=2),
)
approvals = st.fixed_dictionaries(
    {"tools": st.lists(tool_patterns | st.just("*"), min_size=1, max_size=2, unique=True)},
    optional={"need": st.integers(1, 3), "ttl": st.just("5m"), "once": st.booleans()},
)
templates = st.fixed_dictionaries(
    {
        "agents": st.just(["**"]) | st.lists(patterns, min_size=1, max_size=2, unique=True),
        "allow": st.lists(rules, min_size=1, max_size=4),
        "approvals": st.none() | st.lists(approvals, min_size=1, max_size=2),
        "subjects": st.sampled_from([None, None, [{"issuer": "id"}], [{"issuer": "id", "claims": {"team": "t1"}}]]),
    }
)
subjects = st.sampled_from([Subject(URL, "n", {"team": "t1"}), None]) | st.builds(
    Subject,
    st.sampled_from([URL, "https://elsewhere.example"]),
    st.sampled_from(["n", "ann"]),
    st.sampled_from([{}, {"team": "t1"}, {"team": "t2"}]),
)
values = st.sampled_from(["n", "nn", "ann", "", 0, 1, 2, 3, 4, True, False])
asked = st.fixed_dictionaries(
    {
        "params": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["n", "nn", "n", "nn", "", 1, "nnn"]),
                "most": st.sampled_from([0, 1, 2, 3, 2, 1, 4, "2", True]),
            }
        ),
        "tools": st.none() | st.lists(tool_patterns, min_size=1, max_size=2),
    }
)
near = st.sampled_from(["n", "nn", 2, 1, "ann", 0, 3, True])
calls = st.lists(
    st.tuples(st.sampled_from(AUDIENCES), tools, st.dictionaries(st.sampled_from(["p", "q", "r"]), values, max_size=2)),
    min_size=1,
    max_size=4,
)


# The evaluator.  It knows the forms above and no others.


def path_fits(pattern: str, path: str) -> bool:
    """Patterns as a regular expression, which the policy's own reader does not use."""
    parts = re.escape(pattern).replace(r"/\*\*", "(/.*)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]+")
    return re.fullmatch(parts, path) is not None


def tool_fits(pattern: str, tool: str) -> bool:
    return pattern == tool or (pattern.endswith(".*") and tool.startswith(pattern[:-1]))


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def is_number(value: Any) -> bool:
    return type(value) is int


def value_fits(written: Any, value: Any, filled: dict[str, Any]) -> bool:
    def put(operand: Any) -> Any:
        return filled[operand[1:]] if isinstance(operand, str) and operand.startswith("$") else operand

    if not isinstance(written, dict):
        return same(put(written), value)
    [(word, operand)] = written.items()
    if word == "one_of":
        return any(same(each, value) for each in operand)
    if word in ("range", "min", "max"):
        low, high = {"range": operand, "min": [operand, None], "max": [None, operand]}[word]
        return is_number(value) and (low is None or put(low) <= value) and (high is None or value <= put(high))
    if word == "not":  # a value of another kind fits neither a constraint nor its opposite
        return type(value) is type(put(operand)) and not value_fits(operand, value, filled)
    if word in ("any_of", "all_of"):
        return (any if word == "any_of" else all)(value_fits(each, value, filled) for each in operand)
    assert word == "max_length"
    return isinstance(value, str) and len(value) <= operand


def is_granted(template: dict[str, Any], agent: str, subject: Subject | None, ask: dict[str, Any]) -> bool:
    """Whether the agent has the task at all, with these parameters."""
    name, most = ask["params"]["name"], ask["params"]["most"]
    return (
        any(path_fits(pattern, agent) for pattern in template["agents"])
        and isinstance(name, str)
        and 1 <= len(name) <= 2
        and is_number(most)
        and 0 <= most <= 3
        and (template["subjects"] is None or any(subject_fits(rule, subject) for rule in template["subjects"]))
    )


def subject_fits(rule: dict[str, Any], subject: Subject | None) -> bool:
    wanted = rule.get("claims", {})
    return subject is not None and subject.issuer == URL and all(subject.claims.get(k) == v for k, v in wanted.items())


def allows(template: dict[str, Any], ask: dict[str, Any], subject: Subject | None, call: tuple[str, str, Any]) -> bool:
    """Whether a call is allowed under the task."""
    audience, tool, args = call
    filled = {**ask["params"], "subject": subject.name if subject is not None else None}
    if ask["tools"] is not None and not any(tool_fits(pattern, tool) for pattern in ask["tools"]):
        return False
    return any(
        rule["at"] == audience
        and tool_fits(rule["tool"], tool)
        and (
            "any" in rule
            or (
                set(rule["args"]) == set(args)
                and all(value_fits(written, args[name], filled) for name, written in rule["args"].items())
            )
        )
        for rule in template["allow"]
    )


def needs(template: dict[str, Any], tool: str) -> list[tuple[int, str, bool]]:
    """How many operators must approve a call of a tool, for how long, and whether for it alone; for none, nothing."""
    entries = [each for each in template["approvals"] or () if any(pattern_fits(some, tool) for some in each["tools"])]
    return [(each.get("need", 1), each.get("ttl", "10m"), each.get("once", True)) for each in entries]


def mistaken(template: dict[str, Any]) -> bool:
    """Whether an approval is of what no rule is for, or two speak of one tool."""
    entries = [each["tools"] for each in template["approvals"] or ()]
    used = [rule["tool"] for rule in template["allow"]]
    if not all(any(meet(tool, other) for other in used) for tools in entries for tool in tools):
        return True
    return any(meet(one, other) for one, other in itertools.product(*entries)) if len(entries) == 2 else False


def meet(one: str, other: str) -> bool:
    """Whether two patterns fit one tool: the longer of them, made a tool, fits the other."""
    return any(pattern_fits(outer, inner.replace("*", "any")) for outer, inner in ((one, other), (other, one)))


def pattern_fits(pattern: str, tool: str) -> bool:
    return pattern == "*" or tool_fits(pattern, tool)


# The policy's own answer.


def permitted(grant: TaskGrant, call: tuple[str, str, Any]) -> bool:
    """Whether the tokens of a grant would allow a call: a rule, and what it was attenuated to."""
    audience, tool, args = call
    fewer = grant.fewer_tools.get(audience)
    return _any(grant.rules.get(audience, ()), tool, args) and (fewer is None or _any(fewer, tool, args))


def required(grant: TaskGrant, audience: str, tool: str) -> list[tuple[int, str, bool]]:
    """What a call at an audience needs, by what the tokens of a grant would require there."""
    entries = [
        each for each in grant.approvals.get(audience, ()) if any(matches_tool(some, tool) for some in each.tools)
    ]
    return [(each.need, format_duration(each.ttl_ms), each.once) for each in entries]


def _any(some: tuple[Rule, ...], tool: str, args: Any) -> bool:
    compiled = [compile_rule(rule) for rule in some]
    return any(rule.matches_tool(tool) and permits(rule, args) for rule in compiled)


def written(template: dict[str, Any]) -> str:
    used = [audience for audience in AUDIENCES if any(rule["at"] == audience for rule in template["allow"])]
    lines = {"agents": template["agents"], "params": PARAMS, "ttl": "1m", "audience": used, "allow": template["allow"]}
    lines |= {key: template[key] for key in ("approvals", "subjects") if template[key] is not None}
    return HEAD + "[task.t]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in lines.items())


def aimed(template: dict[str, Any], data: st.DataObject) -> list[tuple[str, str, Any]]:
    """Calls that come near to each rule: its tool, one beside it, and its arguments with values of the right kinds."""
    found = []
    for rule in template["allow"]:
        tool = rule["tool"].replace("*", "put")
        for _ in range(2):
            args = {name: data.draw(near) for name in rule.get("args", {"r": True})}
            found += [(rule["at"], tool, args), (rule["at"], tool + ".x", args)]
    return found


def names_subject(template: dict[str, Any]) -> bool:
    return any("$subject" in str(rule) for rule in template["allow"])


@pytest.mark.slow
@settings(max_examples=200)
@given(template=templates, agent=paths, subject=subjects, ask=asked, made=calls, data=st.data())
def test_a_policy_grants_what_it_says(
    template: dict[str, Any],
    agent: str,
    subject: Subject | None,
    ask: dict[str, Any],
    made: list[Any],
    data: st.DataObject,
) -> None:
    """
    For any policy, agent, subject, parameters, attenuation and calls: what is granted is what the file says.
    """
    if names_subject(template) and template["subjects"] is None:
        template = {**template, "subjects": [{"issuer": "id"}]}  # the policy's reader requires it
    if mistaken(template):
        with pytest.raises(SettingsError, match=r"t\.approvals\["):
            Policy.parse(written(template), "policy.toml")
        return
    policy = Policy.parse(written(template), "policy.toml")
    grant = refused = None
    try:
        grant = policy.grant("t", agent, ask["params"], tools=ask["tools"], subject=subject)
    except GrantError as error:
        refused = error
    if grant is None:
        # Crossed bounds are a refusal, where the evaluator merely finds no value between them; so are tools that no
        # rule has.  Neither is a matter of who asks.
        of_what_is_asked = "params" in str(refused) or "tools" in str(refused)
        assert of_what_is_asked or not is_granted(template, agent, subject, ask)
        return
    assert is_granted(template, agent, subject, ask)
    for call in [*made, *aimed(template, data)]:
        assert permitted(grant, call) == allows(template, ask, subject, call), call
        if permitted(grant, call):
            assert required(grant, *call[:2]) == needs(template, call[1]), call


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(list('[]{}=.,"#$*\n ae19')) | st.just(""))), st.data()
)
def test_a_mutated_policy_is_read_or_refused_with_its_line(edits: list[tuple[int, str]], data: st.DataObject) -> None:
    """
    A policy in which characters were changed, put in or left out is a policy, or a mistake with file and line.
    """
    text = written(data.draw(templates))
    for place, character in edits:
        at = place % len(text)
        text = text[:at] + character + text[at + data.draw(st.integers(0, 1)) :]
    answer = ""
    try:
        Policy.parse(text, "policy.toml")
    except SettingsError as error:
        answer = str(error)
    assert not answer or re.match(r"policy\.toml:\d+: ", answer), answer
