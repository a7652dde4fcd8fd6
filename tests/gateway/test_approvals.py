# SPDX-License-Identifier: Apache-2.0
"""Calls with an access token that operators approve: by a state, by a task, or by calling again.

A real mint, gateways and their processes; the client speaks MCP as the schemas of its revisions have it.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.dpop import Prover
from tests.gateway.gateway_realm import ENVELOPE, gateway
from tests.gateway.test_gateway import started
from tests.gateway.test_oauth import OAuthWorld
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 5.10")]
POLICY = """
[task.pay]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
bearer = "allow"
allow = [
  { tool = "orders.get", args = { order_id = { max_length = 20 } } },
  { tool = "orders.drop", args = { n = { max = 20 } } },
]
approvals = [{ tools = ["orders.drop"], once = false }]
[task.proven]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.drop", args = { n = { max = 20 } } } ]
approvals = [{ tools = ["orders.drop"] }]
[task.brief]
agents = ["acme/**"]
ttl = "4s"
audience = ["orders"]
bearer = "allow"
allow = [ { tool = "orders.drop", args = { n = { max = 20 } } } ]
approvals = [{ tools = ["orders.drop"] }]
"""
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
Json = dict[str, Any]


class ApprovalWorld(OAuthWorld):
    """A realm whose operators approve calls of OAuth clients."""

    def approve(self, approval: str, outcome: str = "approve") -> None:
        """Answer a request as an operator."""
        self.arx("approval", outcome, approval, *(["--yes"] if outcome == "approve" else []))

    def waiting(self) -> list[Json]:
        """The requests of the newest agent that wait."""
        listed = self.arx("approval", "list")["approvals"]
        return [each for each in listed if each["agent"] == f"acme/a{self.agents}"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApprovalWorld]:
    """One realm with its gateway for the tests of this file."""
    yield from started(ApprovalWorld(tmp_path_factory.mktemp("approvals")), POLICY, proofs=True)


class Caller:
    """An OAuth client of a new agent, with an access token.

    Attributes:
        token: The access token; may be replaced.
        prover: The key of the client, if its access token is bound to one.
    """

    def __init__(self, world: ApprovalWorld, *scopes: str, prover: Prover | None = None) -> None:
        self._world, self.client = world, world.client_of("pay", *scopes)
        self.url, self.prover = world.url("orders"), prover
        if prover is None:
            self.token = world.token(self.client, "orders", scopes[0] if scopes else "pay")
            return
        url = f"http://127.0.0.1:{world.mint}/oauth/token"
        form = {"grant_type": "client_credentials", "scope": scopes[0], "resource": self.url}
        answer = httpx.post(url, data=form, auth=self.client, headers={"dpop": prover.proof("POST", url)})
        self.token = str(answer.json()["access_token"])

    def renew(self) -> None:
        """Get another access token, for another task in the same session."""
        self.token = self._world.token(self.client, "orders", "pay")

    def send(self, method: str, params: Json, *, capabilities: Json | None = None, to: str = "") -> httpx.Response:
        """Send one message of MCP 2026-07-28."""
        meta = ENVELOPE | {"io.modelcontextprotocol/clientCapabilities": capabilities or {}}
        name = params.get("name", params.get("taskId", ""))
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method} | ({"mcp-name": name} if name else {})
        return self._post({"method": method, "params": {**params, "_meta": meta}}, headers, to)

    def old(self, method: str, params: Json, session: str = "") -> httpx.Response:
        """Send one message of MCP 2025-11-25."""
        headers = {"mcp-protocol-version": "2025-11-25"} | ({"mcp-session-id": session} if session else {})
        return self._post({"method": method, "params": params}, headers, "")

    def _post(self, message: Json, headers: Json, to: str) -> httpx.Response:
        headers = headers | {"accept": "application/json, text/event-stream", "authorization": f"Bearer {self.token}"}
        if self.prover is not None:
            headers |= self.prover.headers("POST", self.url, self.token)
        return httpx.post(to or self.url, json={"jsonrpc": "2.0", "id": 7, **message}, headers=headers, timeout=60)

    def session(self) -> str:
        """Open a session of MCP 2025-11-25."""
        about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        return str(self.old("initialize", about).headers["mcp-session-id"])

    def drop(self, n: int = 5, **more: Any) -> Json:
        """Call a tool that needs an approval, and return the result or the error."""
        answer = self.send("tools/call", {"name": "drop", "arguments": {"n": n}, **more}).json()
        return answer.get("result") or answer


def text_of(result: Json) -> str:
    return str(result["content"][0]["text"])


def records(world: ApprovalWorld) -> list[Json]:
    """The newest agent's decisions, the oldest first."""
    shown = world.arx("decisions", "--journal", str(world.folder / "orders.json"))["decisions"]
    mine = [each for each in shown if each["agent"] == f"acme/a{world.agents}"]
    return sorted(mine, key=lambda each: each["sequence"])


@pytest.mark.slow
def test_a_state_lets_the_approved_call_through_once(world: ApprovalWorld) -> None:
    """The operator sees the arguments; the record has the handle's assurance, and the approval."""
    caller = Caller(world)
    asked = caller.drop()
    assert (asked["resultType"], asked.keys()) == ("input_required", {"resultType", "requestState"})
    [waiting] = world.waiting()
    assert (waiting["tool"], waiting["args"], waiting["once"]) == ("orders.drop", {"n": 5}, True)
    assert waiting["id"] not in asked["requestState"]
    assert caller.drop()["resultType"] == "input_required"
    assert [each["id"] for each in world.waiting()] == [waiting["id"]]
    world.approve(waiting["id"])
    state = asked["requestState"]
    assert text_of(caller.drop(requestState=state)) == "dropped"
    again = caller.drop(requestState=state)
    assert again["error"]["code"] == -32602
    assert "was made" in again["error"]["message"]
    found = records(world)
    assert [(each["outcome"], each["code"], each["assurance"]) for each in found] == [
        ("deny", "missing_discharge", "handle"),
        ("deny", "missing_discharge", "handle"),
        ("allow", "ok", "handle"),
    ]
    assert caller.drop()["resultType"] == "input_required"
    assert [each["id"] for each in world.waiting()] != [waiting["id"]]


def test_a_state_is_of_its_principal_call_and_gateways_alone(world: ApprovalWorld) -> None:
    """Another client, other arguments, another tool, one byte changed, a task's text: each is refused."""
    caller = Caller(world)
    state = caller.drop()["requestState"]
    [waiting] = world.waiting()
    world.approve(waiting["id"])
    head, _, tail = state.rpartition(".")
    assert caller.drop(6, requestState=state)["error"]["code"] == -32602
    changed = f"{head}.{'B' if tail[0] == 'A' else 'A'}{tail[1:]}"
    for wrong in (changed, f"{state}A", f"{head}.", f"arxw1.{tail}", f"arxw1.none.{tail}", "arxw1." + "A" * 4000):
        assert caller.drop(requestState=wrong)["error"]["code"] == -32602
    answer = caller.send("tools/call", {"name": "get", "arguments": {"n": 5}, "requestState": state}).json()
    assert answer["error"]["code"] == -32602
    assert caller.send("tasks/get", {"taskId": state}).json()["error"]["code"] == -32602
    assert caller.drop(requestState=state, inputResponses={})["error"]["code"] == -32602
    other = Caller(world)
    assert other.drop(requestState=state)["error"]["code"] == -32602
    caller.renew()  # the approval outlives the access token, not the session
    assert text_of(caller.drop(requestState=state)) == "dropped"


def test_a_denied_call_is_refused_with_the_reason_and_asked_for_once(world: ApprovalWorld) -> None:
    """A model reads why; the same call of the same task asks no operator again."""
    caller = Caller(world)
    state = caller.drop()["requestState"]
    [waiting] = world.waiting()
    world.arx("approval", "deny", waiting["id"], "--why", "not today")
    refused = caller.drop(requestState=state)
    assert refused["isError"]
    assert "not today" in text_of(refused)
    assert "not today" in text_of(caller.drop())
    assert world.waiting() == []


def test_a_kill_ends_a_call_that_waits(world: ApprovalWorld) -> None:
    """By its state and by its task, also where the approval was given before."""
    caller = Caller(world)
    state = caller.drop()["requestState"]
    task = caller.send("tools/call", {"name": "drop", "arguments": {"n": 6}}, capabilities=TASKS).json()["result"]
    for waiting in world.waiting():
        world.approve(waiting["id"])
    [shown] = world.arx("task", "list", "--agent", f"acme/a{world.agents}")["tasks"]
    world.kill("task", shown["id"])
    assert "ended this work" in text_of(caller.drop(requestState=state))
    got = caller.send("tasks/get", {"taskId": task["taskId"]}).json()["result"]
    assert (got["status"], got["error"]["data"]["code"]) == ("failed", "revoked")
    assert "ended this work" in got["error"]["message"]
    assert [each["outcome"] for each in records(world)] == ["deny", "deny"]


def test_a_task_goes_on_after_the_approval(world: ApprovalWorld) -> None:
    """A client that declares tasks gets one; its poll begins the call, with the arguments that were approved."""
    caller = Caller(world)
    params = {"name": "drop", "arguments": {"n": 5}}
    created = caller.send("tools/call", params, capabilities=TASKS).json()["result"]
    assert (created["resultType"], created["status"]) == ("task", "working")
    [waiting] = world.waiting()
    assert waiting["id"] in created["statusMessage"]
    about = {"taskId": created["taskId"]}
    assert caller.send("tasks/get", about).json()["result"]["status"] == "working"
    assert Caller(world).send("tasks/get", about).json()["error"]["code"] == -32602
    world.approve(waiting["id"])
    until(lambda: caller.send("tasks/get", about).json()["result"]["status"] != "working")
    done = caller.send("tasks/get", about).json()["result"]
    assert (done["status"], text_of(done["result"])) == ("completed", "dropped")
    assert caller.send("tasks/get", about).json()["result"] == done  # once
    assert caller.send("tasks/update", about).json()["result"] == {"resultType": "complete"}


def test_a_task_of_the_older_revision_has_its_result_fetched(world: ApprovalWorld) -> None:
    """``tasks/result`` waits for the approval; a denial and a cancellation end the task."""
    caller = Caller(world)
    session = caller.session()
    for outcome in ("approve", "deny", "cancel"):
        params = {"name": "drop", "arguments": {"n": len(outcome)}, "task": {"ttl": 60_000}}
        task = caller.old("tools/call", params, session).json()["result"]["task"]
        about = {"taskId": task["taskId"]}
        [waiting] = world.waiting()
        if outcome == "cancel":
            assert caller.old("tasks/cancel", about, session).json()["result"]["status"] == "cancelled"
            assert caller.old("tasks/get", about, session).json()["result"]["status"] == "cancelled"
            assert world.waiting() == []
            continue
        world.approve(waiting["id"], outcome)
        answer = caller.old("tasks/result", about, session).json()
        status = caller.old("tasks/get", about, session).json()["result"]
        if outcome == "approve":
            related = {"io.modelcontextprotocol/related-task": about}
            assert (text_of(answer["result"]), answer["result"]["_meta"]) == ("dropped", related)
            assert (status["status"], status["ttl"] > 0) == ("completed", True)
        else:
            assert (answer["error"]["data"]["code"], status["status"]) == ("approval_denied", "failed")


def test_a_client_without_either_calls_again(world: ApprovalWorld) -> None:
    """The status names the approval as a scope; the same call goes through once it is given, with a later token too."""
    caller = Caller(world)
    session = caller.session()
    params = {"name": "drop", "arguments": {"n": 7}}
    refused = caller.old("tools/call", params, session)
    [waiting] = world.waiting()
    assert refused.status_code == 403
    challenge = refused.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert f'scope="pay approval:{waiting["id"]}"' in challenge
    assert waiting["id"] in refused.json()["error"]["message"]
    caller.renew()
    waits = caller.old("tools/call", params, session)
    assert (waits.status_code, "Make the same call again" in text_of(waits.json()["result"])) == (200, True)
    world.approve(waiting["id"])
    assert text_of(caller.old("tools/call", params, session).json()["result"]) == "dropped"
    assert [each["outcome"] for each in records(world)] == ["deny", "deny", "deny", "allow"]


def test_a_bound_access_token_proves_each_message(world: ApprovalWorld) -> None:
    """The default of a template with approvals; a thief can neither ask, nor poll, nor use the state."""
    caller = Caller(world, "proven", prover=Prover())
    task = caller.send("tools/call", {"name": "drop", "arguments": {"n": 6}}, capabilities=TASKS).json()["result"]
    state, about = caller.drop()["requestState"], {"taskId": task["taskId"]}
    for waiting in world.waiting():
        world.approve(waiting["id"])
    params = {"name": "drop", "arguments": {"n": 5}, "requestState": state}
    for thief in (None, Prover()):
        caller.prover, kept = thief, caller.prover
        for method, content in (("tasks/get", about), ("tools/call", params)):
            refused = caller.send(method, content)
            assert (refused.status_code, "DPoP " in refused.headers["www-authenticate"]) == (401, True)
        caller.prover = kept
    assert text_of(caller.drop(requestState=state)) == "dropped"
    until(lambda: caller.send("tasks/get", about).json()["result"]["status"] == "completed")
    found = records(world)
    assert [each["outcome"] for each in found if each["code"] != "proof_invalid"] == ["deny", "deny", "allow", "allow"]
    assert {each["assurance"] for each in found} == {"handle-dpop"}


def test_a_call_without_an_approval_ends_with_its_task(world: ApprovalWorld) -> None:
    """The task fails with a reason that a model can read, and the state is refused."""
    caller = Caller(world, "brief")
    params = {"name": "drop", "arguments": {"n": 8}}
    task = caller.send("tools/call", params, capabilities=TASKS).json()["result"]
    state = caller.drop(8)["requestState"]
    caller.renew()
    about = {"taskId": task["taskId"]}
    until(lambda: caller.send("tasks/get", about).json()["result"]["status"] == "failed")
    error = caller.send("tasks/get", about).json()["result"]["error"]
    assert (error["data"]["code"], "the task that it was asked for is over" in error["message"]) == (
        "session_ended",
        True,
    )
    assert caller.drop(8, requestState=state)["error"]["code"] == -32602


@pytest.mark.slow
def test_another_gateway_goes_on(world: ApprovalWorld) -> None:
    """It has the keys of the audience and its own journal; a call that it made is made nowhere else."""
    [port] = free_ports(1)
    service = json.loads((world.folder / "orders.json").read_text())
    second = world.folder / "second"
    second.mkdir()
    (second / "orders.json").write_text(json.dumps(service | {"journal": str(second / "journal")}))
    (second / "orders.json").chmod(0o600)
    file = (world.folder / "gateway.toml").read_text()
    table = file[file.index("[upstream.orders]") :]
    (second / "gateway.toml").write_text(f'[gateway]\nlisten = ["127.0.0.1:{port}"]\n{table}')
    with gateway(second / "gateway.toml", second / "log"):
        caller, to = Caller(world), f"http://127.0.0.1:{port}/orders"
        state = caller.drop()["requestState"]
        created = caller.send("tools/call", {"name": "drop", "arguments": {"n": 9}}, capabilities=TASKS)
        about = {"taskId": created.json()["result"]["taskId"]}
        for waiting in world.waiting():
            world.approve(waiting["id"])
        params = {"name": "drop", "arguments": {"n": 5}, "requestState": state}
        answer = caller.send("tools/call", params, to=to).json()
        assert text_of(answer["result"]) == "dropped"
        assert "was made" in caller.drop(requestState=state)["error"]["message"]
        until(lambda: caller.send("tasks/get", about, to=to).json()["result"]["status"] == "completed")
        first = caller.send("tasks/get", about).json()["result"]
        assert (first["status"], first["error"]["data"]["code"]) == ("failed", "already_used")
