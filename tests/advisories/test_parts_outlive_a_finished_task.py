# SPDX-License-Identifier: Apache-2.0
"""A holder could use the tokens of a task's part after the task was finished.

A part's tokens end no later than its task, as that stood when the part began.  An attenuation can make the task's end
an earlier one.  The kill of a finished task was remembered until that end alone, and then a store that looked through
its kills let the parts' tokens live again; and a task past its end was reported as over, and its parts were not
ended.
"""

import pytest
import redis

from arx_verifier.verification.verifier import Verifier
from tests.mint.harness import Harness, Holder, now_ms
from tests.mint.test_task_attenuation import ask, direct, services, started
from tests.servers import FAST_LEASE_MS, until

__all__ = ["direct", "services"]  # fixtures
pytestmark = [pytest.mark.servers, pytest.mark.realm(lease_ms=FAST_LEASE_MS)]
REFUND = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}


def with_a_part(holder: Holder, attenuated_to_ms: int) -> tuple[str, str, int]:
    """Start a task and a part of it, and attenuate the task in time; return its id, and the part's bundle and end."""
    task, _ = started(holder)
    part = holder.call("POST", "/v1/tasks", {**REFUND, "parent": task}).json()
    answer = holder.call(
        "POST", f"/v1/tasks/{task}/attenuate", {"caveats": {"orders": [{"exp": now_ms() + attenuated_to_ms}]}}
    )
    assert answer.json()["task"]["expires_at"] < part["task"]["expires_at"]
    return task, part["bundle"], part["task"]["expires_at"]


def test_the_kill_is_remembered_as_long_as_any_part_could_live(live: Harness, services: dict[str, Verifier]) -> None:
    """What the store keeps of the kill outlasts every token that it ends."""
    task, bundle, ends_at = with_a_part(live.session()[0], 60_000)
    assert ask(services, live, bundle) == "ok"
    assert live.operator().call("DELETE", f"/v1/tasks/{task}").json()["kill"]["targets"] == [f"task:{task}"]
    assert ask(services, live, bundle) == "revoked"
    with redis.Redis.from_url(live.mint.store_url) as store:
        kept_until = store.zscore(f"arx:{{{live.realm.name}}}:x", f"task:{task}")
    assert kept_until is not None
    assert kept_until > ends_at


def test_a_task_whose_end_has_come_takes_its_parts_with_it(live: Harness, services: dict[str, Verifier]) -> None:
    """As long as a part lives, finishing the task is a kill."""
    holder, _ = live.session()
    task, bundle, _ = with_a_part(holder, 400)
    until(lambda: holder.call("GET", f"/v1/tasks/{task}").json()["task"]["state"] == "expired")
    assert ask(services, live, bundle) == "ok"
    answer = holder.call("DELETE", f"/v1/tasks/{task}").json()
    assert answer["kill"]["targets"] == [f"task:{task}"]
    assert ask(services, live, bundle) == "revoked"
    assert {each["state"] for each in holder.call("GET", "/v1/tasks").json()["tasks"]} == {"ended"}
