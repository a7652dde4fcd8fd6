# SPDX-License-Identifier: Apache-2.0
"""A holder could use tokens that the mint showed as ended, after a deactivation that the store did not take.

A deactivation that the store did not take (it was down) still marked the agent's sessions and tasks as ended.  Once the
store was back, whoever held their tokens went on, while the mint showed them as ended and answered the operator who
ended them once more that they had ended before, without any kill.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from tests.mint.world import AGENT, LOOKUP, World, client_of, make_realm
from tests.servers import until

pytestmark = pytest.mark.servers


@pytest.fixture
def world(tmp_path: Path, own_valkey: EmbeddedValkey) -> Iterator[World]:
    mint = MintRuntime.open(make_realm(tmp_path / "realm"), store_url=own_valkey.url)
    with client_of(mint) as client:
        yield World(mint, client)


def test_what_the_store_did_not_take_has_not_ended(
    world: World, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a deactivation that failed, sessions and tasks are shown as open, and ending them kills them."""
    monkeypatch.setattr("arx_caps.revocation.store.OUTCOME_S", 0.5)
    agent, session = world.session()
    task = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    operator = world.operator()
    own_valkey.stop()
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 503
    own_valkey.start()
    until(lambda: not world.mint.ready(), 20)

    shown = operator.call("GET", f"/v1/sessions/{session['id']}").json()
    assert (shown["session"]["state"], shown["tasks"][0]["state"]) == ("open", "open")
    for path, target in (("tasks", f"task:{task['id']}"), ("sessions", f"session:{session['id']}")):
        answer = operator.call("DELETE", f"/v1/{path}/{target.partition(':')[2]}").json()
        assert answer["kill"]["durable"]
        assert target in world.mint.store.kills()


def test_a_deactivation_is_mended_by_repeating_it(
    world: World, own_valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the agent gets nothing; repeated, the deactivation kills what it holds and says so."""
    monkeypatch.setattr("arx_caps.revocation.store.OUTCOME_S", 0.5)
    agent, session = world.session()
    operator = world.operator()
    own_valkey.stop()
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").status_code == 503
    own_valkey.start()
    until(lambda: not world.mint.ready(), 20)

    assert agent.call("POST", "/v1/tasks", LOOKUP).json()["code"] == "frozen"
    assert operator.call("DELETE", f"/v1/agents/{AGENT}").json()["kill"]["durable"]
    assert f"agent:{AGENT}" in world.mint.store.kills()
    assert operator.call("GET", f"/v1/sessions/{session['id']}").json()["session"]["state"] == "ended"
