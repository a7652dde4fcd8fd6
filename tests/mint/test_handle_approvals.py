# SPDX-License-Identifier: Apache-2.0
"""A service asks for approvals of its OAuth clients, and takes each discharge once, for the client that asked."""

from typing import Any

import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.jose import SigningKey
from arx_caps.service.access_tokens import HandleApproval, ask_approval, open_access_token, take_approval
from arx_verifier.errors import ArxError, GrantError, TokenError
from arx_verifier.token.discharge import third_party_caveats
from tests.mint.harness import Harness
from tests.mint.oauth import RESOURCE, Client
from tests.mint.test_handles import mint_of
from tests.mint.test_services import invited, join

pytestmark = [pytest.mark.spec("CONTROL 5.12"), pytest.mark.sqlite]
POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[audience.payments]
origins = ["http://127.0.0.1:9002"]
[session.all]
agents = ["acme/**"]
ttl = "8h"
[task.refund]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders", "payments"]
{bearer}
allow = [ {{ tool = "orders.refund", args = {{ amount = {{ max = 20 }} }} }}, {{ tool = "payments.get", args = {{}} }} ]
approvals = [{{ tools = ["orders.refund"], once = false }}]
[task.free]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.refund", args = {{ amount = {{ max = 20 }} }} }} ]
"""
TOOL = "orders.refund"


class Service:
    """A service with its own key, and a client of a task that needs approvals."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        harness.enrol()
        harness.use(POLICY.format(bearer='bearer = "allow"'))
        service, _ = join(harness, invited(harness))
        self.mint: MintClient = mint_of(harness)
        self.key: SigningKey = service.key
        self.client = self.other()

    def other(self) -> Client:
        """Another client of the same agent."""
        return Client(self.harness, scopes=["refund"])

    def token(self, client: Client | None = None) -> str:
        """An access token; each is for a task of its own."""
        return (client or self.client).token(authorization_details="", resource=RESOURCE)

    def ask(self, token: str, **args: Any) -> HandleApproval:
        """Ask for an approval as a gateway does."""
        (caveat,) = third_party_caveats(open_access_token(self.mint, self.key, token).bundle.tokens["orders"])
        return ask_approval(self.mint, self.key, token, caveat.encode().decode(), TOOL, args or {"amount": 5})

    def answer(self, approval: str, outcome: str = "approve") -> None:
        """Answer as an operator."""
        body = {"approval": approval, "outcome": outcome, "why": "a test"}
        assert self.harness.operator().call("POST", "/v1/approvals", body).status_code == 200


@pytest.fixture
def service(unit: Harness) -> Service:
    """A service and a client."""
    return Service(unit)


def test_a_template_with_approvals_takes_access_tokens_where_the_policy_allows_it(service: Service) -> None:
    """The default is to take bound ones alone: a thief could use the approval with another one."""
    service.harness.use(POLICY.format(bearer=""))
    refused = service.client.ask(authorization_details="", scope="refund")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")


def test_a_discharge_is_taken_once(service: Service) -> None:
    """For one call, although the policy allows several; the answer has no secret in clear."""
    token = service.token()
    asked = service.ask(token)
    assert (asked.state, asked.tool, asked.args) == ("waiting", TOOL, {"amount": 5})
    assert service.ask(token).id == asked.id
    assert service.ask(token, amount=6).id != asked.id
    assert take_approval(service.mint, service.key, token, asked.id).discharge is None
    service.answer(asked.id)
    assert service.ask(token).state == "approved"
    found = take_approval(service.mint, service.key, token, asked.id)
    assert found.bundle is not None
    assert found.discharge is not None
    assert (found.taken, tuple(found.bundle.tokens)) == (False, ("orders",))
    shown = service.harness.operator().call("GET", f"/v1/approvals/{asked.id}").json()["approval"]
    assert shown["once"]
    again = take_approval(service.mint, service.key, token, asked.id)
    assert (again.taken, again.bundle, again.discharge) == (True, None, None)
    assert service.ask(token).id != asked.id


def test_an_approval_is_of_the_client_that_asked(service: Service) -> None:
    """Its next access token may take it; another client of the same agent may not, nor withdraw it."""
    token, other = service.token(), service.token(service.other())
    asked = service.ask(token)
    service.answer(asked.id)
    for withdraw in (False, True):
        with pytest.raises(GrantError) as refused:
            take_approval(service.mint, service.key, other, asked.id, withdraw=withdraw)
        assert refused.value.code == "not_found"
    assert service.ask(other).id != asked.id
    later = service.token()
    assert service.ask(later).id == asked.id
    assert take_approval(service.mint, service.key, later, asked.id).discharge is not None


def test_another_service_takes_none(service: Service) -> None:
    """Neither with an access token of its own, nor with this one."""
    token = service.token()
    asked = service.ask(token)
    service.answer(asked.id)
    payments, _ = join(service.harness, invited(service.harness, "payments"))
    with pytest.raises(TokenError) as refused:
        take_approval(service.mint, payments.key, token, asked.id)
    assert refused.value.code == "wrong_audience"
    own = service.client.token(authorization_details="", resource="http://127.0.0.1:9002/payments")
    with pytest.raises(GrantError) as unknown:
        take_approval(service.mint, payments.key, own, asked.id)
    assert unknown.value.code == "not_found"


@pytest.mark.parametrize(("outcome", "code"), [("deny", "approval_denied"), ("withdraw", "approval_withdrawn")])
def test_what_is_over_is_not_taken(service: Service, outcome: str, code: str) -> None:
    """A denial stands for the task's life; after a withdrawal the client may ask again."""
    token = service.token()
    asked = service.ask(token)
    if outcome == "deny":
        service.answer(asked.id, "deny")
    else:
        assert take_approval(service.mint, service.key, token, asked.id, withdraw=True).about.state == "withdrawn"
    with pytest.raises(GrantError) as refused:
        take_approval(service.mint, service.key, token, asked.id)
    assert refused.value.code == code
    assert (service.ask(token).id == asked.id) is (outcome == "deny")
    later = service.token()  # of another task, as after a login for the scope of the approval
    assert (service.ask(later).id == asked.id) is (outcome == "deny")
    row = service.harness.mint.db.approvals.find(asked.id)
    assert row is not None
    service.harness.epochs.kill(f"task:{row.task}")
    assert service.ask(later).id != asked.id


@pytest.mark.parametrize("by", ["task of the call", "agent"])
def test_a_kill_ends_an_approved_call(service: Service, by: str) -> None:
    """Also where the access token that takes it is of another task, which is alive."""
    token = service.token()
    asked = service.ask(token)
    service.answer(asked.id)
    later = service.token()
    row = service.harness.mint.db.approvals.find(asked.id)
    assert row is not None
    service.harness.epochs.kill(f"task:{row.task}" if by != "agent" else f"agent:{row.agent}")
    with pytest.raises(ArxError) as refused:
        take_approval(service.mint, service.key, later, asked.id)
    assert refused.value.code in ("session_ended", "revoked")
