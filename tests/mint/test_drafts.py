# SPDX-License-Identifier: Apache-2.0
"""Policies drafted from recorded calls: what they allow, how narrow they are, and what a reader sees."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from arx_caps.mint.drafts import ladder
from arx_caps.mint.drafts.calls import RecordedCall, key_of, load_calls, read_calls
from arx_caps.mint.drafts.draft import DraftTemplate, draft_templates
from arx_caps.mint.drafts.gap import PolicyGap, find_gap
from arx_caps.mint.drafts.ladder import allows, narrowest
from arx_caps.mint.drafts.policy_file import write_policy, write_questions
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.tasks.policy_questions import load_questions
from arx_verifier.errors import SettingsError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts, digest_arguments, form_of

VENDOR = Path(__file__).parents[2] / "vendor" / "agentdojo"
TRIAGE = "acme/support/triage"
DAY_MS = 24 * 60 * 60 * 1000


def call(session: str, tool: str = "orders.get", args: dict[str, Any] | None = None, **members: Any) -> RecordedCall:
    return RecordedCall(
        **{"agent": TRIAGE, "tool": tool, "audience": tool.partition(".")[0], "session": session, "args": args}
        | members
    )


def drafted(
    calls: Iterable[RecordedCall], *patterns: str, min_seen: int = 1
) -> tuple[Policy, list[DraftTemplate], str]:
    """Draft a policy, and parse its text as a mint does."""
    templates = draft_templates(calls, patterns, min_seen)
    text = write_policy(templates, {}, min_seen)
    return Policy.parse(text, "draft.toml"), templates, text


def args_of(policy: Policy, tool: str) -> dict[str, Any] | None:
    [args] = [rule.args for each in policy.templates.values() for rule in each.rules if rule.tool == tool]
    return args


def refused_by(gap: PolicyGap) -> list[RecordedCall]:
    return [each for refused in gap.refused for each in refused.calls]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["o-1", "o-2", "o-37", "$n", "$$", "a/b", "/data/a.csv", "/data/b/c.csv", "2.5", "10", "*", "a*b", "\u202e", "\n#"]
)
scalars = texts | st.integers(-9, 9) | st.booleans() | st.none() | st.floats(-9, 9, width=16)
values = st.recursive(
    scalars, lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text("ab$", min_size=1), item, max_size=2)
)
arguments = st.dictionaries(st.sampled_from(["order_id", "id", "n", "$x", "é", "subject"]), values, max_size=3)
calls_made = st.lists(
    st.builds(
        call,
        st.sampled_from(["s1", "s2", "s3"]),
        st.sampled_from(["orders.get", "orders.list", "mail.send"]),
        arguments | st.none(),
        agent=st.sampled_from([TRIAGE, "acme/desk"]),
        task=st.sampled_from(["", "t1"]),
        purpose=st.sampled_from(["", "a refund", "order 17", "\n[task.evil]", "\u202e"]),
        at=st.integers(0, 9 * DAY_MS),
        named=st.sampled_from([(), ("acme/worker",), ("acme/worker", "acme/other")]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@given(calls=calls_made)
def test_a_draft_allows_each_call_that_it_was_drawn_from(calls: list[RecordedCall]) -> None:
    """By the gap's judgement, and by the mint's and the verifier's: its questions are answered with ok."""
    policy, templates, _ = drafted(calls)
    known = [each for each in calls if each.args is not None]
    bare = {(each.agent, each.tool) for each in calls} - {(each.agent, each.tool) for each in known}
    assert refused_by(find_gap(policy, known)) == []
    assert not [each for each in find_gap(policy, calls).unknown if (each.agent, each.tool) in bare]
    for text in write_questions(policy, templates)[0]:
        [question] = tomllib.loads(text)["question"]
        assert question["expect"] == "ok", text


@given(given_values=st.lists(values, min_size=1, max_size=12))
def test_the_ladder_takes_the_first_rung_that_allows_all_values(given_values: list[Any]) -> None:
    """No rung before it does, and the one after all of them is any."""
    chosen = narrowest(given_values)
    canonical = [int(each) if type(each) is float and each.is_integer() else each for each in given_values]
    distinct = list({key_of(each): each for each in canonical}.values())
    assert allows(chosen, distinct)
    fitting = [each for each in ladder.rungs(distinct) if allows(each, distinct)]
    assert chosen == (fitting[0] if fitting else {"any": True})


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        (["o-1"], "o-1"),
        ([5, 5.0], 5),
        ([True], True),
        (["EUR", "USD"], {"one_of": ["EUR", "USD"]}),
        ([1, "1", True], {"one_of": [True, 1, "1"]}),
        (list(range(8)), {"one_of": list(range(8))}),
        (list(range(9)), {"range": [0, 8]}),
        ([0.5, 20], {"range": ["0.5", "20"]}),
        ([f"{n}.50" for n in range(9)], {"range": ["0.5", "8.5"]}),
        ([f"o-{n}" for n in range(95, 105)], {"glob": "o-*"}),
        ([f"INV{n}" for n in range(100, 109)], {"glob": "INV*"}),
        ([f"q{n}/report.pdf" for n in range(9)], {"glob": "q*/report.pdf"}),
        ([f"user{c}@acme.example" for c in "abcdefghi"], {"glob": "*@acme.example"}),
        ([f"/data/{n}/x.csv" for n in range(9)], {"subpath": "/data"}),
        ([f"/data/../{n}" for n in range(9)], {"glob": "/data/../*"}),
        ([f"/{n}" for n in "abcdefghi"], {"subpath": "/"}),
        (["Alice", "Adam", "Anna", "Abel", "Axel", "Ada", "Ari", "Asa", "Amy"], {"max_length": 5}),
        ([chr(97 + n) * 36 for n in range(9)], {"length": 36}),
        (["x" * 600], {"length": 600}),
        ([["a"], ["a", "b"]], {"subset": ["a", "b"]}),
        ([["a", 1]], {"equal": ["a", 1]}),
        ([[n] for n in range(9)], {"each": {"range": [0, 8]}}),
        ([{"a": 1}, {"a": 2, "b": "x"}], {"fields": {"a": {"one_of": [1, 2]}, "b": {"equal": "x", "optional": True}}}),
        ([None], {"any": True}),
        (["a", None], {"any": True}),
        ([["a"], "b"], {"any": True}),
    ],
)
def test_the_narrowest_constraint(seen: list[Any], chosen: Any) -> None:
    """Of each rung, and beside its edges."""
    assert narrowest(seen) == chosen
    assert allows(chosen, seen)


def test_a_value_that_a_session_keeps_is_a_parameter() -> None:
    """In all tools, under the name of the first; an amount that one call has is not, and neither is a note."""
    seen = [
        each
        for n in range(4)
        for each in (
            call(f"s{n}", args={"order_id": f"o-{n}"}),
            call(f"s{n}", "payments.refund", {"id": f"o-{n}", "amount": 10 * n, "note": f"broken {n}"}),
        )
    ]
    policy, [template], text = drafted(seen, min_seen=3)
    assert 'params = { order_id = { glob = "o-*" } } # each has one value in a task' in text
    assert args_of(policy, "orders.get") == {"order_id": "$order_id"}
    refund = args_of(policy, "payments.refund")
    assert refund is not None
    assert (refund["id"], refund["amount"]) == ("$order_id", {"one_of": [0, 10, 20, 30]})
    assert template.values[TRIAGE, "s3", ""] == {"order_id": "o-3"}
    # In one task the parameter has one value: the refund of another order is refused.
    other = call("s1", "payments.refund", {"id": "o-2", "amount": 10, "note": "broken 1"})
    assert refused_by(find_gap(policy, [*seen, other])) == [other]


def test_a_parameter_stands_for_an_argument_with_a_dollar() -> None:
    """Its name is written with two."""
    policy, _, _ = drafted([call(f"s{n}", args={"$id": f"o-{n}"}) for n in range(3)])
    assert args_of(policy, "orders.get") == {"$$id": "$id"}


def test_work_without_the_value_has_no_parameter() -> None:
    """A task starts with all its parameters, so a rule that some work does not need has the values instead."""
    seen = [call("s1", args={"order_id": "o-1"}), call("s2", args={"order_id": "o-2"}), call("s3", "orders.list", {})]
    policy, _, _ = drafted(seen)
    assert args_of(policy, "orders.get") == {"order_id": {"one_of": ["o-1", "o-2"]}}


def test_a_parameter_lists_values_that_several_sessions_had() -> None:
    """Three sessions with each value make a list of them; fewer could be chance."""
    for count, constraint in ((3, {"one_of": ["eu", "us"]}), (2, {"length": 2})):
        seen = [call(f"s{n // 2}", args={"region": ("eu", "us")[n // 2 % 2]}) for n in range(4 * count)]
        _, [template], _ = drafted(seen)
        assert template.params == {"region": constraint}
    # With one call each, a value that many sessions have is an option of the tool, and not what a task is about.
    policy, _, _ = drafted([call(f"s{n}", args={"region": ("eu", "us")[n % 2]}) for n in range(6)])
    assert args_of(policy, "orders.get") == {"region": {"one_of": ["eu", "us"]}}


def test_a_rule_of_few_sessions_is_a_comment() -> None:
    """However many calls it has: who sends calls while they are recorded must not write the policy."""
    seen = [call(f"s{n}", args={"order_id": "o-1"}) for n in range(3)]
    poison = [call("s1", "orders.delete", {"order_id": "o-1"})] * 50 + [
        call("s2", "orders.delete", {"order_id": "o-1"})
    ]
    policy, _, text = drafted([*seen, *poison], min_seen=3)
    assert [rule.tool for rule in policy.templates["triage"].rules] == ["orders.get"]
    assert "51 calls in 2 sessions; left out: seen in fewer than 3 sessions\n  # { tool = " in text
    assert len(refused_by(find_gap(policy, [*seen, *poison]))) == 51
    policy, _, text = drafted(poison, min_seen=3)
    assert (dict(policy.templates), dict(policy.audiences)) == ({}, {})  # nothing of it is in force
    assert "# [task.triage]" in text


def test_no_text_of_a_caller_begins_a_line() -> None:
    """Purposes, arguments' names and values stay inside of their comment or text."""
    evil = '\n[task.evil]\nagents = ["**"]'
    seen = [call("s1", args={evil: evil, "n": None}, purpose=evil), call("s2", "mail.send", {evil: None})]
    for min_seen in (1, 2):
        policy, _, text = drafted(seen, min_seen=min_seen)
        assert not [line for line in text.splitlines() if line.lstrip().startswith("[task.evil]")]
        assert "evil" not in policy.templates


def test_what_was_not_recorded_is_named() -> None:
    """A rule without recorded arguments allows any, with a comment; so does one whose values have nothing in common."""
    policy, _, text = drafted([call("s1"), call("s2", "mail.send", {"to": None})])
    assert args_of(policy, "orders.get") is None
    assert "1 call in 1 session; any arguments: none were recorded\n" in text
    assert "any value of to: the values have no kind or length in common\n" in text
    gap = find_gap(policy, [call("s2", "mail.send")])
    assert (gap.refused, len(gap.unknown)) == ([], 1)


def test_questions_fit_into_a_file(tmp_path: Path) -> None:
    """Those of each tool in turn, so that a busy one leaves room for the others."""
    busy = [call(f"s{n}", args={"order_id": f"o-{n}", "note": "x" * 900}) for n in range(1500)]
    policy, templates, _ = drafted([*busy, call("s1", "mail.send", {})])
    texts, left = write_questions(policy, templates)
    assert (len(texts) + left, left > 0) == (1501, True)
    file = tmp_path / "questions.toml"
    file.write_text("\n\n".join(texts) + "\n")
    assert "mail.send" in [question.tool for question in load_questions(str(file))[:2]]


def test_a_name_that_no_rule_can_have_stops_no_draft() -> None:
    """A caller chooses it: its calls stay refused, and a rule for them alone is a comment."""
    odd = [call(f"s{n}", "mail.send", {name: 1}) for n in range(3) for name in ("", "\U0001f600")]
    good = [call(f"s{n}", args={"order_id": "o-1", "to": {"": [None]}}) for n in range(3)]
    policy, templates, text = drafted([*good, *odd, call("s1", args={"": 1})], min_seen=3)
    assert args_of(policy, "orders.get") == {"order_id": "o-1", "to": {"any": True}}
    assert [each.tool for each in policy.templates["triage"].rules] == ["orders.get"]
    assert "drawn from 3 calls: others have no recorded arguments, or names that no rule has" in text
    assert len(refused_by(find_gap(policy, [*good, *odd]))) == 6
    assert len(write_questions(policy, templates)[0]) == 3


def test_arguments_that_were_kept_out_of_a_record_are_named() -> None:
    """Their names look like those of secrets: the digest covers them, and the recorded arguments do not."""
    decision = Decision("ok", DAY_MS, ChainFacts(agent=TRIAGE, session="s-1", audience="orders"), "orders.login")
    decision.args_digest, decision.salt = digest_arguments({"user": "ann", "password": "1234"})
    for kept, is_part in (({"user": "ann"}, True), ({"password": "1234", "user": "ann"}, False)):
        decision.arguments = form_of(kept)
        [seen] = read_calls([decision.to_dict()], {})
        assert (seen.args, seen.is_part) == (kept, is_part)
        _, _, text = drafted([seen])
        assert ("it lacks arguments whose names look like those of secrets" in text) is is_part


def test_templates_are_of_an_agent_and_a_purpose() -> None:
    """Purposes that differ in numbers alone are one; a pattern draws its agents together, and no others."""
    seen = [
        call("s1", purpose="order 17", args={}),
        call("s2", purpose="order 18", args={}),
        call("s3", purpose="a report", args={}),
        call("s4", agent="acme/support/other", purpose="order 3", args={}),
        call("s5", agent="evil/x", args={}),
    ]
    _, templates, text = drafted(seen)
    assert [each.name for each in templates] == ["other-order", "triage-a-report", "triage-order", "x"]
    assert '# 2 sessions, for the purpose "order #"' in text
    _, templates, _ = drafted(seen, "acme/support/*")
    assert [(each.name, each.agents, each.sessions) for each in templates] == [
        ("a-report", ["acme/support/*"], 1),
        ("order", ["acme/support/*"], 3),
    ]


def test_delegations_and_lives_are_those_that_were_seen() -> None:
    """No longer chain, no other receiver; twice the time of the longest task."""
    seen = [
        call("s1", args={}, at=DAY_MS, named=("acme/worker",)),
        call("s1", args={}, at=DAY_MS + 5_000_000, named=("acme/worker", "acme/printer")),
    ]
    policy, _, text = drafted(seen)
    [template] = policy.templates.values()
    assert (template.depth, template.delegate_to) == (2, ("acme/printer", "acme/worker"))
    assert 'ttl = "3h" # the longest took 1h 23m' in text
    assert "2 calls in 1 session, 1970-01-02 00:00:00Z to 1970-01-02 01:23:20Z" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "calls.jsonl:2: not JSON"),
        ('{"tool": "a.b"}', "calls.jsonl:2: Object missing required field `agent`"),
        (
            '{"agent": "Acme", "tool": "a.b"}',
            "calls.jsonl:2: agent: expected one such as",
        ),
        ('{"agent": "acme/x", "tool": "a b"}', "tool: expected one such as orders.get, got 'a b'"),
        ('{"agent": "acme/x", "tool": "a.b", "args": []}', "Expected `object | null`, got `array` - at `$.args`"),
        ('{"agent": "acme/x", "tool": "a.b", "at": "now"}', "Expected `int`, got `str` - at `$.at`"),
        ('{"agent": "acme/x", "tool": "a.b", "session": 1}', "Expected `str`, got `int` - at `$.session`"),
        ('{"agent": "acme/x", "tool": "a.b", "named": "b"}', "Expected `array`, got `str` - at `$.named`"),
        ('{"agent": "acme/x", "tool": "A.b"}', "audience: expected one such as orders, got 'A'"),
        ('{"agent": "acme/x", "tool": "a.b", "args": {"n": 1, "n": 2}}', "calls.jsonl:2: "),
    ],
)
def test_a_mistake_in_a_file_of_calls_is_refused(tmp_path: Path, line: str, words: str) -> None:
    """With the number of its line."""
    file = tmp_path / "calls.jsonl"
    file.write_text(f'{{"agent": "acme/x", "tool": "a.b"}}\n{line}\n\n')
    with pytest.raises(SettingsError) as caught:
        load_calls(file)
    assert words in str(caught.value)


def test_records_that_are_no_allowed_calls_are_left_out() -> None:
    """Refusals, ends, counts, events and calls of the mint; a caller without a token is named by its group."""
    record = {"agent": TRIAGE, "tool": "orders.get", "audience": "orders", "session": "s-1", "at": DAY_MS}
    records = [
        record | {"outcome": "allow", "arguments": '{"n":1}'},
        record | {"outcome": "would_refuse", "arguments": ""},
        record | {"outcome": "deny"},
        record | {"outcome": "end"},
        record | {"tool": "", "outcome": "counted"},
        {"type": "unreadable", "index": 7, "at": None},
        record | {"outcome": "allow", "audience": "arx.mint", "tool": "arx.audit.read"},
        {"type": "event", "kind": "session.opened", "at": 1},
        record | {"agent": "", "session": "", "group": "10.0.0.7 Desk", "outcome": "would_refuse"},
    ]
    records += [
        record | {"tool": "no tool\n", "outcome": "would_refuse"},
        record | {"arguments": "{", "outcome": "allow"},
    ]
    records += [record | {"agent": "", "group": each, "outcome": "would_refuse"} for each in ("\n" * 9999, None)]
    found = read_calls(records, {"s-1": "a refund"})
    assert [(each.agent, each.session, each.purpose, each.args) for each in found] == [
        (TRIAGE, "s-1", "a refund", {"n": 1}),
        (TRIAGE, "s-1", "a refund", None),
        ("callers/10.0.0.7-desk", "1970-01-02", "", None),
        ("callers/unknown", "s-1", "a refund", None),
        ("callers/unknown", "s-1", "a refund", None),
    ]


POLICY = """
[audience.orders]
origins = ["https://orders.example"]
[session]
agents = ["acme/**"]
ttl = "1h"
[task.refund]
agents = ["acme/support/*"]
params = { order_id = { glob = "o-*" }, amount = { range = [1, 100] } }
ttl = "10m"
audience = ["orders"]
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "orders.refund", args = { order_id = "$order_id", amount = { range = [1, "$amount"] } } },
  { tool = "orders.place", args = { to = { fields = { order = "$order_id" } } } },
  { tool = "orders.note", any = true },
  { tool = "orders.lines", args = { lines = { each = { fields = { n = { any_of = [0, "$amount"] } } } } } },
]
"""


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (call("s", args={"order_id": "o-1"}), None),
        (call("s", args={"order_id": "x-1"}), "[task.refund]: no value of its parameters allows the call"),
        (call("s", args={"order_id": "o-1", "n": 1}), "n must be left out"),
        (call("s", "orders.refund", {"order_id": "o-1", "amount": 100}), None),
        (call("s", "orders.refund", {"order_id": "o-1", "amount": 101}), "no value of its parameters"),
        (call("s", "orders.refund", {"order_id": "o-1", "amount": 0}), "no value of its parameters"),
        (call("s", "orders.place", {"to": {"order": "o-1"}}), None),
        (call("s", "orders.lines", {"lines": [{"n": 0}, {"n": 7}]}), None),
        (call("s", "orders.lines", {"lines": [{"n": 0}, {"n": 700}]}), "no value of its parameters"),
        (call("s", "orders.note"), None),
        (call("s", "orders.note", {"x": [None]}), None),
        (call("s", "orders.drop", {}), "no task of acme/support/triage has a rule for orders.drop at orders"),
        (call("s", "orders.get", {"order_id": "o-1"}, audience="shop"), "has a rule for orders.get at shop"),
        (call("s", args={"order_id": "o-1"}, agent="acme/desk"), "no task of acme/desk has a rule"),
        (call("s", args={"order_id": "o-1"}, agent="other/x"), "no [session] lets other/x open one"),
    ],
)
def test_the_gap_of_a_policy(seen: RecordedCall, why: str | None) -> None:
    """A call that no task of its agent allows, whatever parameters it is started with."""
    gap = find_gap(Policy.parse(POLICY, "policy.toml"), [seen])
    assert [why is not None and why in each.why for each in gap.refused] == [True] * (why is not None), gap.refused
    assert sum(gap.used.values()) == (why is None)


def benign() -> list[RecordedCall]:
    return load_calls(VENDOR / "benign.jsonl")


def injected() -> list[RecordedCall]:
    return load_calls(VENDOR / "injected.jsonl")


def must_be_refused(bad: RecordedCall, good: list[RecordedCall]) -> bool:
    """Return whether a call is of a tool that was not seen, or has another value of an argument that was constant."""
    same = [dict(each.args or {}) for each in good if (each.agent, each.tool) == (bad.agent, bad.tool)]
    if not same:
        return True
    args = dict(bad.args or {})
    return any(
        len({key_of(each.get(name, ...) if name in each else "absent") for each in same}) == 1
        and (name not in args or key_of(args[name]) != key_of(same[0][name]))
        for name in same[0]
    )


def test_a_draft_of_the_agentdojo_suites(tmp_path: Path) -> None:
    """
    It refuses no call it was drawn from, and each injected call that differs in tool or in a constant argument.
    """
    good, bad = benign(), injected()
    policy, templates, _ = drafted(good)
    assert (len(good), len(bad), refused_by(find_gap(policy, good))) == (339, 47, [])
    file = tmp_path / "questions.toml"
    file.write_text("\n\n".join(write_questions(policy, templates)[0]))
    assert {question.expect for question in load_questions(str(file))} == {"ok"}
    refused = {key_of(asdict(each)) for each in refused_by(find_gap(policy, bad))}
    needed = [each for each in bad if must_be_refused(each, good)]
    assert len(needed) == 15
    assert [each for each in needed if key_of(asdict(each)) not in refused] == []
    missed = [each for each in bad if key_of(asdict(each)) not in refused]
    print(f"one template a suite: {len(bad) - len(missed)} of {len(bad)} injected calls are refused")
    # The others are calls that user tasks of the suite make as well, by tool and by each argument.
    assert len(missed) == 11
    assert [each for each in missed if not is_known(each, good)] == []


def is_known(bad: RecordedCall, good: Iterable[RecordedCall]) -> bool:
    """Return whether each argument of a call is one that a call of this tool had."""
    same = [dict(each.args or {}) for each in good if (each.agent, each.tool) == (bad.agent, bad.tool)]
    return all(
        any(key_of(each.get(name)) == key_of(value) for each in same) for name, value in (bad.args or {}).items()
    )


def test_a_draft_for_each_user_task_of_agentdojo() -> None:
    """With a purpose for each task, an injected call passes only where the task makes a call of these very values."""
    words = str.maketrans("0123456789", "abcdefghij")  # purposes that differ in numbers are one
    good = [replace(each, purpose=each.session.translate(words)) for each in benign()]
    policy, templates, _ = drafted(good)
    assert (len(templates), refused_by(find_gap(policy, good))) == (97, [])
    tried, passed = 0, []
    for template in templates:
        alone = Policy.parse(write_policy([template], {}, 1), "draft.toml")
        for bad in injected():
            if bad.agent in template.agents:
                tried += 1
                passed += [] if find_gap(alone, [bad]).refused else [(template, bad)]
    print(f"one template a user task: {tried - len(passed)} of {tried} pairs of task and injected call are refused")
    assert (tried, len(passed)) == (1105, 59)
    assert [bad for template, bad in passed if not is_known(bad, template.calls)] == []
