# SPDX-License-Identifier: Apache-2.0
"""A bound task in an agent's hands: its key goes with it, without a line of the user's, and nowhere else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.agent import SubAgent, Task, ToolCalls, current_task, make_holder_key
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tools.agent_messages import agent_of, bearer_format
from arx_caps.agent.tools.message_parts import MessageParts
from arx_caps.agent.tools.received_part import ReceivedPart
from arx_caps.connect.bundle_file import BundleFile
from arx_caps.credentials.keyfile import write_secret
from arx_verifier.errors import AttenuationError
from arx_verifier.request import AccessRequest
from arx_verifier.token.holder import HolderKey
from tests.cli.helpers import arx
from tests.mint.harness import now_ms, open_unit
from tests.mint.test_bound_tasks import BOUND
from tests.mint.test_token_exchange import ORDER, PAY, POLICY, Shop

pytestmark = pytest.mark.spec("16.2", "16.3")

WORKER = "acme/support/worker"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with open_unit(tmp_path_factory.mktemp("bound") / "realm") as unit:
        yield Shop(unit, BOUND)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARX_HOLDER_KEY", raising=False)
    monkeypatch.delenv("ARX_HOLDER_KEY_FILE", raising=False)


@pytest.fixture
def task(shop: Shop) -> Task:
    """A task that is bound to the session's key."""
    answer = shop.agent.call("POST", "/v1/tasks", PAY).json()
    return Task(Bundle.parse(answer["bundle"]), key=shop.agent.key)


def get(shop: Shop, task: Task) -> tuple[str, str, str]:
    """Outcome, assurance and holder of a call."""
    text = task.call_token("orders", "orders.get", ORDER)
    decision = shop.verifiers["orders"].decide(text, AccessRequest("orders.get", ORDER, now_ms()))
    return decision.code, decision.facts.assurance, decision.facts.named[-1] if decision.facts.named else ""


def test_a_sub_agent_without_a_key_gets_the_choice(task: Task) -> None:
    """The error names the agent, the command and the other binding."""
    with pytest.raises(AttenuationError, match=f"{WORKER} has none: give `key`") as raised:
        task.delegate(WORKER)
    assert raised.value.hint is not None
    assert "arx key create-holder" in raised.value.hint
    assert 'binding = "bearer"' in raised.value.hint


def test_a_sub_agent_of_this_process_has_its_key_in_the_task(shop: Shop, task: Task) -> None:
    """Given as a key; an adapter makes one, for a sub-agent and for each call of its tool."""
    key = HolderKey.generate()
    assert get(shop, task.delegate(WORKER, key=key)) == ("ok", "bound", WORKER)
    calls = ToolCalls(task, sub_agents={"ask": SubAgent(WORKER, ["orders.get"])})
    first, second = calls.delegate(WORKER).task, calls.delegate(WORKER, key=key).task
    assert get(shop, first) == get(shop, second) == ("ok", "bound", WORKER)
    assert second.bound_to == key.public != first.bound_to != task.bound_to
    with calls.call("ask", {}):
        part = current_task()
        assert part is not None
        assert get(shop, part) == ("ok", "bound", WORKER)
    deeper = calls.delegate(WORKER).delegate("acme/support/clerk").task
    assert get(shop, deeper) == ("ok", "bound", "acme/support/clerk")


def test_a_task_keeps_its_key_in_each_copy(shop: Shop, task: Task) -> None:
    """Attenuated, and then delegated."""
    narrow = task.attenuate(tools=["orders.get"])
    assert get(shop, narrow) == ("ok", "bound", "")
    assert get(shop, narrow.delegate(WORKER, key=HolderKey.generate())) == ("ok", "bound", WORKER)


def test_a_container_finds_its_key(shop: Shop, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task and its key in the environment; without the key, the first call says what is missing."""
    key = make_holder_key(tmp_path / "worker.key")
    monkeypatch.setenv("ARX_TASK", task.delegate(WORKER, key=key.public).encode())
    with pytest.raises(AttenuationError, match="bound to the key") as raised:
        get(shop, Task.from_env())
    assert "ARX_HOLDER_KEY_FILE" in str(raised.value.hint)
    monkeypatch.setenv("ARX_HOLDER_KEY_FILE", str(tmp_path / "worker.key"))
    assert get(shop, Task.from_env()) == ("ok", "bound", WORKER)


def test_a_key_is_rotated_by_a_new_delegation(shop: Shop, task: Task) -> None:
    """The new key works, the old one still does for its own delegation and for no other."""
    old, new = HolderKey.generate(), HolderKey.generate()
    before, after = task.delegate(WORKER, key=old), task.delegate(WORKER, key=new)
    assert get(shop, before)[0] == get(shop, after)[0] == "ok"
    with pytest.raises(AttenuationError, match="bound to the key"):
        get(shop, Task.from_text(after.encode(), key=old))


def test_a_message_goes_to_the_key_of_the_card(shop: Shop, task: Task) -> None:
    """The called agent's card names it; the caller may name another one, and must name one."""
    key, other = HolderKey.generate(), HolderKey.generate()
    assert agent_of(bearer_format(WORKER, key.public)) == (WORKER, key.public)
    assert agent_of(bearer_format(WORKER)) == (WORKER, None)
    parts = MessageParts(task, None, {"tools": ["orders.get"]})
    header = parts.header("w", WORKER, ["https://worker.example"], (), key.public).encode()
    received = ReceivedPart([header], key)
    assert received.refusal_for(WORKER) is None
    assert get(shop, received.task) == ("ok", "bound", WORKER)
    for wrong in (None, other):
        assert "bound to the key" in str(ReceivedPart([header], wrong).refusal_for(WORKER))
    pinned = MessageParts(task, None, {"key": other.public})
    header = pinned.header("w", WORKER, ["https://worker.example"], (), key.public).encode()
    assert ReceivedPart([header], other).refusal_for(WORKER) is None
    with pytest.raises(AttenuationError, match="give `key`"):
        parts.header("w", WORKER, ["https://worker.example"], (), None)


def test_a_card_with_a_key_is_of_no_harm_to_a_bearer_task(shop: Shop) -> None:
    """It is delegated as before."""
    shop.harness.use(POLICY)
    try:
        bearer = shop.start()
        header = MessageParts(bearer, None, {}).header("w", WORKER, ["https://w.example"], (), "A" * 43)
        assert ReceivedPart([header.encode()], HolderKey.generate()).refusal_for(WORKER) is None
        ToolCalls(bearer).delegate(WORKER)
    finally:
        shop.harness.use(BOUND)


def test_a_bridge_signs_with_the_key_that_it_is_given(shop: Shop, task: Task, tmp_path: Path) -> None:
    """``arx connect`` reads it with the task; without it, it does not begin."""
    key, file = make_holder_key(tmp_path / "worker.key"), tmp_path / "task"
    task.delegate(WORKER, key=key.public).save(file)
    assert get(shop, BundleFile(file, ["orders.get"], key).task) == ("ok", "bound", WORKER)
    ran = arx("connect", "--task", file, "http://127.0.0.1:9001/mcp", "--print-config", "cursor")
    assert (ran.exit_code, "bound to the key" in ran.err) == (2, True), ran
    ran = arx(
        *("connect", "--task", file, "--holder-key", tmp_path / "worker.key", "http://127.0.0.1:9001/mcp"),
        *("--print-config", "cursor", "--json"),
    )
    assert "--holder-key" in json.dumps(ran.json["config"])


def test_the_command_delegates_a_bound_task(shop: Shop, task: Task, tmp_path: Path) -> None:
    """With the key of the holder, to that of the next one; the private halves are in no output."""
    own, file, given = tmp_path / "own.key", tmp_path / "task", tmp_path / "given"
    write_secret(own, json.dumps(shop.agent.key.private_jwk()).encode())
    task.save(file)
    key = make_holder_key(tmp_path / "worker.key")
    words = ("token", "delegate", WORKER, "--in", file, "--tool", "orders.get", "--out", given)
    without = arx(*words, "--holder-key", own)
    assert (without.exit_code, "give `key`" in without.err) == (2, True), without
    assert arx(*words, "--key", key.public).exit_code == 2
    ran = arx(*words, "--holder-key", own, "--key", key.public, "--json")
    assert ran.json["bound_to"] == key.public
    assert get(shop, Task.load(given, key=key)) == ("ok", "bound", WORKER)
    shown = arx("token", "inspect", given)
    assert key.public in shown.out
    assert "never accepted" not in shown.out
    assert f"delegated to {WORKER}, signed for the key {key.public}\n    removes every tool but" in shown.out
    assert "sig" not in shown.out.replace("signed", "").replace("signature", "")
    private = [shop.agent.key.private_jwk()["d"], json.loads((tmp_path / "worker.key").read_text())["d"]]
    for text in (ran.out, ran.err, without.out, without.err, shown.out):
        assert not any(secret[:20] in text for secret in private)
