# SPDX-License-Identifier: Apache-2.0
"""A service asks the policy about a call without a credential: what needs a proof is refused, and what was killed.

``tests/gateway/test_authzen_asserted.py`` asks through a running gateway.
"""

from typing import Any

import pytest

from tests.mint.harness import AGENT, Harness
from tests.mint.test_services import invited, join

pytestmark = [pytest.mark.spec("CONTROL 5.14"), pytest.mark.sqlite]
POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[audience.payments]
origins = ["http://127.0.0.1:9002"]
[issuer.corp]
url = "https://idp.example"
jwks = "corp.jwks.json"
audience = ["arx"]
algorithms = ["ES256"]
[session.all]
agents = ["acme/support/*"]
ttl = "8h"
[task.free]
agents = ["acme/**"]
ttl = "10m"
require = []
audience = ["orders", "payments"]
allow = [
  { tool = "orders.get", args = { id = { max_length = 3 } } },
  { tool = "orders.any", any = true },
  { tool = "payments.get", args = {} },
]
[task.pinned]
agents = ["acme/**"]
params = { desk = { one_of = ["a", "b"] } }
ttl = "10m"
require = []
audience = ["orders"]
allow = [ { tool = "orders.list", args = { desk = "$desk" } }, { tool = "orders.count", args = {} } ]
[task.near]
agents = ["acme/**"]
ttl = "10m"
require = []
net = ["10.0.0.0/8"]
audience = ["orders"]
allow = [ { tool = "orders.near", args = {} } ]
[task.called]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.called", args = {} } ]
[task.bound]
agents = ["acme/**"]
ttl = "10m"
require = []
bearer = "dpop"
audience = ["orders"]
allow = [ { tool = "orders.bound", args = {} } ]
[task.newest]
agents = ["acme/**"]
ttl = "10m"
require = []
bearer = "allow"
fresh = "0ms"
audience = ["orders"]
allow = [ { tool = "orders.newest", args = {} } ]
[task.approved]
agents = ["acme/**"]
ttl = "10m"
require = []
bearer = "allow"
audience = ["orders"]
allow = [ { tool = "orders.refund", args = {} } ]
approvals = [ { tools = ["orders.refund"] } ]
[task.paid]
agents = ["acme/**"]
ttl = "10m"
require = []
budget = { calls = 2 }
audience = ["orders"]
allow = [ { tool = "orders.paid", args = {} } ]
[task.held]
agents = ["acme/**"]
ttl = "10m"
require = []
binding = "bound"
audience = ["orders"]
allow = [ { tool = "orders.held", args = {} } ]
[task.personal]
agents = ["acme/**"]
ttl = "10m"
require = []
subjects = [ { issuer = "corp" } ]
audience = ["orders"]
allow = [ { tool = "orders.mine", args = {} } ]
[task.other]
agents = ["acme/desk"]
ttl = "10m"
require = []
audience = ["orders"]
allow = [ { tool = "orders.other", args = {} } ]
"""

Object = dict[str, Any]


class Asking:
    """A service that asks about an agent."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        (harness.realm.policy_path.parent / "corp.jwks.json").write_text('{"keys": []}')
        harness.use(POLICY)
        harness.enrol()
        self.service, _ = join(harness, invited(harness))

    def ask(self, tool: str, agent: str = AGENT, **more: Any) -> Object:
        """The mint's answer about a call."""
        answer = self.service.call("POST", "/v1/policy/asserted", {"agent": agent, "tool": tool, "args": {}} | more)
        assert answer.status_code == 200, answer.text
        shown: Object = answer.json()
        assert shown["policy"] == self.harness.mint.policy.digest
        assert shown["allowed"] is (shown["code"] == "ok")
        return shown

    def code(self, tool: str, agent: str = AGENT, **more: Any) -> str:
        return str(self.ask(tool, agent, **more)["code"])


@pytest.fixture
def asking(unit: Harness) -> Asking:
    return Asking(unit)


def test_what_a_task_allows_without_a_proof_is_allowed(asking: Asking) -> None:
    """By its rules, at the service that asks; nothing is started for it."""
    assert asking.code("orders.get", args={"id": "o-1"}) == "ok"
    refused = asking.ask("orders.get", args={"id": "o-10"})
    assert refused["code"] == "argument_not_allowed"
    assert (refused["failures"][0]["rule"], refused["failures"][0]["came"]) == ("id max_length", '"o-10"')
    assert asking.code("orders.get", args={"id": "o-1", "more": 1}) == "argument_not_allowed"
    assert asking.code("payments.get") == "tool_not_allowed"  # another service's
    assert asking.code("orders.other") == "tool_not_allowed"  # another agent's
    kinds = {event["kind"] for event in asking.harness.events()}
    assert not kinds & {"session.opened", "task.started"}


def test_a_parameter_is_the_argument_that_a_rule_pins_to_it(asking: Asking) -> None:
    """One that the call does not bring is missing."""
    assert asking.code("orders.list", args={"desk": "a"}) == "ok"
    for args in ({"desk": "c"}, {}, {"desk": "a", "more": 1}, {"desk": ["a"]}):
        assert asking.code("orders.list", args=args) == "argument_not_allowed", args
    assert asking.code("orders.count") == "argument_not_allowed"


def test_what_the_service_does_not_see_is_not_guessed(asking: Asking) -> None:
    """As for a call with a body that a verifier does not see."""
    assert asking.code("orders.any", unseen=True, args={"a": 1}) == "ok"
    assert asking.code("orders.get", unseen=True, args={"id": "o-1"}) == "request_unseen"


def test_what_needs_a_proof_is_refused(asking: Asking) -> None:
    """A signed call, a bound key, the newest view of kills, an approval, a person; a budget, which nothing draws on."""
    needs = ["called", "bound", "held", "newest", "mine"]
    assert {asking.code(f"orders.{tool}") for tool in needs} == {"proof_missing"}
    assert asking.code("orders.refund") == "missing_discharge"
    assert asking.code("orders.paid") == "budget_unsupported"


def test_a_rule_about_networks_is_about_the_caller_of_the_service(asking: Asking) -> None:
    """Without an address it is refused."""
    assert asking.code("orders.near", peer="10.1.2.3") == "ok"
    assert asking.code("orders.near", peer="192.0.2.1") == asking.code("orders.near") == "network_not_allowed"


def test_an_agent_must_be_enrolled_and_have_sessions(asking: Asking) -> None:
    """The policy names patterns, which unknown names match too."""
    assert asking.code("orders.any", "acme/support/unknown") == "frozen"
    asking.harness.enrol("acme/desk")
    assert asking.code("orders.other", "acme/desk") == "tool_not_allowed"  # no [session] is for it


@pytest.mark.parametrize("target", [f"agent:{AGENT}", "agent:acme/support", "realm", "policy", "key"])
@pytest.mark.parametrize("act", ["kill", "freeze"])
def test_a_kill_or_a_freeze_refuses(asking: Asking, act: str, target: str) -> None:
    """A new task would have begun after the kill: it must not hide it."""
    mint = asking.harness.mint
    names = {"policy": f"policy:{mint.policy.digest}", "key": f"key:{mint.key_schedule.audience_key('orders')[0]}"}
    assert asking.code("orders.any") == "ok"
    getattr(asking.harness.epochs, act)(names.get(target, target))
    assert asking.code("orders.any") == {"kill": "revoked", "freeze": "frozen"}[act]


def test_services_alone_may_ask(asking: Asking) -> None:
    """And not without end."""
    body = {"agent": AGENT, "tool": "orders.any", "args": {}}
    refused = asking.harness.operator().call("POST", "/v1/policy/asserted", body)
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_caller")
    asking.harness.mint.limits._agents.take("service:orders", 10**6)  # in the place of as many questions
    assert asking.service.call("POST", "/v1/policy/asserted", body).json()["code"] == "rate_limited"
