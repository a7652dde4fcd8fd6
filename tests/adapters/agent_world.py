# SPDX-License-Identifier: Apache-2.0
"""A world for agents of any framework: a real mint and store, a guarded service over HTTP, and an operator.

``World.require_secrecy`` knows each credential of it.
"""

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from arx_caps.agent import Agent, Session, Task
from arx_caps.embedded import EmbeddedValkey
from arx_verifier import ArxMiddleware
from arx_verifier.journal.decision import InMemoryDecisions
from tests.agent.live import LiveMint, live_mint, serving
from tests.servers import LONG_LEASE_MS, begun_store, free_ports, until

PREFIXES: Final = ("arx1_", "arxb1_")  # how each token and each task begins
TAIL: Final = 24  # characters: enough of a secret to know it by
BOSS, WORKER = "acme/support/boss", "acme/support/worker"
POLICY: Final = """
[audience.orders]
origins = ["{origin}"]

[session]
agents = ["acme/**"]
ttl = "1h"

[task.desk]
binding = "bound"
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.watch", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, 100] }} }} }},
]
depth = 2

[task.refund]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 8 }}, amount = {{ range = [1, 100] }} }}
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.watch", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, "$amount"] }} }} }},
]
depth = 2

[task.payout]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 8 }} }}
ttl = "10m"
audience = ["orders"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "orders.refund", args = {{ order_id = "$order_id", amount = {{ range = [1, 1000] }} }} }},
]
approvals = [{{ tools = ["orders.refund"] }}]
depth = 2
"""
ROUTES: Final = {
    "GET /orders/{order_id}": "orders.get",
    "GET /orders/{order_id}/watch": "orders.watch",
    "POST /refunds": "orders.refund",
    "POST /orders/{order_id}/refund": "orders.refund",
}


class Served(NamedTuple):
    """A call that the service ran; as a text ``orders.refund o-1 20``."""

    tool: str
    holder: str
    task: str
    order_id: str
    amount: int | None = None

    def __str__(self) -> str:
        return f"{self.tool} {self.order_id}" + (f" {self.amount}" if self.amount else "")


class Service:
    """The application behind the guard: it keeps what ran, fails as often as a test says, and can stream."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        self.credentials: list[str] = []  # of every request, also of those that the guard refuses
        self.failures = 0
        routes = [
            Route("/orders/{order_id}", self._get),
            Route("/orders/{order_id}/watch", self._watch),
            Route("/refunds", self._refund, methods=["POST"]),
            Route("/orders/{order_id}/refund", self._refund, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)

    def _note(self, request: Request, order_id: str, amount: int | None = None) -> Response | None:
        if self.failures:
            self.failures -= 1
            return Response(status_code=502)
        grant = request.scope["arx"]
        self.served.append(Served(grant.tool, grant.holder, grant.task, order_id, amount))
        return None

    async def _get(self, request: Request) -> Response:
        order_id = request.path_params["order_id"]
        return self._note(request, order_id) or JSONResponse({"order_id": order_id, "item": "kettle"})

    async def _refund(self, request: Request) -> Response:
        asked = await request.json() | request.path_params
        failed = self._note(request, asked["order_id"], asked["amount"])
        return failed or JSONResponse({"refunded": asked["amount"]}, 201)

    async def _watch(self, request: Request) -> Response:
        async def lines() -> Any:
            while True:
                yield b"nothing new\n"
                await asyncio.sleep(0.02)

        return self._note(request, request.path_params["order_id"]) or StreamingResponse(lines())


class World:
    """The mint, the service and the operator.

    Attributes:
        mint: The mint.
        service: The service's application.
        url: Where it is served.
        folder: A folder of this world alone.
        records: What the service recorded of each call.
    """

    def __init__(self, mint: LiveMint, service: Service, url: str, folder: Path, records: InMemoryDecisions) -> None:
        self.mint, self.service, self.url, self.folder, self.records = mint, service, url, folder, records
        self._secrets: list[str] = []
        self._keys: dict[str, Path] = {}

    def key(self, path: str = BOSS) -> Path:
        """Return an agent's key file; the agent is enrolled once."""
        if path not in self._keys:
            file = self._keys[path] = self.mint.enrol(path)
            self._secrets.append(json.loads(file.read_text())["d"])
        return self._keys[path]

    @contextlib.contextmanager
    def session(self, path: str = BOSS) -> Iterator[Session]:
        """Be an agent with an open session."""
        with Agent.from_key_file(self.key(path)) as agent, agent.open_session(purpose="a test") as session:
            self.know(session)
            yield session

    def know(self, session: Session) -> None:
        """Count a session's key and token among the secrets."""
        file = self.folder / "known.session"
        session.save(file)
        content = json.loads(file.read_text())
        self._secrets += [content["token"], content["key"]["d"]]

    def kill(self, target: str) -> None:
        """End what is named, as the operator, until the service has confirmed it: one that just started may be late."""
        body = {"targets": [target], "reason": "a test"}
        until(lambda: self.mint.operator("POST", "/v1/kills", body)["status"] == "confirmed")

    def answer(self, approval: str, outcome: str = "approve") -> None:
        """Say as the operator what becomes of an approval."""
        self.mint.operator("POST", "/v1/approvals", {"approval": approval, "outcome": outcome})

    @property
    def calls(self) -> list[str]:
        """What the service ran, ``orders.get o-1``; a refused call is not here."""
        return [str(each) for each in self.service.served]

    def waiting(self, task: Task) -> list[dict[str, Any]]:
        """Return the approvals of a task that wait for the operator."""
        return list(self.mint.operator("GET", f"/v1/approvals?state=waiting&task={task.id}")["approvals"])

    def require_secrecy(self, *texts: Any) -> None:
        """Check that nothing of a credential is in texts.

        Args:
            texts: All that prompts, histories, traces, logs and errors held.
        """
        seen = "\n".join(map(str, texts))
        for secret in (*PREFIXES, *(text[-TAIL:] for text in (*self._secrets, *self.service.credentials))):
            where = seen.find(secret)
            assert where < 0, seen[max(where - 300, 0) : where]


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """Run all of it.

    Args:
        folder: For the realm and for files.
    """
    port, mint_port = free_ports(2)
    url, service, records = f"http://127.0.0.1:{port}", Service(), InMemoryDecisions()
    policy = POLICY.format(origin=url)
    with (
        EmbeddedValkey(folder / "store") as store,
        begun_store(store.url, "desk", lease_ms=LONG_LEASE_MS),
        live_mint(folder, store_url=store.url, name="desk", port=mint_port, policy=policy) as mint,
        mint.service("orders", decisions=records) as verifier,
    ):
        guarded = ArxMiddleware(service.app, verifier=verifier, tools=ROUTES)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            service.credentials += [
                value.decode() for key, value in scope.get("headers", ()) if key == b"authorization"
            ]
            await guarded(scope, receive, send)

        with serving(app, port):
            yield World(mint, service, url, folder, records)


class Loud(logging.Handler):
    """Everything that any library logs, at its loudest, as one text; a canary test looks for secrets in it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, with its arguments and its exception."""
        self.lines.append(logging.Formatter("%(name)s %(message)s").format(record))


@contextlib.contextmanager
def at_its_loudest() -> Iterator[Loud]:
    """Log everything, of every library."""
    root, loud = logging.getLogger(), Loud()
    before = root.level
    root.addHandler(loud)
    root.setLevel(logging.NOTSET)
    try:
        yield loud
    finally:
        root.removeHandler(loud)
        root.setLevel(before)


def secrets_in(*texts: Any) -> list[str]:
    """Return what looks like a token, a bundle or an Authorization header in texts."""
    found = []
    for text in map(str, texts):
        text = text.replace("'Bearer …'", "")  # what the header of a call shows of itself
        found += [mark for mark in (*PREFIXES, "Bearer ", '"d":') if mark in text]
    return found


def whole(error: BaseException) -> str:
    """Return all that a tool can show of an error: its causes, notes and frames, with their local variables."""
    return "".join([repr(error), *traceback.TracebackException.from_exception(error, capture_locals=True).format()])


def run_block(text: str, folder: Path, names: dict[str, Any]) -> None:
    """Run a block of a page in a folder, with these names."""
    with contextlib.chdir(folder):
        exec(compile(text, "page.py", "exec", dont_inherit=True), names)
