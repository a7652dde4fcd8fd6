# SPDX-License-Identifier: Apache-2.0
"""Tasks that are extended, and tasks that are parts of tasks: never more than the policy, nothing left behind."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.mint.context import Born
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import TASKS
from arx_caps.mint.tasks.stored_grant import StoredGrant
from arx_caps.mint.tasks.token_factory import Birth, new_link, sign_tokens
from arx_verifier.constraints.rule import Rule, read_rule
from arx_verifier.errors import GrantError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder, now_ms, open_unit
from tests.support import unchecked

REFUND = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}


def verifier(harness: Harness, audience: str, **more: Any) -> Verifier:
    """A tool service's, on the mint's own view of the kill epoch."""
    kid, key = harness.mint.key_schedule.audience_key(audience)
    keys = KeyRing({kid: key}, realm=harness.realm.name)
    return Verifier(audience=audience, keys=keys, epochs=harness.mint.epochs, decisions=InMemoryDecisions(), **more)


def ask(harness: Harness, bundle: str, tool: str = "orders.get", **args: Any) -> str:
    """What the tool's service says of a call."""
    audience = tool.partition(".")[0]
    task = Task(Bundle.parse(bundle))
    given = {"order_id": "o-1", **args}
    return (
        verifier(harness, audience)
        .decide(task.call_token(audience, tool, given), AccessRequest(tool, given, now_ms()))
        .code
    )


def start(holder: Holder, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = holder.call("POST", "/v1/tasks", {**REFUND, **body}).json()
    return answer


def extend(holder: Holder, task: str, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = holder.call("POST", f"/v1/tasks/{task}/extend", body).json()
    return answer


@pytest.mark.spec("CONTROL 2.3")
def test_an_extension_adds_and_kills_nothing(unit: Harness) -> None:
    """The same once more for longer, other values, another template: each has a link of its own, and all work."""
    holder, session = unit.session()
    first = start(holder, ttl="1m", tools=["orders.get"])
    task = first["task"]["id"]
    again = extend(holder, task)
    assert Bundle.parse(again["bundle"]).audiences == ("orders",)  # no wider than it was
    assert again["task"]["expires_at"] > first["task"]["expires_at"]
    more = extend(holder, task, template="refund", params={"amount": 80})
    other = extend(holder, task, template="lookup", params={"order_id": "o-1"}, ttl="5s")
    bundles = [value["bundle"] for value in (first, again, more, other)]
    assert [ask(unit, bundle) for bundle in bundles] == ["ok"] * 4
    assert ask(unit, more["bundle"], "payments.refund", amount=80) == "ok"
    assert len({Bundle.parse(bundle).outline.link for bundle in bundles}) == 4
    assert {Bundle.parse(bundle).task for bundle in bundles} == {task}
    assert other["task"]["expires_at"] >= more["task"]["expires_at"]
    shown = holder.call("GET", f"/v1/tasks/{task}").json()
    assert [grant["template"] for grant in shown["grants"]].count("refund") == 3
    assert shown["task"]["session"] == session["id"]
    kinds = [event["kind"] for event in unit.events() if event.get("task") == task]
    assert kinds == ["task.started", *["task.extended"] * 3]


@pytest.mark.spec("CONTROL 2.3")
def test_an_extension_the_policy_refuses_says_what_it_would_take(unit: Harness) -> None:
    """Which key of which template would have to allow what, and which other template would."""
    holder, _ = unit.session()
    task = start(holder)["task"]["id"]
    answer = extend(holder, task, params={"amount": 500})
    assert answer["code"] == "bad_parameters"
    assert "`params.amount` of [task.refund]" in answer["detail"]
    assert "500" in answer["detail"]
    answer = extend(holder, task, template="payroll", params={})
    assert (answer["code"], AGENT in answer["detail"]) == ("unknown_task", True)
    answer = extend(holder, task, template="payroll", params={"order_id": "o-1"})
    assert "would grant it now: lookup" in answer["detail"]
    answer = extend(holder, task, ttl="9h")
    assert "`ttl` of [task.refund]" in answer["detail"]
    assert len(unit.mint.db.grants.list(task)) == 1


@pytest.mark.spec("CONTROL 2.3")
def test_what_is_over_is_not_extended(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """Neither a task that was killed, nor one that is frozen or expired, nor another session's."""
    holder, _ = unit.session()
    stranger, _ = unit.session("acme/support/other")
    tasks = [start(holder)["task"]["id"] for _ in range(3)]
    assert extend(stranger, tasks[0])["code"] == "not_found"
    epochs.kill(f"task:{tasks[0]}")
    epochs.freeze(f"task:{tasks[1]}")
    with unit.mint.db.write() as c:
        c.execute(TASKS.update().where(TASKS.c.id == tasks[2]).values(expires_at=now_ms()))
    assert [extend(holder, task)["code"] for task in tasks] == ["revoked", "frozen", "session_ended"]
    with unit.mint.db.write() as c:
        c.execute(TASKS.update().where(TASKS.c.id == tasks[2]).values(expires_at=now_ms() + 60_000, status="ended"))
    assert extend(holder, tasks[2])["code"] == "session_ended"


@pytest.mark.spec("CONTROL 2.5")
def test_a_part_of_a_task_ends_with_it(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """Its tokens name every task above it; it lives no longer, and begins in none that is over."""
    holder, _ = unit.session()
    outer = start(holder, ttl="1m")["task"]
    inner = start(holder, parent=outer["id"])
    core = start(holder, parent=inner["task"]["id"], **LOOKUP)
    assert core["task"]["above"] == [outer["id"], inner["task"]["id"]]
    assert inner["task"]["expires_at"] <= outer["expires_at"]
    assert extend(holder, core["task"]["id"])["task"]["expires_at"] <= outer["expires_at"]
    stranger, _ = unit.session("acme/support/other")
    assert start(stranger, parent=outer["id"])["code"] == "not_found"
    assert ask(unit, core["bundle"]) == "ok"
    epochs.kill(f"task:{outer['id']}")
    assert [ask(unit, each["bundle"]) for each in (inner, core)] == ["revoked", "revoked"]
    assert start(holder, parent=inner["task"]["id"])["code"] == "session_ended"
    states = {task["id"]: task["state"] for task in holder.call("GET", "/v1/tasks").json()["tasks"]}
    assert set(states.values()) == {"killed"}


@pytest.mark.spec("CONTROL 2.5")
def test_the_row_of_a_part_ends_with_the_task(unit: Harness) -> None:
    """An end that is noted is noted of everything below, at any depth, and of nothing beside."""
    holder, _ = unit.session()
    outer = start(holder)["task"]["id"]
    inner = start(holder, parent=outer)["task"]["id"]
    core = start(holder, parent=inner)["task"]["id"]
    beside = start(holder)["task"]["id"]
    unit.mint.db.tasks.end(outer, Event.of("task.ended", "test", task=outer))
    status = {task.id: task.status for task in unit.mint.db.tasks.list()}
    assert status == {outer: "ended", inner: "ended", core: "ended", beside: "open"}
    assert start(holder, parent=inner)["code"] == "session_ended"


def test_no_task_no_power(unit: Harness) -> None:
    """A session's token is for the mint alone: no service takes it, whatever is asked for."""
    holder, _ = unit.session()
    assert holder.token is not None
    for audience in ("orders", "payments"):
        for tool in (f"{audience}.get", "arx.whoami"):
            asked = AccessRequest(tool, {}, now_ms())
            assert verifier(unit, audience).decide(holder.token, asked).code == "wrong_audience"


@pytest.mark.spec("CONTROL 2.4")
@pytest.mark.parametrize(
    "caveats",
    [
        {},
        {"orders": [{}]},
        {"orders": [{"to": "acme/x", "hop": "AAAAAAAAAAAA"}]},
        {"orders": [{"call": ["x", 1, "y"]}]},
        {"orders": [{"allow": []}]},
        {"orders": [{"spend": 1}]},
        {"orders": [{"exp": 1.5}]},
        {"orders": [{"exp": "soon"}]},
        {"elsewhere": []},
        {"orders": [{"exp": 1}]},
        {"orders": [{"allow": [{"tool": "x" * 90, "args": {str(n): "y" * 60 for n in range(120)}}]}]},
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_attenuation_that_cannot_be_read_is_refused(unit: Harness, caveats: dict[str, Any]) -> None:
    """Before anything is killed: the store of this mint does not even answer."""
    holder, _ = unit.session()
    task = start(holder)["task"]["id"]
    answer = holder.call("POST", f"/v1/tasks/{task}/attenuate", {"caveats": caveats})
    assert answer.status_code in (400, 403), answer.text
    assert answer.json()["code"] in ("bad_parameters", "malformed_request")


AMOUNTS = st.one_of(st.integers(-5, 130), st.sampled_from(["50", True]))


@pytest.mark.spec("CONTROL 2.3")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    params=st.fixed_dictionaries({"order_id": st.sampled_from(["o-1", "o-2", "", "x" * 40]), "amount": AMOUNTS}),
    tools=st.sampled_from([None, ["orders.get"], ["payments.refund"], ["payments.*"], ["*"], ["other.x"]]),
    template=st.sampled_from([None, "refund", "lookup", "payroll"]),
    tried=AMOUNTS,
)
def test_an_extension_gives_what_the_policy_grants_and_no_more(
    whole: tuple[Harness, Holder, str],
    params: dict[str, Any],
    tools: list[str] | None,
    template: str | None,
    tried: Any,
) -> None:
    """Whatever is asked for: it is refused where the policy refuses, and else allows the very calls that it grants."""
    unit, holder, task = whole
    answer = extend(holder, task, params=params, tools=tools, template=template)
    asked = {"order_id": "o-1", "amount": 50, **params} if template in (None, "refund") else params
    try:
        grant = unit.mint.policy.grant(template or "refund", AGENT, asked, tools=tools)
    except GrantError as error:
        refused, grant = error.code, None
    else:
        refused = None
    assert answer.get("code") == refused
    if grant is None:
        return
    bundle = Bundle.parse(answer["bundle"])
    assert set(bundle.audiences) == set(grant.rules)
    if "payments" in bundle.audiences and isinstance(tried, int):
        allowed = ask(unit, answer["bundle"], "payments.refund", order_id=params["order_id"], amount=tried) == "ok"
        assert allowed == (type(tried) is int and 1 <= tried <= params["amount"])


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, module_database: str | None
) -> Iterator[tuple[Harness, Holder, str]]:
    """A realm for all examples of a law, with a task whose grants are many."""
    with open_unit(tmp_path_factory.mktemp("law") / "realm", database=module_database) as unit:
        holder, _ = unit.session()
        yield unit, holder, start(holder)["task"]["id"]


RULES = st.sampled_from(
    [
        {"tool": "orders.get"},
        {"tool": "orders.*", "args": {"order_id": "o-1"}},
        {"tool": "orders.get", "args": {"order_id": {"one_of": ["o-1", "o-2"]}}},
        {"tool": "payments.refund"},
        {"tool": "*", "args": {"order_id": "o-2"}},
    ]
)
LESS = st.builds(
    lambda rules, depth, ahead: unchecked(
        Caveat,
        allow=tuple(map(read_rule, rules)) or None,
        depth=depth,
        exp=None if ahead is None else now_ms() + ahead,
    ),
    st.lists(RULES, max_size=3),
    st.integers(0, 4) | st.none(),
    st.integers(-1000, 60_000) | st.none(),
).filter(lambda caveat: caveat != unchecked(Caveat))


@pytest.mark.spec("CONTROL 2.4")
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.lists(LESS, max_size=3), max_size=3), order=st.sampled_from(["o-1", "o-2", "o-3"]))
def test_a_attenuation_never_widens(whole: tuple[Harness, Holder, str], steps: list[list[Caveat]], order: str) -> None:
    """For any request: what an attenuated grant's token allows, the one before allowed; nor does it live longer."""
    unit, _, _ = whole
    rules = (Rule(tool="orders.get"),)
    granted = StoredGrant(
        template="t",
        params={},
        tools=None,
        depth=2,
        audiences=("orders",),
        own={"orders": (Caveat(allow=rules).encode().decode(),)},
    )
    agent = unit.mint.db.agents.find(AGENT)
    assert agent is not None
    keys = {"orders": unit.mint.key_schedule.audience_key("orders")}
    judge, args, ends, before = verifier(unit, "orders"), {"order_id": order}, now_ms() + 30_000, True
    born = Born(*unit.mint.epochs.view()[:2])
    for step in [[], *steps]:
        granted = granted.attenuate({"orders": step})
        assert granted.end(ends) <= ends
        ends = granted.end(ends)
        birth = Birth(agent, born, "s-x", "t-x", "p", now_ms() - 1, now_ms() + 30_000, 2, new_link(), None)
        token = sign_tokens(unit.mint.realm, birth, {"orders": granted.caveats("orders")}, keys, {})["orders"]
        after = judge.decide(token, AccessRequest("orders.get", args, now_ms())).code == "ok"
        assert before or not after
        before = after
