# SPDX-License-Identifier: Apache-2.0
"""What a kill would end, before it is made: counts, mistyped targets, and who must confirm."""

from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.mint.harness import AGENT, LOOKUP, Harness, Holder

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 4.7")]
COUNTS = ("sessions", "tasks", "agents", "tokens", "exact")


def look(operator: Holder, *targets: str, **more: Any) -> dict[str, Any]:
    answer = operator.call("POST", "/v1/kills/preview", {"targets": targets, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def counts(operator: Holder, *targets: str) -> tuple[Any, ...]:
    seen = look(operator, *targets)
    return tuple(seen[name] for name in COUNTS)


def start(agent: Holder, **more: Any) -> dict[str, Any]:
    answer = agent.call("POST", "/v1/tasks", {**LOOKUP, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()["task"]


def test_a_preview_counts_what_a_kill_ends(live: Harness) -> None:
    """Sessions, tasks and tokens of each kind of target, once each however many targets name them."""
    operator = live.operator()
    key = live.enrol()
    (first, one), (_, other) = live.open_session(key), live.open_session(key)
    stranger, third = live.session("acme/support/other")
    task = start(first)
    part = start(first, parent=task["id"])
    start(stranger)
    tokens = len(task["audiences"])
    session, work = f"session:{one['id']}", f"task:{task['id']}"
    assert counts(operator, f"task:{part['id']}") == (0, 1, 1, tokens, True)
    assert counts(operator, work) == (0, 2, 1, 2 * tokens, True)
    assert counts(operator, session) == (1, 2, 1, 1 + 2 * tokens, True)
    assert counts(operator, f"agent:{AGENT}") == (2, 2, 1, 2 + 2 * tokens, True)
    assert counts(operator, "agent:acme") == (3, 3, 2, 3 + 3 * tokens, True)
    assert counts(operator, "realm", "agent:acme", session, work) == counts(operator, "agent:acme")
    assert counts(operator, f"policy:{task['policy']}") == counts(operator, "agent:acme")
    assert counts(operator, f"link:{task['link']}") == (0, 2, 1, 2 * tokens, True)
    assert counts(operator, "agent:acme/unknown") == (0, 0, 0, 0, True)
    # Nothing was done; what was killed is not counted again, what is frozen is.
    assert operator.call("GET", "/v1/kills").json()["total"] == 0
    operator.call("POST", "/v1/kills", {"targets": [session], "reason": "x"})
    operator.call("POST", "/v1/freezes", {"targets": [f"session:{other['id']}"], "reason": "x"})
    assert counts(operator, f"agent:{AGENT}") == (1, 0, 1, 1, True)
    states = {row["target"]: row["state"] for row in look(operator, session, work, f"session:{third['id']}")["targets"]}
    assert list(states.values()) == ["over", "over", "live"]


def test_a_mistyped_target_is_doubted(live: Harness) -> None:
    """Each kind that the mint can look up; an agent with a similar name is suggested."""
    operator = live.operator()
    live.enrol()
    seen = look(operator, "agent:acme/suport/triage", "agent:acme/support", "agent:zzz", "session:s-abcdefghijklmnop")
    assert [(row["state"], row["meant"]) for row in seen["targets"]] == [
        ("unknown", f"agent:{AGENT}"),
        ("live", None),
        ("unknown", None),
        ("unknown", None),
    ]
    others = (
        "task:t-abcdefghijklmnop",
        "task:a-abcdefghijklmnop",
        "operator:bob",
        "policy:" + "A" * 22,
        "link:" + "A" * 22,
    )
    assert {row["state"] for row in look(operator, *others)["targets"]} == {"unknown"}
    assert [row["state"] for row in look(operator, "operator:root", "realm", "key:k1.0")["targets"]] == ["live"] * 3
    operator.call("POST", "/v1/freezes", {"targets": [f"agent:{AGENT}"], "reason": "x"})
    (row,) = look(operator, f"agent:{AGENT}", op="freeze")["targets"]
    assert (row["op"], row["state"]) == ("freeze", "frozen")
    assert operator.call("POST", "/v1/kills/preview", {"targets": ["agent:"]}).json()["code"] == "malformed_request"


def test_who_must_confirm(live: Harness) -> None:
    """The live verifiers, and the enrolled services that have none."""
    operator = live.operator()
    operator.call("PUT", "/v1/services/orders")
    seen = look(operator, "realm")
    assert (seen["verifiers"], seen["lease_ms"], seen["error"]) == (1, 1000, None)
    assert {"service": "orders", "verifiers": 0} in seen["services"]


@pytest.mark.realm(own_store=True)
def test_a_preview_without_the_store(live: Harness, own_valkey: EmbeddedValkey) -> None:
    """The preview shows what would end, and that the verifiers are unknown."""
    operator = live.operator()
    live.session()
    own_valkey.stop()
    seen = look(operator, "agent:acme")
    assert seen["sessions"] == 1
    assert (seen["verifiers"], seen["services"], seen["error"]) == (None, [], "the store did not answer")


def test_many_targets(live: Harness) -> None:
    """A thousand targets are looked up in a few statements."""
    operator = live.operator()
    live.session()
    targets = [f"session:s-{number:016b}".replace("0", "a").replace("1", "b") for number in range(998)]
    seen = look(operator, *targets, "agent:acme", "realm")
    assert (len(seen["targets"]), seen["sessions"]) == (1000, 1)
