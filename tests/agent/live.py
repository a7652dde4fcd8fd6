# SPDX-License-Identifier: Apache-2.0
"""A real mint with a real store, reached over HTTP as agents and operators reach it."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from arx_caps.agent import Agent, Approval, Task
from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.jose import make_assertion
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.mint.api.app import create_app
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.service import Invitation, join_service
from arx_caps.settings.realm import Realm
from arx_verifier.clock import now_ms
from arx_verifier.errors import StaleEpochError
from arx_verifier.request import AccessRequest
from arx_verifier.service import open_verifier
from arx_verifier.verification.verifier import Verifier

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[audience.payments]
origins = ["http://127.0.0.1:9002"]

[session.support]
agents = ["acme/*", "acme/support/*"]
ttl = "1h"

[session.idle]
agents = ["acme/idle/*"]
ttl = "1h"
idle = "700ms"

[session.calm]
agents = ["acme/still/*"]
ttl = "1h"
idle = "10m"

[task.look]
agents = ["acme/**"]
params = { order_id = { max_length = 8 } }
ttl = "10m"
audience = ["orders"]
allow = [{ tool = "orders.get", args = { order_id = "$order_id" } }]

[task.refund]
agents = ["acme/support/*"]
params = { order_id = { max_length = 8 }, amount = { range = [1, 100] } }
ttl = "10m"
audience = ["orders", "payments"]
exchange = { orders = ["payments"] }
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, "$amount"] } } },
]
depth = 2

[task.payout]
agents = ["acme/support/*"]
params = { order_id = { max_length = 8 } }
ttl = "10m"
audience = ["orders", "payments"]
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [1, 1000] } } },
  { tool = "payments.close", args = { order_ids = { subset = ["o-1", "o-2", "o-3"] } } },
  { tool = "payments.note", any = true },
]
approvals = [
  { tools = ["payments.refund", "payments.note"] },
  { tools = ["payments.close"], need = 2, once = false, ttl = "5m" },
]
depth = 2
"""


class Server(uvicorn.Server):
    """A server in a thread that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(app: Any, port: int = 0, **settings: Any) -> Iterator[int]:
    """Serve an application on loopback, with further settings of uvicorn, and yield its port."""
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.listening.wait(60), "the server did not start"
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


class LiveMint:
    """A mint that runs, and what an operator does with it."""

    def __init__(self, realm: Realm, folder: Path) -> None:
        self.realm, self._folder = realm, folder
        self._key = KeyFile.load(realm.operator_key_path)
        self._client = MintClient(realm.issuer, now=now_ms)
        assertion = make_assertion(self._key, audience=realm.issuer, now=now_ms())
        answer = self._client.call("POST", "/v1/operators/token", key=self._key.key, body={"assertion": assertion})
        self._token = answer["token"]

    def operator(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make one call as the realm's first operator."""
        until = time.monotonic() + 60
        while True:
            try:
                return self._client.call(method, path, key=self._key.key, token=self._token, body=body)
            except StaleEpochError:  # on a loaded machine the lease of the mint may end; it has done nothing then
                if time.monotonic() > until:
                    raise

    def another(self, name: str, role: str) -> Callable[..., dict[str, Any]]:
        """Enrol an operator, sign in, and return what makes one call as that one."""
        key = KeyFile.generate("operator", name, self.realm.issuer)
        self.operator("POST", "/v1/operators", {"name": name, "jwk": key.key.public.jwk, "role": role})
        assertion = make_assertion(key, audience=self.realm.issuer, now=now_ms())
        answer = self._client.call("POST", "/v1/operators/token", key=key.key, body={"assertion": assertion})
        return partial(self._client.call, key=key.key, token=answer["token"])

    def enrol(self, path: str) -> Path:
        """Enrol an agent and return its key file."""
        key = KeyFile.generate("agent", path, self.realm.issuer)
        self.operator("POST", "/v1/agents", {"path": path, "jwk": key.key.public.jwk})
        file = self._folder / f"{path.replace('/', '-')}.json"
        key.save(file)
        return file

    def agent(self, path: str) -> Agent:
        """Enrol an agent and be it."""
        return Agent.from_key_file(self.enrol(path))

    def service_file(self, audience: str) -> dict[str, Any]:
        """Enrol a tool service, and return its service file without what refreshes its keys and ships its records."""
        answer = self.operator("POST", "/v1/services/invitations", {"audience": audience})
        out, key = (self._folder / f"{audience}-{time.monotonic_ns()}.{kind}" for kind in ("service", "key"))
        invitation = Invitation(audience, answer["enrolment"], answer["issuer"])
        join_service(invitation, self._client, out=out, key_out=key, journal=self.realm.journals_dir / audience)
        content: dict[str, Any] = json.loads(out.read_text())
        return {name: content[name] for name in content if name not in ("issuer", "key_file")}

    @contextmanager
    def service(self, audience: str, **more: Any) -> Iterator[Verifier]:
        """Enrol a tool service and open its verifier, which follows the store; ``more`` is for ``open_verifier``."""
        file = self._folder / f"{audience}-{time.monotonic_ns()}.json"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(msgspec.json.encode(self.service_file(audience)))
        verifier = open_verifier(file, **more)
        verifier.start()
        try:
            yield verifier
        finally:
            verifier.close()

    def close(self) -> None:
        """Close the operator's connections."""
        self._client.close()


def judged(verifier: Verifier, held: Task, tool: str, args: Mapping[str, Any], *approvals: Approval) -> str:
    """What a service says of one signed call now; where its lease has ended, on a loaded machine, once it has one."""
    until = time.monotonic() + 60
    while True:
        text = held.call_token(verifier.audience, tool, args, approvals=approvals)
        code = verifier.decide(text, AccessRequest(tool, args, now_ms(), "127.0.0.1")).code
        if code != "stale" or time.monotonic() > until:
            return code


@contextmanager
def live_mint(
    folder: Path, *, store_url: str, name: str, port: int, public: int | None = None, policy: str = POLICY
) -> Iterator[LiveMint]:
    """Make a realm and run its mint; ``public`` is the port of what stands before it."""
    issuer = f"http://127.0.0.1:{port if public is None else public}"
    realm = init_realm(folder / "realm", name=name, issuer=issuer, listen=f"127.0.0.1:{port}")
    realm.policy_path.write_text(policy)
    with serving(create_app(MintRuntime.open(realm, store_url=store_url)), port):
        live = LiveMint(realm, folder)
        try:
            yield live
        finally:
            live.close()
