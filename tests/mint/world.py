# SPDX-License-Identifier: Apache-2.0
"""A realm, its mint, and those who call it, for tests: real keys, real proofs, real tokens.

Without servers the kill epoch is a table in this process and the store cannot be reached; with them it is a real one.
What the mint keeps is kept in both databases: a world is made of the fixture ``database`` (``module_database`` where a
module shares it).  Once is enough where no row is asked for: how tokens, claims, policies and bytes of HTTP are read.
"""

import time
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.routing import compile_path
from starlette.testclient import TestClient

from arx_caps.jose import KeyFile, SigningKey, make_assertion, make_dpop
from arx_caps.mint.api.app import ENDPOINTS, create_app
from arx_caps.mint.api.endpoint import File
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.realm import Realm
from arx_caps.revocation import RevocationStore
from arx_verifier.journal.decision import DecisionSink, InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.revocation.history import HistoryPlace

ISSUER = "http://127.0.0.1:8700"
AGENT = "acme/support/triage"
# A policy to read and to break.
REFUNDS = """\
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[audience.payments]
origins = ["https://pay.example.com", "http://[::1]:9002"]

[session]
agents = ["acme/**"]
ttl = "8h"

[task.refund]
agents = ["acme/support/*"]
params = { order_id = { length = 3 }, amount = { range = [0, 100] }, fast = { one_of = [true, false] } }
ttl = "10m"
audience = ["orders", "payments"]
allow = [
  { tool = "orders.get", args = { order_id = "$order_id" } },
  { tool = "payments.refund", args = { order_id = "$order_id", amount = { range = [0, "$amount"] }, fast = "$fast" } },
  { tool = "payments.*", args = { note = "$$5" } },
]
"""
LOOKUP = {"template": "lookup", "params": {"order_id": "o-1"}}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def make_realm(folder: Path, name: str = "acme", *, database: str | None = None) -> Realm:
    return init_realm(folder, name=name, issuer=ISSUER, database=database)


def local_mint(realm: Realm, decisions: DecisionSink | None = None) -> tuple[MintRuntime, UnsafeLocalEpochs]:
    """A mint whose kill epoch is local and whose store does not answer; it keeps decisions in memory, or as told."""
    epochs = UnsafeLocalEpochs()
    url = f"unix://{realm.folder}/no-store.sock"
    mint = MintRuntime(
        realm,
        db=MintDatabase(realm.database_url),
        roots=RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path),
        policy=Policy.load(realm.policy_path),
        epochs=epochs,
        store=RevocationStore(url, realm.name),
        store_url=url,
        decisions=decisions or InMemoryDecisions(),
    )
    mint.freezes.trust(HistoryPlace(epochs.incarnation, 0, ""))
    return mint, epochs


class Holder:
    """Somebody with a key and a token, who signs each call."""

    def __init__(self, world: "World", key: SigningKey, token: str | None) -> None:
        self.world, self.key, self.token = world, key, token

    def headers(self, method: str, path: str, **changes: Any) -> dict[str, str]:
        url = ISSUER + path
        signed = {"method": method, "url": url, "now": now_ms(), "token": self.token} | changes
        headers = {"DPoP": make_dpop(self.key, **signed)}
        return headers if self.token is None else headers | {"Authorization": f"DPoP {self.token}"}

    def call(self, method: str, path: str, body: Any = None, **query: str) -> httpx2.Response:
        headers = self.headers(method, path)
        return self.world.client.request(method, path, json=body, headers=headers, params=query)


class World:
    """A realm with a running application."""

    def __init__(self, mint: MintRuntime, client: TestClient) -> None:
        self.mint, self.client = mint, client
        self.operator_key = KeyFile.load(mint.realm.operator_key_path)
        self.session_key = SigningKey.generate()  # of sessions that a test opens by hand

    @property
    def realm(self) -> Realm:
        return self.mint.realm

    def operator(self) -> Holder:
        """Sign in as the first operator."""
        holder = Holder(self, self.operator_key.key, None)
        answer = holder.call("POST", "/v1/operators/token", {"assertion": self.assertion(self.operator_key)})
        assert answer.status_code == 201, answer.text
        return Holder(self, self.operator_key.key, answer.json()["token"])

    def assertion(self, key: KeyFile, session_key: SigningKey | None = None) -> str:
        return make_assertion(key, audience=ISSUER, now=now_ms(), session_key=(session_key or self.session_key).public)

    def enrol(self, path: str = AGENT, **about: Any) -> KeyFile:
        """Enrol an agent."""
        key = KeyFile.generate("agent", path, ISSUER)
        answer = self.operator().call("POST", "/v1/agents", {"path": path, "jwk": key.key.public.jwk, **about})
        assert answer.status_code == 201, answer.text
        return key

    def open_session(self, key: KeyFile, **asked: Any) -> tuple[Holder, dict[str, Any]]:
        """Open a session for an agent."""
        holder = Holder(self, SigningKey.generate(), None)
        answer = holder.call("POST", "/v1/sessions", {"assertion": self.assertion(key, holder.key), **asked})
        assert answer.status_code == 201, answer.text
        told = answer.json()
        return Holder(self, holder.key, told["token"]), told["session"]

    def session(self, path: str = AGENT) -> tuple[Holder, dict[str, Any]]:
        """Enrol an agent and open a session for it."""
        return self.open_session(self.enrol(path))

    def events(self) -> list[dict[str, Any]]:
        """What the mint recorded."""
        return [event.to_dict() for event in self.mint.db.outbox.after(0) if event.mint != "init"]


def local_world(folder: Path, *, database: str | None = None) -> tuple[World, UnsafeLocalEpochs]:
    """A world without servers, but for the database's where one is given."""
    mint, epochs = local_mint(make_realm(folder, database=database))
    return World(mint, client_of(mint)), epochs


def client_of(mint: MintRuntime) -> TestClient:
    """A client of a mint's application, which lets no answer pass that its route does not say it gives."""
    client = TestClient(create_app(mint), base_url=ISSUER, raise_server_exceptions=False)
    client.event_hooks["response"] = [require_documented]
    return client


def require_documented(answer: httpx2.Response) -> None:
    """Hold an answer to what the route's ``Endpoint`` says: its status and form, or one of its codes."""
    answer.read()
    method, path = answer.request.method, answer.request.url.path
    found = [each for each in ENDPOINTS if each.method == method and compile_path(each.path)[0].match(path)]
    if not found or answer.status_code == 405:
        return
    if answer.is_success:
        assert answer.status_code == found[0].status, (method, path, answer.status_code)
        if found[0].answer is File:
            return
        told = msgspec.json.decode(answer.content, type=found[0].answer)
        assert msgspec.json.decode(msgspec.json.encode(told)) == answer.json(), (
            method,
            path,
            "answers more than its type says",
        )
    else:
        assert answer.headers["content-type"] == "application/problem+json", (method, path, answer.text)
        assert answer.json()["code"] in found[0].codes, (method, path, answer.text)


@pytest.fixture
def epochs(world: World) -> UnsafeLocalEpochs:
    """The table that a module's ``world`` has for a kill epoch."""
    view = world.mint.epochs
    assert isinstance(view, UnsafeLocalEpochs)
    return view
