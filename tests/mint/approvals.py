# SPDX-License-Identifier: Apache-2.0
"""Refunds that operators approve: an agent that asks, operators that answer, and a service's decisions."""

from typing import Any

import httpx2
import pytest

from arx_caps.agent.tasks.approval import Approval
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile
from arx_verifier.request import AccessRequest
from arx_verifier.token.discharge import third_party_caveats
from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import AGENT, ISSUER, Harness, Holder, now_ms

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[audience.payments]
origins = ["http://127.0.0.1:9002"]

[session]
agents = ["acme/**"]
ttl = "8h"

[task.refund]
agents = ["acme/**"]
params = { order_id = { max_length = 24 } }
ttl = "10m"
audience = ["orders", "payments"]
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, 500] } } },
  { tool = "payments.note", any = true },
]
approvals = [{ tools = ["payments.refund", "payments.note"], need = 1 }]
"""
TWO = POLICY.replace("need = 1", "need = 2")
REFUND = {"order_id": "o-1", "amount": 50}


class Desk:
    """An agent with a task whose refunds are approved.

    Attributes:
        agent: The session's holder.
        agent_path: Its path.
        id: The task's id.
        task: The task in hand.
        caveat: What its token for payments requires.
    """

    def __init__(self, harness: Harness, policy: str = POLICY, path: str = AGENT) -> None:
        self.harness = harness
        self.use(policy)
        self.agent, self.session = harness.session(path)
        self.agent_path = str(self.session["agent"])
        self.id, self.task = self.start()
        self.caveat = self.third_party(self.task)

    def use(self, policy: str) -> None:
        self.harness.use(policy)

    def start(self, holder: Holder | None = None, **more: Any) -> tuple[str, Task]:
        body = {"template": "refund", "params": {"order_id": "o-1"}, **more}
        answer = (holder or self.agent).call("POST", "/v1/tasks", body)
        assert answer.status_code == 201, answer.text
        reply = answer.json()
        return reply["task"]["id"], Task(Bundle.parse(reply["bundle"]))

    @staticmethod
    def third_party(task: Task) -> str:
        (found,) = third_party_caveats(task.bundle.tokens["payments"])
        return found.encode().decode()

    def operator(self, name: str, **what: Any) -> Holder:
        """Enrol an operator, an approver by default, and sign in."""
        return self.operator_with(KeyFile.generate("operator", name, ISSUER), name, **what)

    def operator_with(self, key: KeyFile, name: str, **what: Any) -> Holder:
        """Enrol an operator with this key, and sign in."""
        body = {"name": name, "jwk": key.key.public.jwk, **(what or {"role": "approver"})}
        assert self.harness.operator().call("POST", "/v1/operators", body).status_code == 201
        return self.sign_in(key)

    def sign_in(self, key: KeyFile) -> Holder:
        """Sign an enrolled operator in."""
        holder = Holder(self.harness, key.key, None)
        token = holder.call("POST", "/v1/operators/token", {"assertion": self.harness.assertion(key)}).json()["token"]
        return Holder(self.harness, key.key, token)

    def try_to_ask(
        self, args: Any = REFUND, *, tool: str = "payments.refund", by: Holder | None = None, **more: Any
    ) -> httpx2.Response:
        body = {"caveat": self.caveat, "tool": tool, "args": args, **more}
        return (by or self.agent).call("POST", "/v1/discharges", body)

    def ask(self, args: Any = REFUND, **more: Any) -> dict[str, Any]:
        answer = self.try_to_ask(args, **more)
        assert answer.status_code == 201, answer.text
        reply: dict[str, Any] = answer.json()["approval"]
        return reply

    def answer(self, by: Holder, approval: dict[str, Any], outcome: str = "approve", **more: Any) -> httpx2.Response:
        return by.call("POST", "/v1/approvals", {"approval": approval["id"], "outcome": outcome, **more})

    def fetch(self, approval: dict[str, Any], by: Holder | None = None) -> httpx2.Response:
        return (by or self.agent).call("POST", f"/v1/discharges/{approval['id']}")

    def approved(self, args: Any = REFUND, *by: Holder) -> tuple[dict[str, Any], Approval]:
        """Ask, have it approved, and fetch the discharge."""
        asked = self.ask(args)
        for each in by or (self.harness.operator(),):
            answer = self.answer(each, asked)
            assert answer.status_code == 200, answer.text
        return asked, Approval.from_text(self.fetch(asked).json()["discharge"])


@pytest.fixture
def desk(unit: Harness, request: pytest.FixtureRequest) -> Desk:
    """A desk in ``unit``, with its log; by the policy that a test file calls ``DESK_POLICY``."""
    unit.mint.log.start()
    return Desk(unit, getattr(request.module, "DESK_POLICY", POLICY))


def decide(judge: Verifier, task: Task, args: Any, approvals: list[Approval], tool: str = "payments.refund") -> str:
    """What a service says of one signed call with approvals."""
    text = task.call_token("payments", tool, args, approvals=approvals)
    return judge.decide(text, AccessRequest(tool, args, now_ms())).code


def code(answer: httpx2.Response) -> str:
    return "ok" if answer.is_success else str(answer.json()["code"])
