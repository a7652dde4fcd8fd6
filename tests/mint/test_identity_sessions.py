# SPDX-License-Identifier: Apache-2.0
"""Sessions opened by workloads' tokens: which agent a workload is, and what is shown."""

from typing import Any

import pytest

from arx_caps.credentials.jose import SigningKey
from tests.mint.harness import AGENT, Harness, Holder, now_ms
from tests.mint.issuer import IDP, MINT, token
from tests.mint.workloads import (
    ACCESS_TOKEN,
    CI,
    DEPLOY,
    DOMAIN,
    ID_TOKEN,
    LOOKUP,
    MAIN,
    POLICY,
    WORKLOADS,
    Desk,
    ask,
    behalf,
    ci,
    code,
)

pytestmark = [pytest.mark.spec("CONTROL 1.4"), WORKLOADS]


def test_a_workload_opens_sessions_by_its_token(unit: Harness) -> None:
    """The same token opens several, as the agent that the policy says, each bound to the key it was opened with."""
    unit.enrol(DEPLOY)
    text = ci()
    holders = []
    for _ in range(2):
        holder, answer = ask(unit, {"workload_token": text})
        assert answer["session"]["agent"] == DEPLOY
        assert answer["session"]["opened_with"] == {"issuer": CI, "sub": MAIN}
        assert answer["session"]["subject"] is None
        holders.append(holder)
    assert holders[0].call("POST", "/v1/tasks", LOOKUP).status_code == 201
    thief = Holder(unit, holders[1].key, holders[0].token)
    assert thief.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "bad_proof"
    [opened, _] = [event for event in unit.events() if event["kind"] == "session.opened"]
    assert opened["opened_with"] == {"issuer": CI, "sub": MAIN}
    assert text not in str(unit.events())


def test_a_svid_opens_a_session(unit: Harness) -> None:
    """SPIFFE: no issuer, a list of audiences, the path in the trust domain."""
    unit.enrol(AGENT)
    svid = token(now_ms(), iss=None, sub=DOMAIN + "/ns/prod/sa/triage", aud=[MINT, "https://x.example"])
    assert ask(unit, {"workload_token": svid})[1]["session"]["agent"] == AGENT


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "repo:acme/shop:ref:refs/heads/other"},
        {"sub": "repo:evil/shop:ref:refs/heads/main"},
        {"sub": "repo:acme/shop:pull_request"},
        {"repository_owner": "evil"},
        {"repository_owner": None},
        {"iss": IDP},
        {"aud": "https://github.com/acme"},
        {"exp": 1},
    ],
)
def test_another_workload_is_no_agent(unit: Harness, changes: dict[str, Any]) -> None:
    """Another branch, repository, owner, issuer, audience or time is no agent of this realm."""
    unit.enrol(DEPLOY)
    assert code(unit, {"workload_token": ci(**changes)}) == "bad_workload_token"


def test_a_workload_is_an_agent_that_is_enrolled_and_active(unit: Harness) -> None:
    """The policy alone enrols no agent; a deactivated agent stays out, by any credential."""
    assert code(unit, {"workload_token": ci()}) == "bad_workload_token"
    unit.enrol(DEPLOY)
    assert code(unit, {"workload_token": ci()}) == "ok"
    unit.epochs.freeze(f"agent:{DEPLOY}")
    assert code(unit, {"workload_token": ci()}) == "frozen"


def test_a_token_that_fits_two_agents_is_none_of_them(unit: Harness) -> None:
    """The request does not name which one is meant."""
    unit.enrol(DEPLOY)
    more = f'[[workload]]\nissuer = "ci"\nclaims = {{ sub = "{MAIN}" }}\nagent = "acme/ci/other"\n\n[audience.orders]'
    unit.realm.policy_path.write_text(POLICY.replace("[audience.orders]", more))
    unit.mint.reload_policy()
    assert code(unit, {"workload_token": ci()}) == "bad_workload_token"


def test_one_thing_is_shown(unit: Harness) -> None:
    """An assertion or a workload's token, and not both; a subject's token with its type."""
    desk = Desk(unit, DEPLOY)
    assert code(unit, {}) == "malformed_request"
    assert desk.code(workload_token=ci()) == "malformed_request"
    assert desk.code(subject_token="x.y.z") == "malformed_request"
    assert desk.code(subject_token_type=ID_TOKEN) == "malformed_request"
    assert desk.code(subject_token="x.y.z", subject_token_type="id_token") == "malformed_request"
    assert desk.code(subject_token=ci(), subject_token_type=ACCESS_TOKEN) == "bad_subject_token"


def test_an_issuer_whose_keys_are_gone_admits_no_caller(unit: Harness) -> None:
    """A missing key set is a fault that may pass, and no grant."""
    unit.enrol(DEPLOY)
    (unit.realm.folder / "keys.json").unlink()
    answer = Holder(unit, SigningKey.generate(), None).call("POST", "/v1/sessions", {"workload_token": ci()})
    assert (answer.status_code, answer.json()["code"]) == (503, "issuer_unavailable")
    assert answer.headers["retry-after"]


def test_no_token_is_shown(unit: Harness) -> None:
    """Neither answers, records nor ``repr`` hold a workload's or a subject's token."""
    unit.enrol(AGENT)
    svid = token(now_ms(), iss=None, sub=DOMAIN + "/ns/prod/sa/triage")
    body = {"workload_token": svid, **behalf(groups=["x"])}
    _, answer = ask(unit, body)
    shown = str(answer["session"]) + str(unit.events()) + repr(unit.mint)
    for secret in (svid, body["subject_token"]):
        assert not any(part in shown for part in secret.split("."))
