# SPDX-License-Identifier: Apache-2.0
"""What a guarded service must do with each HTTP framework: a real mint and store, and the service's own processes.

The applications are ``NAME_service.py``.  uvicorn or gunicorn runs each in the environment of its adapter, which has no
mint; the agents and the operator are here.  ``python -m tests.adapters NAME`` runs the tests of one framework.
"""

import collections
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from arx_caps.agent import Approval, Task
from tests.adapters.service_work import CALLS, LOG
from tests.agent.live import LiveMint, live_mint
from tests.servers import LONG_LEASE_MS, begun_store, free_ports, nonce_store, run_together, until

ROOT = Path(__file__).resolve().parents[2]
UVICORN = ("uvicorn", "--no-proxy-headers", "--log-level", "debug", "--timeout-graceful-shutdown", "1", "--port")
GUNICORN = ("gunicorn", "--workers", "2", "--worker-class", "gthread", "--threads", "8", "--log-level", "debug")
GUNICORN += ("--graceful-timeout", "1", "--no-control-socket", "--access-logfile", "-", "--bind")
SERVERS = {"fastapi": UVICORN, "starlette": UVICORN, "flask": GUNICORN, "django": GUNICORN}
POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:{port}"]

[session.support]
agents = ["acme/*"]
ttl = "1h"

[task.support]
agents = ["acme/*"]
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = {{ glob = "o-*" }} }} }},
  {{ tool = "orders.refund", args = {{ order_id = {{ glob = "o-*" }}, amount = {{ range = [1, 100] }} }} }},
  {{ tool = "orders.events", args = {{}} }},
  {{ tool = "orders.work", args = {{}} }},
  {{ tool = "orders.live", args = {{}} }},
  {{ tool = "orders.fail", any = true }},
]
depth = 3

[task.payout]
agents = ["acme/*"]
ttl = "10m"
audience = ["orders"]
allow = [{{ tool = "orders.refund", args = {{ order_id = "o-1", amount = {{ range = [1, 1000] }} }} }}]
approvals = [{{ tools = ["orders.refund"] }}]
"""


class Service:
    """The service of one framework, and the mint of its realm.

    Attributes:
        mint: The mint.
        framework: A key of ``SERVERS``.
        url: The service's address.
        sent: The tokens that agents sent.
    """

    def __init__(self, mint: LiveMint, folder: Path, framework: str, port: int) -> None:
        self.mint, self.framework, self.url = mint, framework, f"http://127.0.0.1:{port}"
        self.sent: list[str] = []
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start its processes, and wait until they answer."""
        python = ROOT / "build" / "adapters" / f"{self.framework}-server" / "bin" / "python"
        words = [str(python), "-m", *SERVERS[self.framework]]
        words[-1:] = ["--port", str(self._port)] if "uvicorn" in words else ["--bind", f"127.0.0.1:{self._port}"]
        environment = {name: value for name, value in os.environ.items() if name[:4] != "ARX_"}
        with (self._folder / "server.log").open("ab") as out:
            self._process = subprocess.Popen(
                [*words, f"tests.adapters.{self.framework}_service:app"],
                stdout=out,
                stderr=out,
                cwd=self._folder,
                env=environment | {"PYTHONPATH": str(ROOT)},
            )
        until(self._answers)

    def write(self, name: str, value: Any) -> None:
        """Write a file of JSON into its folder; remove it for None."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        if value is not None:
            path.write_text(json.dumps(value), "utf-8")

    def stop(self) -> None:
        """End its processes in order."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/healthz").status_code == 200
        return False

    @property
    def log(self) -> str:
        """All that its processes wrote, at their loudest."""
        lines = "".join((self._folder / name).read_text() for name in ("server.log", LOG)).splitlines()
        # At DEBUG, uvicorn writes the headers of each handshake of a WebSocket before the application has it.
        return "\n".join(line for line in lines if "< authorization: Bearer" not in line)

    @property
    def secrets(self) -> list[str]:
        """The keys of the service file, and a part of each token that was sent."""
        keys = json.loads((self._folder / "orders.json").read_bytes())["keys"].values()
        return [*keys, *(part for token in self.sent for part in (token[:60], token[-40:]))]

    def did(self) -> list[str]:
        """What the applications noted."""
        path = self._folder / CALLS
        return path.read_text().splitlines() if path.exists() else []

    def client(self, task: Task, *approvals: Approval) -> httpx.Client:
        """Return a client that signs for a task; close it."""

        def keep(request: httpx.Request) -> None:
            self.sent.append(request.headers["authorization"].removeprefix("Bearer "))

        hooks = {"request": [keep]}
        return httpx.Client(auth=task.auth(approvals=approvals), base_url=self.url, event_hooks=hooks, timeout=60)

    def connect(self, task: Task) -> ClientConnection:
        """Open a WebSocket of a task."""
        value = task.request_signer().header(self.url, "GET", "/live")
        self.sent.append(value.removeprefix("Bearer "))
        target = f"{self.url.replace('http', 'ws', 1)}/live"
        return open_socket(target, additional_headers={"authorization": value}, proxy=None, open_timeout=60)

    def kill(self, target: str) -> None:
        """Kill a target as an operator; return when each process of the service has confirmed it."""
        body = {"targets": [target], "reason": "a test"}
        until(lambda: self.mint.operator("POST", "/v1/kills", body)["status"] == "confirmed")

    @contextlib.contextmanager
    def task(self, template: str, agent: str) -> Iterator[Any]:
        """A task of a session of an agent that is enrolled for it."""
        with contextlib.closing(self.mint.agent(f"acme/{agent}")) as holder, holder.open_session() as session:
            yield session.start_task(template)


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(request.param)
    mint_port, port = free_ports(2)
    policy = POLICY.format(port=port)
    (folder / "store").mkdir()
    with (
        nonce_store(folder / "store") as store,
        begun_store(store.url, "shop", lease_ms=LONG_LEASE_MS),
        live_mint(folder, store_url=store.url, name="shop", port=mint_port, policy=policy) as mint,
    ):
        file = mint.service_file("orders")
        file |= {"journal": str(folder / "journal"), "nonces": store.url}
        (folder / "orders.json").touch(0o600)
        (folder / "orders.json").write_bytes(msgspec.json.encode(file))
        made = Service(mint, folder, request.param, port)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def code(answer: httpx.Response) -> Any:
    return answer.json().get("code") if answer.status_code != 200 else "ok"


def test_a_sub_agent_does_what_was_delegated(service: Service) -> None:
    """An orchestrator delegates less than it has; a caller reads what was expected, what came and what is allowed."""
    with service.task("support", "lead") as task:
        worker = task.delegate("acme/worker", tools=["orders.refund"], args={"amount": {"max": 20}})
        with service.client(task) as lead, service.client(worker) as http:
            assert lead.get("/orders/o-1").json() == {"order": "o-1", "by": "acme/lead"}
            assert http.post("/orders/o-1/refund", json={"amount": 20}).json() == {"refunded": 20}
            refused = http.post("/orders/o-1/refund", json={"amount": 21})
            assert (refused.status_code, code(refused)) == (403, "argument_not_allowed")
            assert ("amount max", "20", "21") in [
                (failure["rule"], failure["expected"], failure["came"]) for failure in refused.json()["failures"]
            ]
            assert "amount must be at most 20" in refused.json()["detail"]
            assert refused.json()["decision"]
            assert code(http.get("/orders/o-1")) == "tool_not_allowed"
            assert lead.post("/orders/o-1/refund", json={"amount": 21}).json() == {"refunded": 21}
    assert [line for line in service.did() if line.startswith("refund o-1")] == ["refund o-1 20", "refund o-1 21"]


def test_a_kill_ends_what_runs(service: Service) -> None:
    """An open stream, a long call that rechecks its grant, and a WebSocket; each next call is refused."""
    with service.task("support", "long") as task:
        worker = task.delegate("acme/kept")
        answers: list[httpx.Response] = []
        with service.client(worker) as http, service.client(worker) as other, service.client(task) as lead:
            working = threading.Thread(target=lambda: answers.append(other.post("/work")))
            with http.stream("GET", "/events") as stream:
                parts = stream.iter_raw()
                assert next(parts).startswith(b"event")
                working.start()
                until(lambda: "work 3" in service.did())
                with contextlib.ExitStack() as opened:
                    if "uvicorn" in SERVERS[service.framework]:
                        socket = opened.enter_context(service.connect(worker))
                        socket.send("hello")
                        assert socket.recv(timeout=60) == "acme/kept hello"
                    service.kill("agent:acme/kept")
                    with pytest.raises(httpx.TransportError):
                        collections.deque(parts, 0)
                    if "uvicorn" in SERVERS[service.framework]:
                        with pytest.raises(ConnectionClosed) as closed:
                            socket.recv(timeout=60)
                        assert closed.value.rcvd is not None
                        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "revoked")
            working.join(60)
            assert [code(answer) for answer in answers] == ["revoked"]
            until(lambda: "work ended" in service.did())
            assert {code(http.get("/orders/o-2")) for _ in range(4)} == {"revoked"}
            assert code(lead.get("/orders/o-2")) == "ok"


def test_an_approval_lets_one_call_pass_after_a_restart(service: Service) -> None:
    """The refusal names what is missing; the approved call passes once, also after a restart, and no other one does."""
    url, amount = "/orders/o-1/refund", {"amount": 500}
    with service.task("payout", "payer") as task:
        with service.client(task) as http:
            missing = http.post(url, json=amount)
        assert (missing.status_code, code(missing)) == (403, "missing_discharge")
        assert "approv" in missing.text
        approval = task.ask_approval("orders.refund", {"order_id": "o-1", **amount}, why="a test")
        service.mint.operator("POST", "/v1/approvals", {"approval": approval.id, "outcome": "approve", "why": None})
        approval.wait(60)
        with service.client(task, approval) as http:
            assert code(http.post(url, json={"amount": 501})) == "argument_not_allowed"
            service.stop()
            service.start()
            assert http.post(url, json=amount).json() == {"refunded": 500}
            assert http.post(url, json=amount).status_code == 403
    assert [line for line in service.did() if line.startswith("refund o-1 50")] == ["refund o-1 500"]


def test_callers_beside_each_other_never_mix(service: Service) -> None:
    """Each answer names its own caller, and no caller gets the order of another one."""
    found: dict[int, list[Any]] = {}

    def work(number: int, held: Task) -> None:
        with service.client(held) as http:
            mine = [http.get(f"/orders/o-{number}").json() for _ in range(5)]
            theirs = [code(http.get(f"/orders/o-{number + 1}")) for _ in range(5)]
        found[number] = [*mine, *theirs]

    with service.task("support", "many") as task:
        held = {
            number: task.delegate(f"acme/w{number}", tools=["orders.get"], args={"order_id": f"o-{number}"})
            for number in (11, 12, 13, 14)
        }
        run_together(*(partial(work, *each) for each in held.items()))
    assert found == {
        number: [*[{"order": f"o-{number}", "by": f"acme/w{number}"}] * 5, *["argument_not_allowed"] * 5]
        for number in held
    }


def test_a_retry_is_signed_anew(service: Service) -> None:
    """A request that is sent again as it was is a replay in each process; the call that is signed again passes."""
    with service.task("support", "again") as task, service.client(task) as http:
        assert code(http.get("/orders/o-3")) == "ok"
        with httpx.Client(base_url=service.url) as bare:
            used = {"authorization": f"Bearer {service.sent[-1]}"}
            assert {code(bare.get("/orders/o-3", headers=used)) for _ in range(4)} == {"replayed"}
        assert code(http.get("/orders/o-3")) == "ok"


def test_no_secret_is_in_any_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Of the service, its server and the client, at DEBUG, with the variables of exceptions; nor in an answer."""
    caplog.set_level("DEBUG")
    with service.task("support", "quiet") as task, service.client(task) as http:
        answers = [http.get(target) for target in ("/orders/o-4", "/orders/x", "/orders//", "/nothing")]
        answers.append(http.post("/fail", content=b"{"))
        answers.append(http.post("/fail", json={"amount": 7}))
        assert answers[-1].status_code == 500
        answers.append(httpx.get(f"{service.url}/openapi.json"))
        shown = service.log + caplog.text + "".join(answer.text for answer in answers)
        held = [token.encode() for token in task.bundle.tokens.values()]
    assert "amount = 7" in shown
    assert "no refund of 7" in shown
    assert not [secret for secret in (*service.secrets, *held) if secret in shown]


def test_a_service_that_watches_lets_calls_go_on(service: Service) -> None:
    """Without a token, and beyond a rule; a kill holds, and is never counted as confirmed."""
    service.stop()
    until_at = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    service.write("watch.json", {"mode": "watch", "until": until_at, "record": "arguments", "group_by": "x-client"})
    service.start()
    try:
        with service.task("support", "watched") as task, service.client(task) as http:
            assert http.get("/orders/o-5").json()["by"] == "acme/watched"
            assert http.get("/orders/x-5").json() == {"order": "x-5", "by": "would refuse: argument_not_allowed"}
            bare = httpx.get(f"{service.url}/orders/o-5", headers={"authorization": "Bearer own", "x-client": "app-7"})
            assert (bare.status_code, bare.json()["by"]) == (200, "would refuse: malformed")
            assert httpx.get(f"{service.url}/nothing").status_code == 404
            target = {"targets": [f"task:{task.id}"], "reason": "a test"}
            report = service.mint.operator("POST", "/v1/kills", target)
            assert report["status"] in ("partial", "unconfirmed"), report
            assert [name for name in report["watching"] if name.startswith("orders-")], report
            until(lambda: code(http.get("/orders/x-5")) == "revoked")
            assert code(http.get("/orders/o-5")) == "revoked"
        status = service.mint.operator("GET", "/v1/status")
        assert [each for each in status["verifiers"] if each["service"] == "orders" and each["watches_until"]]
    finally:
        service.stop()
        service.write("watch.json", None)
        service.start()
    assert httpx.get(f"{service.url}/orders/o-5").status_code == 401
