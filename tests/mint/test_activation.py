# SPDX-License-Identifier: Apache-2.0
"""Policies over the API: put in force whole or not at all, at every mint, and every one that ever was can be read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.mint.policy.model import Policy
from tests.mint.world import LOOKUP, World, local_mint, local_world


@pytest.fixture
def world(tmp_path: Path, database: str | None) -> Iterator[World]:
    made, _ = local_world(tmp_path / "realm", database=database)
    made.mint.policies.settle()  # as a mint does that starts
    yield made
    made.mint.close()


def sample(world: World) -> str:
    return world.realm.policy_path.read_text("utf-8")


def test_a_policy_is_put_in_force(world: World) -> None:
    """New tasks are granted under it, those that run keep their digest, and both can be read as they were written."""
    agent, _ = world.session()
    first = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    text = sample(world).replace('ttl = "10m"', 'ttl = "5m"', 1) + "# a note\n"
    operator = world.operator()
    answer = operator.call("POST", "/v1/policies", {"policy": text})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"digest": Policy.parse(text, "x").digest, "before": first["policy"]}
    second = agent.call("POST", "/v1/tasks", LOOKUP).json()["task"]
    assert second["policy"] == answer.json()["digest"] != first["policy"]
    assert sample(world) == text
    for task, in_force in ((first, False), (second, True)):
        shown = operator.call("GET", f"/v1/policies/{task['policy']}").json()
        assert (Policy.parse(shown["policy"], "x").digest, shown["in_force"]) == (task["policy"], in_force)
    assert operator.call("GET", "/v1/policies/in-force").json()["policy"] == text
    listed = operator.call("GET", "/v1/policies").json()["policies"]
    assert [each["digest"] for each in listed] == [second["policy"], first["policy"]]
    assert listed[0]["by"] == "operator:root"
    told = [event for event in world.events() if event["kind"] == "policy.loaded"]
    assert (told[-1]["policy"], told[-1]["before"], told[-1]["by"]) == (
        second["policy"],
        first["policy"],
        "operator:root",
    )
    assert operator.call("GET", "/v1/policies/" + "A" * 22).status_code == 404


@pytest.mark.parametrize("wrong", ["", "x = ", "[session]\nagents = [1]", "[task.x]\nunknown = 1"])
def test_a_policy_with_a_mistake_changes_nothing(world: World, wrong: str) -> None:
    """Told with line and key; nothing changes.  An empty one is no mistake: nobody may anything."""
    before, text = world.mint.policy.digest, sample(world)
    answer = world.operator().call("POST", "/v1/policies", {"policy": wrong})
    if wrong == "":
        assert answer.status_code == 200
        return
    assert answer.status_code in (400, 422)
    if answer.status_code == 422:
        assert answer.json()["code"] == "policy"
        assert "policy.toml:" in answer.json()["detail"]
    assert (world.mint.policy.digest, sample(world)) == (before, text)


def test_who_may_not_load_does_not(world: World) -> None:
    """A policy is for the role that is for it; what is too long for any is refused."""
    agent, _ = world.session()
    assert agent.call("POST", "/v1/policies", {"policy": ""}).status_code == 403
    assert world.operator().call("POST", "/v1/policies", {"policy": "#" * (1 << 20) + "\n"}).status_code == 400
    assert world.operator().call("POST", "/v1/policies", {"policy": "#" * (3 << 20)}).status_code == 413


def test_a_large_policy_has_room(world: World) -> None:
    """A body may be as long as a policy, and only here."""
    text = sample(world) + "".join(f"# {n:060}\n" for n in range(2000))
    assert world.operator().call("POST", "/v1/policies", {"policy": text}).status_code == 200


def test_a_reload_takes_the_file(world: World) -> None:
    """Over the API as at a signal; one with a mistake is told, and the old one stays."""
    world.realm.policy_path.write_text(sample(world).replace('"8h"', '"4h"'))
    answer = world.operator().call("POST", "/v1/policies/reload").json()
    assert answer["digest"] == world.mint.policy.digest != answer["before"]
    world.realm.policy_path.write_text("[session]\nagents = 1\n")
    refused = world.operator().call("POST", "/v1/policies/reload")
    assert refused.json()["code"] == "policy"
    assert "policy.toml:2: session.agents" in refused.json()["detail"]
    assert world.mint.policy.digest == answer["digest"]


def test_another_mint_follows(world: World) -> None:
    """What one mint puts in force is in force at the other, and stays over a start with an old file."""
    other, _ = local_mint(world.realm)
    old, text = sample(world), sample(world).replace('"8h"', '"4h"')
    digest = world.operator().call("POST", "/v1/policies", {"policy": text}).json()["digest"]
    other.policies.follow()
    assert other.policy.digest == digest
    # A mint with a folder of its own, where the file is that of before.
    world.realm.policy_path.write_text(old)
    os.utime(world.realm.policy_path, (1_000_000_000, 1_000_000_000))
    third, _ = local_mint(world.realm)
    assert third.policy.digest != digest
    third.policies.settle()
    assert third.policy.digest == digest
    # Whoever edits the file and starts a mint means what is in the file.
    world.realm.policy_path.write_text(old)
    fourth, _ = local_mint(world.realm)
    fourth.policies.settle()
    assert fourth.policy.digest != digest
    world.mint.policies.follow()
    assert world.mint.policy.digest == fourth.policy.digest
    for mint in (other, third, fourth):
        mint.close()
