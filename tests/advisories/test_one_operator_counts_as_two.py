# SPDX-License-Identifier: Apache-2.0
"""One operator must not count as two of those that a policy asks for, and no agent as one.

What holds: names count, not keys or tokens; what was taken from an operator is gone; agents answer nothing.  What does
not: whose an agent is the mint does not know, so an operator may approve what an agent of theirs asks for, and one who
may make operators may make a second one.  The record names both.
"""

from arx_caps.credentials.jose import KeyFile
from tests.mint.approvals import TWO, Desk, code
from tests.mint.harness import ISSUER, Holder
from tests.mint.test_operators import sign_in

DESK_POLICY = TWO


def test_two_keys_of_one_operator(desk: Desk) -> None:
    """Another token, and a token by another key, are the same operator's."""
    ada, asked = desk.operator("ada"), desk.ask()
    second = KeyFile.generate("operator", "ada", ISSUER)
    added = desk.harness.operator().call("PATCH", "/v1/operators/ada", {"add_jwk": second.key.public.jwk})
    assert added.is_success, added.text
    assert code(desk.answer(ada, asked)) == "ok"
    for holder in (ada, sign_in(desk.harness, second)):
        assert code(desk.answer(holder, asked)) == "conflict"
    assert desk.fetch(asked).json()["approval"]["by"] == ["ada"]


def test_an_agent_for_itself(desk: Desk) -> None:
    """A session's token answers nothing, whatever is asked with it; no operator's token asks."""
    asked = desk.ask()
    for outcome in ("approve", "deny"):
        assert code(desk.answer(desk.agent, asked, outcome)) == "tool_not_allowed"
    assert code(desk.agent.call("DELETE", f"/v1/approvals/{asked['id']}")) == "tool_not_allowed"
    mixed = Holder(desk.harness, desk.agent.key, desk.operator("ada").token)  # the token stolen, the key not
    assert code(desk.answer(mixed, asked)) == "bad_proof"
    assert code(desk.try_to_ask(by=desk.harness.operator())) == "wrong_caller"
    assert desk.fetch(asked).json()["approval"]["state"] == "waiting"


def test_what_is_recorded_of_it(desk: Desk) -> None:
    """An operator may approve what an agent asks for that they enrolled, with another; the record names both."""
    ada, asked = desk.operator("ada"), desk.ask()
    assert code(desk.answer(desk.harness.operator(), asked)) == code(desk.answer(ada, asked)) == "ok"
    events = [event for event in desk.harness.events() if event.get("approval") == asked["id"]]
    assert [event["by"] for event in events[1:]] == ["operator:root", "operator:ada"]
    assert [event["state"] for event in events[1:]] == ["waiting", "approved"]
