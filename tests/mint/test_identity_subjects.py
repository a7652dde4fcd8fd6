# SPDX-License-Identifier: Apache-2.0
"""Sessions opened on behalf of a person: whose right counts, and how each is ended."""

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.targets import subject_target
from tests.mint.harness import AGENT, Harness, now_ms
from tests.mint.issuer import IDP, token
from tests.mint.workloads import (
    ACCESS_TOKEN,
    CI,
    DEPLOY,
    DESK,
    LOOKUP,
    POLICY,
    WORKLOADS,
    Desk,
    behalf,
    ci,
    code,
    identifier_of,
    start,
)

pytestmark = [pytest.mark.spec("CONTROL 1.5"), WORKLOADS]


def test_agent_and_subject_stay_apart(unit: Harness) -> None:
    """Token, session and record name the agent as the agent and the subject as the subject."""
    holder, answer = Desk(unit, AGENT).ask(**behalf(email="ann@acme.example"))
    session = answer["session"]
    assert session["agent"] == AGENT
    assert session["subject"] == {"issuer": IDP, "subject": "ann", "target": subject_target(IDP, "ann")}
    for text in (holder.token, Bundle.parse(start(holder, "own")["bundle"]).tokens["orders"].encode()):
        assert text is not None
        found = identifier_of(text)
        assert (found.agent, found.subject) == (AGENT, (IDP, "ann"))
    [opened] = [event for event in unit.events() if event["kind"] == "session.opened"]
    assert (opened["by"], opened["subject"]) == (f"agent:{AGENT}", [IDP, "ann"])
    row = unit.mint.db.sessions.find(session["id"])
    assert row is not None
    assert "email" not in row.subject_claims, "what the policy does not ask for is not kept"


def test_the_subject_is_a_value_of_the_rules(unit: Harness) -> None:
    """``$subject`` is whom the issuer named, whatever the agent says; without a subject there is no such task."""
    desk = Desk(unit, AGENT)
    holder, _ = desk.ask(**behalf(sub="ann"))
    [caveat] = Bundle.parse(start(holder, "own")["bundle"]).describe()["audiences"]["orders"]["rules"]
    assert caveat[0]["args"] == {"customer": "ann"}
    assert start(holder, "own", subject="bob")["code"] == "bad_parameters"
    alone, _ = desk.ask()
    assert start(alone, "own")["code"] == "subject_required"
    assert alone.call("POST", "/v1/tasks", LOOKUP).status_code == 201


def test_the_right_that_counts_is_both(unit: Harness) -> None:
    """An agent that acts for another person, or for none, cannot start a task for leads."""
    desk = Desk(unit, AGENT)
    for groups, wanted in ((["leads"], None), (["support"], "subject_not_allowed"), (None, "subject_not_allowed")):
        holder, _ = desk.ask(**behalf(groups=groups))
        assert start(holder, "refund", order_id="1").get("code") == wanted


def test_a_policy_requires_a_subject(unit: Harness) -> None:
    """Required: none, one of another group, one of another issuer open nothing; other terms are no way around."""
    desk = Desk(unit, DESK)
    assert desk.code() == "subject_required"
    assert desk.code(**behalf(groups=["other"])) == "subject_not_allowed"
    assert desk.code(**behalf(iss=CI, groups=["support"])) == "subject_not_allowed"
    assert desk.code(**behalf(groups=["support"])) == "ok"
    wide = '[session.all]\nagents = ["acme/**"]\nttl = "5m"\n\n[task.own]'
    unit.realm.policy_path.write_text(POLICY.replace("[task.own]", wide))
    unit.mint.reload_policy()
    assert desk.code() == "subject_required"


def test_a_policy_that_says_nothing_of_subjects_takes_none(unit: Harness) -> None:
    """An agent of the build acts for no person, with any token."""
    unit.enrol(DEPLOY)
    assert code(unit, {"workload_token": ci(), **behalf()}) == "subject_not_allowed"


def test_a_session_outlives_its_subjects_token_by_what_the_policy_says(unit: Harness) -> None:
    """Not at all, or by the ten minutes of these terms; an expired token proves no person."""
    now = now_ms()
    for path, outlives in ((AGENT, 0), (DESK, 600_000)):
        desk = Desk(unit, path)
        ends = desk.ask(**behalf(groups=["leads"]))[1]["session"]["expires_at"]
        assert abs(ends - (now + 300_000 + outlives)) < 60_000
        assert ends < now + 3_500_000
        assert desk.code(**behalf(exp=now // 1000 - 1)) == "bad_subject_token"
    access = {"subject_token": token(now, header={"typ": "at+jwt"}), "subject_token_type": ACCESS_TOKEN}
    assert Desk(unit, "acme/support/other").code(**access) == "ok"


def test_a_new_policy_asks_for_what_was_proven(unit: Harness) -> None:
    """A claim that was not requested when the session was opened is missing later: the mint refuses."""
    holder, _ = Desk(unit, AGENT).ask(**behalf(groups=["leads"], level=7))
    assert start(holder, "refund", order_id="1").get("code") is None
    unit.realm.policy_path.write_text(POLICY.replace('{ groups = "leads" }', '{ groups = "leads", level = 7 }'))
    unit.mint.reload_policy()
    assert start(holder, "refund", order_id="1")["code"] == "subject_not_allowed"
    # Another issuer under the name that the rules use is not the one that proved the subject.
    moved = POLICY.replace(f'url = "{IDP}"', 'url = "https://new.example"')
    unit.realm.policy_path.write_text(moved)
    unit.mint.reload_policy()
    assert start(holder, "own")["code"] == "subject_not_allowed"


def test_a_killed_subject_is_out(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """A kill ends their sessions and tasks, others' go on; while they are frozen no new one opens."""
    desk = Desk(unit, AGENT)
    ann, session = desk.ask(**behalf(sub="ann"))
    bob, _ = desk.ask(**behalf(sub="bob"))
    task = start(ann, "own")["task"]["id"]
    target = subject_target(IDP, "ann")
    epochs.kill(target)
    epochs.freeze(target)
    assert start(ann, "own")["code"] in ("revoked", "frozen")
    assert start(bob, "own").get("code") is None
    assert desk.code(**behalf(sub="ann")) == "frozen"
    shown = unit.operator().call("GET", f"/v1/sessions/{session['session']['id']}").json()
    assert shown["session"]["state"] != "open"
    assert [each["state"] for each in shown["tasks"] if each["id"] == task] == [shown["session"]["state"]]
    epochs.thaw(target)
    assert start(ann, "own")["code"] == "revoked"
    assert desk.code(**behalf(sub="ann")) == "ok"
