# SPDX-License-Identifier: Apache-2.0
"""A realm and its mint in this process, and holders that call it over HTTP: real keys, real proofs, real tokens.

``unit`` has no store: its revocation table is in memory.  ``live`` has a real one.
Both run on both databases in turn; the marker ``sqlite`` is for tests that read no row.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.routing import compile_path
from starlette.testclient import TestClient

from arx_caps.audit.merkle.note import Signer
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion, make_dpop
from arx_caps.mint.api.app import ENDPOINTS, create_app
from arx_caps.mint.api.endpoint import File
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys.log_key import open_log_key
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm, sample_policy
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Login, Realm
from arx_caps.settings.self_registration import SelfRegistration
from arx_verifier.journal.decision import DecisionSink, InMemoryDecisions
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.revocation.history import HistoryPlace
from tests.mint.events import members_of
from tests.servers import until

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
    """Return a new realm whose policy is that of ``arx init`` for ``acme``, whatever the realm's own name is."""
    realm = init_realm(folder, name=name, issuer=ISSUER, database=database)
    realm.policy_path.write_text(sample_policy("acme"))
    return realm


def roots_of(realm: Realm) -> RootKeys:
    """Open the root keys of a realm that a key file seals."""
    return RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)


def log_signer(realm: Realm) -> Signer:
    """Open the key of a realm's log."""
    return open_log_key(realm.log_key_path, roots_of(realm))


@pytest.fixture(scope="session")
def realm_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a realm that ``open_unit`` copies: a copy takes a tenth of the time of a new one."""
    return make_realm(tmp_path_factory.mktemp("template") / "realm").folder


def local_mint(realm: Realm, decisions: DecisionSink | None = None) -> MintRuntime:
    """Return a mint without a store: its revocation table is in memory.

    Args:
        realm: The realm.
        decisions: Keeps the mint's decisions; memory by default.
    """
    epochs = UnsafeLocalEpochs()
    url = f"unix://{realm.folder}/no-store.sock"
    mint = MintRuntime(
        realm,
        db=MintDatabase(realm.database_url),
        roots=roots_of(realm),
        policy=Policy.load(realm.policy_path),
        epochs=epochs,
        store=RevocationStore(url, realm.name),
        store_url=url,
        decisions=decisions or InMemoryDecisions(),
    )
    mint.freezes.trust(HistoryPlace(epochs.incarnation, 0, ""))
    return mint


class Holder:
    """The holder of a key and a token, which signs each call.

    Args:
        harness: Receives the calls.
        key: Signs them.
        token: Goes with them; None before there is one.
    """

    def __init__(self, harness: "Harness", key: SigningKey, token: str | None) -> None:
        self.harness, self.key, self.token = harness, key, token

    def headers(self, method: str, path: str, **changes: Any) -> dict[str, str]:
        url = ISSUER + path
        signed = {"method": method, "url": url, "now": now_ms(), "token": self.token} | changes
        headers = {"DPoP": make_dpop(self.key, **signed)}
        return headers if self.token is None else headers | {"Authorization": f"DPoP {self.token}"}

    def call(self, method: str, path: str, body: Any = None, **query: str) -> httpx2.Response:
        headers = self.headers(method, path)
        return self.harness.client.request(method, path, json=body, headers=headers, params=query)


class Harness:
    """A realm whose mint's application is called in this process.

    Attributes:
        mint: The mint.
        client: Calls its application.
        operator_key: The key of the realm's first operator.
        session_key: Binds the sessions that a test opens by itself.
    """

    def __init__(self, mint: MintRuntime, client: TestClient | None = None) -> None:
        self.mint = mint
        self.client = client_of(mint) if client is None else client
        self.operator_key = KeyFile.load(mint.realm.operator_key_path)
        self.session_key = SigningKey.generate()

    @property
    def realm(self) -> Realm:
        return self.mint.realm

    def service_file(self, audience: str) -> dict[str, Any]:
        """Enrol a tool service with a key of its own, and return what the mint gives it as in a service file."""
        invited = self.operator().call("POST", "/v1/services/invitations", {"audience": audience}).json()
        service = Holder(self, SigningKey.generate(), None)
        assert service.call("POST", "/v1/services/keys", {"enrolment": invited["enrolment"]}).status_code == 201
        content: dict[str, Any] = service.call("GET", "/v1/keys").json()
        return content | {"keys": {each["kid"]: each["key"] for each in content["keys"]}}

    @property
    def epochs(self) -> UnsafeLocalEpochs:
        """The revocation table of a realm without a store."""
        assert isinstance(self.mint.epochs, UnsafeLocalEpochs)
        return self.mint.epochs

    def use(self, policy: str) -> None:
        """Put another policy in force."""
        self.realm.policy_path.write_text(policy)
        self.mint.reload_policy()

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
        operator, answers = self.operator(), list[httpx2.Response]()

        def asked() -> bool:  # on a loaded machine, the view of a mint that has just started may be too old
            answers.append(operator.call("POST", "/v1/agents", {"path": path, "jwk": key.key.public.jwk, **about}))
            return answers[-1].status_code != 503

        until(asked)
        assert answers[-1].status_code == 201, answers[-1].text
        return key

    def open_session(self, key: KeyFile, **asked: Any) -> tuple[Holder, dict[str, Any]]:
        """Open a session for an agent."""
        holder = Holder(self, SigningKey.generate(), None)
        answer = holder.call("POST", "/v1/sessions", {"assertion": self.assertion(key, holder.key), **asked})
        assert answer.status_code == 201, answer.text
        opened = answer.json()
        return Holder(self, holder.key, opened["token"]), opened["session"]

    def session(self, path: str = AGENT) -> tuple[Holder, dict[str, Any]]:
        """Enrol an agent and open a session for it."""
        return self.open_session(self.enrol(path))

    def events(self) -> list[dict[str, Any]]:
        """Return the events that the mint recorded."""
        return [members_of(event) for event in self.mint.db.outbox.after(0) if event.mint != "init"]


def client_of(mint: MintRuntime) -> TestClient:
    """Return a client of a mint's application, which checks each answer against the route's ``Endpoint``."""
    client = TestClient(create_app(mint), base_url=ISSUER, raise_server_exceptions=False)
    client.event_hooks["response"] = [require_documented]
    return client


def require_documented(answer: httpx2.Response) -> None:
    """Check that an answer has the status and the form of its route, or one of the route's codes."""
    answer.read()
    method, path = answer.request.method, answer.request.url.path
    routes = [route for route in ENDPOINTS if route.method == method and compile_path(route.path)[0].match(path)]
    if not routes or answer.status_code == 405:
        return
    route = routes[0]
    if answer.is_success:
        assert answer.status_code == route.status, (method, path, answer.status_code)
        if route.answer is File:
            return
        read = msgspec.json.decode(answer.content, type=route.answer)
        undocumented = (method, path, "the answer has members that its type lacks")
        assert msgspec.json.decode(msgspec.json.encode(read)) == answer.json(), undocumented
    else:
        assert answer.headers["content-type"] == "application/problem+json", (method, path, answer.text)
        assert answer.json()["code"] in route.codes, (method, path, answer.text)


@contextlib.contextmanager
def open_unit(
    folder: Path,
    *,
    database: str | None = None,
    policy: str | None = None,
    files: Mapping[str, bytes] | None = None,
    log: bool = False,
    template: Path | None = None,
    login: Login | None = None,
    clients: SelfRegistration | None = None,
    webhook_hosts: tuple[str, ...] = (),
) -> Iterator[Harness]:
    """Open a realm without a store: the mint, its keys and its revocation table are in this process.

    Args:
        folder: The realm's folder, made here.
        database: URL of a PostgreSQL database; None for an SQLite file in the folder.
        policy: Text of the policy; None for the sample of ``arx init``.
        files: Files of the folder by name, such as the keys of an issuer that the policy names.
        log: Start the audit log; its records are signed when a test calls ``mint.log.step()``.
        login: Where people log in.
        clients: What clients may be that no operator has registered.
        webhook_hosts: Hosts of the own network that may get notifications.
        template: ``realm_template``, whose copy the realm is; None for one with keys of its own.
    """
    if template is None or database is not None:
        realm = make_realm(folder, database=database)
    else:
        realm = Realm.open(shutil.copytree(template, folder))
    for name, content in (files or {}).items():
        (realm.folder / name).write_bytes(content)
    if policy is not None:
        realm.policy_path.write_text(policy)
    realm = replace(realm, login=login, clients=clients, webhook_hosts=webhook_hosts)
    with contextlib.closing(local_mint(realm)) as mint:
        if log:
            mint.log.start()
        yield Harness(mint)


@contextlib.contextmanager
def open_live(
    folder: Path,
    store_url: str,
    *,
    name: str,
    database: str | None = None,
    policy: str | None = None,
    lease_ms: int | None = None,
    settings: str = "",
) -> Iterator[Harness]:
    """Open a realm on a real store; its mint is started, and runs in this process.

    Args:
        folder: The realm's folder, made here.
        store_url: URL of the store's server.
        name: Name of the realm, unused in that store.
        database: URL of a PostgreSQL database; None for an SQLite file in the folder.
        policy: Text of the policy; None for the sample of ``arx init``.
        settings: Further lines of ``realm.toml``.
        lease_ms: Lease of a verifier; None for the default of ``arx init``.
    """
    realm = make_realm(folder, name, database=database)
    if policy is not None:
        realm.policy_path.write_text(policy)
    with (realm.folder / "realm.toml").open("a") as file:
        file.write(settings)
    if lease_ms is not None:
        # The mint takes over the settings of a history that it finds begun.
        with RevocationStore(store_url, name) as store:
            store.load_functions()
            store.init(lease_ms=lease_ms)
    mint = MintRuntime.open(Realm.open(realm.folder), store_url=store_url)
    with client_of(mint) as client:
        yield Harness(mint, client)


def _variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the arguments of a test's or a module's marker ``realm``."""
    mark = request.node.get_closest_marker("realm")
    return {} if mark is None else dict(mark.kwargs)


@pytest.fixture
def unit(
    request: pytest.FixtureRequest, tmp_path: Path, database: str | None, realm_template: Path
) -> Iterator[Harness]:
    """A realm without a server, except the database's.  ``@pytest.mark.realm(…)`` takes arguments of ``open_unit``."""
    with open_unit(tmp_path / "realm", database=database, template=realm_template, **_variant(request)) as harness:
        yield harness


@pytest.fixture
def epochs(unit: Harness) -> UnsafeLocalEpochs:
    """The revocation table of ``unit``."""
    return unit.epochs


@pytest.fixture
def live(request: pytest.FixtureRequest, tmp_path: Path, realm_name: str, database: str | None) -> Iterator[Harness]:
    """A realm with a real Valkey, which tests share.

    ``@pytest.mark.realm(…)`` takes the arguments ``policy`` and ``lease_ms`` of ``open_live``.  With
    ``own_store=True`` the Valkey is the fixture ``own_valkey``, which a test may stop and break.
    """
    variant = _variant(request)
    store = request.getfixturevalue("own_valkey" if variant.pop("own_store", False) else "valkey")
    with open_live(tmp_path / "realm", store.url, name=realm_name, database=database, **variant) as harness:
        yield harness
