# SPDX-License-Identifier: Apache-2.0
"""A holder could use tokens that the mint showed as ended, after a deactivation that the store did not take.

A deactivation that the store did not take (it was down) still marked the agent's sessions and tasks as ended.  Once the
store was back, their holders went on, while the mint showed them as ended and answered the operator who
ended them once more that they had ended before, without any kill.
"""

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.mint.harness import AGENT, LOOKUP, Harness
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.sqlite, pytest.mark.realm(own_store=True)]


def test_what_the_store_did_not_take_has_not_ended(
    live: Harness, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a deactivation that failed, sessions and tasks are shown as open, and ending them kills them."""
    monkeypatch.setattr("arx_caps.revocation.store.OUTCOME_S", 0.5)
    agent, session = live.session()
    task = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    operator = live.operator()
    own_valkey.stop()
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 503
    own_valkey.start()
    until(lambda: not live.mint.ready())

    shown = operator.call("GET", f"/v1/sessions/{session['id']}").json()
    assert (shown["session"]["state"], shown["tasks"][0]["state"]) == ("open", "open")
    for path, target in (("tasks", f"task:{task['id']}"), ("sessions", f"session:{session['id']}")):
        answer = operator.call("DELETE", f"/v1/{path}/{target.partition(':')[2]}").json()
        assert answer["kill"]["durable"]
        assert target in live.mint.store.kills()


def test_a_deactivation_is_mended_by_repeating_it(
    live: Harness, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the agent gets nothing; repeated, the deactivation kills its tokens and reports that."""
    monkeypatch.setattr("arx_caps.revocation.store.OUTCOME_S", 0.5)
    agent, session = live.session()
    operator = live.operator()
    own_valkey.stop()
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 503
    own_valkey.start()
    until(lambda: not live.mint.ready())

    assert agent.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "frozen"
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").json()["kill"]["durable"]
    assert f"agent:{AGENT}" in live.mint.store.kills()
    assert operator.call("GET", f"/v1/sessions/{session['id']}").json()["session"]["state"] == "ended"
