# SPDX-License-Identifier: Apache-2.0
"""Approvals at the mint: asked for, answered, fetched, listed; who may, in which order, and what is left of them."""

import json
from functools import partial
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from arx_caps.mint.api.idempotency import HEADER
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.approvals import ApprovalAnswer
from arx_caps.mint.db.tables import APPROVALS, SESSIONS, TASKS
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.macaroon import Macaroon
from tests.mint.approvals import POLICY, REFUND, TWO, Desk, code
from tests.mint.harness import Harness, Holder, local_mint, now_ms
from tests.mint.test_erase import ANN, IDP, erase
from tests.mint.test_races import at_once, during


def about(desk: Desk, approval: dict[str, Any]) -> list[dict[str, Any]]:
    """What is recorded of an approval."""
    return [event for event in desk.harness.events() if event.get("approval") == approval["id"]]


def state(desk: Desk, approval: dict[str, Any]) -> str:
    return str(desk.agent.call("GET", f"/v1/approvals/{approval['id']}").json()["approval"]["state"])


@pytest.mark.spec("CONTROL 2.8", "CONTROL 2.9", "CONTROL 2.10")
def test_an_agent_asks_an_operator_approves_the_agent_gets_it(desk: Desk) -> None:
    """From the request to the discharge: what each is shown, and what is recorded of it, in order."""
    asked = desk.ask(why="the order never came")
    assert (asked["state"], asked["by"], asked["args"], asked["need"]) == ("waiting", [], REFUND, 1)
    assert (asked["task"], asked["template"], asked["audience"]) == (desk.id, "refund", "payments")
    waiting = desk.fetch(asked)
    assert (waiting.status_code, "discharge" in waiting.json()) == (200, False)
    ada = desk.operator("ada")
    (listed,) = ada.call("GET", "/v1/approvals", state="waiting").json()["approvals"]
    assert listed == asked
    given = desk.answer(ada, asked, why="seen the parcel's trail").json()["approval"]
    assert (given["state"], given["by"], given["answer_why"]) == ("approved", ["ada"], "seen the parcel's trail")
    assert given["expires_at"] - given["approved_at"] <= 600_000
    answer = desk.fetch(asked).json()
    assert answer == desk.fetch(asked).json()  # the same bytes, made again
    made = Macaroon.parse(answer["discharge"])
    assert made.identifier.decode() == desk.caveat
    (caveat,) = made.packets
    assert isinstance(caveat, bytes)
    assert json.loads(caveat) == {
        "allow": [{"args": REFUND, "tool": "payments.refund"}],
        "exp": given["expires_at"],
        "once": [asked["id"], given["approved_at"]],
        "operators": ["ada"],
        "task": asked["id"],
    }
    kinds = [(event["kind"], event["by"]) for event in about(desk, asked)]
    assert kinds == [
        ("approval.asked", f"agent:{asked['agent']}"),
        ("approval.given", "operator:ada"),
        *[("discharge.made", f"agent:{asked['agent']}")] * 2,
    ]
    assert answer["discharge"] not in json.dumps(desk.harness.events())


@pytest.mark.spec("CONTROL 2.9")
def test_two_operators_where_the_policy_asks_for_them(desk: Desk) -> None:
    """One of them waits for another one; the same one twice is not two; one no is enough."""
    desk.use(TWO)
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    ada, bob = desk.operator("ada"), desk.operator("bob")
    asked = desk.ask()
    assert desk.answer(ada, asked).json()["approval"]["state"] == "waiting"
    assert code(desk.answer(ada, asked)) == "conflict"
    assert desk.answer(bob, asked).json()["approval"]["by"] == ["ada", "bob"]
    assert state(desk, asked) == "approved"
    other = desk.ask()
    assert code(desk.answer(ada, other)) == "ok"
    denied = desk.answer(bob, other, "deny", why="no").json()["approval"]
    assert (denied["state"], denied["denied_by"]) == ("denied", "bob")
    assert code(desk.answer(ada, other)) == code(desk.answer(ada, other, "deny")) == "conflict"
    answer = desk.fetch(other)
    assert (answer.status_code, answer.json()["code"]) == (403, "approval_denied")


@pytest.mark.spec("CONTROL 2.9")
def test_a_yes_counts_while_its_operator_may_say_it(desk: Desk, epochs: UnsafeLocalEpochs) -> None:
    """An approver who was removed, frozen or given another role counts no more; another approver is needed."""
    desk.use(TWO)
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    root = desk.harness.operator()
    asked = desk.ask()
    for name in ("gone", "frozen", "changed"):
        assert desk.answer(desk.operator(name), asked).json()["approval"]["state"] == "waiting"
        if name == "frozen":
            epochs.freeze("operator:frozen")
        elif name == "changed":
            assert root.call("PATCH", "/v1/operators/changed", {"role": "read-only"}).is_success
        else:
            root.call("DELETE", "/v1/operators/gone")  # the store does not answer: the row says removed all the same
    answer = desk.answer(desk.operator("ada"), asked).json()["approval"]
    assert (answer["state"], answer["by"]) == ("waiting", ["gone", "frozen", "changed", "ada"])
    assert desk.answer(desk.operator("bob"), asked).json()["approval"]["state"] == "approved"


@pytest.mark.spec("CONTROL 2.8", "CONTROL 2.9")
def test_who_may_ask_and_who_may_answer(desk: Desk) -> None:
    """Roles: an approver answers, a reader reads, others neither; agents ask, and never answer."""
    asked = desk.ask()
    reader, night = desk.operator("reader", role="read-only"), desk.operator("night", role="kill-only")
    responder = desk.operator("responder", role="responder")
    assert reader.call("GET", f"/v1/approvals/{asked['id']}").json()["approval"] == asked
    for holder in (reader, night, responder):
        assert code(desk.answer(holder, asked)) == "tool_not_allowed"
        assert code(holder.call("DELETE", f"/v1/approvals/{asked['id']}")) == "tool_not_allowed"
    assert code(night.call("GET", "/v1/approvals")) == "tool_not_allowed"
    assert code(desk.answer(desk.agent, asked)) == "tool_not_allowed"
    assert code(desk.try_to_ask(by=desk.harness.operator())) == "wrong_caller"
    other, _ = desk.harness.session("acme/support/other")
    assert code(desk.fetch(asked, other)) == code(other.call("GET", f"/v1/approvals/{asked['id']}")) == "not_found"
    assert other.call("GET", "/v1/approvals").json() == {"approvals": []}
    assert code(other.call("GET", "/v1/approvals", session=desk.session["id"])) == "not_found"


@pytest.mark.spec("CONTROL 2.9")
def test_rules_of_ones_own_say_whose_requests(desk: Desk) -> None:
    """An operator may be held to some agents, templates and tools; what a body says of them counts for nothing."""
    own = {"agent": {"glob": "acme/sales/*"}, "template": "refund", "tool": "payments.refund"}
    sales = desk.operator("sales", rules=[{"tool": "arx.approve", "args": own, "open": True}])
    ours = desk.operator(
        "ours", rules=[{"tool": "arx.approve", "args": own | {"agent": desk.agent_path}, "open": True}]
    )
    asked = desk.ask()
    assert code(desk.answer(sales, asked)) == "argument_not_allowed"
    assert code(desk.answer(sales, asked, agent="acme/sales/x")) == "argument_not_allowed"
    assert code(sales.call("DELETE", f"/v1/approvals/{asked['id']}")) == "argument_not_allowed"
    assert code(desk.answer(sales, {"id": "a-" + "a" * 16})) == "argument_not_allowed"
    assert code(desk.answer(ours, asked)) == "ok"
    assert code(desk.answer(ours, desk.ask({"x": 1}, tool="payments.note"))) == "argument_not_allowed"


@pytest.mark.spec("CONTROL 2.10")
@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ({"a": "x", "b": 5, "c": True}, {"a": "x", "b": 5, "c": True}),
        ({}, {}),
        ({"a": ["x", 2]}, {"a": {"equal": ["x", 2]}}),
        ({"a": [True, 1, 1]}, {"a": {"equal": [True, 1, 1]}}),
        ({"a": []}, {"a": {"equal": []}}),
        ({"a": 5.0, "b": [2.0]}, {"a": 5, "b": {"equal": [2]}}),
        ({"a": {"b": 1, "c": {}}}, {"a": {"fields": {"b": 1, "c": {"fields": {}}}}}),
        (
            {"lines": [{"sku": "a", "n": 2}, {"sku": "b", "tags": ["x"]}]},
            {"lines": {"each": [{"fields": {"n": 2, "sku": "a"}}, {"fields": {"sku": "b", "tags": {"equal": ["x"]}}}]}},
        ),
        ({"a": [["b"]]}, {"a": {"each": [{"equal": ["b"]}]}}),
    ],
)
def test_what_is_approved_is_these_arguments(desk: Desk, args: Any, wanted: Any) -> None:
    """Scalars as they are, lists in their order, objects with their members and no others."""
    asked = desk.ask(args, tool="payments.note")
    assert code(desk.answer(desk.harness.operator(), asked)) == "ok"
    (caveat,) = Macaroon.parse(desk.fetch(asked).json()["discharge"]).packets
    assert isinstance(caveat, bytes)
    assert json.loads(caveat)["allow"] == [{"args": wanted, "tool": "payments.note"}]


@pytest.mark.spec("CONTROL 2.8")
@pytest.mark.parametrize(
    "args",
    [
        {"a": None},
        {"a": 1.5},
        {"a": {"b": None}},
        {"a": {"b": 1.5}},
        {"a": {"": 1}},
        {"a": [[[[[["b"]]]]]]},
        {"a": {"a": {"a": {"a": {"a": {}}}}}},
        {"a": [None]},
        {"": 1},
    ],
    ids=str,
)
def test_what_cannot_be_approved_as_it_is_is_refused(desk: Desk, args: Any) -> None:
    """Nested too deep, null or fractional: the mint refuses, and asks no operator."""
    answer = desk.try_to_ask(args, tool="payments.note")
    assert (answer.status_code, answer.json()["code"]) == (403, "bad_parameters")
    assert "args" in answer.json()["detail"]
    assert desk.harness.mint.db.count(APPROVALS) == 0


@pytest.mark.spec("CONTROL 2.8")
def test_what_is_not_required_or_not_allowed_is_not_asked_for(desk: Desk) -> None:
    """
    Another tool than the third-party caveat's, a call that the task refuses anyway, and a third-party caveat that no
    token has.
    """
    assert code(desk.try_to_ask({"order_id": "o-1"}, tool="orders.get")) == "bad_parameters"
    assert code(desk.try_to_ask(REFUND | {"amount": 501})) == "bad_parameters"
    refused = desk.try_to_ask(REFUND | {"amount": 501}).json()
    assert [failure["rule"].split()[0] for failure in refused["failures"]] == ["amount"]
    for changed in ("payments.refund", "x", desk.caveat + " ", desk.caveat.replace("payments.note", "payments.*")):
        assert (
            code(
                desk.agent.call(
                    "POST", "/v1/discharges", {"caveat": changed, "tool": "payments.refund", "args": REFUND}
                )
            )
            == "bad_parameters"
        )


@pytest.mark.spec("CONTROL 4.4")
def test_a_repeat_is_the_same_request(desk: Desk) -> None:
    """An ``Idempotency-Key`` fetches a lost answer again; the operators see one request."""
    body = {"caveat": desk.caveat, "tool": "payments.refund", "args": REFUND}
    notices = []
    for _ in range(2):
        headers = desk.agent.headers("POST", "/v1/discharges") | {HEADER: "once"}
        notices.append(desk.harness.client.post("/v1/discharges", json=body, headers=headers).json()["approval"])
    assert notices[0] == notices[1]
    assert desk.harness.mint.db.count(APPROVALS) == 1
    headers = desk.agent.headers("POST", "/v1/discharges") | {HEADER: "once"}
    other = desk.harness.client.post("/v1/discharges", json=body | {"args": {}}, headers=headers)
    assert other.json()["code"] == "idempotency_mismatch"


@pytest.mark.spec("CONTROL 2.9", "CONTROL 2.10")
def test_the_end_of_the_task_is_the_end_of_it(desk: Desk, epochs: UnsafeLocalEpochs) -> None:
    """Waiting or approved, of a task that is over, killed or expired: nothing is answered, nothing given."""
    approver = desk.operator("ada")
    for end in ("ended", "killed", "expired"):
        desk.id, desk.task = desk.start()
        desk.caveat = desk.third_party(desk.task)
        waiting, approved = desk.ask(), desk.ask()
        assert code(desk.answer(approver, approved)) == "ok"
        if end == "killed":
            epochs.kill(f"task:{desk.id}")
        changes = {"status": "ended"} if end == "ended" else {"expires_at": now_ms() - 1}
        if end != "killed":
            with desk.harness.mint.db.write() as c:
                c.execute(update(TASKS).where(TASKS.c.id == desk.id).values(**changes))
        assert [state(desk, each) for each in (waiting, approved)] == ["ended"] * 2
        assert code(desk.answer(approver, waiting)) == "session_ended"
        assert code(desk.answer(approver, waiting, "deny")) == "session_ended"
        assert {code(desk.fetch(each)) for each in (waiting, approved)} == {"session_ended"}
        assert code(desk.try_to_ask()) == "session_ended"
        listed = desk.agent.call("GET", "/v1/approvals", state="ended", task=desk.id).json()["approvals"]
        assert [each["id"] for each in listed] == [approved["id"], waiting["id"]]
    assert desk.harness.mint.db.approvals.count_waiting() == 1  # of the killed one, which the database does not know


@pytest.mark.spec("CONTROL 2.10")
def test_its_time_is_over_and_its_kill_counts(desk: Desk, epochs: UnsafeLocalEpochs) -> None:
    """An approval that was not used in time is expired; one that was killed in the store is withdrawn."""
    late, killed = desk.ask(), desk.ask()
    for each in (late, killed):
        assert code(desk.answer(desk.harness.operator(), each)) == "ok"
    with desk.harness.mint.db.write() as c:
        c.execute(update(APPROVALS).where(APPROVALS.c.id == late["id"]).values(expires_at=now_ms()))
    epochs.kill(f"task:{killed['id']}")
    assert (state(desk, late), state(desk, killed)) == ("expired", "withdrawn")
    assert (code(desk.fetch(late)), code(desk.fetch(killed))) == ("approval_expired", "approval_withdrawn")
    assert f"{late['id']} expired " in desk.fetch(late).json()["detail"]
    for wanted, found in (("expired", late), ("withdrawn", killed)):
        (listed,) = desk.agent.call("GET", "/v1/approvals", state=wanted).json()["approvals"]
        assert listed["id"] == found["id"]


def test_a_frozen_task_is_not_over(desk: Desk, epochs: UnsafeLocalEpochs) -> None:
    """While it is frozen nothing is approved or given; thawed, it goes on where it was."""
    waiting, approved = desk.ask(), desk.ask()
    ada = desk.operator("ada")
    assert code(desk.answer(ada, approved)) == "ok"
    epochs.freeze(f"task:{desk.id}")
    assert (code(desk.answer(ada, waiting)), code(desk.fetch(approved))) == ("frozen", "frozen")
    epochs.thaw(f"task:{desk.id}")
    assert (code(desk.answer(ada, waiting)), code(desk.fetch(approved))) == ("ok", "ok")


@pytest.mark.spec("CONTROL 2.8")
def test_of_terms_that_two_grants_have_the_strictest_hold(desk: Desk) -> None:
    """Granted once more under a policy that asks for two, for a minute and one call, the same require takes that."""
    desk.use(POLICY.replace("need = 1", "once = false"))
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    assert (desk.ask()["need"], desk.ask()["once"]) == (1, False)
    desk.use(TWO.replace("need = 2", 'need = 2, ttl = "1m"'))
    before = desk.ask()
    more = desk.agent.call("POST", f"/v1/tasks/{desk.id}/extend", {})
    assert more.status_code == 201
    asked = desk.ask()
    assert (asked["need"], asked["once"]) == (2, True)
    row = desk.harness.mint.db.approvals.find(asked["id"])
    assert row is not None
    assert row.ttl_ms == 60_000
    assert (before["need"], before["once"]) == (1, False)  # asked for before; answered, it takes what holds by now
    given = [desk.answer(desk.operator(name), before).json()["approval"] for name in ("ada", "bob")]
    assert [(each["state"], each["need"], each["once"]) for each in given] == [
        ("waiting", 2, True),
        ("approved", 2, True),
    ]
    assert given[1]["expires_at"] - given[1]["approved_at"] == 60_000


def test_lists_go_by_what_they_are_asked(desk: Desk) -> None:
    """Pages, states, and whose; the newest first."""
    asked = [desk.ask(REFUND | {"amount": amount}) for amount in (1, 2, 3)]
    assert code(desk.answer(desk.harness.operator(), asked[1], "deny")) == "ok"
    reader = desk.operator("reader", role="read-only")

    def found(**query: str) -> list[str]:
        return [each["id"] for each in reader.call("GET", "/v1/approvals", **query).json()["approvals"]]

    ids = [each["id"] for each in asked]
    assert found() == found(agent=desk.agent_path) == found(template="refund") == found(task=desk.id) == ids[::-1]
    assert found(state="waiting") == [ids[2], ids[0]]
    assert found(state="denied") == [ids[1]]
    assert found(state="approved") == found(agent="acme/other") == found(session="s-other") == []
    page = reader.call("GET", "/v1/approvals", limit="2").json()
    rest = reader.call("GET", "/v1/approvals", limit="2", after=page["next"]).json()
    assert [each["id"] for each in page["approvals"] + rest["approvals"]] == ids[::-1]


def test_of_two_at_once_one_comes_first(desk: Desk) -> None:
    """Two operators, an approval and a denial: held by the database."""
    ada, bob = desk.operator("ada"), desk.operator("bob")

    def say(by: Holder, approval: dict[str, Any], outcome: str = "approve") -> None:
        found.append(code(desk.answer(by, approval, outcome)))

    for _ in range(3):
        found: list[str] = []
        asked = desk.ask()
        at_once(partial(say, ada, asked), partial(say, bob, asked))
        assert sorted(found) == ["conflict", "ok"]
        found, asked = [], desk.ask()
        at_once(partial(say, ada, asked), partial(say, bob, asked, "deny"))
        assert sorted(found) == ["conflict", "ok"]
        assert state(desk, asked) in ("approved", "denied")
    desk.use(TWO)
    desk.id, desk.task = desk.start()
    desk.caveat = desk.third_party(desk.task)
    for _ in range(3):
        found, asked = [], desk.ask()
        at_once(partial(say, ada, asked), partial(say, ada, asked), partial(say, bob, asked))
        assert sorted(found) == ["conflict", "ok", "ok"]
        assert (state(desk, asked), len(desk.fetch(asked).json()["approval"]["by"])) == ("approved", 2)


@pytest.mark.spec("CONTROL 2.9")
def test_a_request_is_withdrawn_without_a_kill(desk: Desk) -> None:
    """There is no discharge that could be out: nothing is killed, and nothing can be said to it any more."""
    ada, asked = desk.operator("ada"), desk.ask()
    path = f"/v1/approvals/{asked['id']}"
    for _ in range(2):
        answer = ada.call("DELETE", path).json()
        assert (answer["approval"]["state"], answer["kill"]) == ("withdrawn", None)
    assert [event["kind"] for event in about(desk, asked)] == ["approval.asked", "approval.withdrawn"]
    assert code(desk.answer(ada, asked)) == code(desk.answer(ada, asked, "deny")) == "conflict"
    assert code(desk.fetch(asked)) == "approval_withdrawn"
    denied = desk.ask()
    assert code(desk.answer(ada, denied, "deny")) == "ok"
    assert ada.call("DELETE", f"/v1/approvals/{denied['id']}").json()["approval"]["state"] == "denied"


def test_two_mints_are_one(desk: Desk) -> None:
    """Asked at one, answered at the other, given by either in the same bytes; two answers at once are one."""
    mint = local_mint(desk.harness.realm)
    mint.epochs = mint.verifier.epochs = desk.harness.mint.epochs
    mint.freezes, mint.kills = desk.harness.mint.freezes, desk.harness.mint.kills
    other = Harness(mint)

    def at_the_other(holder: Holder) -> Holder:
        return Holder(other, holder.key, holder.token)

    ada, bob, asked = desk.operator("ada"), desk.operator("bob"), desk.ask()
    body = {"approval": asked["id"], "outcome": "approve"}
    assert at_the_other(ada).call("POST", "/v1/approvals", body).json()["approval"]["state"] == "approved"
    path = f"/v1/discharges/{asked['id']}"
    here, there = (each.call("POST", path).json()["discharge"] for each in (desk.agent, at_the_other(desk.agent)))
    assert here == there

    def say(by: Holder, body: dict[str, Any]) -> None:
        found.append(code(by.call("POST", "/v1/approvals", body)))

    for _ in range(3):
        found: list[str] = []
        body = {"approval": desk.ask()["id"], "outcome": "approve"}
        at_once(partial(say, ada, body), partial(say, at_the_other(bob), body))
        assert sorted(found) == ["conflict", "ok"]
    mint.close()


def test_an_end_that_came_first_leaves_nothing_to_approve(desk: Desk) -> None:
    """Who answers or asks while the end of the task is being written waits for it, and is refused."""
    db, ending = desk.harness.mint.db, update(TASKS).values(status="ended")
    asked = desk.ask()
    row = db.approvals.find(asked["id"])
    assert row is not None
    for terms in (ApprovalTerms(("payments.refund",)), None):
        answer = ApprovalAnswer("ada", terms, why=None, counts=lambda *_: True)
        assert during(db, ending, lambda answer=answer: db.approvals.answer(row, answer)) == "session_ended"
    another = msgspec.structs.replace(row, id="a-" + "b" * 16)
    assert (
        during(db, ending, lambda: db.approvals.add(db.unit(), another, Event.of("something", "mint")))
        == "session_ended"
    )
    assert [each.status for each in db.approvals.list()] == ["waiting"]


def test_nothing_is_left_of_a_person(desk: Desk) -> None:
    """Erasure covers approvals: arguments, reasons and the subject go; the fact of an approval stays."""
    subject = {"subject_issuer": IDP, "subject": "ann-of-accounting", "subject_claims": "{}"}
    with desk.harness.mint.db.write() as c:
        c.execute(update(SESSIONS).where(SESSIONS.c.id == desk.session["id"]).values(**subject))
    asked = desk.ask(REFUND, why="for Ann of accounting")
    assert asked["subject"]["target"] == ANN
    assert code(desk.answer(desk.operator("ada"), asked, why="Ann called")) == "ok"
    view = desk.harness.epochs
    view.kill(ANN)
    desk.harness.mint.log.step()
    assert erase(desk.harness, subject=ANN).status_code == 200
    with desk.harness.mint.db.read() as c:
        row = c.execute(select(APPROVALS)).one()
    assert (row.args, row.why, row.answer_why, row.subject, row.subject_issuer) == ("{}", None, None, None, None)
    shown = desk.harness.operator().call("GET", f"/v1/approvals/{asked['id']}").json()["approval"]
    assert (shown["args"], shown["why"], shown["subject"], shown["by"]) == ({}, None, None, ["ada"])
    events = about(desk, asked)
    assert [event["kind"] for event in events] == ["approval.asked", "approval.given"]
    assert all(event["erased"] and "args" not in event and "why" not in event for event in events)
