# SPDX-License-Identifier: Apache-2.0
"""A refund that needs two operators, from end to end: a real mint, a real store, a service behind the middleware."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from arx_caps.agent import Agent, Approval, StartedTask
from arx_caps.embedded import EmbeddedValkey
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.journal.decision import InMemoryDecisions
from tests.agent.live import LiveMint, live_mint, serving
from tests.servers import begun_store, free_ports

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 2.9")]
LEASE_MS = 5_000  # no test waits for it: every verifier follows the store
POLICY = """
[audience.payments]
origins = ["{address}"]

[session]
agents = ["acme/**"]
ttl = "1h"

[task.refund]
agents = ["acme/support/*"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
audience = ["payments"]
allow = [
  {{ tool = "payments.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, 500] }} }} }},
]
approvals = [{{ tools = ["payments.refund"], need = 2 }}]
"""
TOOLS = {"GET /orders/{order_id}": "payments.get", "POST /orders/{order_id}/refund": "payments.refund"}
Operator = Callable[..., dict[str, Any]]


class Shop(NamedTuple):
    """A running service, what it decided, and who works there."""

    address: str
    decided: InMemoryDecisions
    mint: LiveMint
    operators: tuple[Operator, Operator]

    def call(self, task: StartedTask, amount: int = 50, approvals: tuple[Approval, ...] = ()) -> tuple[int, str]:
        """Refund, and return the status and the code, or the agent of the task."""
        with httpx.Client(auth=task.auth(approvals=approvals)) as client:
            answer = client.post(f"{self.address}/orders/o-1/refund", json={"amount": amount})
        return answer.status_code, answer.json()["code"]

    def approved(self, task: StartedTask, amount: int = 50) -> Approval:
        """Ask for a refund, and have both operators approve it."""
        asked = task.ask_approval("payments.refund", {"order_id": "o-1", "amount": amount}, why="it never came")
        for operator in self.operators:
            operator("POST", "/v1/approvals", body={"approval": asked.id, "outcome": "approve"})
        return asked.wait(timeout_s=5)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Say what was allowed."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = json.dumps({"code": scope["arx"].tool}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def shop(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    (port,) = free_ports(1)
    folder: Path = tmp_path_factory.mktemp("approvals")
    with (
        begun_store(valkey.url, "approved", lease_ms=LEASE_MS),
        live_mint(folder, store_url=valkey.url, name="approved", port=port) as mint,
        mint.service("payments", decisions=(decided := InMemoryDecisions())) as verifier,
        serving(ArxMiddleware(application, verifier=verifier, tools=TOOLS)) as service,
    ):
        address = f"http://127.0.0.1:{service}"
        mint.operator("POST", "/v1/policies", {"policy": POLICY.format(address=address)})
        yield Shop(address, decided, mint, (mint.another("ada", "approver"), mint.another("bob", "approver")))


@pytest.fixture(scope="module")
def agent(shop: Shop) -> Iterator[Agent]:
    with shop.mint.agent("acme/support/triage") as enrolled:
        yield enrolled


@pytest.fixture
def task(agent: Agent) -> Iterator[StartedTask]:
    with agent.open_session() as session, session.start_task("refund", order_id="o-1") as started:
        yield started


def test_one_call_once_two_operators_have_approved_it(shop: Shop, task: StartedTask) -> None:
    """Refused, asked for, approved by one and by another; done once, not twice, with no other arguments; recorded."""
    assert shop.call(task) == (403, "missing_discharge")
    with httpx.Client(auth=task.auth()) as client:
        assert client.get(f"{shop.address}/orders/o-1").status_code == 200
    asked = task.ask_approval("payments.refund", {"order_id": "o-1", "amount": 50}, why="it never came")
    ada, bob = shop.operators
    answer = {"approval": asked.id, "outcome": "approve"}
    assert ada("POST", "/v1/approvals", body=answer)["approval"]["state"] == "waiting"
    assert asked.look() == "waiting"
    assert bob("POST", "/v1/approvals", body=answer)["approval"]["state"] == "approved"
    approval = asked.wait(timeout_s=5)
    assert approval.by == ("ada", "bob")
    assert shop.call(task, 51, (approval,)) == (403, "argument_not_allowed")
    assert shop.call(task, 50, (approval,)) == (200, "payments.refund")
    decision = shop.decided.decisions[-1]
    assert (decision.code, decision.tasks) == ("ok", (asked.id,))
    assert shop.call(task, 50, (approval,)) == (403, "already_used")
    assert shop.call(task, 50, (Approval.from_text(approval.encode()),)) == (403, "already_used")


def test_a_withdrawal_ends_it_wherever_it_is(shop: Shop, task: StartedTask) -> None:
    """Withdrawn, it is refused by every service at once; also with a token that is younger than the withdrawal."""
    approval = shop.approved(task)
    ada, _ = shop.operators
    answer = ada("DELETE", f"/v1/approvals/{approval.id}")
    assert answer["approval"]["state"] == "withdrawn"
    assert answer["kill"]["confirmed"] == answer["kill"]["verifiers"] >= 2
    assert shop.call(task, 50, (approval,)) == (401, "revoked")
    assert ada("DELETE", f"/v1/approvals/{approval.id}")["kill"] is None
    younger = task.extend()
    assert shop.call(younger, 50, (approval,)) == (401, "frozen")
    assert shop.call(younger, 50, (shop.approved(younger),)) == (200, "payments.refund")


def test_an_approval_is_handed_on_with_the_task(shop: Shop, task: StartedTask) -> None:
    """A sub-agent binds what it was delegated to its own token; another task's token takes it not."""
    approval = shop.approved(task, 70)
    worker = task.delegate("acme/support/worker")
    taken = Approval.from_text(approval.encode())
    with httpx.Client(auth=worker.auth(approvals=(taken,))) as client:
        assert client.post(f"{shop.address}/orders/o-1/refund", json={"amount": 70}).status_code == 200
    assert shop.call(task, 70, (approval,)) == (403, "already_used")


def test_a_attenuated_task_goes_on_with_what_was_approved(shop: Shop, task: StartedTask) -> None:
    """An attenuation ends every token; the new one requires the same, and takes the approval that was given before."""
    approval = shop.approved(task, 20)
    attenuated = task.attenuate_for_all(audiences=["payments"])
    assert shop.call(task, 20, (approval,)) == (401, "revoked")
    assert shop.call(attenuated, 20) == (403, "missing_discharge")
    assert shop.call(attenuated, 20, (approval,)) == (200, "payments.refund")
