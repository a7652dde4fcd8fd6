# SPDX-License-Identifier: Apache-2.0
"""A caller could repeat an old call and get a revoked token signed again with the new key.

A key that was stolen is replaced, and every token made with it is dead.  A caller who repeated the call that a token
had come from, within a day and with its ``Idempotency-Key``, got the same one signed with the new key: alive, as wide
as the policy of that time.  A session that was over was given its revoked token as well.
"""

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from tests.mint.harness import LOOKUP, Harness, Holder

pytestmark = pytest.mark.sqlite

KEY = {"Idempotency-Key": "k-1"}


def started(holder: Holder) -> tuple[int, str | None]:
    headers = holder.headers("POST", "/v1/tasks") | KEY
    answer = holder.harness.client.post("/v1/tasks", json=LOOKUP, headers=headers)
    return answer.status_code, answer.json().get("code")


def test_a_replaced_key_brings_no_task_back(unit: Harness, epochs: UnsafeLocalEpochs) -> None:
    """A fresh call is served by the new key; the old one is not done again with it."""
    holder, _ = unit.session()
    assert started(holder) == started(holder) == (201, None)
    kid, _ = unit.mint.key_schedule.audience_key("orders")
    unit.operator().call("PUT", "/v1/services/orders")
    # The store of `unit` does not answer; the mint does its own part, and here is the freeze.
    unit.operator().call("POST", "/v1/services/orders/replace-key", {"stolen": True})
    epochs.freeze(f"key:{kid}")
    assert unit.mint.key_schedule.audience_key("orders")[0] != kid
    assert started(holder) == (401, "frozen")
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201


@pytest.mark.parametrize("over", ["killed", "frozen", "ended"])
def test_a_session_that_is_over_gets_no_token(unit: Harness, epochs: UnsafeLocalEpochs, over: str) -> None:
    """Its own key and a new assertion bring nothing back."""
    agent, holder = unit.enrol(), Holder(unit, SigningKey.generate(), None)

    def opened() -> tuple[int, dict[str, object]]:
        body = {"assertion": unit.assertion(agent, holder.key)}
        headers = holder.headers("POST", "/v1/sessions") | KEY
        answer = unit.client.post("/v1/sessions", json=body, headers=headers)
        return answer.status_code, answer.json()

    status, reply = opened()
    assert status == 201
    session = reply["session"]["id"]  # type: ignore[index]
    if over == "ended":
        unit.mint.db.sessions.end_of(agent.subject)
    else:
        (epochs.kill if over == "killed" else epochs.freeze)(f"session:{session}")
    status, reply = opened()
    assert reply["code"] == ("frozen" if over == "frozen" else "revoked")
    assert "token" not in reply
