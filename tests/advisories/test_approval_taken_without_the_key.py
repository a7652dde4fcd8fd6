# SPDX-License-Identifier: Apache-2.0
"""An approved call of a bound access token could be made with a bearer token of the same client, without the key.

The attacker has read that one, for another task perhaps, and the state or task id that the gateway sealed: the gateway
took both for the same caller, and the mint gave the approval's discharge with the task's token.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from arx_caps.service.access_tokens import take_approval
from arx_verifier.errors import GrantError
from tests.dpop import Prover
from tests.gateway.test_approvals import POLICY as TWO_TASKS
from tests.gateway.test_approvals import TASKS, ApprovalWorld, Caller, started
from tests.mint.harness import ISSUER, Harness
from tests.mint.login import Flow, claims_of, flow, idp
from tests.mint.oauth import RESOURCE, Client
from tests.mint.test_dpop import redeemed
from tests.mint.test_handle_approvals import POLICY, Service

__all__ = ["flow", "idp"]
pytestmark = pytest.mark.spec("CONTROL 5.11", "CONTROL 5.12")
# As ``refund``, and for bearer tokens too.
MORE = """[task.loose]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
bearer = "allow"
allow = [ { tool = "orders.refund", args = { amount = { max = 20 } } } ]
approvals = [{ tools = ["orders.refund"] }]
"""


@pytest.mark.sqlite
def test_the_mint_gives_it_for_a_bound_token_alone(unit: Harness) -> None:
    """The client's next bound token takes it, also by another key; a bearer token asks for an approval of its own."""
    service = Service(unit)
    unit.use(POLICY.format(bearer="") + MORE)
    client = Client(unit, scopes=["refund", "loose"])

    def token(scope: str, prover: Prover | None) -> str:
        form = {"grant_type": "client_credentials", "scope": scope, "resource": RESOURCE, "client_id": client.id}
        headers = {} if prover is None else {"DPoP": prover.proof("POST", f"{ISSUER}/oauth/token")}
        answer = unit.client.post("/oauth/token", data=form | {"client_secret": client.secret}, headers=headers)
        return str(answer.json()["access_token"])

    owner, bearer = token("refund", Prover()), token("loose", None)
    asked = service.ask(owner)
    service.answer(asked.id)
    for withdraw in (False, True):
        with pytest.raises(GrantError) as refused:
            take_approval(service.mint, service.key, bearer, asked.id, withdraw=withdraw)
        assert refused.value.code == "not_found"
    own = service.ask(bearer)
    assert (own.id != asked.id, own.state) == (True, "waiting")
    # The other way round nothing is gained: who has a bound token has proven a key of the client.
    service.answer(own.id)
    assert take_approval(service.mint, service.key, token("loose", Prover()), own.id).discharge is not None
    assert take_approval(service.mint, service.key, token("refund", Prover()), asked.id).discharge is not None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApprovalWorld]:
    """One realm with its gateway."""
    yield from started(ApprovalWorld(tmp_path_factory.mktemp("keyless")), TWO_TASKS, proofs=True)


@pytest.mark.slow
@pytest.mark.servers
def test_a_gateway_takes_its_states_from_callers_with_a_key(world: ApprovalWorld) -> None:
    """A state and a task of MCP that a bound token got are none of a bearer token of the same client and session."""
    owner = Caller(world, "proven", prover=Prover())
    thief = Caller(world, "proven", prover=Prover())
    thief.client, thief.prover = owner.client, None
    thief.renew()
    state = owner.drop()["requestState"]
    params: dict[str, Any] = {"name": "drop", "arguments": {"n": 6}}
    task = owner.send("tools/call", params, capabilities=TASKS).json()["result"]["taskId"]
    for waiting in world.arx("approval", "list")["approvals"]:
        world.approve(waiting["id"])
    assert thief.drop(requestState=state)["error"]["code"] == -32602
    for method in ("tasks/get", "tasks/cancel"):
        answer = thief.send(method, {"taskId": task}, capabilities=TASKS)
        assert answer.json()["error"]["code"] == -32602, method
    assert thief.drop()["resultType"] == "input_required"
    # The next access token of the client, by another key: it goes on.
    assert owner.drop(requestState=state)["resultType"] == "complete"
    assert owner.send("tasks/get", {"taskId": task}, capabilities=TASKS).json()["result"]["status"] != "failed"


@pytest.mark.servers
def test_a_session_of_a_bound_token_is_none_of_a_bearer_token(world: ApprovalWorld) -> None:
    """Its messages would reach the attacker: MCP sessions differ by their ARx session."""
    owner = Caller(world, "proven", prover=Prover())
    session = owner.session()
    assert owner.old("tools/list", {}, session).status_code == 200
    owner.prover = None
    owner.renew()
    assert owner.old("tools/list", {}, session).status_code == 404


@pytest.mark.slow
@pytest.mark.sqlite
def test_a_refresh_makes_no_bearer_token_of_a_bound_one(flow: Flow) -> None:
    """Also for a client with a secret, which may change its key; nothing is used up."""
    first = redeemed(flow, flow.code(), Prover()).json()
    assert redeemed(flow, first["refresh_token"], None).json()["error"] == "invalid_dpop_proof"
    second = redeemed(flow, first["refresh_token"], Prover()).json()
    assert second["token_type"] == "DPoP"
    assert claims_of(flow.harness, second["access_token"]).sid == claims_of(flow.harness, first["access_token"]).sid
    bearer = flow.token()
    assert claims_of(flow.harness, bearer["access_token"]).sid != claims_of(flow.harness, first["access_token"]).sid
