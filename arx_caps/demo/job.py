# SPDX-License-Identifier: Apache-2.0
"""Run the whole job on this machine: a mint, a Valkey, two services, two agents, attacks, a kill, a proof."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from arx_caps.demo.realm import DemoRealm, free_addresses, run_demo

HERE = Path(__file__).resolve().parent
EXPECTED = {
    "the orchestrator opens a session and starts a task": "acme/support/triage",
    "it delegates to the worker: refunds up to 20, for five minutes": "acme/support/worker",
    "the worker reads the order": "200 ok",
    "it refunds 15": "201 ok",
    "it tries to refund 500": "403 argument_not_allowed",
    "it tries a tool outside the task": "403 tool_not_allowed",
    "it adds a caveat that allows everything": "403 argument_not_allowed",
    "it cuts off the last caveat": "401 bad_signature",
    "it sends one signed call twice": "401 replayed",
    "it sends the orders token to payments": "401 wrong_audience",
    "a task is bound to the worker's key; the worker reads the order": "200 ok",
    "a thief of its text reads the order without the key": "401 proof_missing",
    "the orchestrator refunds 400 without approval": "403 missing_discharge",
    "an operator approves this refund; it is sent twice": "201 ok, then 403 already_used",
    "another task is finished; its token is used again": "200 ok, then 401 revoked",
    "every verifier confirms the kill of the worker": "3 of 3 verifiers confirmed",
    "the kill ends its calls to both services": "401 ended and 401 ended",
    "the orchestrator delegates the task to it again": "401 revoked",
    "it delegates a task that began after the kill": "401 frozen",
    "the orchestrator goes on": "200 ok",
    "the operator reads the decisions": "allowed and denied",
    "the signed log has the decisions of every service": "every decision",
    "an auditor verifies a proof of the last refusal": "HOLDS",
}


def set_up(realm: DemoRealm) -> list[str | Path]:
    """Make the realm of the job; return the orchestrator's arguments."""
    return open_shop(realm, "policy.toml")


def open_shop(realm: DemoRealm, policy_file: str) -> list[str | Path]:
    """Make a realm, start the mint and two services, enrol the agent; return its key and the services' addresses."""
    mint, orders, payments = free_addresses(3)
    realm.arx("init", realm.folder, "--name", "acme", "--issuer", mint)
    policy = (HERE / policy_file).read_text().replace("http://127.0.0.1:9001", orders)
    (realm.folder / "policy.toml").write_text(policy.replace("http://127.0.0.1:9002", payments))
    next(realm.start("-m", "arx_caps.cli", "up"))  # it writes a line when it is ready
    key = realm.folder / "triage.key.json"
    realm.arx("agent", "enrol", "acme/support/triage", "--key-out", key)
    for name, url in (("orders", orders), ("payments", payments)):
        file = realm.folder / f"{name}.json"
        realm.arx("service", "enrol", name, "--out", file)
        options = ("--service-file", file, "--data", f"{file}.db", "--port", url.rpartition(":")[2])
        realm.start("-m", "arx_caps.demo.service", name, *options)
    with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
        for url in (orders, payments):
            client.get(url)  # it tries again until the service listens
    return [key, orders, payments]


def play(realm: DemoRealm, arguments: list[str | Path]) -> Iterator[dict[str, Any]]:
    """Run the agents, act as their operator and as an auditor; yield what came of each step."""
    facts: dict[str, Any] = {}
    for line in realm.start("-m", "arx_caps.demo.orchestrator", *arguments):
        step = json.loads(line)
        facts |= {name: value for name, value in step.items() if value}
        if step["step"] == "asked":
            realm.arx("approval", "approve", step["came"], "--yes")
        elif step["step"] == "calling":
            kill = realm.kill("agent:acme/support/worker")
            came = f"{kill['confirmed']} of {kill['verifiers']} verifiers confirmed"
            yield {"step": "every verifier confirms the kill of the worker", "came": came, "why": [kill["summary"]]}
        else:
            late = {name: f"{at - kill['at_ms']:+.1f} ms" for name, at in step.pop("last", {}).items()}
            yield {"why": [f"{name}: last call accepted {ms} from the kill" for name, ms in late.items()]} | step
    yield from audit(realm, facts["session"], facts["decision"])


def audit(realm: DemoRealm, session: str, refused: str) -> Iterator[dict[str, Any]]:
    """Compare journals and log, and prove one record of the log."""
    decisions = json.loads(realm.arx("decisions", "--session", session, "--json"))
    came = " and ".join(name for name in ("allowed", "denied") if decisions[name])
    yield {"step": "the operator reads the decisions", "came": came}
    made, logged, until = decisions["allowed"] + decisions["denied"], 0, time.monotonic() + 30
    while logged < made and time.monotonic() < until:
        trails = json.loads(realm.arx("audit", "trail", "--session", session, "--json"))["trails"]
        logged = sum(trail["allowed"] + trail["denied"] for trail in trails)
    came = "every decision" if logged == made else f"{logged} of {made}"
    why = realm.arx("audit", "trail", "--session", session).splitlines()
    yield {"step": "the signed log has the decisions of every service", "came": came, "why": why}
    proof, key = realm.folder / "refused.tlog-proof", realm.arx("audit", "key").strip()
    realm.arx("audit", "prove", refused, "--out", proof)
    came = realm.arx("audit", "verify", proof, "--key", key).partition("\n")[0]
    yield {"step": "an auditor verifies a proof of the last refusal", "came": came}


def run_job(say: Callable[[str], None]) -> dict[str, Any]:
    """Play the demo and return its report."""
    return run_demo(EXPECTED, "Valkey, a mint and two tool services", set_up, play, say)
