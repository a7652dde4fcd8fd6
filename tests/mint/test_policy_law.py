# SPDX-License-Identifier: Apache-2.0
"""The policy's law: what a grant permits is what the template permits with the values written in by hand."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arx_caps.mint.policy.model import Policy
from arx_verifier.constraints.rule import compile_rule, permits, read_rule
from arx_verifier.errors import GrantError, MalformedTokenError, SettingsError

texts = st.sampled_from(["a", "b", "$", "$$", "$n", "*", "5"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)
numbers = st.integers(-3, 9)


def escaped(value: Any) -> Any:
    return value.replace("$", "$$") if isinstance(value, str) else value


literals = (texts | numbers | st.booleans()).map(escaped)
compared = st.sampled_from(["$t", "$n", "$f"]) | literals
bounds = st.just("$n") | numbers
plain = (
    compared
    | compared.map(lambda value: {"equal": value})
    | st.lists(literals, max_size=2).map(lambda items: {"equal": items})
    | st.tuples(bounds, bounds).map(lambda pair: {"range": list(pair)})
    | bounds.map(lambda bound: {"min": bound})
    | st.tuples(bounds, bounds).map(lambda pair: {"min": pair[0], "max": pair[1]})
    | st.lists(literals, min_size=1, max_size=2).map(lambda items: {"one_of": items})
    | texts.map(escaped).filter(lambda value: value and "**" not in value).map(lambda value: {"glob": value})
)
logical = (
    plain
    | st.lists(plain, min_size=1, max_size=2).map(lambda parts: {"any_of": parts})
    | st.lists(plain, min_size=1, max_size=2).map(lambda parts: {"all_of": parts})
    | plain.map(lambda part: {"not": part})
)
templates = st.dictionaries(st.sampled_from(["x", "y", "$z"]), logical, max_size=2)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return json.dumps(value)


def by_hand(written: Any, values: dict[str, Any]) -> Any:
    if isinstance(written, dict):
        return {key: by_hand(item, values) for key, item in written.items()}
    if isinstance(written, list):
        return [by_hand(item, values) for item in written]
    if isinstance(written, str):
        return values[written[1:]] if written in ("$t", "$n", "$f") else written.replace("$$", "$")
    return written


@given(
    args=templates,
    values=st.fixed_dictionaries({"t": texts, "n": numbers, "f": st.booleans()}),
    calls=st.lists(
        st.dictionaries(
            st.sampled_from(["x", "y", "$z", "$$z"]), texts | numbers | st.booleans() | st.none(), max_size=3
        ),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_a_grant_permits_what_its_template_says(
    args: dict[str, Any], values: dict[str, Any], calls: list[dict[str, Any]], data: st.DataObject
) -> None:
    """
    For any template, values and call: granted is exactly what the rule with the values written in by hand permits.
    """
    written = {escaped(name): constraint for name, constraint in args.items()}
    text = (
        '[audience.a]\norigins = ["http://a"]\n[task.t]\nagents = ["**"]\nttl = "1m"\naudience = ["a"]\n'
        "params = { t = { min_length = 0 }, n = { range = [-3, 9] }, f = { one_of = [true, false] } }\n"
        f'allow = [{{ tool = "a.b", args = {toml(written)} }}]\n'
    )
    try:
        expected = read_rule({"tool": "a.b", "args": {name: by_hand(item, values) for name, item in args.items()}})
    except MalformedTokenError:
        # Crossed bounds: refused when loaded if they are literal, when granted if they came from a value.
        with pytest.raises((SettingsError, GrantError)):
            Policy.parse(text, "policy.toml").grant("t", "x", values)
        return
    [rule] = Policy.parse(text, "policy.toml").grant("t", "x", values).rules["a"]
    assert rule == expected
    hits = [{name: data.draw(st.sampled_from([*values.values(), "a", 5])) for name in args}]
    for call in [*calls, *hits]:
        assert permits(compile_rule(rule), call) == permits(compile_rule(expected), call)
