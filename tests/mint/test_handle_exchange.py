# SPDX-License-Identifier: Apache-2.0
"""A holder of an access token exchanges it for a narrower one, for another agent or another service."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_caps.credentials.access_token import AccessToken, read_access_token
from arx_caps.mint.oauth import handles
from arx_caps.mint.oauth.handles import bundle_of, require_handle
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from arx_verifier.constraints.rule import permits, read_rule
from arx_verifier.errors import ArxError
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.names import matches_tool
from arx_verifier.request import AccessRequest
from arx_verifier.token import wire
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms
from tests.mint.login import Flow
from tests.mint.oauth import RESOURCE, Client

pytestmark = pytest.mark.spec("CONTROL 5.7")
WORKER, DEEPER, STRANGER = "acme/support/worker", "acme/support/deeper", "acme/desk/other"
PAY = "http://127.0.0.1:9002/pay"
POLICY = """\
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[audience.payments]
origins = ["http://127.0.0.1:9002"]

[session]
agents = ["acme/**"]
ttl = "8h"

[task.refund]
agents = ["acme/support/triage"]
params = { order_id = { max_length = 8 }, amount = { range = [1, 100] } }
ttl = "10m"
require = []
depth = 2
delegate_to = ["acme/support/*"]
audience = ["orders", "payments"]
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "orders.list", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, "$amount"] } } },
]

[task.own]
agents = ["acme/support/triage"]
ttl = "10m"
depth = 0
audience = ["orders"]
allow = [ { tool = "orders.get", args = { order_id = "o-1" } } ]
"""
PARAMS = '[{"type":"arx_task","params":{"order_id":"o-1","amount":20}}]'
Call = tuple[str, dict[str, Any]]
CALLS: list[Call] = [
    ("orders.get", {"order_id": "o-1"}),
    ("orders.get", {"order_id": "o-2"}),
    ("orders.list", {"order_id": "o-1"}),
    ("orders.list", {}),
    ("orders.drop", {"order_id": "o-1"}),
    *(("payments.refund", {"order_id": "o-1", "amount": amount}) for amount in (1, 20, 21)),
]


class World:
    """An agent with an access token, and clients of agents to which it may be passed on."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.mint = harness, harness.mint
        harness.use(POLICY)
        for path in (AGENT, WORKER, DEEPER, STRANGER):
            harness.enrol(path)
        self.lead = Client(harness, scopes=["refund", "own"])
        self.worker, self.deeper, self.stranger = (
            Client(harness, agent=path, scopes=["refund"]) for path in (WORKER, DEEPER, STRANGER)
        )

    def token(self, scope: str = "refund") -> str:
        params = PARAMS if scope == "refund" else ""
        return self.lead.token(scope=scope, authorization_details=params)

    def claims(self, text: str) -> AccessToken:
        return read_access_token(text, self.mint.signing_keys.find, issuer=ISSUER, now=now_ms())

    def decide(self, text: str, tool: str, args: dict[str, Any]) -> Decision:
        """Return the decision of the verifier behind the gateway of a token's audience."""
        return self.decisions(text, [(tool, args)])[0]

    def allowed(self, text: str, calls: Sequence[Call] = CALLS) -> list[Call]:
        """Return the calls that a token allows."""
        decisions = zip(calls, self.decisions(text, calls), strict=True)
        return [call for call, decision in decisions if decision.code == "ok"]

    def decisions(self, text: str, calls: Sequence[Call]) -> list[Decision]:
        """Return the decision on each call."""
        audience = "payments" if self.claims(text).aud == PAY else "orders"
        handle = require_handle(self.mint, text, audience)
        bundle = bundle_of(self.mint, handle.row, handle.session)
        token = json.loads(_content(bundle))["tokens"][audience]
        keys = {kid: key for kid, (key, _) in self.mint.key_schedule.audience_keys(audience).items()}
        decisions = InMemoryDecisions()
        ring = KeyRing(keys, realm=self.mint.realm.name)
        verifier = Verifier(audience=audience, keys=ring, epochs=self.mint.epochs, decisions=decisions)
        for tool, args in calls:
            verifier.decide(token, AccessRequest(tool, args, now_ms(), None))
        return decisions.decisions


def _content(bundle: str) -> bytes:
    return wire.bytes_of(bundle.removeprefix(wire.BUNDLE_PREFIX))


def exchange(client: Client, token: str, **form: str) -> Any:
    whole = {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN_TYPE} | form
    return client.post("/oauth/token", None, **{name: value for name, value in whole.items() if value})


def exchanged(client: Client, token: str, **form: str) -> str:
    answer = exchange(client, token, **form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["issued_token_type"] == ACCESS_TOKEN_TYPE
    return str(answer.json()["access_token"])


def only(*tools: str) -> str:
    return json.dumps([{"type": "arx_task", "tools": tools}])


def keeping(*rules: dict[str, Any]) -> str:
    return json.dumps([{"type": "arx_task", "allow": rules}])


@pytest.fixture
def world(unit: Harness) -> World:
    return World(unit)


def test_the_chain_is_in_the_token_and_in_the_record(world: World) -> None:
    """``act`` of RFC 8693 4.1, and the hops of ARx; session and task are those of the first token."""
    first = world.token()
    second = exchanged(world.worker, first)
    third = exchanged(world.deeper, second)
    one, two, three = map(world.claims, (first, second, third))
    assert (one.act, two.client_id, two.sub, two.exp <= one.exp) == (None, world.worker.id, f"agent:{AGENT}", True)
    assert (two.sid, two.tid, three.tid) == (one.sid, one.tid, one.tid)
    shown = world.deeper.post("/oauth/introspect", token=third).json()
    assert shown["act"] == {"sub": f"agent:{DEEPER}", "act": {"sub": f"agent:{WORKER}"}}
    decision = world.decide(third, "orders.get", {"order_id": "o-1"})
    assert (decision.code, decision.facts.agent, decision.facts.named) == ("ok", AGENT, (WORKER, DEEPER))
    issued = [event for event in world.harness.events() if event["kind"] == "handle.issued"]
    assert [event.get("of") for event in issued] == [None, one.jti, two.jti]


@pytest.mark.spec("CONTROL 5.8")
@pytest.mark.sqlite
def test_a_consented_task_is_delegated_as_the_template_allows(flow: Flow) -> None:
    """The page names the agents; ``depth`` and ``delegate_to`` decide, before and after a refresh."""
    policy = flow.harness.realm.policy_path.read_text()
    once = '[task.lookup]\ndepth = 1\ndelegate_to = ["acme/support/*"]'
    flow.harness.use(policy.replace("[task.lookup]", once).replace("[task.status]", "[task.status]\ndepth = 0"))
    flow.harness.enrol(WORKER)
    flow.harness.enrol(STRANGER)
    worker, stranger = (Client(flow.harness, agent=path, scopes=["lookup", "status"]) for path in (WORKER, STRANGER))
    page = flow.page()
    assert "to the agents <code>acme/support/*</code>, once at most" in page.text
    first = flow.redeem(flow.answer_of(flow.answer(page, order_id="o-1"))["code"]).json()
    for answer in (first, flow.refresh(first["refresh_token"]).json()):
        token = exchanged(worker, answer["access_token"])
        assert worker.active(token)
        assert exchange(stranger, answer["access_token"]).status_code == 400
        assert exchange(flow.client, token).status_code == 400
    page = flow.page(scope="status")
    assert "May be delegated" not in page.text
    own = flow.redeem(flow.answer_of(flow.answer(page))["code"]).json()
    assert exchange(worker, own["access_token"]).status_code == 400


@pytest.mark.parametrize("tools", [None, ("orders.get",), ("orders.list", "orders.get"), ("orders.*",)])
@pytest.mark.parametrize("who", ["lead", "worker"])
@pytest.mark.sqlite
def test_no_call_is_allowed_that_was_not(world: World, who: str, tools: tuple[str, ...] | None) -> None:
    """Each call that the new token allows, the subject token allows; and of tools that were left alone."""
    first = world.token()
    details = {"authorization_details": only(*tools)} if tools else {}
    second = exchanged(getattr(world, who), first, **details)
    third = exchanged(world.deeper, second)
    allowed = [world.allowed(text) for text in (first, second, third)]
    assert all(call in allowed[0] for call in allowed[1])
    assert allowed[1] == allowed[2]
    kept = ("orders.get", "orders.list") if tools is None or "orders.*" in tools else tools
    assert {tool for tool, _ in allowed[1]} == set(kept)
    # What was taken away does not come back.
    back = exchange(world.deeper, second, authorization_details=only("orders.list"))
    if back.status_code == 200:
        text = back.json()["access_token"]
        assert (world.decide(text, "orders.list", {"order_id": "o-1"}).code == "ok") is ("orders.list" in kept)


@pytest.mark.sqlite
def test_arguments_are_left_as_rules(world: World) -> None:
    """In the words of a caveat, at another service and for another agent too; no other grant takes them."""
    pay = keeping({"tool": "payments.refund", "args": {"amount": {"max": 5}}, "open": True})
    second = exchanged(world.worker, exchanged(world.lead, world.token(), resource=PAY), authorization_details=pay)
    calls: list[Call] = [("payments.refund", {"order_id": "o-1", "amount": amount}) for amount in (0, 1, 5, 6, 20)]
    assert world.allowed(second, calls) == calls[1:3]
    more = keeping({"tool": "payments.refund", "args": {"amount": {"max": 20}}, "open": True})
    assert world.allowed(exchanged(world.deeper, second, authorization_details=more), calls) == calls[1:3]
    answer = world.lead.ask(scope="own", authorization_details=keeping({"tool": "orders.get"}))
    assert answer.json()["error"] == "invalid_request"


VALUES = ("o-1", "o-2", "", 0, 1, 20, 21, True, None, ["o-1"])
CONSTRAINTS = st.one_of(
    st.sampled_from(VALUES[:-2]),
    st.builds(lambda values: {"one_of": values}, st.lists(st.sampled_from(VALUES[:-2]), min_size=1, unique_by=repr)),
    st.builds(lambda bound: {"max": bound}, st.integers(-1, 30)),
    st.builds(lambda length: {"max_length": length}, st.integers(0, 4)),
    st.just({"glob": "o-*"}),
    st.just({"not": "o-2"}),
)
RULES = st.fixed_dictionaries(
    {"tool": st.sampled_from(["orders.get", "orders.list", "orders.*", "*"])},
    optional={
        "args": st.dictionaries(st.sampled_from(["order_id", "amount"]), CONSTRAINTS, max_size=2),
        "open": st.just(True),
    },
)
ASKED = st.tuples(
    st.sampled_from(["orders.get", "orders.list", "orders.drop"]),
    st.dictionaries(st.sampled_from(["order_id", "amount"]), st.sampled_from(VALUES), max_size=2),
)


@pytest.mark.slow
@pytest.mark.sqlite
def test_an_exchange_allows_what_both_allow(world: World) -> None:
    """Of any rules and calls: what the subject token allows and the rules match, and nothing else."""
    first = world.token()

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        chain=st.lists(st.lists(RULES, min_size=1, max_size=3), min_size=1, max_size=3),
        calls=st.lists(ASKED, min_size=1, max_size=12),
    )
    def holds(chain: list[list[dict[str, Any]]], calls: list[Call]) -> None:
        calls, token = [*CALLS[:5], *calls], first
        expected = world.allowed(token, calls)
        for rules in chain:
            answer = exchange(world.lead, token, authorization_details=keeping(*rules))
            if answer.status_code != 200:
                assert answer.json()["error"] == "invalid_request", answer.text
                return  # rules that no caveat has
            token, compiled = answer.json()["access_token"], [read_rule(rule).check() for rule in rules]
            expected = [
                (tool, args)
                for tool, args in expected
                if any(
                    matches_tool(rule["tool"], tool) and permits(each, args)
                    for rule, each in zip(rules, compiled, strict=True)
                )
            ]
            assert world.allowed(token, calls) == expected

    holds()


def test_another_service_of_the_task(world: World) -> None:
    """By its resource; the token for it is none for the first, and cannot be exchanged back."""
    second = exchanged(world.lead, world.token(), resource=PAY)
    assert world.claims(second).aud == PAY
    codes = [world.decide(second, *call).code for call in CALLS if call[0] == "payments.refund"]
    assert codes[:2] == ["ok", "ok"]
    assert codes[2] != "ok"
    with pytest.raises(ArxError):
        require_handle(world.mint, second, "orders")
    assert exchange(world.lead, second, resource=RESOURCE).json()["error"] == "invalid_target"


@pytest.mark.sqlite
def test_a_gateway_gets_a_token_that_it_cannot_delegate(world: World) -> None:
    """The depth is for exchanges alone."""
    handle = require_handle(world.mint, world.token(), "orders")
    bundle = bundle_of(world.mint, handle.row, handle.session)
    packets = Macaroon.parse(json.loads(_content(bundle))["tokens"]["orders"]).packets
    assert packets[-1] == b'{"depth":0}'


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token": "x.y.z"}, "invalid_request"),
        ({"subject_token_type": ""}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"actor_token_type": ACCESS_TOKEN_TYPE}, "invalid_request"),
        ({"audience": "payments"}, "invalid_target"),
        ({"scope": "own"}, "invalid_scope"),
        ({"resource": "http://127.0.0.1:9009/"}, "invalid_target"),
        ({"authorization_details": PARAMS}, "invalid_request"),
        ({"authorization_details": only("payments.refund")}, "invalid_request"),
        ({"authorization_details": only()}, "invalid_request"),
        ({"authorization_details": keeping()}, "invalid_request"),
        ({"authorization_details": keeping({"tool": "payments.refund"})}, "invalid_request"),
        (
            {"authorization_details": keeping({"tool": "orders.get", "args": {"order_id": {"most": 1}}})},
            "invalid_request",
        ),
        ({"authorization_details": keeping({"tool": "orders.get", "args": {"\ud800": 1}})}, "invalid_request"),
        (
            {"authorization_details": keeping({"tool": "orders.get"}).replace("[{", '[{"tools":[],', 1)},
            "invalid_request",
        ),
        (
            {"authorization_details": keeping(*[{"tool": "orders.get", "args": {"a" * 60: "b" * 60}}] * 90)},
            "invalid_request",
        ),
    ],
)
@pytest.mark.sqlite
def test_what_is_not_narrower_is_refused(world: World, form: dict[str, str], error: str) -> None:
    """Another scope, other parameters, a service or a tool that the task does not have."""
    answer = exchange(world.worker, world.token(), **form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


@pytest.mark.sqlite
def test_the_policy_says_to_whom_and_how_far(world: World) -> None:
    """``delegate_to`` and ``depth`` of the template; without a hop, no depth is needed."""
    first = world.token()
    assert exchange(world.stranger, first).status_code == 400
    second = exchanged(world.deeper, exchanged(world.worker, first))
    assert exchange(world.lead, second).json()["error"] == "unauthorized_client"
    assert exchange(world.worker, world.token("own")).json()["error"] == "unauthorized_client"
    exchanged(world.lead, world.token("own"))


@pytest.mark.sqlite
@pytest.mark.parametrize("target", ["agent:" + WORKER, "agent:" + AGENT, "task", "session", "link", "realm"])
def test_a_kill_of_the_parent_or_of_a_hop_ends_the_child(world: World, target: str) -> None:
    """At the mint and at a verifier: neither introspection nor a gateway finds the new token active."""
    first = world.token()
    second = exchanged(world.worker, first)
    claims = world.claims(first)
    task = world.mint.db.tasks.find(claims.tid)
    assert task is not None
    whole = {"session": f"session:{claims.sid}", "task": f"task:{claims.tid}", "link": f"link:{task.link}"}
    assert world.worker.active(second)
    world.harness.epochs.kill(whole.get(target, target))
    assert not world.worker.active(second)
    assert exchange(world.deeper, second).status_code == 400
    assert world.lead.active(first) is (target == "agent:" + WORKER)


@pytest.mark.sqlite
def test_the_new_one_lives_no_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a stolen one would be exchanged until the task ends."""
    first = world.token()
    monkeypatch.setattr(handles, "now_ms", lambda: now_ms() + 60_000)
    second = exchanged(world.lead, first)
    assert json.loads(wire.bytes_of(second.split(".")[1]))["exp"] == world.claims(first).exp


@pytest.mark.servers
@pytest.mark.sqlite
@pytest.mark.parametrize("how", ["revoke", "remove"])
def test_the_end_of_a_delegation_is_not_that_of_the_task(live: Harness, how: str) -> None:
    """An agent that revokes its token, or whose client is removed, does not end the task of the agent above."""
    world = World(live)
    first = world.token()
    second = exchanged(world.worker, first)
    third = exchanged(world.deeper, second)
    assert [world.lead.active(first), world.worker.active(second), world.deeper.active(third)] == [True] * 3
    if how == "revoke":
        assert world.worker.post("/oauth/revoke", token=second).json() == {}
    else:
        assert live.operator().call("DELETE", f"/v1/clients/{world.worker.id}").status_code == 200
    assert [world.lead.active(first), world.deeper.active(third)] == [True, False]
