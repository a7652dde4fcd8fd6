# SPDX-License-Identifier: Apache-2.0
"""Effects that Node records, for a realm that runs: ``arx ship`` sends them and ``arx audit effects`` has them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.agent import Task
from arx_caps.service import open_shipper
from tests.cli.live import AGENT, Live, live_realm
from tests.cli.test_service_keys import joined
from tests.servers import child, free_ports, until
from tests.typescript.node import PROGRAMS, node

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.spec("12.8")]

ARGS = {"order_id": "o-1"}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Live]:
    """A realm with a task of an agent."""
    with live_realm(tmp_path / "realm", free_ports(1)[0]) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", tmp_path / "agent.key")
        realm.ok("session", "open", "--key", tmp_path / "agent.key", "--out", tmp_path / "session")
        task = ("task", "start", "lookup", "--param", "order_id=o-1", "--session", tmp_path / "session")
        realm.ok(*task, "--out", tmp_path / "task")
        yield realm


def test_the_log_has_the_effects_of_node(up: Live, tmp_path: Path) -> None:
    """Done, failed, and pending of a process that died while the function ran."""
    file, _ = joined(up, tmp_path)
    task = Task.from_text((tmp_path / "task").read_text())
    command = [str(node()), "--no-warnings", str(PROGRAMS / "effects_process.ts"), str(file)]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def call(end: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            asked = {"token": task.call_token("orders", "orders.get", ARGS), "args": ARGS, "end": end}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return str(process.stdout.readline()).strip()

        until(lambda: call("returns") == "order")  # it may still begin to follow, and its store be too young
        assert call("throws") == "no"
        assert call("dies") == ""
        process.wait()
    with open_shipper(file):
        until(lambda: len(up.ok("audit", "effects")["effects"]) == 3)
    found = up.ok("audit", "effects")["effects"]
    assert [(each["tool"], each["result"], each.get("external_id")) for each in found] == [
        ("orders.get", "done", "returns"),
        ("orders.get", "failed", "throws"),
        ("orders.get", "pending", None),
    ]
