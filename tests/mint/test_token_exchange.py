# SPDX-License-Identifier: Apache-2.0
"""A tool service exchanges what it was called with for another service: never wider, revoked with its parent,
recorded."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.db.tables import TASKS
from arx_caps.mint.policy.model import Policy
from arx_verifier.constraints.rule import read_rule
from arx_verifier.errors import AttenuationError, SettingsError
from arx_verifier.request import AccessRequest
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, issue_discharge, require_discharge
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.authenticate import prove
from arx_verifier.verification.chain_state import ProvenChain
from tests.mint.harness import Harness, Holder, now_ms, open_unit
from tests.mint.test_tasks import verifier
from tests.support import unchecked

pytestmark = pytest.mark.spec("CONTROL 2.6")

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[audience.payments]
origins = ["http://127.0.0.1:9002"]
[audience.ledger]
origins = ["http://127.0.0.1:9003"]

[session]
agents = ["acme/**"]
ttl = "8h"

[task.pay]
agents = ["acme/**"]
params = { order_id = { max_length = 8 }, amount = { range = [1, 100] } }
ttl = "10m"
depth = 3
audience = ["orders", "payments"]
exchange = { orders = ["payments", "ledger"], ledger = ["payments"] }
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, "$amount"] } } },
  { tool = "ledger.add", args = { order_id = "$order_id" } },
]
"""
PAY = {"template": "pay", "params": {"order_id": "o-1", "amount": 50}}
ORDER = {"order_id": "o-1"}


class Shop:
    """Three services that are enrolled with keys of their own, and an agent with a session."""

    def __init__(self, harness: Harness, policy: str = POLICY) -> None:
        self.harness = harness
        harness.use(policy)
        operator = self.harness.operator()
        self.services: dict[str, Holder] = {}
        for audience in ("orders", "payments", "ledger"):
            answer = operator.call("POST", "/v1/services/invitations", {"audience": audience}).json()
            service = Holder(self.harness, SigningKey.generate(), None)
            assert service.call("POST", "/v1/services/keys", {"enrolment": answer["enrolment"]}).status_code == 201
            self.services[audience] = service
        self.agent, self.session = self.harness.session()
        self.verifiers = {audience: verifier(self.harness, audience) for audience in self.services}

    def start(self, **body: Any) -> Task:
        return Task(Bundle.parse(self.agent.call("POST", "/v1/tasks", {**PAY, **body}).json()["bundle"]))

    def exchange(
        self, by: str, text: str, audience: str = "payments", key: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        body = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": text,
            "subject_token_type": "urn:arx:token-type:task",
            "audience": audience,
        } | changes
        asked = {name: value for name, value in body.items() if value is not None}
        service = self.services[by]
        headers = service.headers("POST", "/v1/exchange") | ({} if key is None else {"Idempotency-Key": key})
        answer: dict[str, Any] = self.harness.client.post("/v1/exchange", json=asked, headers=headers).json()
        return answer

    def attenuated(self, *caveats: dict[str, Any]) -> Task:
        """Attenuate a task's token for orders at the mint, which needs a store."""
        body = {"caveats": {"orders": list(caveats)}}
        answer = self.agent.call("POST", f"/v1/tasks/{self.start().id}/attenuate", body).json()
        return Task(Bundle.parse(answer["bundle"]))

    def judge(self, token: str, audience: str, tool: str, args: dict[str, Any]) -> str:
        """What a service says of a call with a token; one that was exchanged is signed like any other."""
        return self.verifiers[audience].decide(token, AccessRequest(tool, args, now_ms())).code

    def refund(self, answer: dict[str, Any], amount: int) -> str:
        task = Task(Bundle.parse(answer["bundle"]))
        args = {**ORDER, "amount": amount}
        return self.judge(task.call_token("payments", "payments.refund", args), "payments", "payments.refund", args)

    def proven(self, token: str, audience: str) -> ProvenChain:
        keys = {kid: key for kid, (key, _) in self.harness.mint.key_schedule.audience_keys(audience).items()}
        found = prove(token, None, audience, KeyRing(keys, realm=self.harness.realm.name))
        assert isinstance(found, ProvenChain)
        return found


@pytest.fixture
def shop(unit: Harness) -> Shop:
    return Shop(unit)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("exchange") / "realm") as unit:
        yield Shop(unit)


def called(task: Task) -> str:
    """What the orders service is called with."""
    return task.call_token("orders", "orders.get", ORDER)


def test_a_service_goes_on_at_another_one(shop: Shop) -> None:
    """It may there what the task was granted, in the name of the same agent, with a hop of its own; it is recorded."""
    worker = shop.start().delegate("acme/support/worker")
    answer = shop.exchange("orders", called(worker))
    assert (answer["token_type"], answer["issued_token_type"]) == ("N_A", "urn:arx:token-type:task")
    assert 0 < answer["expires_in"] <= 600
    assert [shop.refund(answer, amount) for amount in (50, 51)] == ["ok", "argument_not_allowed"]
    child = shop.proven(answer["access_token"], "payments")
    assert child.facts.named == ("acme/support/worker", "service/orders")
    assert (child.facts.agent, child.facts.session) == (shop.session["agent"], shop.session["id"])
    assert child.facts.links[-1] == answer["link"]
    (event,) = [each for each in shop.harness.events() if each["kind"] == "token.exchanged"]
    assert (event["by"], event["audience"], event["link"]) == ("service:orders", "payments", answer["link"])
    assert (event["of"], event["task"]) == (worker.link, worker.id)
    # An audience that the agent itself has no token for, and further from there.
    ledger = shop.exchange("orders", called(worker), "ledger")
    text = Task(Bundle.parse(ledger["bundle"])).call_token("ledger", "ledger.add", ORDER)
    assert shop.judge(text, "ledger", "ledger.add", ORDER) == "ok"


def test_each_exchange_is_a_hop(shop: Shop) -> None:
    """The template's depth counts them; a chain of services is one hop a service."""
    task = shop.start()
    first = shop.exchange("orders", called(task), "ledger")
    text = Task(Bundle.parse(first["bundle"])).call_token("ledger", "ledger.add", ORDER)
    second = shop.exchange("ledger", text, "payments")
    assert shop.refund(second, 5) == "ok"
    assert shop.proven(second["access_token"], "payments").facts.named == ("service/orders", "service/ledger")
    none_left = shop.start(depth=0)
    assert shop.exchange("orders", called(none_left))["code"] == "too_deep"


def test_only_where_the_template_allows_it(shop: Shop) -> None:
    """Neither another service nor another audience, nor by who is none; the refusal says what it would take."""
    task = shop.start()
    payments = task.call_token("payments", "payments.refund", {**ORDER, "amount": 5})
    answer = shop.exchange("payments", payments, "ledger")
    assert (answer["code"], "[task.pay]" in answer["detail"]) == ("exchange_not_allowed", True)
    assert shop.exchange("payments", called(task))["code"] == "wrong_audience"  # of another service
    assert shop.exchange("orders", called(task), "orders")["code"] == "exchange_not_allowed"
    assert shop.exchange("orders", called(task), "unknown")["code"] == "exchange_not_allowed"
    attenuate = shop.start(tools=["orders.get"])
    assert shop.exchange("orders", called(attenuate))["code"] == "exchange_not_allowed"
    body = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": called(task)}
    body |= {"subject_token_type": "urn:arx:token-type:task", "audience": "payments"}
    for holder in (shop.agent, shop.harness.operator()):
        assert holder.call("POST", "/v1/exchange", body).status_code in (401, 403)


def test_what_is_presented_must_be_alive(shop: Shop) -> None:
    """One-shot, fresh, once an audience; a forged, a killed, an unsigned or a replayed one is refused."""
    task = shop.start()
    text = called(task)
    assert shop.exchange("orders", task.tokens["orders"])["code"] == "proof_missing"
    assert "access_token" in shop.exchange("orders", text)
    assert shop.exchange("orders", text)["code"] == "replayed"
    assert "access_token" in shop.exchange("orders", text, "ledger")
    assert shop.judge(text, "orders", "orders.get", ORDER) == "ok"  # it is spent for no other service
    old = Task(task.bundle, now=lambda: now_ms() - 11_000).call_token("orders", "orders.get", ORDER)
    assert shop.exchange("orders", old)["code"] == "proof_invalid"
    forged = text[:-2] + ("AA" if text[-2:] != "AA" else "BB")
    assert shop.exchange("orders", forged)["code"] in ("bad_signature", "malformed")
    by_origin = shop.exchange("orders", called(task), None, resource="http://127.0.0.1:9002/")  # type: ignore[arg-type]
    assert by_origin["audience"] == "payments"
    assert shop.exchange("orders", called(task), resource="http://127.0.0.1:9002")["code"] == "malformed_request"


def test_who_was_left_out_is_not_reached_through_a_service(shop: Shop) -> None:
    """A holder who was given the orders service alone gets nothing at payments by way of it."""
    worker = shop.start().delegate("acme/support/worker", audiences=["orders"])
    assert shop.exchange("orders", called(worker))["code"] == "wrong_audience"
    by_tool = shop.start().delegate("acme/support/worker", tools=["orders.get"])
    assert shop.refund(shop.exchange("orders", called(by_tool)), 5) == "tool_not_allowed"


@pytest.mark.parametrize("kind", ["realm", "agent", "session", "policy", "task", "link"])
def test_killing_any_target_of_the_parent_kills_it(shop: Shop, kind: str) -> None:
    """
    The new token names all that the presented one names, but its key: each of these kills ends it, and a freeze
    too.
    """
    task = shop.start().delegate("acme/support/worker")
    parent = shop.proven(task.tokens["orders"], "orders")
    mine = [target for target in parent.targets if target.partition(":")[0] == kind]
    assert mine
    for target in mine:
        answer = shop.exchange("orders", called(task))
        child = shop.proven(answer["access_token"], "payments")
        assert {each for each in parent.targets if not each.startswith("key:")} < set(child.targets)
        shop.harness.epochs.freeze(target)
        assert shop.refund(answer, 5) == "frozen"
        assert shop.exchange("orders", called(task))["code"] == "frozen"
        shop.harness.epochs.thaw(target)
        assert shop.refund(answer, 5) == "ok"
    shop.harness.epochs.kill(mine[-1])
    assert shop.refund(answer, 5) == "revoked"
    assert shop.exchange("orders", called(task))["code"] == "revoked"


RULES = st.sampled_from(
    [
        {"tool": "*"},
        {"tool": "payments.refund"},
        {"tool": "orders.get"},
        {"tool": "*", "args": {"order_id": "o-1"}},
        {"tool": "*", "args": {"order_id": "o-1", "amount": {"max": 20}}},
        {"tool": "*", "args": {"order_id": "o-1", "amount": {"range": [10, 90]}}, "open": True},
    ]
)
HELD = st.builds(
    lambda rules, depth: unchecked(Caveat, allow=tuple(map(read_rule, rules)) or None, depth=depth),
    st.lists(RULES, max_size=2),
    st.integers(0, 3) | st.none(),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held=st.lists(HELD, max_size=3), amount=st.integers(0, 60), limit=st.integers(1, 100))
def test_it_is_never_wider(kept: Shop, held: list[Caveat], amount: int, limit: int) -> None:
    """Whatever it may do was granted to the task, and every caveat that a holder added holds for it as well."""
    task = kept.start(params={"order_id": "o-1", "amount": limit})
    macaroon, args = task.bundle.tokens["orders"], {**ORDER, "amount": amount}
    for caveat in held:
        try:
            macaroon = macaroon.delegate("acme/support/worker", caveat)
        except AttenuationError:
            return
    text = Task(task.bundle.with_tokens({"orders": macaroon})).call_token("orders", "orders.get", ORDER)
    answer = kept.exchange("orders", text)
    if "code" in answer:
        assert answer["code"] == "too_deep"
        return
    allowed = kept.refund(answer, amount) == "ok"
    granted = task.call_token("payments", "payments.refund", args)
    assert not allowed or kept.judge(granted, "payments", "payments.refund", args) == "ok"
    # The same caveats on the task's own token for that service allow whatever the exchanged one does.
    own = task.bundle.tokens["payments"]
    for caveat in held:
        own = own.delegate("acme/support/worker", caveat)
    signed = Task(task.bundle.with_tokens({"payments": own})).call_token("payments", "payments.refund", args)
    assert not allowed or kept.judge(signed, "payments", "payments.refund", args) == "ok"
    child = Macaroon.parse(answer["access_token"]).unverified_identifier
    parent = macaroon.unverified_identifier
    assert isinstance(child, Identifier)
    assert isinstance(parent, Identifier)
    assert (child.exp, child.id, child.depth) == (parent.exp, parent.id, parent.depth)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('exchange = { orders = ["unknown"] }', "unknown"),
        ('exchange = { orders = ["orders"] }', "orders"),
        ("exchange = { orders = [] }", "at least one audience"),
        (
            'exchange = { ledger = ["payments"] }',
            "task.pay.exchange.ledger: ledger gets no token of this task; add it to",
        ),
        ('exchange = ["payments"]', "expected a table"),
    ],
)
def test_a_mistake_is_reported(kept: Shop, written: str, message: str) -> None:
    """An exchange that no service could make is refused when the policy is loaded."""
    line = next(each for each in POLICY.splitlines() if each.startswith("exchange"))
    text = POLICY.replace(line, written)
    if "ledger = " in written or written.startswith("exchange = ["):
        text = text.replace('  { tool = "ledger.add", args = { order_id = "$order_id" } },\n', "")
    with pytest.raises(SettingsError, match=message):
        Policy.parse(text, "policy.toml")


def test_an_exchange_whose_answer_was_lost_is_answered_again(shop: Shop) -> None:
    """A one-shot token is spent with what it was exchanged for: a repeat gets the same link, another call none."""
    text = called(shop.start())
    first, again = (shop.exchange("orders", text, key="e-1") for _ in range(2))
    assert first == again | {"expires_in": first["expires_in"]}
    assert shop.refund(again, 50) == "ok"
    assert shop.exchange("orders", text)["code"] == "replayed"
    assert shop.exchange("orders", called(shop.start()), key="e-1")["code"] == "idempotency_mismatch"
    assert shop.exchange("orders", text, "ledger", key="e-1")["code"] == "idempotency_mismatch"
    assert [event["kind"] for event in shop.harness.events()].count("token.exchanged") == 1


def test_a_repeated_exchange_brings_nothing_back(shop: Shop) -> None:
    """What ended the first answer's token has ended every repeat's: its task, its link, an attenuation, its agent."""
    for number, end in enumerate(("finish", "link", "attenuate", "agent")):
        task, key = shop.start(), f"e-{number}"
        text = called(task)
        first = shop.exchange("orders", text, key=key)
        if end == "finish":
            with shop.harness.mint.db.write() as c:
                c.execute(TASKS.update().where(TASKS.c.id == task.id).values(status="ended"))
        elif end == "attenuate":
            shop.harness.epochs.kill(f"link:{task.bundle.outline.identifier.id}")
        elif end == "link":
            shop.harness.epochs.kill(f"link:{first['link']}")
        else:
            shop.harness.epochs.freeze("agent:acme/support")
        assert shop.exchange("orders", text, key=key)["code"] == ("frozen" if end == "agent" else "revoked"), end


def test_a_repeated_exchange_is_refused_once_its_key_is_frozen(shop: Shop) -> None:
    """The key that the first answer was signed with was stolen: nothing of it is signed again with another one."""
    text = called(shop.start())
    first = shop.exchange("orders", text, key="e-1")
    kid = shop.proven(first["access_token"], "payments").key.kid
    shop.harness.epochs.freeze(f"key:{kid}")
    assert shop.exchange("orders", text, key="e-1")["code"] in ("revoked", "frozen")


def test_what_was_approved_goes_no_further(kept: Shop) -> None:
    """Discharges that the service was called with are passed over, whatever they are, and spend nothing else."""
    task = kept.start()
    made = issue_discharge(
        ThirdPartyCaveat("x").encode(), bytes(32), realm=kept.harness.realm.name, caveats=(Caveat(exp=1),)
    )
    text = called(task)
    assert kept.refund(kept.exchange("orders", f"{text}~{made.encode()}"), 50) == "ok"
    assert kept.exchange("orders", text)["code"] == "replayed"


def test_a_third_party_of_a_holder_is_not_left_behind(kept: Shop) -> None:
    """The new token could not carry it and would be wider without it: the mint refuses."""
    token = Macaroon.parse(kept.start().tokens["orders"])
    raw = ThirdPartyCaveat("ask the boss").encode()
    requiring = require_discharge(token, raw, bytes(32))
    made = bind(issue_discharge(raw, bytes(32), realm=kept.harness.realm.name), requiring)
    for more in ("", "~" + made.encode()):
        answer = kept.exchange("orders", CallSigner(requiring, "orders").sign(b"any call of it", now_ms()) + more)
        assert answer["code"] == "exchange_not_allowed"
        assert "requires a discharge of its own" in answer["detail"]
