# SPDX-License-Identifier: Apache-2.0
"""A mint killed at every step of what it does: what was answered holds, the rest can be done again, with the same
``Idempotency-Key`` to the same effect, and an ended thing is dead.  On both databases, with a second mint that goes on.
"""

from typing import Any

import pytest

from arx_caps.credentials.jose import KeyFile, SigningKey
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
from tests.mint.harness import LOOKUP, Harness, Holder

__all__ = ["agent", "crasher", "orders"]  # fixtures
pytestmark = [pytest.mark.servers, SHORT_LEASE]


@pytest.mark.slow
def test_opening(live: Harness, crasher: Crasher, agent: KeyFile) -> None:
    """A session is there with its event or not at all, and the repeat gets that one; another one can be opened."""

    def act(step: int) -> dict[str, Any] | None:
        holder, before = Holder(live, SigningKey.generate(), None), len(live.mint.db.sessions.list())
        body, key = {"assertion": live.assertion(agent, holder.key)}, f"k-{step}"
        answered = crasher.ask(step, holder, "POST", "/v1/sessions", body, key)
        assert len(live.mint.db.sessions.list()) == count(live, "session.opened")
        answer = repeat(holder, "/v1/sessions", body, key, answered)
        assert len(live.mint.db.sessions.list()) == count(live, "session.opened") == before + 1
        assert Holder(live, holder.key, answer["token"]).call("POST", "/v1/tasks", LOOKUP).status_code == 201
        return answered

    assert at_every_step(live, act) > 6
    live.open_session(agent)


@pytest.mark.nightly
def test_ending(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A session whose row says ended is revoked with its tasks; ending it again works, and then it is."""

    def act(step: int) -> dict[str, Any] | None:
        running = started(live, agent)
        path = f"/v1/sessions/{running.session}"
        answered = crasher.ask(step, running.holder, "DELETE", path)
        row = live.mint.db.sessions.find(running.session)
        assert row is not None
        if row.status == "ended" or answered is not None:
            assert outcome(live, orders, running.bundle) == "revoked"
        mine = running.holder.call("DELETE", path)
        # Where the kill was in the store already, the session's own token is as revoked as the rest.
        assert mine.status_code == 200 or mine.json()["code"] == "revoked"
        assert live.operator().call("DELETE", path).json()["session"]["state"] == "ended"
        assert outcome(live, orders, running.bundle) == "revoked"
        assert running.holder.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "revoked"
        return answered

    assert at_every_step(live, act) > 7
    assert count(live, "session.ended") == len(live.mint.db.sessions.list())


@pytest.mark.nightly
def test_renewing(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A renewal is there with its event or not at all; the token in hand goes on, and the end ends every token."""
    policy = live.realm.policy_path
    policy.write_text(policy.read_text().replace('ttl = "8h"', 'ttl = "8h"\nidle = "10m"'))
    live.mint.reload_policy()
    running = started(live, agent)
    path = f"/v1/sessions/{running.session}/renew"

    def act(step: int) -> dict[str, Any] | None:
        before, recorded = live.mint.db.sessions.find(running.session), count(live, "session.renewed")
        answered = crasher.ask(step, running.holder, "POST", path)
        after = live.mint.db.sessions.find(running.session)
        assert before is not None
        assert after is not None
        changed = after.expires_at > before.expires_at
        assert changed == (count(live, "session.renewed") > recorded)
        assert changed or answered is None
        assert running.holder.call("POST", path).status_code == 200
        return answered

    assert at_every_step(live, act) > 5
    answer = running.holder.call("POST", path).json()
    running.holder.token = answer["token"]
    assert running.holder.call("DELETE", f"/v1/sessions/{running.session}").status_code == 200
    assert outcome(live, orders, running.bundle) == "revoked"
    assert running.holder.call("POST", path).json()["code"] == "revoked"


@pytest.mark.nightly
def test_deactivating(live: Harness, crasher: Crasher, orders: Verifier) -> None:
    """An agent whose row says deactivated gets nothing more; doing it again works, and what it held is dead."""

    def act(step: int) -> dict[str, Any] | None:
        path = f"acme/support/a{step}"
        agent = live.enrol(path)
        running = started(live, agent)
        answered = crasher.ask(step, live.operator(), "DELETE", f"/v1/agents/{path}")
        row = live.mint.db.agents.find(path)
        assert row is not None
        if row.status == "deactivated":
            refused = Holder(live, live.session_key, None)
            answer = refused.call("POST", "/v1/sessions", {"assertion": live.assertion(agent)})
            assert (answer.status_code, answer.json()["code"]) == (401, "frozen")
        if answered is not None:
            assert outcome(live, orders, running.bundle) == "revoked"
        answer = live.operator().call("DELETE", f"/v1/agents/{path}")
        assert answer.json()["agent"]["state"] == "deactivated"
        assert outcome(live, orders, running.bundle) == "revoked"
        assert f"agent:{path}" in live.mint.store.freezes()
        return answered

    assert at_every_step(live, act) > 9


@pytest.mark.slow
def test_killing(live: Harness, crasher: Crasher, agent: KeyFile, orders: Verifier) -> None:
    """A kill that was recorded or answered is in force; killing again works, and then it is."""

    def act(step: int) -> dict[str, Any] | None:
        running, recorded = started(live, agent), count(live, "targets.killed")
        body = {"targets": [f"session:{running.session}"], "reason": "stop", "wait": False}
        answered = crasher.ask(step, live.operator(), "POST", "/v1/kills", body)
        if answered is not None or count(live, "targets.killed") > recorded:
            assert outcome(live, orders, running.bundle) == "revoked"
        assert live.operator().call("POST", "/v1/kills", body).json()["durable"] is True
        assert outcome(live, orders, running.bundle) == "revoked"
        return answered

    assert at_every_step(live, act) > 6
