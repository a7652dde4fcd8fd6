# SPDX-License-Identifier: Apache-2.0
"""A gate in CI: no policy that allows more passes ``arx policy diff --fail-on widening``."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arx_caps.cli import exit_codes
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.explain import explain_grant
from arx_caps.mint.policy.model import Policy, SessionTerms, TaskGrant
from arx_caps.mint.tasks.policy_questions import PolicyQuestion, ask_policy
from tests.cli.helpers import arx
from tests.mint.approvals import POLICY

AGENTS = ("acme/pay", "acme/a/b", "other/x")
PATTERNS = st.lists(st.sampled_from(["acme/**", "acme/*", "acme/pay", "other/*", "**"]), min_size=1, max_size=2)
CONSTRAINTS = st.sampled_from(
    [
        "{ range = [1, 5] }",
        "{ range = [1, 9] }",
        '{ range = [1, "$n"] }',
        "{ min = 3 }",
        "{ one_of = [1, 7] }",
        "{ none_of = [1] }",
        "{ not = 7 }",
        "{ any = true }",
        "{ any = true, optional = true }",
        '"$n"',
        "7",
    ]
)
RULES = st.lists(st.tuples(st.sampled_from(["a.get", "a.put", "a.*"]), st.none() | CONSTRAINTS), min_size=1, max_size=2)
SESSIONS = st.fixed_dictionaries({"agents": PATTERNS, "ttl": st.sampled_from(["5m", "8h"])})
TASKS = st.fixed_dictionaries(
    {
        "agents": PATTERNS,
        "ttl": st.sampled_from(["1m", "1h"]),
        "params": st.sampled_from(["{ range = [1, 5] }", "{ range = [1, 9] }", "{ one_of = [1, 7] }"]),
        "rules": RULES,
        "need": st.sampled_from([None, 1, 2]),
        "depth": st.sampled_from([None, 0, 2]),
        "delegate_to": st.none() | PATTERNS,
        "binding": st.sampled_from([None, "bound"]),
        "net": st.sampled_from([None, "10.0.0.0/8", "11.0.0.0/8"]),
        "budget": st.sampled_from([None, "{ calls = 2 }", "{ calls = 5 }"]),
    }
)
NAMED = st.sampled_from(["one", "two"])
POLICIES = st.tuples(st.dictionaries(NAMED, SESSIONS, max_size=2), st.dictionaries(NAMED, TASKS, max_size=2))


def written(parts: tuple[dict[str, Any], dict[str, Any]]) -> Policy:
    sessions, tasks = parts
    lines = ["[audience.a]", 'origins = ["http://a:1"]']
    for name, table in sessions.items():
        agents = json.dumps(sorted(set(table["agents"])))
        lines += [f"[session.{name}]", f"agents = {agents}", f'ttl = "{table["ttl"]}"']
    for name, table in tasks.items():
        allow = [
            f'{{ tool = "{tool}", {"any = true" if constraint is None else f"args = {{ x = {constraint} }}"} }}'
            for tool, constraint in table["rules"]
        ]
        lines += [f"[task.{name}]", f"agents = {json.dumps(sorted(set(table['agents'])))}", f'ttl = "{table["ttl"]}"']
        lines += [f"params = {{ n = {table['params']} }}", 'audience = ["a"]', f"allow = [{', '.join(allow)}]"]
        lines += [f'approvals = [{{ tools = ["a.*"], need = {table["need"]} }}]'] if table["need"] else []
        lines += [f"depth = {table['depth']}"] if table["depth"] is not None else []
        lines += [f"delegate_to = {json.dumps(sorted(set(table['delegate_to'])))}"] if table["delegate_to"] else []
        lines += [f'binding = "{table["binding"]}"'] if table["binding"] else []
        lines += [f'net = ["{table["net"]}"]'] if table["net"] else []
        lines += [f"budget = {table['budget']}"] if table["budget"] else []
    return Policy.parse("\n".join(lines) + "\n", "policy.toml")


QUESTIONS = st.fixed_dictionaries(
    {
        "agent": st.sampled_from(AGENTS),
        "task": NAMED,
        "params": st.sampled_from([{"n": 1}, {"n": 5}, {"n": 7}]),
        "tool": st.sampled_from(["a.get", "a.put", "a.c"]),
        "args": st.sampled_from([{}, {"x": 1}, {"x": 4}, {"x": 7}, {"x": "1"}, {"y": 1}]),
        "peer": st.sampled_from([None, "10.0.0.1", "11.0.0.1"]),
    }
)


def limits(policy: Policy, question: PolicyQuestion) -> tuple[float, ...]:
    """What else a grant allows: more of any is more."""
    asked = explain_grant(policy, agent=question.agent, task=question.task, params=question.params)
    grant = asked.task
    assert isinstance(grant, TaskGrant)
    assert isinstance(asked.session, SessionTerms)
    budgets = [float(budget.get("calls", "inf")) for budget in grant.budgets.values()] or [float("inf")]
    return asked.session.ttl_ms, grant.ttl_ms, grant.depth, not grant.is_bound, *budgets


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(old=POLICIES, new=POLICIES, questions=st.lists(QUESTIONS, min_size=4, max_size=8), data=st.data())
def test_what_allows_more_is_never_only_narrowing(
    old: Any, new: Any, questions: list[dict[str, Any]], data: st.DataObject
) -> None:
    """A call that the new policy allows and the old one refuses, fewer approvals or a higher limit widen."""
    # Most changes are small: one table of two.
    if data.draw(st.booleans()):
        new = (old[0], {**old[1], **new[1]}) if data.draw(st.booleans()) else ({**old[0], **new[0]}, old[1])
    before, after = written(old), written(new)
    directions = {each.direction for each in compare(before, after)}
    for members in questions:
        question = PolicyQuestion(**members)
        first, second = ask_policy(before, question), ask_policy(after, question)
        if second.code != "ok":
            continue
        more = first.code != "ok"
        if not more:
            needs = [reply.approval["need"] if reply.approval else 0 for reply in (first, second)]
            pairs = zip(limits(before, question), limits(after, question), strict=True)
            more = needs[1] < needs[0] or any(b > a for a, b in pairs)
        assert not more or directions & {"widening", "unclear"}, question


@pytest.mark.parametrize(
    ("old", "new", "direction"),
    [
        ("need = 1", "need = 2", "narrowing"),
        ("need = 1", 'need = 1, ttl = "1m"', "narrowing"),
        ("need = 1", "once = false", "widening"),
        ("need = 1", "need = 2, once = false", "unclear"),
        ("[1, 500]", "[1, 501]", "widening"),
        ("[1, 500]", "[2, 500]", "narrowing"),
        ("[1, 500]", "[2, 501]", "unclear"),
    ],
)
def test_approvals_and_ranges_have_their_sign(old: str, new: str, direction: str) -> None:
    """The other way round the sign is the other one."""
    first, second = Policy.parse(POLICY, "old.toml"), Policy.parse(POLICY.replace(old, new), "new.toml")
    other = {"widening": "narrowing", "narrowing": "widening", "unclear": "unclear"}[direction]
    assert {each.direction for each in compare(first, second)} == {direction}
    assert {each.direction for each in compare(second, first)} == {other}


def test_a_table_that_goes_takes_its_limits_along() -> None:
    """A removed task or session is narrowing in each member, so that it passes the gate."""
    whole, empty = Policy.parse(POLICY, "old.toml"), Policy.parse("", "new.toml")
    assert {each.direction for each in compare(whole, empty)} == {"narrowing"}
    assert {each.direction for each in compare(empty, whole)} == {"widening"}


@pytest.mark.parametrize(
    ("new", "fail_on", "code", "message"),
    [
        ("[1, 500]", "widening", 0, ""),
        ("[1, 40]", "widening", 0, ""),
        ("[1, 600]", "widening", exit_codes.DENIED, "1 widening (+), 0 unclear (~)"),
        ("[1, 600]", "unclear", 0, ""),
        ("[2, 600]", "widening", exit_codes.DENIED, "counts what is unclear, as it may widen"),
        ("[2, 600]", "unclear", exit_codes.DENIED, "0 widening (+), 1 unclear (~)"),
    ],
)
def test_the_gate_has_an_exit_code(tmp_path: Path, new: str, fail_on: str, code: int, message: str) -> None:
    """Two files need no mint; the JSON has each direction and their counts."""
    files = [tmp_path / "old.toml", tmp_path / "new.toml"]
    files[0].write_text(POLICY)
    files[1].write_text(POLICY.replace("[1, 500]", new))
    ran = arx("policy", "diff", *files, "--fail-on", fail_on)
    assert (ran.exit_code, message in ran.err) == (code, True)
    shown = arx("policy", "diff", *files, "--fail-on", fail_on, "--json").json
    assert shown["failed"] == (code != 0)
    assert shown["widening"] + shown["narrowing"] + shown["unclear"] == len(shown["differences"])
    assert arx("policy", "diff", *files).exit_code == 0
