# SPDX-License-Identifier: Apache-2.0
"""Policies over the API: put in force whole or not at all, at every mint, and every one that ever was can be read."""

import os

import pytest

from arx_caps.mint.policy.model import Policy
from tests.mint.harness import LOOKUP, Harness, local_mint


@pytest.fixture
def unit(unit: Harness) -> Harness:
    """A realm whose mint has put its policy in force, as a mint does that starts."""
    unit.mint.policies.settle()
    return unit


def sample(harness: Harness) -> str:
    return harness.realm.policy_path.read_text("utf-8")


def test_a_policy_is_put_in_force(unit: Harness) -> None:
    """New tasks are granted under it, those that run keep their digest, and both can be read as they were written."""
    agent, _ = unit.session()
    first = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    text = sample(unit).replace('ttl = "10m"', 'ttl = "5m"', 1) + "# a note\n"
    operator = unit.operator()
    answer = operator.call("POST", "/v1/policies", {"policy": text})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"digest": Policy.parse(text, "x").digest, "before": first["policy"]}
    second = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    assert second["policy"] == answer.json()["digest"] != first["policy"]
    assert sample(unit) == text
    for task, in_force in ((first, False), (second, True)):
        shown = operator.call("GET", f"/v1/policies/{task['policy']}").json()
        assert (Policy.parse(shown["policy"], "x").digest, shown["in_force"]) == (task["policy"], in_force)
    assert operator.call("GET", "/v1/policies/in-force").json()["policy"] == text
    listed = operator.call("GET", "/v1/policies").json()["policies"]
    assert [each["digest"] for each in listed] == [second["policy"], first["policy"]]
    assert listed[0]["by"] == "operator:root"
    values = [event for event in unit.events() if event["kind"] == "policy.loaded"]
    assert (values[-1]["policy"], values[-1]["before"], values[-1]["by"]) == (
        second["policy"],
        first["policy"],
        "operator:root",
    )
    assert operator.call("GET", "/v1/policies/" + "A" * 22).status_code == 404


@pytest.mark.parametrize("wrong", ["", "x = ", "[session]\nagents = [1]", "[task.x]\nunknown = 1"])
def test_a_policy_with_a_mistake_changes_nothing(unit: Harness, wrong: str) -> None:
    """The error has line and key; nothing changes.  An empty policy is valid, and permits nothing."""
    before, text = unit.mint.policy.digest, sample(unit)
    answer = unit.operator().call("POST", "/v1/policies", {"policy": wrong})
    if wrong == "":
        assert answer.status_code == 200
        return
    assert answer.status_code in (400, 422)
    if answer.status_code == 422:
        assert answer.json()["code"] == "policy"
        assert "policy.toml:" in answer.json()["detail"]
    assert (unit.mint.policy.digest, sample(unit)) == (before, text)


def test_who_may_not_load_does_not(unit: Harness) -> None:
    """A policy is for the role that is for it; what is too long for any is refused."""
    agent, _ = unit.session()
    assert agent.call("POST", "/v1/policies", {"policy": ""}).status_code == 403
    assert unit.operator().call("POST", "/v1/policies", {"policy": "#" * (1 << 20) + "\n"}).status_code == 400
    assert unit.operator().call("POST", "/v1/policies", {"policy": "#" * (3 << 20)}).status_code == 413


def test_a_large_policy_has_room(unit: Harness) -> None:
    """A body may be as long as a policy, and only here."""
    text = sample(unit) + "".join(f"# {n:060}\n" for n in range(2000))
    assert unit.operator().call("POST", "/v1/policies", {"policy": text}).status_code == 200


def test_a_reload_takes_the_file(unit: Harness) -> None:
    """Over the API as at a signal; the answer reports a mistake, and the old policy stays in force."""
    unit.realm.policy_path.write_text(sample(unit).replace('"8h"', '"4h"'))
    answer = unit.operator().call("POST", "/v1/policies/reload").json()
    assert answer["digest"] == unit.mint.policy.digest != answer["before"]
    unit.realm.policy_path.write_text('[session]\nagents = 1\nttl = "8h"\n')
    refused = unit.operator().call("POST", "/v1/policies/reload")
    assert refused.json()["code"] == "policy"
    assert "policy.toml:2: session.agents" in refused.json()["detail"]
    assert unit.mint.policy.digest == answer["digest"]


def test_another_mint_follows(unit: Harness) -> None:
    """What one mint puts in force is in force at the other, and stays over a start with an old file."""
    other = local_mint(unit.realm)
    old, text = sample(unit), sample(unit).replace('"8h"', '"4h"')
    digest = unit.operator().call("POST", "/v1/policies", {"policy": text}).json()["digest"]
    other.policies.follow()
    assert other.policy.digest == digest
    # A mint with a folder of its own, where the file is that of before.
    unit.realm.policy_path.write_text(old)
    os.utime(unit.realm.policy_path, (1_000_000_000, 1_000_000_000))
    third = local_mint(unit.realm)
    assert third.policy.digest != digest
    third.policies.settle()
    assert third.policy.digest == digest
    # An operator who edits the file and starts a mint means the policy in the file.
    unit.realm.policy_path.write_text(old)
    fourth = local_mint(unit.realm)
    fourth.policies.settle()
    assert fourth.policy.digest != digest
    unit.mint.policies.follow()
    assert unit.mint.policy.digest == fourth.policy.digest
    for mint in (other, third, fourth):
        mint.close()
