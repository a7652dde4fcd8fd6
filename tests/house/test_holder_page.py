# SPDX-License-Identifier: Apache-2.0
"""docs/identity.md binds a task: its policy, its commands that make keys and delegate, and its sub-agent's calls."""

import json
import re
import shlex
from pathlib import Path

import pytest

from arx_caps.agent import Task, load_holder_key
from arx_caps.agent.sessions.session_file import SessionFile
from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.keyfile import write_secret
from arx_verifier.request import AccessRequest
from tests.cli.helpers import arx
from tests.house.pages import ROOT, blocks, matches, section
from tests.mint.harness import Harness, now_ms
from tests.mint.test_token_exchange import ORDER, PAY, POLICY, Shop

PART = section((ROOT / "docs" / "identity.md").read_text(encoding="utf-8"), "Bind tasks to keys")
WORKER = "acme/support/worker"


def test_the_page(unit: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the template's line to a call of the sub-agent, by the page's own blocks."""
    monkeypatch.chdir(tmp_path)
    policy, make, delegate, take, command, _ = [block.text for block in blocks(PART)]
    shop = Shop(unit, POLICY.replace("[task.pay]\n", policy))
    answer = shop.agent.call("POST", "/v1/tasks", PAY).json()
    task = Task(Bundle.parse(answer["bundle"]), key=shop.agent.key)
    assert task.bound_to == shop.agent.key.public.x
    _run(make)
    public = load_holder_key("worker.key").public
    names: dict[str, object] = {"task": task, "PUBLIC": public}
    exec(delegate, names)
    exec(take, names)
    assert get(shop, names["worker"]) == ("ok", WORKER)
    task.save("task.bundle")
    content = SessionFile("https://mint.example", shop.session, "arx1_x", shop.agent.key).content()
    write_secret(Path("session.json"), json.dumps(content).encode())
    _run(command.replace("PUBLIC", public))
    assert get(shop, Task.load("worker.bundle", key=load_holder_key("worker.key"))) == ("ok", WORKER)


def get(shop: Shop, task: object) -> tuple[str, str]:
    """The outcome of a call, and who made it."""
    assert isinstance(task, Task)
    text = task.call_token("orders", "orders.get", ORDER)
    decision = shop.verifiers["orders"].decide(text, AccessRequest("orders.get", ORDER, now_ms()))
    return decision.code, decision.facts.named[-1]


def _run(block: str) -> None:
    for line, shown in re.findall(r"^\$ arx (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
        ran = arx(*shlex.split(line))
        assert ran.exit_code == 0, ran
        assert matches(shown, ran.out + ran.err), (shown, ran)
