# SPDX-License-Identifier: Apache-2.0
"""An agent must not get an approval for a third-party caveat that no token of its task requires.

The key of a third-party caveat is derived from its name, which leaves out the tools: a discharge of one must be worth
nothing for another of the same name.
"""

from arx_caps.agent.tasks.approval import Approval
from arx_verifier.request import AccessRequest
from arx_verifier.token import wire
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, join, third_party_caveats
from arx_verifier.token.macaroon import Macaroon
from tests.mint.approvals import POLICY, REFUND, Desk, code, decide
from tests.mint.harness import now_ms
from tests.mint.test_tasks import verifier

TOOLS = '["payments.refund", "payments.note"]'


def test_made_up(desk: Desk) -> None:
    """Other tools, none, another key, and what is no third-party caveat: refused before a person reads it."""
    kid, _, task = ThirdPartyCaveat.read(desk.caveat.encode()).id.partition(":")
    made = [
        ThirdPartyCaveat(id=f"{kid}:{task}", tools=("payments.refund",)),
        ThirdPartyCaveat(id=f"{kid}:{task}", tools=("payments.note", "payments.refund")),
        ThirdPartyCaveat(id=f"{kid}:{task}", tools=("*",)),
        ThirdPartyCaveat(id=f"{kid}:{task}"),
        ThirdPartyCaveat(id=f"{kid}9:{task}", tools=("payments.refund", "payments.note")),
        ThirdPartyCaveat(id=f"zz.0:{task}", tools=("payments.refund", "payments.note")),
    ]
    for caveat in [*[each.encode().decode() for each in made], "", "{}", "x" * 5000, desk.caveat + "\n"]:
        answer = desk.agent.call(
            "POST", "/v1/discharges", {"caveat": caveat, "tool": "payments.refund", "args": REFUND}
        )
        assert code(answer) in ("bad_parameters", "malformed_request"), caveat
    for gone in (f"{kid}:t-{'a' * 16}", "nothing", ":"):
        caveat = ThirdPartyCaveat(id=gone, tools=("payments.refund",)).encode().decode()
        answer = desk.agent.call(
            "POST", "/v1/discharges", {"caveat": caveat, "tool": "payments.refund", "args": REFUND}
        )
        assert code(answer) == "not_found"
    assert desk.harness.mint.db.approvals.list() == []


def test_of_the_other_audience(desk: Desk) -> None:
    """The same words under the key of another service, where this task has a token that requires nothing."""
    kid, _ = desk.harness.mint.key_schedule.audience_key("orders")
    third_party = ThirdPartyCaveat(id=f"{kid}:{desk.id}", tools=("payments.refund", "payments.note"))
    body = {"caveat": third_party.encode().decode(), "tool": "payments.refund", "args": REFUND}
    assert code(desk.agent.call("POST", "/v1/discharges", body)) == "bad_parameters"


def test_of_a_policy_that_asked_for_more(desk: Desk) -> None:
    """A task under the newer policy requires less: the older words, with its own name in them, are none of its own."""
    desk.use(POLICY.replace(TOOLS, '["payments.refund"]'))
    task, _ = desk.start()
    older = desk.caveat.replace(desk.id, task)
    body = {"caveat": older, "tool": "payments.note", "args": {}}
    assert code(desk.agent.call("POST", "/v1/discharges", body)) == "bad_parameters"


def test_two_of_one_name(desk: Desk) -> None:
    """Two entries of a template have one name and one key: what was approved of one is not good for the other."""
    two = '{ tools = ["payments.refund"] }, { tools = ["payments.note"], need = 2 }'
    desk.use(POLICY.replace(f"{{ tools = {TOOLS}, need = 1 }}", two))
    desk.id, desk.task = desk.start()
    token = desk.task.bundle.tokens["payments"]
    refunds, notes = (each.encode() for each in third_party_caveats(token))
    desk.caveat = refunds.decode()
    judge = verifier(desk.harness, "payments")
    _, approval = desk.approved()
    note = {"x": 1}
    text = desk.task.call_token("payments", "payments.note", note)
    made = Macaroon.parse(approval.encode())
    changed = made.to_bytes().replace(wire.packet(wire.IDENTIFIER, refunds), wire.packet(wire.IDENTIFIER, notes))
    assert changed != made.to_bytes()
    for discharge in (made, Macaroon.from_bytes(changed)):
        answer = judge.decide(join(text, [bind(discharge, token)]), AccessRequest("payments.note", note, now_ms())).code
        assert answer in ("bad_signature", "argument_not_allowed", "tool_not_allowed"), answer
    assert decide(judge, desk.task, REFUND, [Approval.from_text(approval.encode())]) == "ok"
