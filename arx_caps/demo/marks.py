# SPDX-License-Identifier: Apache-2.0
"""A sub-agent reads what a stranger wrote: its whole session pays nothing then, until an operator lifts the mark."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from arx_caps import Agent, Task
from arx_caps.demo.job import open_shop
from arx_caps.demo.realm import DemoRealm, run_demo
from arx_caps.demo.steps import outcome

WORKER = "acme/support/worker"
EXPECTED = {
    "the orchestrator pays 5": "201 ok",
    "its worker reads what a customer wrote": "200 ok",
    "the orchestrator pays 5 again, at another service": "403 after_mark",
    "another task of the session pays 5": "403 after_mark",
    "the operator reads what marked the session": "untrusted by orders.get at orders",
    "the operator lifts the mark; the orchestrator pays 5": "201 ok",
    "the worker reads on": "200 ok",
    "the orchestrator pays 5 once more": "403 after_mark",
    "the log has the lift, and why": "untrusted: the customer is one of ours",
}


def set_up(realm: DemoRealm) -> list[str | Path]:
    """Make a realm with a service that reads and one that pays; return the agent's key and their addresses."""
    return open_shop(realm, "marks_policy.toml")


def play(realm: DemoRealm, arguments: list[str | Path]) -> Iterator[dict[str, Any]]:
    """Act as the orchestrator and as its operator; yield what came of each step."""
    key, orders, payments = map(str, arguments)

    def pay(task: Task, step: str) -> dict[str, Any]:
        answer = httpx.post(f"{payments}/refunds", json={"order_id": "o-1001", "amount": 5}, auth=task.auth())
        return {"step": step, "came": outcome(answer), "why": [answer.json()["detail"]] if answer.is_error else []}

    with Agent.from_key_file(key) as agent, agent.open_session(purpose="answer ada") as session:
        task = session.start_task("answer", order_id="o-1001")
        yield pay(task, "the orchestrator pays 5")
        yield read(task, orders, "its worker reads what a customer wrote")
        yield pay(task, "the orchestrator pays 5 again, at another service")
        yield pay(session.start_task("answer", order_id="o-1001"), "another task of the session pays 5")
        marks = json.loads(realm.arx("marks", "show", session.id, "--json"))["marks"]
        came = ", ".join(f"{mark['mark']} by {mark['tool']} at {mark['service']}" for mark in marks)
        yield {"step": "the operator reads what marked the session", "came": came}
        why = "the customer is one of ours"
        realm.arx("marks", "lift", session.id, "untrusted", "--reason", why, "--yes")
        yield pay(task, "the operator lifts the mark; the orchestrator pays 5")
        yield read(task, orders, "the worker reads on")
        yield pay(task, "the orchestrator pays 5 once more")
    found: list[Any] = []
    until = time.monotonic() + 20
    while not found and time.monotonic() < until:  # the mint writes its events into the log behind the call
        found = json.loads(realm.arx("audit", "trail", "--tool", "mark.lifted", "--flat", "--json"))["records"]
    came = ", ".join(f"{each['facts']['mark']}: {each['facts']['reason']}" for each in found)
    yield {"step": "the log has the lift, and why", "came": came}


def read(task: Task, orders: str, step: str) -> dict[str, Any]:
    """Run the sub-agent, which reads an order with the customer's words; return what it reports."""
    command = [sys.executable, "-m", "arx_caps.demo.worker", "look", orders, "", step]
    given = task.delegate(WORKER).encode()
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_marks(say: Callable[[str], None]) -> dict[str, Any]:
    """Play the demo and return its report."""
    return run_demo(EXPECTED, "Valkey, a mint and two tool services", set_up, play, say)
