# SPDX-License-Identifier: Apache-2.0
"""A mint killed at every step of what it does with a task, as ``test_crashes`` has it for sessions and kills."""

from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_caps.service.token_exchange import GRANT_TYPE, TASK_TOKEN
from arx_verifier.request import AccessRequest
from arx_verifier.token.call_proof import MAX_AGE_MS
from arx_verifier.verification.verifier import Verifier
from tests.mint.dying import (
    SHORT_LEASE,
    Crasher,
    agent,
    at_every_step,
    count,
    crasher,
    orders,
    outcome,
    repeat,
    started,
)
from tests.mint.harness import LOOKUP, Harness, Holder, now_ms
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import ORDER, PAY, POLICY

__all__ = ["agent", "crasher", "orders"]  # fixtures
pytestmark = [pytest.mark.servers, SHORT_LEASE]


@pytest.mark.slow
def test_starting(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A task is there with its event or not at all, and the repeat gets that one; the end of the session ends all."""
    running = started(live, agent)

    def act(step: int) -> dict[str, Any] | None:
        before, key = len(live.mint.db.tasks.list()), f"k-{step}"
        answered = crasher.ask(step, running.holder, "POST", "/v1/tasks", LOOKUP, key)
        assert len(live.mint.db.tasks.list()) == count(live, "task.started")
        answer = repeat(running.holder, "/v1/tasks", LOOKUP, key, answered)
        assert len(live.mint.db.tasks.list()) == count(live, "task.started") == before + 1
        assert outcome(live, orders, answer["bundle"]) == "ok"
        return answered

    assert at_every_step(live, act) > 6
    assert live.operator().call("DELETE", f"/v1/sessions/{running.session}").status_code == 200
    assert {task.status for task in live.mint.db.tasks.list()} == {"ended"}


@pytest.mark.nightly
def test_finishing(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A task whose row says ended is revoked; finishing again works for its agent, and then it is."""
    holder, session = live.open_session(agent)

    def act(step: int) -> dict[str, Any] | None:
        answer = holder.call("POST", "/v1/tasks", LOOKUP).json()
        path = f"/v1/tasks/{answer['task']['id']}"
        answered = crasher.ask(step, holder, "DELETE", path)
        row = live.mint.db.tasks.find(answer["task"]["id"])
        assert row is not None
        if row.status == "ended" or answered is not None:
            assert outcome(live, orders, answer["bundle"]) == "revoked"
        assert holder.call("DELETE", path).json()["task"]["state"] == "ended"
        assert outcome(live, orders, answer["bundle"]) == "revoked"
        return answered

    assert at_every_step(live, act) > 7
    assert count(live, "task.ended") == len(live.mint.db.tasks.list(session=session["id"]))


@pytest.mark.nightly
def test_attenuation(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """Nothing that was attenuated is alive once it was answered or recorded; doing it again gives what works."""
    body = {"caveats": {"orders": [{"allow": [{"tool": "orders.get"}]}]}}

    def act(step: int) -> dict[str, Any] | None:
        running, recorded = started(live, agent), count(live, "task.attenuated")
        path = f"/v1/tasks/{running.task}/attenuate"
        answered = crasher.ask(step, running.holder, "POST", path, body, f"k-{step}")
        if answered is not None or count(live, "task.attenuated") > recorded:
            assert outcome(live, orders, running.bundle) == "revoked"
        answer = repeat(running.holder, path, body, f"k-{step}", answered)
        assert count(live, "task.attenuated") == recorded + 1
        assert outcome(live, orders, running.bundle) == "revoked"
        assert outcome(live, orders, answer["bundle"]) == "ok"
        assert len(live.mint.db.grants.live(running.task)) == 1
        return answered

    assert at_every_step(live, act) > 7


@pytest.mark.nightly
def test_extending(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A grant is there with its event or not at all, and the repeat gets that one; the end of the task ends all."""
    running = started(live, agent)
    path = f"/v1/tasks/{running.task}/extend"

    def act(step: int) -> dict[str, Any] | None:
        before, key = count(live, "task.extended"), f"k-{step}"
        answered = crasher.ask(step, running.holder, "POST", path, {}, key)
        assert len(live.mint.db.grants.live(running.task)) == 1 + count(live, "task.extended")
        answer = repeat(running.holder, path, {}, key, answered)
        assert count(live, "task.extended") == before + 1 == len(live.mint.db.grants.live(running.task)) - 1
        assert {outcome(live, orders, bundle) for bundle in (running.bundle, answer["bundle"])} == {"ok"}
        return answered

    assert at_every_step(live, act) > 6
    last = running.holder.call("POST", path, {}).json()["bundle"]
    assert running.holder.call("DELETE", f"/v1/tasks/{running.task}").status_code == 200
    assert {outcome(live, orders, bundle) for bundle in (running.bundle, last)} == {"revoked"}


@pytest.mark.nightly
def test_exchanging(live: Harness, crasher: Crasher, agent: KeyFile) -> None:
    """A one-shot token is spent with what it was exchanged for, or not at all; the repeat gets that, no other call."""
    live.realm.policy_path.write_text(POLICY)
    live.mint.reload_policy()
    service, payments = own_key(live, "orders"), verifier(live, "payments")
    holder, _ = live.open_session(agent)
    task = Task(Bundle.parse(holder.call("POST", "/v1/tasks", PAY).json()["bundle"]))
    body = {"grant_type": GRANT_TYPE, "subject_token_type": TASK_TOKEN, "audience": "payments"}

    def act(step: int) -> dict[str, Any] | None:
        took_ms, key = MAX_AGE_MS, ""
        while took_ms > MAX_AGE_MS // 2:  # a loaded machine may take longer to die than a call is good for
            before, began, key = count(live, "token.exchanged"), now_ms(), f"{key}k-{step}"
            asked = body | {"subject_token": task.call_token("orders", "orders.get", ORDER)}
            answered = crasher.ask(step, service, "POST", "/v1/exchange", asked, key)
            took_ms = now_ms() - began
        answer = repeat(service, "/v1/exchange", asked, key, answered)
        assert count(live, "token.exchanged") == before + 1
        onwards, args = Task(Bundle.parse(answer["bundle"])), ORDER | {"amount": 50}
        text = onwards.call_token("payments", "payments.refund", args)
        assert payments.decide(text, AccessRequest("payments.refund", args, now_ms())).code == "ok"
        assert service.call("POST", "/v1/exchange", asked).json()["code"] == "replayed"
        return answered

    assert at_every_step(live, act) > 6


def own_key(harness: Harness, audience: str) -> Holder:
    """A service that enrolled a key of its own."""
    answer = harness.operator().call("POST", "/v1/services/invitations", {"audience": audience}).json()
    service = Holder(harness, SigningKey.generate(), None)
    assert service.call("POST", "/v1/services/keys", {"enrolment": answer["enrolment"]}).status_code == 201
    return service
