# SPDX-License-Identifier: Apache-2.0
"""``arx policy diff`` showed an agent that left the limits of a strict ``[session]`` table as a loss, and no gain.

All tables that match an agent restrict it together, so that leaving one is a gain.  The sign of each change is now that
of its effect on sessions, with the other tables; a change whose effect is both, or is not decided, is ``~``.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.directions import UNDECIDED, ChangeEffect, compare_constraints
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.model import Policy
from arx_verifier.constraints.constraint import compile_constraint, read_constraint
from arx_verifier.errors import ArxError

HEAD = """
[issuer.corp]
url = "https://corp.example"
jwks = "corp.json"
audience = ["arx"]
algorithms = ["ES256"]
"""
LOOSE = '[session.loose]\nagents = ["acme/**"]\nttl = "8h"\n'
STRICT = """
[session.strict]
agents = ["acme/pay", "acme/buy"]
ttl = "5m"
max_open = 1
subject = "required"
subjects = [{ issuer = "corp" }]
"""


def policy(*tables: str) -> Policy:
    return Policy.parse(HEAD + "".join(tables), "policy.toml")


def signs(old: Policy, new: Policy) -> list[tuple[str, str, Any]]:
    return [(each.direction, each.member, each.after or each.before) for each in compare(old, new)]


def test_leaving_a_strict_table_is_a_gain() -> None:
    """And entering it a loss, unless the agent had no session before."""
    both, left = policy(LOOSE, STRICT.replace("required", "none").replace("subjects", "#")), policy(LOOSE)
    without = STRICT.replace("required", "none").replace("subjects", "#").replace('"acme/pay", ', "")
    assert signs(both, policy(LOOSE, without)) == [("widening", "agents", "acme/pay")]
    assert signs(policy(LOOSE, without), both) == [("narrowing", "agents", "acme/pay")]
    assert ("widening", "agents", "acme/pay") in signs(both, left)
    assert ("narrowing", "agents", "acme/pay") in signs(left, both)
    assert ("narrowing", "agents", "acme/pay") in signs(policy(STRICT), policy(STRICT.replace('"acme/pay", ', "")))
    # With a person it had a session, and now it has one without a person.
    assert signs(policy(LOOSE, STRICT), policy(LOOSE, STRICT.replace('"acme/pay", ', ""))) == [
        ("unclear", "agents", "acme/pay")
    ]


AGENTS = ("acme/pay", "acme/buy", "acme/a/b", "acme", "other/x", "other", "zz/y/x/w")
SUBJECTS = (None, Subject("https://corp.example", "ann", {}), Subject("https://corp.example", "bob", {}))
PATTERNS = st.sampled_from(["acme/**", "acme/*", "acme/pay", "*/x", "**", "*/*/b", "other/**", "acme/a/**"])
RULES = ('{ issuer = "corp" }', '{ issuer = "corp", claims = { sub = "ann" } }')
TABLES = st.fixed_dictionaries(
    {
        "agents": st.lists(PATTERNS, min_size=1, max_size=3, unique=True),
        "ttl": st.sampled_from(["1h", "8h"]),
        "idle": st.sampled_from([None, "10m", "1h"]),
        "max_open": st.sampled_from([None, 1, 5]),
        "subject": st.sampled_from(["none", "allowed", "required"]),
        "rules": st.lists(st.sampled_from(RULES), min_size=1, max_size=2, unique=True),
    }
)
POLICIES = st.dictionaries(st.sampled_from(["a", "b", "c"]), TABLES, min_size=1)


def written(tables: dict[str, dict[str, Any]]) -> Policy:
    texts = []
    for name, table in tables.items():
        agents = ", ".join(f'"{agent}"' for agent in table["agents"])
        lines = [f"[session.{name}]", f"agents = [{agents}]", f'ttl = "{table["ttl"]}"']
        lines += [f'idle = "{table["idle"]}"'] if table["idle"] else []
        lines += [f"max_open = {table['max_open']}"] if table["max_open"] else []
        if table["subject"] != "none":
            lines += [f'subject = "{table["subject"]}"', f"subjects = [{', '.join(table['rules'])}]"]
        texts.append("\n".join(lines) + "\n")
    return policy(*texts)


def limits(of: Policy, agent: str, subject: Subject | None) -> Sequence[float] | None:
    """What the mint itself would allow."""
    try:
        terms = of.may_open(agent, subject)
    except ArxError:
        return None
    idle, most = terms.idle_ms, of.most_open(agent)
    return terms.ttl_ms, min(terms.ttl_ms, idle or terms.ttl_ms), most or float("inf"), terms.outlives_ms


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(old=POLICIES, new=POLICIES)
def test_no_gain_is_shown_as_a_loss(old: dict[str, Any], new: dict[str, Any]) -> None:
    """What the mint allows more or less is never left to signs of the other direction."""
    before, after = written(old), written(new)
    directions = {each.direction for each in compare(before, after)}
    for agent in AGENTS:
        for subject in SUBJECTS:
            first, second = limits(before, agent, subject), limits(after, agent, subject)
            pairs = [] if first is None or second is None else [*zip(first, second, strict=True)]
            gains = (first is None and second is not None) or any(b > a for a, b in pairs)
            loses = (second is None and first is not None) or any(b < a for a, b in pairs)
            assert not gains or directions & {"widening", "unclear"}, (agent, subject)
            assert not loses or directions & {"narrowing", "unclear"}, (agent, subject)


@settings(deadline=None)
@given(tables=POLICIES, agent=PATTERNS)
def test_an_agent_that_enters_has_the_exact_sign(tables: dict[str, Any], agent: str) -> None:
    """Of one change, ``widening`` loses nothing, and ``narrowing`` gains nothing."""
    name = min(tables)
    if agent in tables[name]["agents"]:
        return
    more = {**tables, name: {**tables[name], "agents": [*tables[name]["agents"], agent]}}
    before, after = written(tables), written(more)
    for each in compare(before, after):
        for path in AGENTS:
            for subject in SUBJECTS:
                first, second = limits(before, path, subject), limits(after, path, subject)
                pairs = [] if first is None or second is None else [*zip(first, second, strict=True)]
                if each.direction == "widening":
                    assert first is None or second is not None
                    assert all(b >= a for a, b in pairs)
                if each.direction == "narrowing":
                    assert second is None or first is not None
                    assert all(b <= a for a, b in pairs)


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        ({"range": [1, 100]}, {"range": [1, 500]}, ChangeEffect(gains=True)),
        ({"range": [1, 100]}, {"range": [5, 100]}, ChangeEffect(loses=True)),
        ({"range": [1, 100]}, {"range": [5, 500]}, UNDECIDED),
        ({"range": ["1", "9.5"]}, {"range": ["1", "10"]}, ChangeEffect(gains=True)),
        ({"range": [1, "$amount"]}, {"range": [0, "$amount"]}, ChangeEffect(gains=True)),
        ({"range": [1, 5]}, {"range": ["1", "5"]}, UNDECIDED),
        ({"max": 5}, {"max": 6}, ChangeEffect(gains=True)),
        ({"min": 5}, {"min": 6}, ChangeEffect(loses=True)),
        ("a", {"one_of": ["a", "b"]}, ChangeEffect(gains=True)),
        ({"none_of": ["a"]}, {"none_of": ["a", "b"]}, ChangeEffect(loses=True)),
        ({"none_of": ["a"]}, {"none_of": ["a", 5]}, UNDECIDED),
        ({"max_length": 8}, {"max_length": 8, "glob": "a*"}, ChangeEffect(loses=True)),
        ({"max_length": 8}, {"max_length": 8, "optional": True}, ChangeEffect(gains=True)),
        ({"glob": "a*"}, {"glob": "b*"}, UNDECIDED),
        ({"not": 5}, {"not": 6}, UNDECIDED),
        (True, 1, UNDECIDED),
    ],
)
def test_a_constraint_is_wider_or_not(old: Any, new: Any, effect: ChangeEffect) -> None:
    """The one way is the other way round."""
    assert compare_constraints(old, new) == effect
    assert compare_constraints(new, old) == ChangeEffect(effect.loses, effect.gains)


VALUES: tuple[Any, ...] = ("a", "b", "ab", "", 0, 1, 5, 5.5, 6, 100, "5", True, False, None, ["a"], ["a", 5], [])
CONSTRAINTS = st.sampled_from(["a", 5, True]) | st.fixed_dictionaries(
    {},
    optional={
        "range": st.sampled_from([[0, 5], [1, 100], ["0", "5.5"], ["1", "6"]]),
        "min": st.sampled_from([0, 5, "1"]),
        "max": st.sampled_from([5, 6, "5.5"]),
        "one_of": st.lists(st.sampled_from(["a", "b", 5, True]), min_size=1, max_size=3),
        "none_of": st.lists(st.sampled_from(["a", "b", 5, True]), min_size=1, max_size=3),
        "contains": st.lists(st.sampled_from(["a", 5]), min_size=1, max_size=2),
        "subset": st.lists(st.sampled_from(["a", 5]), max_size=2),
        "max_length": st.sampled_from([0, 1, 2]),
        "any": st.just(True),
    },
).filter(bool)


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(old=CONSTRAINTS, new=CONSTRAINTS)
def test_a_wider_constraint_holds_for_all_that_held(old: Any, new: Any) -> None:
    """Each value is tested as a verifier does."""
    effect = compare_constraints(old, new)
    before, after = (compile_constraint(read_constraint(each)) for each in (old, new))
    for value in VALUES:
        assert effect.gains or before(value) or not after(value), value
        assert effect.loses or after(value) or not before(value), value


def test_a_budget_and_an_access_token() -> None:
    """A larger amount is one gain, a smaller one a loss."""
    task = """
[audience.orders]
origins = ["https://orders.example"]
[task.t]
agents = ["acme/**"]
ttl = "1h"
audience = ["orders"]
allow = [{ tool = "orders.get", args = { n = { range = [1, 100] } } }]
budget = { usd = "5.00" }
bearer = "dpop"
"""
    more = task.replace("5.00", "10").replace('"dpop"', '"allow"').replace("100]", "500]")
    assert {each[:2] for each in signs(policy(task), policy(more))} == {
        ("widening", "budget"),
        ("widening", "bearer"),
        ("widening", "allow"),
    }
    assert {each[0] for each in signs(policy(more), policy(task))} == {"narrowing"}
