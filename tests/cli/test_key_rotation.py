# SPDX-License-Identifier: Apache-2.0
"""Keys change while a realm works, in processes of their own: rightful callers are served, and a thief is refused."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from arx_caps.agent import Agent
from arx_verifier import AccessRequest, Caveat, Macaroon, Rule
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.revocation.follower import Follower
from arx_verifier.service import open_verifier, read_service_file
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier
from arx_verifier.token.wire import bytes_of
from arx_verifier.verification.verifier import Verifier
from tests.cli.helpers import arx
from tests.cli.live import AGENT, Live, call, live_realm
from tests.servers import free_ports, until

SERVICE = Path(__file__).resolve().parents[2] / "arx_caps" / "demo" / "service.py"
pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all files are."""
    return tmp_path_factory.mktemp("rotation")


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Live]:
    """A realm whose services ask for their keys every second, with one agent."""
    mint, orders = free_ports(2)
    realm_dir = folder / "realm"
    arx("init", str(realm_dir), "--name", "acme", "--issuer", f"http://127.0.0.1:{mint}")
    with (realm_dir / "realm.toml").open("a") as settings:
        settings.write('key_refresh = "1s"\n')
    policy = realm_dir / "policy.toml"
    policy.write_text(policy.read_text().replace(":9001", f":{orders}"))
    with live_realm(realm_dir, mint) as realm:
        realm.ok("agent", "enrol", AGENT, "--key-out", folder / "agent.key")
        for audience in ("orders", "payments"):
            realm.ok("service", "enrol", audience, "--out", folder / f"{audience}.json")
        yield realm


@contextlib.contextmanager
def running(*words: str | Path) -> Iterator[None]:
    """A program beside."""
    process = subprocess.Popen([sys.executable, *words])
    try:
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    """Return whether a service listens."""
    try:
        return bool(httpx.get(url).status_code)
    except httpx.TransportError:
        return False


def orders_url(up: Live) -> str:
    text = (up.folder / "policy.toml").read_text()
    return text.partition('[audience.orders]\norigins = ["')[2].partition('"')[0]


class Load:
    """A client that starts tasks and calls, with fresh tokens and an old one, and is never refused."""

    def __init__(self, key: Path, url: str) -> None:
        self._agent = Agent.from_key_file(key)
        self._session = self._agent.open_session()
        self._url = f"{url}/orders/o-1001"
        self.kids: list[str] = []
        self.codes: list[int] = []
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        first = self._session.start_task("lookup", order_id="o-1001")
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set() and not self.failed:
                fresh = self._session.start_task("lookup", order_id="o-1001")
                identifier = Macaroon.parse(fresh.tokens["orders"]).unverified_identifier
                assert isinstance(identifier, Identifier)
                self.kids.append(identifier.kid)
                for task in (fresh, first):
                    answer = client.get(self._url, auth=task.auth())
                    self.codes.append(answer.status_code)
                    if answer.status_code != 200:
                        self.failed.append(f"{identifier.kid}: {answer.text}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self._agent.close()


@pytest.mark.slow
@pytest.mark.spec("CONTROL 3.4")
def test_roots_rotate_under_load(up: Live, folder: Path) -> None:
    """A service that runs alone, and an agent: from the old key to the new one, no call is refused."""
    url, file = orders_url(up), folder / "orders.json"
    service = (SERVICE, "orders", "--service-file", file, "--data", folder / "o.db", "--port")
    with running(*service, url.rpartition(":")[2]):
        until(lambda: answers(url))
        load = Load(folder / "agent.key", url)
        try:
            until(lambda: len(load.codes) >= 20 or load.failed)
            answer = up.ok("key", "rotate")["key"]
            assert (answer["name"], answer["state"]) == ("k2", "waiting")
            until(lambda: load.failed or (load.kids and load.kids[-1].startswith("k2.")))
            more = len(load.codes) + 20
            until(lambda: len(load.codes) >= more or load.failed)
        finally:
            load.stop()
        assert load.failed == []
        assert set(load.codes) == {200}
        roots = [kid.partition(".")[0] for kid in load.kids]
        assert roots == sorted(roots)  # once the new one minted, the old one did no more
        assert set(roots) == {"k1", "k2"}
        code, error, _ = up.run("key", "retire", "k1", "--yes")
        assert (code, error["code"]) == (1, "conflict")
        # In an emergency: every token of the old one is revoked, those of the new one are not.
        kill = up.ok("key", "retire", "k1", "--now", "--yes")["kill"]
        assert {"key:k1.0", "key:k1.1"} <= set(kill["targets"])
        assert [key["state"] for key in up.ok("key", "list")["keys"]] == ["retired", "minting"]
        again = Load(folder / "agent.key", url)
        until(lambda: again.failed or again.codes.count(200) >= 4)
        again.stop()
        assert again.failed == []


@pytest.mark.nightly
@pytest.mark.spec("9", "CONTROL 3.4")
def test_a_stolen_audience_key_is_replaced(up: Live, folder: Path) -> None:
    """The thief's forgery is refused within a lease, also where no service has fetched the new key; others go on."""
    for audience in ("orders", "payments"):
        up.ok("ship", folder / f"{audience}.json", "--once")
    file = read_service_file(folder / "orders.json")
    [(kid, key)] = file.keys.items()
    stolen = {kid: bytes_of(key)}
    assert file.store is not None
    # A service that never learns of new keys, and one that reads its file.
    deaf = Verifier(
        audience="orders",
        keys=KeyRing(stolen, realm="acme"),
        epochs=Follower(file.store, "acme", "deaf"),
        decisions=InMemoryDecisions(),
    )
    awake, payments = open_verifier(folder / "orders.json"), open_verifier(folder / "payments.json")
    with contextlib.closing(deaf), contextlib.closing(awake), contextlib.closing(payments):
        for verifier in (deaf, awake, payments):
            verifier.start()
        session, before, after = folder / "session", folder / "before", folder / "after"
        up.ok("session", "open", "--key", folder / "agent.key", "--out", session)
        refund = ("task", "start", "refund", "--session", session, "--param", "order_id=o-1", "--param", "amount=5")
        up.ok(*refund, "--out", before)
        forged = _forged(before, kid, stolen[kid])
        assert [_code(verifier, forged) for verifier in (deaf, awake)] == ["ok", "ok"]
        answer = up.ok("service", "replace-key", "orders", "--stolen", "--yes")
        assert answer["kill"]["targets"] == [f"key:{kid}"]
        until(lambda: _code(deaf, forged) == "frozen")
        assert _code(awake, forged) == "frozen"
        up.ok("ship", folder / "orders.json", "--once")
        up.ok(*refund, "--out", after)
        assert not call(awake, before, "orders.get", order_id="o-1").allowed
        until(lambda: call(awake, after, "orders.get", order_id="o-1").allowed)
        assert _code(awake, forged) == "unknown_key"
        assert call(payments, before, "payments.refund", order_id="o-1", amount=5).allowed


def _forged(held: Path, kid: str, key: bytes) -> str:
    """Make what only a thief of the key can make: a token for everything, in any agent's name."""
    from arx_caps.agent import Task

    real = Macaroon.parse(Task.from_text(held.read_text()).tokens["orders"]).unverified_identifier
    assert isinstance(real, Identifier)
    assert real.kid == kid
    return Macaroon.mint(real, key=key, realm="acme", caveats=(Caveat(allow=(Rule(tool="*"),)),)).encode()


def _code(verifier: Verifier, token: str) -> str:
    return verifier.decide(token, AccessRequest("orders.cancel", {}, time.time_ns() // 1_000_000, "127.0.0.1")).code


@pytest.mark.parametrize(
    "command",
    [("key", "retire", "k9"), ("key", "rotate-signing", "--stolen"), ("service", "replace-key", "orders", "--stolen")],
)
def test_what_ends_tokens_of_a_key_waits_for_yes_in_a_script(up: Live, command: tuple[str, ...]) -> None:
    """Nothing is done without it, and the error names it."""
    before = up.ok("key", "signing")["keys"]
    code, error, _ = up.run(*command)
    assert (code, error["code"], error["hint"]) == (2, "not_confirmed", "add --yes to confirm")
    assert up.ok("key", "signing")["keys"] == before


@pytest.mark.slow
def test_a_signing_key_is_rotated_without_a_question_unless_it_was_stolen(up: Live) -> None:
    """After a theft the next key signs at once, and those of before sign no more."""
    before = up.ok("key", "rotate-signing")["key"]["kid"]
    key = up.ok("key", "rotate-signing", "--stolen", "--yes")["key"]
    states = {each["kid"]: each["state"] for each in up.ok("key", "signing")["keys"]}
    assert (key["state"], states[before]) == ("signing", "retired")
