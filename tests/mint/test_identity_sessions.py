# SPDX-License-Identifier: Apache-2.0
"""Sessions opened by workloads' tokens: which agent a workload is, and what is shown."""

from typing import Any

import pytest

from arx_caps.jose import SigningKey
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
    Desk,
    ask,
    behalf,
    ci,
    code,
    world,
)
from tests.mint.world import AGENT, Holder, World, now_ms

pytestmark = pytest.mark.spec("CONTROL 1.4")

__all__ = ["world"]  # fixtures


def test_a_workload_opens_sessions_by_its_token(world: World) -> None:
    """The same token opens several, as the agent that the policy says, each bound to the key it was opened with."""
    world.enrol(DEPLOY)
    text = ci()
    holders = []
    for _ in range(2):
        holder, told = ask(world, {"workload_token": text})
        assert told["session"]["agent"] == DEPLOY
        assert told["session"]["opened_with"] == {"issuer": CI, "sub": MAIN}
        assert told["session"]["subject"] is None
        holders.append(holder)
    assert holders[0].call("POST", "/v1/tasks", LOOKUP).status_code == 201
    thief = Holder(world, holders[1].key, holders[0].token)
    assert thief.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "bad_proof"
    [opened, _] = [event for event in world.events() if event["kind"] == "session.opened"]
    assert opened["opened_with"] == {"issuer": CI, "sub": MAIN}
    assert text not in str(world.events())


def test_a_svid_opens_a_session(world: World) -> None:
    """SPIFFE: no issuer, a list of audiences, the path in the trust domain."""
    world.enrol(AGENT)
    svid = token(now_ms(), iss=None, sub=DOMAIN + "/ns/prod/sa/triage", aud=[MINT, "https://x.example"])
    assert ask(world, {"workload_token": svid})[1]["session"]["agent"] == AGENT


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
def test_another_workload_is_nobody(world: World, changes: dict[str, Any]) -> None:
    """Another branch, repository, owner, issuer, audience or time is no agent of this realm."""
    world.enrol(DEPLOY)
    assert code(world, {"workload_token": ci(**changes)}) == "bad_workload_token"


def test_a_workload_is_an_agent_that_is_enrolled_and_active(world: World) -> None:
    """The policy's word alone enrols nobody; a deactivated agent stays out, by whatever it is known."""
    assert code(world, {"workload_token": ci()}) == "bad_workload_token"
    world.enrol(DEPLOY)
    assert code(world, {"workload_token": ci()}) == "ok"
    world.mint.epochs.freeze(f"agent:{DEPLOY}")  # type: ignore[attr-defined]
    assert code(world, {"workload_token": ci()}) == "frozen"


def test_a_token_that_fits_two_agents_is_none_of_them(world: World) -> None:
    """Nobody says which one is meant."""
    world.enrol(DEPLOY)
    more = f'[[workload]]\nissuer = "ci"\nclaims = {{ sub = "{MAIN}" }}\nagent = "acme/ci/other"\n\n[audience.orders]'
    world.realm.policy_path.write_text(POLICY.replace("[audience.orders]", more))
    world.mint.reload_policy()
    assert code(world, {"workload_token": ci()}) == "bad_workload_token"


def test_one_thing_is_shown(world: World) -> None:
    """An assertion or a workload's token, and not both; a subject's token with its type."""
    desk = Desk(world, DEPLOY)
    assert code(world, {}) == "malformed_request"
    assert desk.code(workload_token=ci()) == "malformed_request"
    assert desk.code(subject_token="x.y.z") == "malformed_request"
    assert desk.code(subject_token_type=ID_TOKEN) == "malformed_request"
    assert desk.code(subject_token="x.y.z", subject_token_type="id_token") == "malformed_request"
    assert desk.code(subject_token=ci(), subject_token_type=ACCESS_TOKEN) == "bad_subject_token"


def test_an_issuer_whose_keys_are_gone_lets_nobody_in(world: World) -> None:
    """A missing key set is a fault that may pass, and no grant."""
    world.enrol(DEPLOY)
    (world.realm.folder / "keys.json").unlink()
    answer = Holder(world, SigningKey.generate(), None).call("POST", "/v1/sessions", {"workload_token": ci()})
    assert (answer.status_code, answer.json()["code"]) == (503, "issuer_unavailable")
    assert answer.headers["retry-after"]


def test_no_token_is_shown(world: World) -> None:
    """Neither answers, records nor ``repr`` hold a workload's or a subject's token."""
    world.enrol(AGENT)
    svid = token(now_ms(), iss=None, sub=DOMAIN + "/ns/prod/sa/triage")
    body = {"workload_token": svid, **behalf(groups=["x"])}
    _, told = ask(world, body)
    shown = str(told["session"]) + str(world.events()) + repr(world.mint)
    for secret in (svid, body["subject_token"]):
        assert not any(part in shown for part in secret.split("."))
