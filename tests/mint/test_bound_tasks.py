# SPDX-License-Identifier: Apache-2.0
"""Bound tasks: the mint binds them to the session's key or to another one, and keeps them so at each change."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import AttenuationError, SettingsError
from arx_verifier.request import AccessRequest
from arx_verifier.token import call_proof, chain, holder, wire
from arx_verifier.token.call_proof import CallSigner
from arx_verifier.token.caveats import Caveat, read_caveat
from arx_verifier.token.discharge import bind, join
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.mint.approvals import POLICY as APPROVALS
from tests.mint.approvals import REFUND, Desk, decide
from tests.mint.harness import Harness, now_ms, open_unit
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import ORDER, PAY, POLICY, Shop, called

pytestmark = pytest.mark.spec("16.1")

BOUND = POLICY.replace("depth = 3\n", 'depth = 3\nbinding = "bound"\n')
SIGNED = BOUND.replace("depth = 3\n", 'depth = 3\nrequire = ["signature"]\n')
WORKER, THIEF = HolderKey(b"w" * 32), HolderKey(b"t" * 32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("bound") / "realm") as unit:
        yield Shop(unit, BOUND)


def started(shop: Shop, key: HolderKey | None = None, **body: object) -> Task:
    """A task that is bound to the session's key, or to another one."""
    more = body if key is None else {**body, "holder": key.public}
    answer = shop.agent.call("POST", "/v1/tasks", {**PAY, **more}).json()
    return Task(Bundle.parse(answer["bundle"]), key=key or shop.agent.key)


def get(shop: Shop, task: Task) -> str:
    """What the orders service says of a call with a task."""
    return shop.judge(called(task), "orders", "orders.get", ORDER)


def test_a_task_is_bound_to_the_key_of_its_session(shop: Shop) -> None:
    """Each token of a bound task; its agent calls and delegates, and no other holder of the text can."""
    task = started(shop)
    assert task.bound_to == shop.agent.key.public.x
    assert {held.holder for held in task.bundle.outlines.values()} == {task.bound_to}
    assert get(shop, task) == "ok"
    worker = task.delegate("acme/support/worker", key=WORKER.public, tools=["orders.get"])
    assert get(shop, Task.from_text(worker.encode(), key=WORKER)) == "ok"
    for key in (None, THIEF):
        stolen = Task.from_text(worker.encode(), key=key)
        with pytest.raises(AttenuationError, match="bound to the key"):
            called(stolen)
        with pytest.raises(AttenuationError, match="only the holder"):
            stolen.delegate("acme/support/thief", key=THIEF.public)
    with pytest.raises(AttenuationError, match="give `key`"):
        task.delegate("acme/support/worker")


def test_a_task_is_bound_to_a_key_made_for_it(shop: Shop) -> None:
    """The log says which key it is."""
    task = started(shop, WORKER)
    assert get(shop, task) == "ok"
    event = [each for each in shop.harness.events() if each["kind"] == "task.started"][-1]
    assert (event["task"], event["holder"]) == (task.id, WORKER.public)
    # No key, nor a point of small order or outside of the group of prime order, to which no private half belongs.
    for wrong in ("", "A" * 42, *map(wire.text_of, (bytes(32), b"\1" + bytes(31), b"\xff" * 32, b"\2" + bytes(31)))):
        assert shop.agent.call("POST", "/v1/tasks", {**PAY, "holder": wrong}).json()["code"] == "bad_parameters"


def test_what_the_mint_signs_later_is_bound_to_the_same_key(shop: Shop) -> None:
    """Extended, and signed again for a lost answer."""
    task = started(shop, WORKER)
    answer = shop.agent.call("POST", f"/v1/tasks/{task.id}/extend", {}).json()
    more = Task(Bundle.parse(answer["bundle"]), key=WORKER)
    assert (more.bound_to, get(shop, more)) == (WORKER.public, "ok")
    bodies = []
    for _ in range(2):
        headers = shop.agent.headers("POST", "/v1/tasks") | {"Idempotency-Key": "bound-1"}
        body = {**PAY, "holder": WORKER.public}
        bodies.append(shop.harness.client.post("/v1/tasks", json=body, headers=headers).json()["bundle"])
    first, again = (Task(Bundle.parse(text), key=WORKER) for text in bodies)
    assert first.link == again.link
    assert get(shop, again) == "ok"


@pytest.mark.spec("16.4", "CONTROL 2.6")
def test_an_exchanged_token_is_bound_to_the_service(shop: Shop) -> None:
    """The mint proves the holders and vouches for them; without the service's key the new text is of no use."""
    worker = started(shop).delegate("acme/support/worker", key=WORKER.public)
    answer = shop.exchange("orders", called(Task.from_text(worker.encode(), key=WORKER)))
    orders = shop.services["orders"]
    task = Task(Bundle.parse(answer["bundle"]), key=orders.key)
    assert task.bound_to == orders.key.public.x
    args = {**ORDER, "amount": 5}
    decision = shop.verifiers["payments"].decide(
        task.call_token("payments", "payments.refund", args), AccessRequest("payments.refund", args, now_ms())
    )
    assert (decision.code, decision.facts.assurance) == ("ok", "bound")
    assert decision.facts.named == ("acme/support/worker", "service/orders")
    assert [each.key for each in decision.facts.holders] == [orders.key.public.x]
    with pytest.raises(AttenuationError, match="bound to the key"):
        Task(Bundle.parse(answer["bundle"]), key=WORKER).call_token("payments", "payments.refund", args)
    # One service further: what the first exchange vouched for is vouched for again.
    ledger = shop.exchange("orders", called(started(shop)), "ledger")
    text = Task(Bundle.parse(ledger["bundle"]), key=orders.key).call_token("ledger", "ledger.add", ORDER)
    further = shop.exchange("ledger", text, "payments")
    last = Task(Bundle.parse(further["bundle"]), key=shop.services["ledger"].key)
    text = last.call_token("payments", "payments.refund", args)
    assert shop.judge(text, "payments", "payments.refund", args) == "ok"


@pytest.mark.spec("16.3", "CONTROL 2.10")
def test_an_approval_goes_with_the_calls_of_a_holder(unit: Harness) -> None:
    """Asked for and given as for any task; of no use with the text alone."""
    unit.mint.log.start()
    desk = Desk(unit, APPROVALS.replace("audience =", 'binding = "bound"\naudience =', 1))
    held = Task(desk.task.bundle, key=desk.agent.key)
    worker = Task.from_text(held.delegate("acme/support/worker", key=WORKER.public).encode(), key=WORKER)
    payments = verifier(unit, "payments")
    for task in (held, worker):
        _, approval = desk.approved()
        token = task.bundle.tokens["payments"]
        stolen = next(stolen_calls(token, call_proof.tool_fields("payments.refund", REFUND)))
        stolen = join(stolen, [bind(approval.discharge, token)])
        request = AccessRequest("payments.refund", REFUND, now_ms())
        assert payments.decide(stolen, request).code == "proof_missing"
        assert decide(payments, task, REFUND, []) == "missing_discharge"
        assert decide(payments, task, REFUND, [approval]) == "ok"
        assert decide(payments, task, REFUND, [approval]) == "already_used"


def stolen_calls(token: Macaroon, fields: bytes) -> Iterator[str]:
    """Calls by who has the text of a token alone."""
    body, signature = token.parts()
    identifier = token.unverified_identifier
    assert isinstance(identifier, Identifier)
    bearer = Macaroon.mint(msgspec.structs.replace(identifier, holder=None, aud_key=None), key=bytes(32), realm="acme")
    text = CallSigner(bearer, identifier.aud).sign(fields, now_ms())
    call = call_proof.split_call(text)
    assert call is not None
    for proof in (b"", b',"' + b"A" * 22 + b'"', b',"' + b"A" * 86 + b'"'):
        made, after = chain.appended(body, signature, call.plain[:-2] + proof + b"]}")
        yield wire.TOKEN_PREFIX + wire.text_of(made + wire.TAIL + after)


def _members(task: Task) -> dict[str, Any]:
    identifier = task.bundle.outline.identifier
    return {name: getattr(identifier, name) for name in identifier.__struct_fields__}


@pytest.mark.parametrize("hops", [0, 1])
def test_a_stolen_text_is_exchanged_for_nothing(shop: Shop, hops: int) -> None:
    """Nor is it called with: neither bare, nor with a guess."""
    task = started(shop)
    if hops:
        task = task.delegate("acme/support/worker", key=WORKER.public)
    codes = ["proof_missing", "proof_invalid", "proof_invalid"]
    token, fields = task.bundle.tokens["orders"], call_proof.tool_fields("orders.get", ORDER)
    assert [shop.judge(text, "orders", "orders.get", ORDER) for text in stolen_calls(token, fields)] == codes
    assert [shop.exchange("orders", text)["code"] for text in stolen_calls(token, fields)] == codes
    assert shop.exchange("orders", task.tokens["orders"])["code"] == "proof_missing"


def test_a_forged_delegation_is_exchanged_for_nothing(shop: Shop) -> None:
    """A thief of the text signs a delegation to its own key."""
    token = started(shop).bundle.tokens["orders"]
    good = token.delegate("acme/support/worker", key=WORKER.public, by=shop.agent.key.holder)
    raw = good.packets[-1]
    assert isinstance(raw, bytes)
    forged = Macaroon(*chain.appended(*token.parts(), raw.replace(WORKER.public.encode(), THIEF.public.encode())))
    text = CallSigner(forged, "orders", THIEF).sign(call_proof.tool_fields("orders.get", ORDER), now_ms())
    assert shop.judge(text, "orders", "orders.get", ORDER) == "bad_signature"
    assert shop.exchange("orders", text)["code"] == "bad_signature"


def test_a_service_makes_no_bearer_token_of_a_bound_task(shop: Shop) -> None:
    """It can sign such a token itself, but the mint knows what it granted."""
    task = started(shop)
    kid, key = shop.harness.mint.key_schedule.audience_key("orders")
    identifier = Identifier(**{**_members(task), "kid": kid, "aud": "orders", "holder": None, "aud_key": None})
    own = tuple(read_caveat(raw) for raw in task.bundle.tokens["orders"].packets if isinstance(raw, bytes))
    forged = Macaroon.mint(identifier, key=key, realm="acme", caveats=own)
    text = CallSigner(forged, "orders").sign(call_proof.tool_fields("orders.get", ORDER), now_ms())
    assert shop.exchange("orders", text)["code"] == "exchange_not_allowed"


@pytest.mark.spec("CONTROL 2.6")
@pytest.mark.parametrize("vouched", [False, True])
def test_a_service_makes_up_no_signed_call(unit: Harness, vouched: bool) -> None:
    """Not with a token of its own that requires no signature, nor with one that says the mint vouches for its key."""
    shop = Shop(unit, SIGNED)
    task, orders = started(shop), shop.services["orders"].key
    kid, key = shop.harness.mint.key_schedule.audience_key("orders")
    members = {**_members(task), "kid": kid, "aud": "orders", "aud_key": holder.audience_public(key)}
    own = [read_caveat(raw) for raw in task.bundle.tokens["orders"].packets if isinstance(raw, bytes)]
    if vouched:
        members |= {"holder": orders.public.x, "vouched": 1}
        own = [msgspec.structs.replace(caveat, delegate_to=None) for caveat in own]
        own.append(Caveat(to="service/orders", hop="A" * 12))
        caller = orders.holder
    else:
        own = [msgspec.structs.replace(caveat, require=None) for caveat in own]
        common = holder.agree(holder.audience_secret(key), str(task.bound_to))
        caller = cast("HolderKey", SimpleNamespace(public=task.bound_to, agree=lambda _: common))
    made = Macaroon.mint(Identifier(**members), key=key, realm="acme", caveats=tuple(own))
    text = CallSigner(made, "orders", caller, signs=vouched).sign(call_proof.tool_fields("orders.get", ORDER), now_ms())
    assert shop.judge(text, "orders", "orders.get", ORDER) == "ok", "a verifier can also mint"
    assert shop.exchange("orders", text)["code"] == "exchange_not_allowed"
    assert "bundle" in shop.exchange("orders", called(task))


def test_a_policy_says_what_goes_together() -> None:
    """Evidence needs a key, and an access token has none."""
    with pytest.raises(SettingsError, match="signature"):
        Policy.parse(POLICY.replace("depth = 3\n", 'require = ["signature"]\n'), "policy.toml")
    for terms in ("allow", "dpop"):
        with pytest.raises(SettingsError, match="bearer"):
            Policy.parse(BOUND.replace("depth = 3\n", f'bearer = "{terms}"\n'), "policy.toml")
    assert Policy.parse(BOUND, "policy.toml").templates["pay"].bearer_terms == "refuse"


def test_a_signature_of_each_call(unit: Harness) -> None:
    """The policy asks for evidence: the holder signs, and a proof for the service alone is not enough."""
    shop = Shop(unit, SIGNED)
    task = started(shop)
    text = called(task)
    call = call_proof.split_call(text)
    assert call is not None
    assert len(call.proof) == 86
    assert shop.judge(text, "orders", "orders.get", ORDER) == "ok"
    weak = CallSigner(task.bundle.tokens["orders"], "orders", shop.agent.key.holder)
    text = weak.sign(call_proof.tool_fields("orders.get", ORDER), now_ms())
    assert shop.judge(text, "orders", "orders.get", ORDER) == "proof_missing"
