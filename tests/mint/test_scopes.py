# SPDX-License-Identifier: Apache-2.0
"""Several scopes in one request, as stock OAuth clients send them: one task has the rules of several templates."""

import json

import pytest

from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import GrantError
from tests.mint.login import Flow, Issuer, claims_of, flow, idp

__all__ = ["flow", "idp"]

pytestmark = [pytest.mark.spec("CONTROL 5.3"), pytest.mark.spec("CONTROL 5.8")]

ALL = "lookup refund status openid offline_access"


def rules(flow: Flow, token: str) -> list[str]:
    """Return the tools that the task of an access token allows."""
    row = flow.harness.mint.db.oauth_handles.find(claims_of(flow.harness, token).jti)
    assert row is not None
    caveats = [json.loads(text) for text in row.recipe["caveats"]["orders"]]
    return [rule["tool"] for caveat in caveats for rule in caveat.get("allow", ())]


def test_a_person_chooses_of_the_tasks_that_a_client_asks_for(flow: Flow) -> None:
    """The page has those that the person may have, and chooses none before the person does."""
    page = flow.page(scope=ALL)
    assert 'name="task.lookup"' in page.text
    assert 'name="task.status"' in page.text
    assert "refund" not in page.text  # it is for other people
    assert "checked" not in page.text
    refused = flow.answer(page)
    assert (refused.status_code, "choose at least one task" in refused.text) == (400, True)
    answer = flow.answer(page, **{"lookup.order_id": "o-1"}, task="lookup")
    body = flow.redeem(flow.answer_of(answer)["code"]).json()
    assert body["scope"] == claims_of(flow.harness, body["access_token"]).scope == "lookup"
    assert rules(flow, body["access_token"]) == ["orders.get"]


def test_several_tasks_are_one_with_all_rules(flow: Flow) -> None:
    """The scope of the access token names both, refreshes go on with both, and what was typed stays at a mistake."""
    page = flow.page(scope=ALL)
    wrong = flow.answer(page, **{"lookup.order_id": "far too long an id"}, task="lookup status")
    assert wrong.status_code == 400
    assert wrong.text.count(" checked") == 2
    assert 'value="far too long an id"' in wrong.text
    answer = flow.answer(page, **{"lookup.order_id": "o-1"}, task="lookup status")
    body = flow.redeem(flow.answer_of(answer)["code"]).json()
    assert body["scope"] == "lookup status"
    assert rules(flow, body["access_token"]) == ["orders.get", "orders.status"]
    task = flow.harness.mint.db.tasks.find(claims_of(flow.harness, body["access_token"]).tid)
    assert task is not None
    assert task.params == {"lookup": {"order_id": "o-1"}, "status": {}}
    again = flow.refresh(body["refresh_token"], scope=ALL).json()
    assert again["scope"] == "lookup status"
    assert rules(flow, again["access_token"]) == ["orders.get", "orders.status"]
    assert flow.refresh(again["refresh_token"], scope="lookup").json()["error"] == "invalid_scope"


def test_a_client_without_a_scope_leaves_the_choice_to_the_person(flow: Flow) -> None:
    """A stock client that finds no scope asks for none."""
    page = flow.page(scope=None)
    assert page.text.count('type="checkbox"') == 2


def test_a_machine_gets_all_that_it_asks_for_or_nothing(flow: Flow) -> None:
    """The request names no task, so its parameters are by task."""
    details = json.dumps([{"type": "arx_task", "params": {"lookup": {"order_id": "o-1"}}}])
    refused = flow.client.ask(scope="lookup status", authorization_details=details)
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")  # no subject
    token = flow.client.token(scope="status other", authorization_details="")
    assert claims_of(flow.harness, token).scope == "status"


POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[session]
agents = ["acme/**"]
ttl = "1h"
[task.a]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.get", args = { id = "$id" } } ]
params = { id = { max_length = 4 } }
[task.b]
agents = ["acme/**"]
ttl = "5m"
audience = ["orders"]
allow = [ { tool = "orders.list", args = {} } ]
[task.near]
agents = ["acme/**"]
ttl = "5m"
net = ["10.0.0.0/8"]
audience = ["orders"]
allow = [ { tool = "orders.drop", args = {} } ]
[task.asks]
agents = ["acme/**"]
ttl = "5m"
audience = ["orders"]
allow = [ { tool = "orders.pay", args = {} } ]
approvals = [ { tools = ["orders.pay"] } ]
"""


def test_only_tasks_with_the_same_conditions_are_joined() -> None:
    """A task that is bound to a network, or that needs approvals, could else lend its rules to one that is not."""
    policy = Policy.parse(POLICY, "policy.toml")
    grant = policy.grant("a b", "acme/x", {"a": {"id": "o-1"}})
    assert [rule.tool for rule in grant.rules["orders"]] == ["orders.get", "orders.list"]
    assert (grant.template, grant.ttl_ms, grant.depth, grant.audiences) == ("a b", 300_000, 0, ("orders",))
    for names in ("b near", "b asks", "asks b"):
        with pytest.raises(GrantError, match="can be had alone only"):
            policy.grant(names, "acme/x", {})
    for names, params in (("b b", {}), ("a b", {"id": "o-1"}), ("a b", {"a": "o-1"})):
        with pytest.raises(GrantError, match="several tasks"):
            policy.grant(names, "acme/x", params)
    with pytest.raises(GrantError, match="id"):
        policy.grant("a b", "acme/x", {})
    with pytest.raises(GrantError, match="unknown task"):
        policy.grant("b c", "acme/x", {})


def test_a_further_consent_goes_on_in_the_session_of_the_person(flow: Flow, idp: Issuer) -> None:
    """A client keeps its session of MCP at a step-up; another person has another."""

    def consented() -> str:
        return claims_of(flow.harness, flow.token(scope="lookup")["access_token"]).sid

    first = consented()
    assert consented() == first
    idp.person["sub"] = "bob"
    other = consented()
    assert other != first
    idp.person["sub"] = "ann"
    assert consented() == first
