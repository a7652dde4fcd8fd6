# SPDX-License-Identifier: Apache-2.0
"""What a policy says of itself: what it would grant, why not, what it would take, how it differs from another."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import field, structs

from arx_caps.mint.policy import directions
from arx_caps.mint.policy.approvals import ApprovalEntry, ApprovalTerms
from arx_caps.mint.policy.diff import CHANGED, compare, covers
from arx_caps.mint.policy.explain import PolicyRefusal, explain_grant, show_explained
from arx_caps.mint.policy.issuers import Subject
from arx_caps.mint.policy.members import marks_of, members_of
from arx_caps.mint.policy.model import Policy, TaskGrant
from arx_caps.mint.policy.tables import AudienceTerms, PolicyDocument, SessionTerms, Template
from arx_caps.mint.policy.templates import TemplateRule
from arx_caps.settings.toml_file import TomlTable
from arx_verifier.constraints import constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.names import is_path_pattern, matches_path
from arx_verifier.token.caveats import KNOWN
from tests.cli.helpers import arx

ISSUER = "https://id.example"
TEXT = f"""\
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[audience.payments]
origins = ["http://127.0.0.1:9002"]

[issuer.id]
url = "{ISSUER}"
jwks = "{ISSUER}/keys"
audience = ["arx"]
algorithms = ["ES256"]

[session.support]
agents = ["acme/support/*"]
ttl = "8h"
subject = "allowed"
subjects = [{{ issuer = "id", claims = {{ sub = "ann" }} }}]

[session.sales]
agents = ["acme/sales/*"]
ttl = "1h"
subject = "required"
subjects = [{{ issuer = "id" }}]

[task.refund]
agents = ["acme/support/*"]
params = {{ order_id = {{ max_length = 8 }}, amount = {{ range = [1, 100] }} }}
ttl = "10m"
audience = ["orders", "payments"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, "$amount"] }} }} }},
]
"""
POLICY = Policy.parse(TEXT, "policy.toml")
TERMS = POLICY.sessions["support"]
ASKED: dict[str, Any] = {"agent": "acme/support/x", "task": "refund", "params": {"order_id": "o-1", "amount": 5}}


def changed(*pairs: tuple[str, str]) -> Policy:
    text = TEXT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    return Policy.parse(text, "policy.toml")


def test_what_would_be_granted_is_what_is_granted() -> None:
    """The terms of the session and the rules with the values in them, as the mint would give them."""
    shown = show_explained(explain_grant(POLICY, **ASKED))
    assert shown["granted"] is True
    assert (shown["session"]["terms"], shown["session"]["ttl"]) == ("support", "8h")
    assert shown["task"]["audiences"]["payments"]["allow"] == [
        {"tool": "payments.refund", "args": {"order_id": "o-1", "amount": {"range": [1, 5]}}}
    ]
    shown = show_explained(explain_grant(POLICY, **ASKED, tools=["orders.*"], ttl="1m", depth=0))["task"]
    assert (list(shown["audiences"]), shown["ttl"], shown["depth"]) == (["orders"], "1m", 0)
    assert shown["audiences"]["orders"]["attenuated_to"] == ["orders.*"]


@pytest.mark.parametrize(
    ("asked", "session", "task", "takes"),
    [
        (
            {"agent": "acme/x"},
            "session_not_allowed",
            "unknown_task",
            '"acme/x" to `agents` of [task.refund] (policy.toml:25)',
        ),
        ({"task": "refunds"}, None, "unknown_task", "a task that the policy has: refund"),
        ({"params": {"order_id": "o-1", "amount": 500}}, None, "bad_parameters", "amount range: "),
        ({"agent": "acme/sales/x"}, "subject_required", "unknown_task", "[session.sales] (policy.toml:19)"),
        ({"subject": Subject(ISSUER, "bob", {})}, "subject_not_allowed", None, "[session.support] (policy.toml:13)"),
        ({"ttl": "2h"}, None, "bad_parameters", "ttl: a duration of at most 10m"),
    ],
)
def test_why_not_and_what_it_would_take(
    asked: dict[str, Any], session: str | None, task: str | None, takes: str
) -> None:
    """The code that the mint would answer, and each obstacle with its line."""
    explained = explain_grant(POLICY, **{**ASKED, **asked})
    assert not explained.granted
    refused = [part for part in explained if isinstance(part, PolicyRefusal)]
    codes = [part.code if isinstance(part, PolicyRefusal) else None for part in explained]
    assert codes == [session, task]
    assert any(takes in each for part in refused for each in part.takes), refused


def test_a_comparison_shows_what_is_meant() -> None:
    """More agents and longer limits are granted, what went is no longer granted, another rule is changed."""
    new = changed(
        ('"acme/support/*"]\nparams', '"acme/support/**", "acme/audit"]\nparams'),
        ('ttl = "10m"', 'ttl = "5m"'),
        ("range = [1, 100]", "range = [1, 200]"),
        ('amount = { range = [1, "$amount"] } } },\n', 'amount = "$amount" } },\n'),
        (
            '[session.sales]\nagents = ["acme/sales/*"]\nttl = "1h"',
            '[session.sales]\nagents = ["acme/sales/*"]\nttl = "2h"',
        ),
    )
    values = {(each.kind, each.place, each.member): (each.before, each.after) for each in compare(POLICY, new)}
    assert ("no longer granted", "task refund", "ttl") in values
    assert values["granted", "session sales", "ttl"] == ("1h", "2h")
    assert values["granted", "task refund", "params"][1]["amount"] == {"range": [1, 200]}
    assert values["changed", "task refund", "allow"][1]["args"]["amount"] == "$amount"
    agents = [each.after for each in compare(POLICY, new) if each.member == "agents"]
    assert agents == ["acme/support/**", "acme/audit"]
    # The pattern that went is covered by the one that came.
    assert not any(each.member == "agents" and each.before for each in compare(POLICY, new))
    assert compare(new, POLICY) != []


WHOLE = TEXT.replace('ttl = "8h"\n', 'ttl = "8h"\nidle = "1h"\nmax_open = 3\nsubject_outlives = "5m"\n').replace(
    "allow = [",
    """delegate_to = ["acme/**"]
fresh = "1s"
net = ["10.0.0.0/8"]
subjects = [{ issuer = "id", claims = { sub = "ann" } }]
exchange = { orders = ["payments"] }
approvals = [{ tools = ["payments.refund"] }]
allow = [""",
)


def others(value: Any) -> Iterator[Any]:
    """Every value that differs from one in one member, however deep."""
    if isinstance(value, TomlTable):
        for name in set(value.__struct_fields__) - {"name"}:
            yield from (structs.replace(value, **{name: other}) for other in others(getattr(value, name)))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from ({**value, name: other} for other in others(item))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from ((*value[:index], other, *value[index + 1 :]) for other in others(item))
    elif isinstance(value, str):
        yield f"{value}2"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value + 1
    else:
        yield not value


def of(document: PolicyDocument) -> Policy:
    """A policy of other tables, as a version would read them that knows more."""
    policy = copy.copy(POLICY)
    policy.document = document
    return policy


def test_every_member_of_every_table_is_compared() -> None:
    """Whatever member differs, of whatever table, there is a difference."""
    document = Policy.parse(WHOLE, "policy.toml").document
    written = structs.replace(document, session={"support": document.session["support"]})
    found = list(others(written))
    assert len(found) > 40
    for other in found:
        assert compare(of(written), of(other)) != [], other


@pytest.mark.parametrize("kind", [PolicyDocument, AudienceTerms, SessionTerms, Template])
def test_every_list_of_a_table_is_marked(kind: type[TomlTable]) -> None:
    """One more entry of a list grants, or restricts: who adds a list to a table has to say which."""
    lists = {name for name, default in written(kind).items() if isinstance(default, tuple)} - {"params"}
    assert [name for name in sorted(lists) if not marks_of(kind)[name].get("entry")] == []


def written(kind: type[TomlTable]) -> dict[str, Any]:
    """The members of a table of this kind that writes all of them."""
    document = Policy.parse(WHOLE, "policy.toml").document
    tables = {AudienceTerms: document.audience["orders"], SessionTerms: document.session["support"]}
    table = {**tables, Template: document.task["refund"], PolicyDocument: document}[kind]
    return {**members_of(table), **({"exchange": ()} if kind is Template else {})}


def test_a_limit_in_tokens_is_a_member_of_a_caveat() -> None:
    """What a template marks so is what a verifier knows by the same name."""
    marked = {name for name, marks in marks_of(Template).items() if marks.get("in_tokens")}
    assert {"require", "fresh", "net"} <= marked <= KNOWN


class LaterTerms(SessionTerms, frozen=True, kw_only=True):
    """Terms of a later version, which say one thing more."""

    places: tuple[str, ...] = ()


class LaterRule(TemplateRule, frozen=True, kw_only=True):
    """A rule of a later version, likewise."""

    by_day: bool = False


class LaterApproval(ApprovalEntry, frozen=True, kw_only=True):
    """An approval of a later version, likewise."""

    by: str | None = None


class LaterTemplate(Template, frozen=True, kw_only=True):
    """A template of a later version, likewise."""

    most_calls: int | None = None


class LaterDocument(PolicyDocument, frozen=True, kw_only=True):
    """A policy of a later version, with a table more."""

    zone: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("kind", "part", "member", "after"),
    [
        (LaterTerms, lambda document: document.session["support"], "places", ("eu",)),
        (LaterTemplate, lambda document: document.task["refund"], "most_calls", 5),
        (LaterRule, lambda document: document.task["refund"].rules[0], "by_day", True),
        (LaterApproval, lambda document: document.task["refund"].approvals[0], "by", "ada"),
        (LaterDocument, lambda document: document, "zone", {"eu": LaterRule(tool="x")}),
    ],
)
def test_a_member_that_a_later_version_adds_is_compared(kind: Any, part: Any, member: str, after: Any) -> None:
    """A field that the comparison does not know is a difference where it differs, and no grant is left out."""
    written = Policy.parse(WHOLE, "policy.toml").document
    was = part(written)
    old = kind(**structs.asdict(was))
    new = structs.replace(old, **{member: after})
    answer = compare(of(put(written, was, old)), of(put(written, was, new)))
    assert answer
    assert all(each.kind == CHANGED for each in answer)
    assert all(shown(member, after) in str(each) for each in answer if each.place != "zone eu")


def shown(member: str, after: Any) -> str:
    """How a difference shows a value: a list member by itself, and a part of a rule beside its name."""
    return repr(after[0]) if isinstance(after, tuple) else member


def put(value: Any, was: Any, now: Any) -> Any:
    """The same value with one part of it, however deep, in another's place."""
    if value is was:
        return now
    if isinstance(value, TomlTable):
        return structs.replace(value, **{name: put(getattr(value, name), was, now) for name in value.__struct_fields__})
    if isinstance(value, dict):
        return {name: put(item, was, now) for name, item in value.items()}
    return tuple(put(item, was, now) for item in value) if isinstance(value, tuple) else value


def test_a_member_of_a_constraint_that_a_later_version_adds_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsorted member is an error, and not taken for a restriction of text."""
    monkeypatch.setattr(constraint, "said", lambda operand: [("divides", operand)])
    with pytest.raises(KeyError, match="divides"):
        constraint.kinds_of(3)


def test_every_field_of_what_is_granted_is_explained() -> None:
    """Whatever a grant has, `arx policy explain` shows: a field that differs is shown otherwise."""
    explained = explain_grant(POLICY, **ASKED)
    assert not isinstance(explained.task, PolicyRefusal)
    rule = {"orders": (Rule(tool="orders.none"),)}
    others: dict[str, Any] = {
        "template": "other",
        "ttl_ms": 1000,
        "depth": 9,
        "exchange": {"orders": ("payments",)},
        "rules": rule,
        "fewer_tools": rule,
        "origins": {"orders": ("http://other:1",), "payments": ("http://other:2",)},
        "delegate_to": ("other",),
        "limits": {"fresh": 7, "net": ("10.0.0.0/8",)},
        "approvals": {"orders": (ApprovalTerms(("orders.get",)),)},
        "is_bound": True,
        "budgets": {"refund": {"usd": "5.00", "per": "task"}},
        "upstream": {"refund": {"tracker": {"tracker.*": ("repo.read",)}}},
        "marks": {"marks": (("call", "untrusted", "session", ("orders.get",)),)},
    }
    # The audiences are those of the rules: there is a rule for each, of each a line.
    assert {*others, "audiences"} == {*TaskGrant.__struct_fields__}
    before = show_explained(explained)
    for name, value in others.items():
        task = structs.replace(explained.task, **{name: value})
        assert show_explained(explained._replace(task=task)) != before, name


def test_the_scopes_at_peoples_accounts_are_explained_by_template() -> None:
    """Also of a task with the rules of several templates: each tool has the scopes of its template."""
    whose = 'subjects = [{ issuer = "id" }]\nallow = [{ tool = "orders.get", any = true }]\n'
    tasks = "".join(
        f'[task.{name}]\nagents = ["acme/support/*"]\nttl = "10m"\naudience = ["orders"]\n{whose}'
        f'upstream = {{ tracker = {{ "orders.get" = ["{scope}"], "orders.*" = ["x"] }} }}\n'
        for name, scope in (("read", "repo.read"), ("list", "repo.list"))
    )
    policy, ann = Policy.parse(TEXT + tasks, "policy.toml"), Subject(ISSUER, "ann", {"sub": "ann"})
    asked: dict[str, Any] = {"agent": "acme/support/x", "params": {}, "subject": ann}
    read = ["tracker: 1. orders.get: repo.read (read)", "tracker: 2. orders.*: x (read)"]
    listed = ["tracker: 1. orders.get: repo.list (list)", "tracker: 2. orders.*: x (list)"]
    for names, shown in (("read", read), ("read list", read + listed), ("list read", listed + read)):
        assert show_explained(explain_grant(policy, task=names, **asked))["task"]["upstream"] == shown


def test_who_may_exchange_is_compared_and_explained() -> None:
    """The report writes it as the policy does."""
    new = changed(("allow = [", 'exchange = { orders = ["payments"] }\nallow = ['))
    values = [(each.kind, each.member, each.after) for each in compare(POLICY, new)]
    assert values == [("granted", "exchange", "orders for payments")]
    assert show_explained(explain_grant(new, **ASKED))["task"]["exchange"] == ["orders for payments"]


def test_an_approval_is_explained_and_compared() -> None:
    """The report names required approvers; another entry restricts, one less grants, and how they are put together
    means nothing."""
    two = 'approvals = [{ tools = ["payments.refund", "orders.get"], need = 2 }]\nallow = ['
    one = two.replace(', "orders.get"], need = 2', "], once = false")
    with_two, with_one = changed(("allow = [", two)), changed(("allow = [", one))
    at = show_explained(explain_grant(with_two, **ASKED))["task"]["audiences"]
    terms = {"tools": ["payments.refund", "orders.get"], "need": 2, "ttl": "10m", "once": True}
    assert (at["orders"]["approvals"], at["payments"]["approvals"]) == ([terms], [terms])
    assert "approvals" not in show_explained(explain_grant(with_one, **ASKED))["task"]["audiences"]["orders"]
    assert [each.kind for each in compare(POLICY, with_two)] == ["no longer granted"] * 2
    assert [each.kind for each in compare(with_two, POLICY)] == ["granted"] * 2
    values = {(each.kind, each.member, (each.after or each.before)["tool"]) for each in compare(with_two, with_one)}
    assert values == {("granted", "approvals", "payments.refund"), ("granted", "approvals", "orders.get")}
    apart = two.replace(
        '"payments.refund", "orders.get"], need = 2',
        '"orders.get"], need = 2 }, { need = 2, tools = ["payments.refund"]',
    )
    assert compare(with_two, changed(("allow = [", apart))) == []


def test_a_spelling_is_no_difference() -> None:
    """Order, comments and ways to write the same table do not count."""
    head, tables = TEXT.partition("[session.support]")[0], TEXT.partition("[session.support]")[2]
    other = Policy.parse(f"# so\n[session.support]{tables}\n{head}", "other.toml")
    assert compare(POLICY, other) == []


segments = st.sampled_from(["a", "b", "*"])
patterns = st.lists(segments, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from(["/".join(parts), "/".join([*parts, "**"]), "**"])
)
paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map("/".join)


@given(outer=patterns, inner=patterns, path=paths)
def test_a_pattern_that_covers_another_fits_all_it_fits(outer: str, inner: str, path: str) -> None:
    """
    What is left out of a comparison because it is covered is covered.
    """
    assert is_path_pattern(outer)
    if covers(outer, inner) and matches_path(inner, path):
        assert matches_path(outer, path)


@given(data=st.data())
def test_no_new_grant_goes_untold(data: st.DataObject) -> None:
    """
    Whatever a changed policy newly grants, the comparison shows as a grant or a change of that session or task.
    """
    edits = data.draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=4, unique=True))
    text = TEXT
    for old, new in edits:
        text = text.replace(old, new, 1)
    other = Policy.parse(text, "other.toml")
    asked = {**ASKED, "agent": data.draw(st.sampled_from(["acme/support/x", "acme/sales/x", "acme/audit"]))}
    asked["params"] = {"order_id": "o-1", "amount": data.draw(st.sampled_from([1, 100, 150]))}
    before, after = (_grant(policy, asked) for policy in (POLICY, other))
    if before != after:
        answer = compare(POLICY, other)
        assert any(each.place == "task refund" for each in answer), (edits, before, after)
        if before is None:
            assert any(each.kind in ("granted", "changed") for each in answer)
    if compare(POLICY, other) == []:
        assert before == after


EDITS = [
    ('ttl = "10m"', 'ttl = "20m"'),
    ("range = [1, 100]", "range = [1, 200]"),
    ('agents = ["acme/support/*"]\nparams', 'agents = ["acme/**"]\nparams'),
    ('tool = "orders.get"', 'tool = "orders.*"'),
    ('[1, "$amount"]', '[0, "$amount"]'),
    ('audience = ["orders", "payments"]', 'audience = ["payments", "orders"]'),
    (
        'allow = [\n  { tool = "orders.get"',
        'depth = 1\nallow = [\n  { tool = "orders.list", any = true },\n  { tool = "orders.get"',
    ),
    ("max_length = 8", "max_length = 2"),
    ("allow = [\n", 'approvals = [{ tools = ["payments.refund"] }]\nallow = [\n'),
]


def _grant(policy: Policy, asked: dict[str, Any]) -> Any:
    """What is granted, as plain data; None for nothing."""
    task = show_explained(explain_grant(policy, **asked))["task"]
    return task if task["granted"] else None


def test_the_commands_say_the_same(tmp_path: Path) -> None:
    """``explain`` exits with 1 where nothing is granted, ``diff`` marks its lines, and scripts get objects."""
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(TEXT)
    new.write_text(TEXT.replace('ttl = "10m"', 'ttl = "20m"'))
    words = ("policy", "explain", "--file", str(old), "--agent", "acme/support/x", "--task", "refund")
    ran = arx(*words, "--param", "order_id=o-1", "--param", "amount=5")
    assert ran.exit_code == 0
    assert 'payments.refund(order_id: "o-1", amount: {"range": [1, 5]})' in ran.out
    ran = arx(*words, "--json")
    document = json.loads(ran.out)
    assert (ran.exit_code, document["granted"], document["task"]["code"]) == (1, False, "bad_parameters")
    ran = arx("policy", "diff", str(old), str(new))
    assert ran.out.strip() == "+ task refund: ttl 10m -> 20m"
    assert json.loads(arx("policy", "diff", str(old), str(old), "--json").out)["differences"] == []
    new.write_text(TEXT.replace("allow = [", 'approvals = [{ tools = ["payments.refund"], need = 2 }]\nallow = ['))
    ran = arx("policy", "diff", str(old), str(new))
    document = "by 2 operators, good for one call within 10m"
    assert ran.out.strip() == f"- task refund: approvals none -> payments.refund {document}"
    ran = arx("policy", "diff", str(new), str(old))
    assert ran.out.strip() == f"+ task refund: approvals payments.refund {document} -> none"
    asked = ("--param", "order_id=o-1", "--param", "amount=5")
    assert (
        f"payments.refund needs an approval {document}"
        in arx(*(str(new) if word == str(old) else word for word in words), *asked).out
    )
    ran = arx("policy", "diff", str(old), str(tmp_path / "none.toml"))
    assert (ran.exit_code, "none.toml: cannot be read" in ran.err) == (1, True)


@given(tables=st.lists(st.lists(patterns, min_size=1, max_size=2), min_size=1, max_size=4), path=paths)
def test_each_agent_has_its_like_among_those_that_are_tried(tables: list[list[str]], path: str) -> None:
    """
    Whatever patterns match an agent, one of the tried agents is matched by the same ones.
    """
    every = {pattern for table in tables for pattern in table}
    tried = directions._agents(every)
    assert tried is not None
    matching = {pattern for pattern in every if matches_path(pattern, path)}
    if matching:
        assert any({pattern for pattern in every if matches_path(pattern, agent)} == matching for agent in tried)
