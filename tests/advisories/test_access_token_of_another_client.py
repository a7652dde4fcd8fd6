# SPDX-License-Identifier: Apache-2.0
"""A client could make an access token of its own from the text of another client's, without the key of that one.

By token exchange, as another client of the same agent, or of one to which the policy lets the task be delegated.  The
new one was bound to the attacker's own key, named the attacker nowhere, and could be for each service of the task.
"""

import json
from typing import Any

import pytest

from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from tests.dpop import Prover
from tests.mint.harness import AGENT, ISSUER
from tests.mint.login import Flow, flow, idp
from tests.mint.oauth import RESOURCE, Client
from tests.mint.test_handle_exchange import PARAMS, PAY, POLICY, World, exchange, exchanged, world

__all__ = ["flow", "idp", "world"]
pytestmark = [pytest.mark.spec("CONTROL 5.7", "CONTROL 5.11"), pytest.mark.sqlite]
URL = f"{ISSUER}/oauth/token"


def twin_of(world: World) -> Client:
    """Another client of the agent that has the task."""
    return Client(world.harness, scopes=["refund", "own"])


def bound(world: World, prover: Prover) -> str:
    """Return an access token that is bound to a key."""
    form = {"grant_type": "client_credentials", "scope": "refund", "resource": RESOURCE, "client_id": world.lead.id}
    form |= {"client_secret": world.lead.secret, "authorization_details": PARAMS}
    headers = {"DPoP": prover.proof("POST", URL)}
    return str(world.harness.client.post("/oauth/token", data=form, headers=headers).json()["access_token"])


def tried(world: World, client: Client, token: str, prover: Prover | None, **form: str) -> Any:
    """Exchange an access token, with a proof by a key of the client."""
    form |= {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN_TYPE}
    form |= {"client_id": client.id, "client_secret": client.secret}
    headers = {} if prover is None else {"DPoP": prover.proof("POST", URL)}
    return world.harness.client.post("/oauth/token", data=form, headers=headers)


@pytest.mark.parametrize("who", ["twin", "worker"])
def test_the_text_of_a_bound_token_is_of_no_use_to_another_client(world: World, who: str) -> None:
    """Its own key is not the one; nor is a proof by the right key that is old, of another token, or used before."""
    thief = twin_of(world) if who == "twin" else world.worker
    owner, own = Prover(), Prover("EdDSA")
    token, other = bound(world, owner), bound(world, owner)
    used = owner.proof("POST", URL, token)
    assert tried(world, thief, token, own, subject_token_proof=used).status_code == 200
    proofs = {
        "none": None,
        "its own": own.proof("POST", URL, token),
        "used": used,
        "of a request for a token": owner.proof("POST", URL),
        "of another access token": owner.proof("POST", URL, other),
        "of a call": owner.proof("POST", RESOURCE, token),
        "old": owner.proof("POST", URL, token, iat=1),
        "no proof": token,
    }
    for name, proof in proofs.items():
        form = {} if proof is None else {"subject_token_proof": proof}
        assert tried(world, thief, token, own, **form).json()["error"] == "invalid_dpop_proof", name
    # The right proof and no key of its own: a bearer token would come of it.
    last = owner.proof("POST", URL, token)
    assert tried(world, thief, token, None, subject_token_proof=last).json()["error"] == "invalid_dpop_proof"
    assert tried(world, world.lead, token, own).json()["error"] == "invalid_dpop_proof"


@pytest.mark.parametrize("who", ["twin", "worker"])
def test_another_client_gets_a_hop_of_the_same_service(world: World, who: str) -> None:
    """Also without keys: chain and record name it, and no token of another service comes of the text."""
    other = twin_of(world) if who == "twin" else world.worker
    agent = AGENT if who == "twin" else "acme/support/worker"
    first = world.token()
    for resource in (PAY, RESOURCE + "/other", "http://127.0.0.1:9001"):
        assert exchange(other, first, resource=resource).json()["error"] == "invalid_target"
    second = exchanged(other, first)
    claims = world.claims(second)
    assert claims.aud == RESOURCE
    assert claims.act is not None
    assert (claims.act.sub, claims.act.act) == (f"agent:{agent}", None)
    assert world.decide(second, "orders.get", {"order_id": "o-1"}).facts.named == (agent,)
    # Nor by its own token: it has one service alone.
    assert exchange(other, second, resource=PAY).json()["error"] == "invalid_target"


def test_the_policy_decides_about_another_client_of_one_agent(world: World) -> None:
    """``depth`` and ``delegate_to`` are asked, as for another agent; the first client needs neither."""
    twin, own = twin_of(world), world.token("own")
    assert exchange(twin, own).json()["error"] == "unauthorized_client"
    exchanged(world.lead, own)
    first = world.token()
    last = exchanged(twin, exchanged(world.worker, first))
    assert exchange(world.deeper, last).status_code == 400
    world.harness.use(POLICY.replace('["acme/support/*"]', '["acme/support/worker"]'))
    first = world.token()
    assert exchange(twin, first).status_code == 400
    exchanged(world.worker, first)


def test_a_consented_token_is_its_clients(flow: Flow) -> None:
    """A person allowed the program of the page: another one of the same agent gets nothing of it."""
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace("[task.lookup]", "[task.lookup]\ndepth = 0"))
    twin = Client(flow.harness, scopes=["lookup"])
    page = flow.page()
    first = flow.redeem(flow.answer_of(flow.answer(page, order_id="o-1"))["code"]).json()["access_token"]
    answer = exchange(twin, first)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client"), json.dumps(answer.json())
    exchanged(flow.client, first)
