# SPDX-License-Identifier: Apache-2.0
"""``arx up --gateway``: a realm, its gateway, a plain HTTP service and an MCP server, each a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest

from arx_caps.agent import Agent, StartedTask, Task
from arx_caps.cli import exit_codes
from arx_verifier.token.holder import HolderKey
from tests.cli.helpers import Ran, arx
from tests.exported import exported_by, read_metrics
from tests.house.pages import ROOT
from tests.realm_folder import RealmFolder
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
SECRET = "canary-of-the-upstream"
READY = '"upstreams": ["billing", "orders"]'
POLICY = """
[audience.billing]
origins = ["http://127.0.0.1:{billing}"]
[audience.orders]
origins = ["http://127.0.0.1:{orders}"]
[session.all]
agents = ["acme/**"]
ttl = "1h"
[task.refund]
agents = ["acme/**"]
ttl = "10m"
audience = ["billing", "orders"]
allow = [
  {{ tool = "billing.get", args = {{ order_id = "o-1", limit = {{ max = 20, optional = true }} }} }},
  {{ tool = "billing.refund", args = {{ order_id = "o-1", amount = {{ max = 20 }} }} }},
  {{ tool = "billing.page", args = {{ page = {{ max = 20 }} }} }},
  {{ tool = "billing.watch", args = {{}} }},
  {{ tool = "orders.get", args = {{ order_id = "o-1" }} }},
  {{ tool = "orders.wait", args = {{}} }},
  {{ tool = "orders.secret", args = {{}} }},
]
"""
GATEWAY = """
[gateway]
listen = ["127.0.0.1:{billing}", "127.0.0.1:{orders}"]
[upstream.billing]
audience = "billing"
url = "http://127.0.0.1:{http}/v1"
credential = {{ header = "X-Key", from = "env:BILLING_KEY", prefix = "Key " }}
rate = {{ tool = "30/1m" }}
[upstream.billing.routes]
"GET /orders/{{order_id}}?{{limit:int}}" = "billing.get"
"POST /orders/{{order_id}}/refund" = "billing.refund"
"GET /pages/{{page:int}}" = "billing.page"
"GET /watch" = "billing.watch"
[upstream.orders]
audience = "orders"
command = ["{python}", "{script}"]
isolation = "none"
"""

BOUND = """
[task.bound]
agents = ["acme/**"]
ttl = "10m"
binding = "bound"
audience = ["billing"]
allow = [ { tool = "billing.get", args = { order_id = "o-1" } } ]
"""


class World(RealmFolder):
    """The realm and what runs in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agents, self.pid = 0, 0
        self.mint, self.billing, self.orders, self.http = free_ports(4)
        self.environment["BILLING_KEY"] = SECRET

    def write(self, more: str = "") -> None:
        """Write the gateway's file."""
        script = ROOT / "tests" / "gateway" / "upstream_mcp.py"
        ports = {"billing": self.billing, "orders": self.orders, "http": self.http}
        (self.folder / "gateway.toml").write_text(GATEWAY.format(python=sys.executable, script=script, **ports) + more)

    def run(self, *words: str) -> Ran:
        """Run a command in this process: in one of its own, imports take most of the time of these tests."""
        about = {name: value for name, value in self.environment.items() if os.environ.get(name) != value}
        with contextlib.chdir(self.folder):
            return arx(*words, env=about)

    def arx(self, *words: str) -> dict[str, Any]:
        """Run a command that must succeed, and return its answer."""
        done = self.run(*words, "--json")
        assert done.exit_code == exit_codes.OK, f"{' '.join(words)}: {done.out}{done.err}"
        return dict(json.loads(done.out)) if done.out else {}

    def kill(self, *words: str) -> None:
        """Kill until it is confirmed: on a loaded machine a verifier may confirm later than its lease ends."""

        def confirmed() -> bool:
            done = self.run("kill", *words, "--reason", "a test", "--yes")
            assert done.exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), done.err
            return done.exit_code == exit_codes.OK

        until(confirmed)

    @contextlib.contextmanager
    def task(self, template: str = "refund") -> Iterator[StartedTask]:
        """A task of a new agent; its id is the task's ``agent``."""
        self.agents += 1
        key = self.folder / f"{self.agents}.key"
        self.arx("agent", "enrol", f"acme/a{self.agents}", "--key-out", str(key))
        with Agent.from_key_file(key) as agent, agent.open_session() as session:
            yield session.start_task(template)

    def client(self, task: Task) -> httpx.Client:
        """A client of the plain HTTP service."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.billing}/billing", auth=task.auth("billing"), timeout=30)

    def log(self) -> str:
        """What all processes wrote."""
        return (self.folder / "up.log").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One realm with its gateway for the tests of this file."""
    yield from started(World(tmp_path_factory.mktemp("gateway")), BOUND)


W = TypeVar("W", bound=World)


def started(world: W, more: str = "", *, proofs: bool = False) -> Iterator[W]:
    """Run a realm with its gateway, and stop both at the end.

    Args:
        world: The realm.
        more: Further tables of its policy.
        proofs: Whether clients send proofs (DPoP): the gateway refuses those of the second in which it started.
    """
    folder = world.folder
    world.arx("init", str(folder / "realm"), "--listen", f"127.0.0.1:{world.mint}")
    policy = POLICY.format(billing=world.billing, orders=world.orders)
    (folder / "realm" / "policy.toml").write_text(policy + more)
    world.write()
    served = ["-m", "uvicorn", "tests.gateway.upstream_http:app", "--port", str(world.http), "--log-level", "error"]
    with (folder / "up.log").open("w") as log:
        upstream = subprocess.Popen([sys.executable, *served], env=world.environment, stdout=log, stderr=log)
        words = [sys.executable, "-m", "arx_caps.cli", "up", "--gateway", "gateway.toml", "--json"]
        up = subprocess.Popen(words, cwd=folder, env=world.environment, stdout=log, stderr=log)
    try:
        world.pid = up.pid
        until(lambda: READY in world.log() or up.poll() is not None)
        until(lambda: answers(f"http://127.0.0.1:{world.http}/"))
        assert up.poll() is None, world.log()
        late = time.time() + (2 if proofs else 0)
        until(lambda: time.time() >= late)
        yield world
        assert SECRET not in world.log()
        assert "records are lost" not in world.log()
        assert "Traceback" not in world.log()
        assert "without completing" not in world.log()  # as uvicorn has it of a stream that a kill has cut
    finally:
        running = world.log()
        up.terminate()
        upstream.terminate()
        up.wait(60)
        upstream.wait(60)
    assert up.returncode == 0, world.log()
    ended = world.log().removeprefix(running)
    assert ended.count("stopped\n") == 2
    assert "revocation store" not in ended  # the gateway stops first, while it has its store


def answers(url: str) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).status_code > 0
    return False


def test_a_plain_http_service_gets_what_the_policy_allows(world: World) -> None:
    """With the gateway's credential and nothing of the caller's; all else is refused before it is reached."""
    with world.task() as task, world.client(task) as client:
        got = client.get(
            "/orders/o-1?limit=5", headers={"x-key": "Key mine", "cookie": "a=b", "x-forwarded-user": "root"}
        )
        assert (got.status_code, got.json()) == (200, {"order": "o-1", "seen": [], "query": "limit=5"})
        assert client.post("/orders/o-1/refund", json={"amount": 20}).json() == {"refunded": 20}
        refused = client.post("/orders/o-1/refund", json={"amount": 50})
        assert (refused.status_code, refused.json()["code"]) == (403, "argument_not_allowed")
        assert client.get("/orders/o-2").json()["code"] == "argument_not_allowed"
        for method, path in [("DELETE", "/orders/o-1"), ("GET", "/orders"), ("GET", "/metrics"), ("GET", "/")]:
            assert client.request(method, path).json()["code"] == "tool_not_allowed", path
        for path in ("/orders/%2e%2e/o-1", "//orders/o-1", "/orders/o-1/"):
            assert client.get(path).status_code in (400, 403), path
        # The service has no such page: its own 404 shows that the call came there.
        for page, status in (("20", 404), ("21", 403), ("020", 400), ("%D9%A2", 400), ("9007199254740992", 403)):
            assert client.get(f"/pages/{page}").status_code == status, page
        assert [bool(task.allows("billing.page", {"page": page})) for page in (20, 21)] == [True, False]
        request = client.build_request("GET", "/orders/o-1")
        first = client.send(request)
        again = httpx.get(request.url, headers={"authorization": first.request.headers["authorization"]})
        assert (first.status_code, again.json()["code"]) == (200, "replayed")
    assert httpx.get(f"http://127.0.0.1:{world.billing}/billing/orders/o-1").json()["code"] == "missing_token"
    assert httpx.get(f"http://127.0.0.1:{world.billing}/other/orders/o-1").status_code == 404


@pytest.mark.spec("16.1", "16.3")
def test_a_bound_task_passes_with_its_holder_s_key_alone(world: World) -> None:
    """The holders' calls are forwarded; with the text and another key, or with none, nothing is."""
    worker, thief = HolderKey.generate(), HolderKey.generate()
    with world.task("bound") as task:
        text = task.delegate("acme/worker", key=worker.public).encode()
        for held in (task, Task.from_text(text, key=worker)):
            with world.client(held) as client:
                assert client.get("/orders/o-1").json()["order"] == "o-1"
        # It says that it is the worker's key, and proves by the thief's.
        other: Any = SimpleNamespace(holder=SimpleNamespace(public=worker.public, agree=thief.agree))
        with world.client(Task.from_text(text, key=other)) as client:
            assert client.get("/orders/o-1").json()["code"] == "proof_invalid"
        url = f"http://127.0.0.1:{world.billing}/billing/orders/o-1"
        bare = {"authorization": f"Bearer {Task.from_text(text).tokens['billing']}"}
        assert httpx.get(url, headers=bare).json()["code"] == "proof_missing"
    shown = world.arx("decisions", "--agent", f"acme/a{world.agents}", "--tool", "billing.*")["decisions"]
    mine = [each for each in shown if each["outcome"] == "allow"]
    assert {each["assurance"] for each in mine} == {"bound"}
    assert {each["holders"][-1]["key"] for each in mine} == {task.bound_to, worker.public}


def test_a_kill_cuts_a_stream(world: World) -> None:
    """The open answer ends although its service goes on, and the next call is refused."""
    with world.task() as task, world.client(task) as client:
        with client.stream("GET", "/watch") as answer:
            parts = answer.iter_raw()
            assert next(parts) == b"data: tick\n\n"
            world.kill("agent", f"acme/a{world.agents}")
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        assert client.get("/orders/o-1").json()["code"] == "revoked"


def mcp(world: World, task: StartedTask, message: dict[str, Any], session: str | None = None) -> httpx.Response:
    """Send one message to the MCP server."""
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}
    headers |= {} if session is None else {"mcp-session-id": session}
    url = f"http://127.0.0.1:{world.orders}/orders"
    with httpx.Client(auth=task.auth("orders"), timeout=30) as client:
        return client.post(url, json={"jsonrpc": "2.0", **message}, headers=headers)


def opened(world: World, task: StartedTask) -> str:
    """Open a session, and return its id."""
    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    answer = mcp(world, task, {"id": 1, "method": "initialize", "params": about})
    assert answer.json()["result"]["serverInfo"]["name"] == "orders"
    session: str = answer.headers["mcp-session-id"]
    assert mcp(world, task, {"method": "notifications/initialized"}, session).status_code == 202
    return session


def call(world: World, task: StartedTask, session: str, name: str, **args: Any) -> dict[str, Any]:
    """Call a tool, and return its result."""
    params = {"name": name, "arguments": args}
    result: dict[str, Any] = mcp(world, task, {"id": 7, "method": "tools/call", "params": params}, session).json()[
        "result"
    ]
    return result


def test_an_mcp_server_over_stdio_shows_and_runs_what_the_policy_allows(world: World) -> None:
    """Its list is filtered, a hidden tool is refused for the model, and its environment has no secret of others."""
    with world.task() as task:
        session = opened(world, task)
        tools = mcp(world, task, {"id": 2, "method": "tools/list"}, session).json()["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["get", "wait", "secret"]
        assert call(world, task, session, "get", order_id="o-1")["content"][0]["text"] == "o-1 is on its way"
        refused = call(world, task, session, "get", order_id="o-2")
        assert refused["isError"]
        assert "order_id must be" in refused["content"][0]["text"]
        assert call(world, task, session, "drop")["isError"]
        assert call(world, task, session, "secret")["content"][0]["text"] == "False"
        url, several = f"http://127.0.0.1:{world.orders}/orders", b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]'
        batch = httpx.post(url, content=several, auth=task.auth("orders"))
        assert (batch.status_code, batch.json()["error"]["code"]) == (400, -32600)


def test_a_session_is_of_its_caller_alone(world: World) -> None:
    """Another agent that knows its id has no such session; its own end ends it."""
    with world.task() as task, world.task() as other:
        session = opened(world, task)
        stolen = mcp(world, other, {"id": 2, "method": "tools/list"}, session)
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (404, -32001)
        with httpx.Client(auth=task.auth("orders")) as client:
            url = f"http://127.0.0.1:{world.orders}/orders"
            assert client.delete(url, headers={"mcp-session-id": session}).status_code == 200
        assert mcp(world, task, {"id": 3, "method": "tools/list"}, session).status_code == 404


def test_a_kill_ends_a_running_tool(world: World) -> None:
    """Its last event is the refusal, which the model reads."""
    with world.task() as task:
        session = opened(world, task)
        params = {"name": "wait", "arguments": {}, "_meta": {"progressToken": "p"}}
        body = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}
        headers = {"accept": "text/event-stream", "mcp-protocol-version": "2025-11-25", "mcp-session-id": session}
        url = f"http://127.0.0.1:{world.orders}/orders"
        with (
            httpx.Client(auth=task.auth("orders"), timeout=30) as client,
            client.stream("POST", url, json=body, headers=headers) as answer,
        ):
            lines = answer.iter_lines()
            assert any('"progressToken":"p"' in line for line in iter(lambda: next(lines), ""))
            world.kill("agent", f"acme/a{world.agents}")
            *_, last = [line for line in lines if line.startswith("data:")]
        result = json.loads(last.removeprefix("data:"))
        assert (result["id"], result["result"]["isError"]) == (9, True)
        assert "Stop now, call no other tool" in result["result"]["content"][0]["text"]


def test_a_reload_changes_upstreams_and_keeps_what_is_right(world: World) -> None:
    """A wrong file changes nothing, and is named; a right one adds a route without a restart."""
    log = world.log()
    pid = gateway_of(world)
    with world.task() as task, world.client(task) as client:
        world.write("[upstream.wrong]\naudience = 7\n")
        os.kill(pid, signal.SIGHUP)
        until(lambda: "goes on as before" in world.log()[len(log) :])
        assert "upstream.wrong.audience: expected text in quotes, got 7" in world.log()
        assert client.get("/orders/o-1").status_code == 200
        world.write()
        file = world.folder / "gateway.toml"
        file.write_text(file.read_text().replace('"GET /watch" = "billing.watch"', ""))
        os.kill(pid, signal.SIGHUP)
        until(lambda: "reloaded" in world.log()[len(log) :])
        assert client.get("/watch").json()["code"] == "tool_not_allowed"
        assert client.get("/orders/o-1").status_code == 200
        world.write()
        os.kill(world.pid, signal.SIGHUP)  # `arx up` hands it on
        until(lambda: world.log()[len(log) :].count(" reloaded ") == 2)
        file.write_text(file.read_text().replace("[gateway]\nlisten = [", '[gateway]\nlisten = ["127.0.0.1:1", '))
        os.kill(pid, signal.SIGHUP)
        until(lambda: "as before: gateway: `listen` and `behind_tls` are read at a start" in world.log())
        world.write()


def test_decisions_of_the_gateway_are_with_those_of_the_realm(world: World) -> None:
    """``arx decisions`` needs no journal by name."""
    with world.task() as task, world.client(task) as client:
        client.get("/orders/o-2")
        found = world.arx("decisions", "--agent", f"acme/a{world.agents}", "--code", "deny")["decisions"]
        assert [(each["audience"], each["tool"]) for each in found] == [("billing", "billing.get")]


def gateway_of(world: World) -> int:
    """The process of this realm's gateway."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            if b"gateway" in words and b"--until-eof" in words and (place / "cwd").readlink() == world.folder:
                return int(place.name)
    raise AssertionError("no gateway runs")


def test_an_upstream_that_fails_is_a_problem_of_the_gateway(world: World, tmp_path: Path) -> None:
    """Its refusal of the gateway's credential is no challenge for the caller."""
    file = world.folder / "gateway.toml"
    log = world.log()
    pid = gateway_of(world)
    with world.task() as task, world.client(task) as client:
        file.write_text(file.read_text().replace('prefix = "Key "', 'prefix = "Wrong "'))
        os.kill(pid, signal.SIGHUP)
        until(lambda: "reloaded" in world.log()[len(log) :])
        answer = client.get("/orders/o-1")
        assert (answer.status_code, answer.json()["may_have_run"]) == (502, True)
        assert "www-authenticate" not in answer.headers
        file.write_text(file.read_text().replace(f":{world.http}/", ":9/"))
        os.kill(pid, signal.SIGHUP)
        until(lambda: world.log()[len(log) :].count("reloaded") == 2)
        answer = client.get("/orders/o-1")
        assert (answer.status_code, answer.json()["may_have_run"]) == (502, False)
        client.get("/orders/o-1")
        world.write()
        os.kill(pid, signal.SIGHUP)
        until(lambda: world.log()[len(log) :].count("reloaded") == 3)
    values = exported_by("gateway", f"127.0.0.1:{world.billing}")
    assert values["arx_gateway_answers_total"]["billing", "502"] == 3
    logged = world.log()[len(log) :]
    assert logged.count("upstream billing refused the gateway (401)") == 1
    assert logged.count("upstream billing cannot be reached: Cannot connect to host 127.0.0.1:9 ") == 1
    assert SECRET not in read_metrics(f"127.0.0.1:{world.billing}")


def test_calls_over_the_rate_are_refused(world: World) -> None:
    """30 a minute of one agent to one tool; another agent has calls of its own."""
    with world.task() as task, world.task() as other, world.client(task) as client:
        codes = [client.get("/orders/o-1").status_code for _ in range(40)]
        assert codes[:30] == [200] * 30
        assert codes[-1] == 429
        with world.client(other) as fresh:
            assert fresh.get("/orders/o-1").status_code == 200


def test_a_gateway_that_dies_is_started_again(world: World) -> None:
    """kill -9: the next call works once it is back, and a session of its processes has to be opened again."""
    pid = gateway_of(world)
    with world.task() as task:
        session = opened(world, task)
        os.kill(pid, signal.SIGKILL)
        until(lambda: world.log().count(READY) > 1)
        with world.client(task) as client:
            assert client.get("/orders/o-1").status_code == 200
        assert mcp(world, task, {"id": 3, "method": "tools/list"}, session).status_code == 404
        assert opened(world, task)


@pytest.mark.slow
def test_a_service_file_of_an_earlier_realm_is_named(world: World) -> None:
    """The mint does not know its key; once the file is away, the service is enrolled anew."""
    [key] = world.arx("service", "show", "billing")["service"]["keys"]
    world.arx("service", "remove-key", "billing", key["kid"], "--yes")
    os.kill(gateway_of(world), signal.SIGKILL)
    until(lambda: "billing.json: the mint does not know its key" in world.log())
    log = world.log()
    (world.folder / "billing.json").unlink()
    (world.folder / "billing.key").unlink()
    until(lambda: READY in world.log()[len(log) :])
    with world.task() as task, world.client(task) as client:
        assert client.get("/orders/o-1").status_code == 200
