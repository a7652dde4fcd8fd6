# SPDX-License-Identifier: Apache-2.0
"""Sessions opened by workloads' tokens and on somebody's behalf: whose right counts, and how each is ended."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent.bundle import Bundle
from arx_caps.jose import SigningKey
from arx_verifier.epochs import UnsafeLocalEpochs
from arx_verifier.macaroon import Identifier, Macaroon
from arx_verifier.scopes import subject_scope
from tests.mint.issuer import IDP, MINT, jwks, token
from tests.mint.world import AGENT, Holder, World, local_world, now_ms

CI = "https://ci.example"
DOMAIN = "spiffe://acme.example"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
DEPLOY = "acme/ci/deploy"
DESK = "acme/desk/triage"

POLICY = f"""\
[issuer.corp]
url = "{IDP}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[issuer.ci]
url = "{CI}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[issuer.mesh]
url = "{DOMAIN}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[[workload]]
issuer = "ci"
claims = {{ sub = "repo:acme/*:ref:refs/heads/main", repository_owner = "acme" }}
agent = "{DEPLOY}"

[[workload]]
issuer = "mesh"
claims = {{ sub = "{DOMAIN}/ns/prod/sa/triage" }}
agent = "{AGENT}"

[audience.orders]
origins = ["http://127.0.0.1:9001"]

[session.ci]
agents = ["acme/ci/*"]
ttl = "1h"

[session.support]
agents = ["acme/support/*"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]

[session.desk]
agents = ["acme/desk/*"]
ttl = "1h"
subject = "required"
subjects = [ {{ issuer = "corp", claims = {{ groups = ["support", "leads"] }} }} ]
subject_outlives = "10m"

[task.own]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.list", args = {{ customer = "$subject" }} }} ]

[task.refund]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp", claims = {{ groups = "leads" }} }} ]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.refund", args = {{ order_id = "$order_id" }} }} ]

[task.lookup]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }} ]
"""
LOOKUP = {"template": "lookup", "params": {"order_id": "o-1"}}
MAIN = "repo:acme/shop:ref:refs/heads/main"


@pytest.fixture
def world(tmp_path: Path, database: str | None) -> Iterator[World]:
    made, _ = local_world(tmp_path / "realm", database=database)
    (made.realm.folder / "keys.json").write_bytes(jwks("ec"))
    made.realm.policy_path.write_text(POLICY)
    made.mint.reload_policy()
    yield made
    made.mint.close()


@pytest.fixture
def epochs(world: World) -> UnsafeLocalEpochs:
    view = world.mint.epochs
    assert isinstance(view, UnsafeLocalEpochs)
    return view


def ci(**changes: Any) -> str:
    return token(now_ms(), **({"iss": CI, "sub": MAIN, "repository_owner": "acme"} | changes))


def ask(world: World, body: dict[str, Any], key: SigningKey | None = None) -> tuple[Holder, Any]:
    """Ask for a session, with a key made for it."""
    key = key or SigningKey.generate()
    answer = Holder(world, key, None).call("POST", "/v1/sessions", body)
    told = answer.json()
    return Holder(world, key, told.get("token")), told


def code(world: World, body: dict[str, Any]) -> str:
    return str(ask(world, body)[1].get("code", "ok"))


def behalf(**changes: Any) -> dict[str, str]:
    """A subject's ID token, as the body says it."""
    return {"subject_token": token(now_ms(), **changes), "subject_token_type": ID_TOKEN}


class Desk:
    """An enrolled agent that asks for sessions by its key."""

    def __init__(self, world: World, path: str) -> None:
        self.world, self.key = world, world.enrol(path)

    def ask(self, **body: Any) -> tuple[Holder, Any]:
        key = SigningKey.generate()
        return ask(self.world, {"assertion": self.world.assertion(self.key, key), **body}, key)

    def code(self, **body: Any) -> str:
        return str(self.ask(**body)[1].get("code", "ok"))


def start(holder: Holder, template: str, **params: Any) -> Any:
    return holder.call("POST", "/v1/tasks", {"template": template, "params": params}).json()


def identifier_of(text: str) -> Identifier:
    found = Macaroon.parse(text).unverified_identifier
    assert isinstance(found, Identifier)
    return found


# Workloads.


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
    world.mint.epochs.ban(f"agent:{DEPLOY}")  # type: ignore[attr-defined]
    assert code(world, {"workload_token": ci()}) == "banned"


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


# On behalf of.


def test_agent_and_subject_stay_apart(world: World) -> None:
    """Token, session and record name the agent as the agent and the subject as the subject."""
    holder, told = Desk(world, AGENT).ask(**behalf(email="ann@acme.example"))
    session = told["session"]
    assert session["agent"] == AGENT
    assert session["subject"] == {"issuer": IDP, "subject": "ann", "scope": subject_scope(IDP, "ann")}
    for text in (holder.token, Bundle.parse(start(holder, "own")["bundle"]).tokens["orders"].encode()):
        assert text is not None
        found = identifier_of(text)
        assert (found.agent, found.subject) == (AGENT, (IDP, "ann"))
    [opened] = [event for event in world.events() if event["kind"] == "session.opened"]
    assert (opened["by"], opened["subject"]) == (f"agent:{AGENT}", [IDP, "ann"])
    row = world.mint.state.session(session["id"])
    assert row is not None
    assert "email" not in row["subject_claims"], "what the policy does not ask for is not kept"


def test_the_subject_is_a_value_of_the_rules(world: World) -> None:
    """``$subject`` is whom the issuer named, whatever the agent says; without a subject there is no such task."""
    desk = Desk(world, AGENT)
    holder, _ = desk.ask(**behalf(sub="ann"))
    [caveat] = Bundle.parse(start(holder, "own")["bundle"]).describe()["audiences"]["orders"]["rules"]
    assert caveat[0]["args"] == {"customer": "ann"}
    assert start(holder, "own", subject="bob")["code"] == "bad_parameters"
    alone, _ = desk.ask()
    assert start(alone, "own")["code"] == "subject_required"
    assert alone.call("POST", "/v1/tasks", LOOKUP).status_code == 201


def test_the_right_that_counts_is_both(world: World) -> None:
    """A task for leads is no task for an agent that acts for somebody else, and no task for it alone."""
    desk = Desk(world, AGENT)
    for groups, wanted in ((["leads"], None), (["support"], "subject_not_allowed"), (None, "subject_not_allowed")):
        holder, _ = desk.ask(**behalf(groups=groups))
        assert start(holder, "refund", order_id="1").get("code") == wanted


def test_a_policy_demands_a_subject(world: World) -> None:
    """Required: none, one of another group, one of another issuer open nothing; other terms are no way around."""
    desk = Desk(world, DESK)
    assert desk.code() == "subject_required"
    assert desk.code(**behalf(groups=["other"])) == "subject_not_allowed"
    assert desk.code(**behalf(iss=CI, groups=["support"])) == "subject_not_allowed"
    assert desk.code(**behalf(groups=["support"])) == "ok"
    wide = '[session.all]\nagents = ["acme/**"]\nttl = "5m"\n\n[task.own]'
    world.realm.policy_path.write_text(POLICY.replace("[task.own]", wide))
    world.mint.reload_policy()
    assert desk.code() == "subject_required"


def test_a_policy_that_says_nothing_of_subjects_takes_none(world: World) -> None:
    """An agent of the build acts for nobody, whoever lends it a token."""
    world.enrol(DEPLOY)
    assert code(world, {"workload_token": ci(), **behalf()}) == "subject_not_allowed"


def test_a_session_outlives_its_subjects_token_by_what_the_policy_says(world: World) -> None:
    """Not at all, or by the ten minutes of these terms; a token that is over proves nobody."""
    now = now_ms()
    for path, outlives in ((AGENT, 0), (DESK, 600_000)):
        desk = Desk(world, path)
        ends = desk.ask(**behalf(groups=["leads"]))[1]["session"]["expires_at"]
        assert abs(ends - (now + 300_000 + outlives)) < 60_000
        assert ends < now + 3_500_000
        assert desk.code(**behalf(exp=now // 1000 - 1)) == "bad_subject_token"
    access = {"subject_token": token(now, header={"typ": "at+jwt"}), "subject_token_type": ACCESS_TOKEN}
    assert Desk(world, "acme/support/other").code(**access) == "ok"


def test_a_new_policy_asks_for_what_was_proven(world: World) -> None:
    """A claim that nobody asked for when the session was opened is not there later: that refuses."""
    holder, _ = Desk(world, AGENT).ask(**behalf(groups=["leads"], level=7))
    assert start(holder, "refund", order_id="1").get("code") is None
    world.realm.policy_path.write_text(POLICY.replace('{ groups = "leads" }', '{ groups = "leads", level = 7 }'))
    world.mint.reload_policy()
    assert start(holder, "refund", order_id="1")["code"] == "subject_not_allowed"
    # Another issuer under the name that the rules use is not the one that proved the subject.
    moved = POLICY.replace(f'url = "{IDP}"', 'url = "https://new.example"')
    world.realm.policy_path.write_text(moved)
    world.mint.reload_policy()
    assert start(holder, "own")["code"] == "subject_not_allowed"


def test_a_killed_subject_is_out(world: World, epochs: UnsafeLocalEpochs) -> None:
    """A kill ends their sessions and tasks, others' go on; while they are banned no new one opens."""
    desk = Desk(world, AGENT)
    ann, session = desk.ask(**behalf(sub="ann"))
    bob, _ = desk.ask(**behalf(sub="bob"))
    task = start(ann, "own")["task"]["id"]
    scope = subject_scope(IDP, "ann")
    epochs.kill(scope)
    epochs.ban(scope)
    assert start(ann, "own")["code"] in ("revoked", "banned")
    assert start(bob, "own").get("code") is None
    assert desk.code(**behalf(sub="ann")) == "banned"
    shown = world.operator().call("GET", f"/v1/sessions/{session['session']['id']}").json()
    assert shown["session"]["state"] != "open"
    assert [each["state"] for each in shown["tasks"] if each["id"] == task] == [shown["session"]["state"]]
    epochs.lift(scope)
    assert start(ann, "own")["code"] == "revoked"
    assert desk.code(**behalf(sub="ann")) == "ok"


def test_no_token_is_shown(world: World) -> None:
    """Neither answers, records nor ``repr`` hold a workload's or a subject's token."""
    world.enrol(AGENT)
    svid = token(now_ms(), iss=None, sub=DOMAIN + "/ns/prod/sa/triage")
    body = {"workload_token": svid, **behalf(groups=["x"])}
    _, told = ask(world, body)
    shown = str(told["session"]) + str(world.events()) + repr(world.mint)
    for secret in (svid, body["subject_token"]):
        assert not any(part in shown for part in secret.split("."))
