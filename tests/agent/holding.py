# SPDX-License-Identifier: Apache-2.0
"""A task for two services, minted here, and the verifiers of both."""

from collections.abc import Mapping
from typing import Any

from arx_caps.agent import Bundle, Task
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.request import AccessRequest
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.support import AT, KEY, PEER, TASK, mint, verifier

ISSUER = "http://127.0.0.1:8700"
ORIGINS = {
    "orders": ("https://orders.example", "http://127.0.0.1:8701"),
    "payments": ("https://payments.example:8443",),
}
RULES = {
    "orders": (Rule(tool="orders.get", args={"order_id": "o-1"}), Rule(tool="orders.list", args={})),
    "payments": (Rule(tool="payments.refund", args={"order_id": "o-1", "amount": Constraint(range=(0, 100))}),),
}
REFUND = {"order_id": "o-1", "amount": 20}
REQUIRED = ThirdPartyCaveat(id=f"k1.0:{TASK}", tools=("payments.refund",))


def token(audience: str, *rules: Rule, **changes: Any) -> Macaroon:
    """A token of the task, with the mint's usual limits."""
    granted = Caveat(allow=rules or RULES[audience], delegate_to=("acme/**",), require=("call",))
    return mint(granted, **({"aud": audience} | changes))


def bundle(tokens: Mapping[str, Macaroon] | None = None, **changes: Any) -> Bundle:
    """The bundle that a mint would give the agent."""
    held = {audience: token(audience) for audience in RULES} if tokens is None else tokens
    origins = {audience: ORIGINS.get(audience, ()) for audience in held}
    fields: dict[str, Any] = {"agent": "acme/support", "issuer": ISSUER, "origins": origins}
    return Bundle(**(fields | {"realm": "acme", "task": TASK, "tokens": held} | changes))


def task(*, at: int = AT, **changes: Any) -> Task:
    """The task as its agent holds it, with a clock that stands still."""
    return Task(bundle(**changes), now=lambda: at)


def task_with(*rules: Rule, audience: str = "orders", **changes: Any) -> Task:
    """A task for one service with these rules."""
    return task(tokens={audience: token(audience, *rules, **changes)})


def ask(held: Task, audience: str, tool: str, args: dict[str, Any], by: Verifier | None = None, at: int = AT) -> str:
    """What a verifier says of one signed call."""
    judge = by or verifier(audience=audience)
    return judge.decide(held.call_token(audience, tool, args), AccessRequest(tool, args, at, PEER)).code


def approvable(*, at: int = AT, **changes: Any) -> Task:
    """The task as the mint grants it where the policy wants refunds to be approved."""
    payments = require_discharge(token("payments", **changes), REQUIRED.encode(), caveat_key(KEY, REQUIRED.id))
    return task(at=at, tokens={"orders": token("orders", **changes), "payments": payments})


def discharged(
    args: Mapping[str, Any] = REFUND,
    *,
    required: ThirdPartyCaveat = REQUIRED,
    exp: int = AT + 600_000,
    task: str = "a-aaaaaaaaaaaaaaaa",
) -> str:
    """The discharge that the mint gives out once this refund is approved."""
    caveat = Caveat(allow=(Rule(tool="payments.refund", args=dict(args)),), exp=exp, task=task)
    made = issue_discharge(required.encode(), caveat_key(KEY, required.id), realm="acme", caveats=(caveat,))
    return made.encode()
