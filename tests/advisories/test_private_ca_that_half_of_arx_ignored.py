# SPDX-License-Identifier: Apache-2.0
"""An operator with a private authority could not ship, cosign or run ``arx doctor``, and learnt no cause.

ARx: one setting ``ca`` in realm, key and service files, and ``ARX_CA``, for every TLS connection.  An error names the
host whose certificate was refused, why, and what to set.
"""

import contextlib
import json
import logging
import shutil
import ssl
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.agent import Agent
from arx_caps.audit.merkle.checkpoint import Checkpoint
from arx_caps.audit.merkle.errors import WitnessError
from arx_caps.audit.merkle.keys import make_key
from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.audit.witness.client import ask_witness
from arx_caps.audit.witness.cosigners import Witnesses
from arx_caps.audit.witness.server import create_app as witness_app
from arx_caps.audit.witness.witness import KEY_FILE, Witness
from arx_caps.cli import exit_codes
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.api.app import create_app
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError, StoreError, UnavailableError
from arx_verifier.revocation.follower import Follower
from arx_verifier.service import open_verifier
from arx_verifier.verification.nonces import RedisNonces
from tests.agent.live import serving
from tests.audit.world import LOG, ORIGIN
from tests.cli.helpers import Ran, arx
from tests.mint.issuer import jwks, key_server
from tests.servers import until
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING, Server, need, running
from tests.verifier.journals import allow

pytestmark = pytest.mark.servers
NOTE = Checkpoint(ORIGIN, 0, sha256(b"").digest()).sign(LOG)
UNKNOWN, OTHER_NAME, EXPIRED = "unknown issuer", "it is for another name", "it has expired"


class Secure(NamedTuple):
    """A realm whose mint is reached by TLS alone, and whose authority the system does not know."""

    realm: Realm
    ca: Ca
    port: int

    @property
    def authority(self) -> str:
        """The authority's file."""
        return str(self.ca.folder / "ca.pem")

    def arx(self, *words: str | Path, **environment: str) -> Ran:
        """Run a command in the realm's folder."""
        return arx(*words, env={"ARX_HOME": str(self.realm.folder), **environment})

    def ok(self, *words: str | Path) -> dict[str, Any]:
        """Run a command that must succeed."""
        ran = self.arx(*words, "--json")
        assert ran.exit_code == exit_codes.OK, ran.err
        return ran.json


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    """An authority of the test's own."""
    return Ca.make(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the setting says whom to trust."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "ARX_CA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secure(tmp_path: Path, free_port: int, ca: Ca, valkey: EmbeddedValkey) -> Iterator[Secure]:
    """A running realm that was made with ``--ca``."""
    home = tmp_path / "realm"
    made = ("init", "--name", "acme", "--issuer", f"https://127.0.0.1:{free_port}", "--ca", ca.folder / "ca.pem")
    ran = arx(*made, "--store", valkey.url, env={"ARX_HOME": str(home)})
    assert ran.exit_code == exit_codes.OK, ran.err
    realm = Realm.open(home)
    with RevocationStore(valkey.url, realm.name) as store:
        store.exchange.client.delete(*store.keys.all)
    mint = MintRuntime.open(realm, store_url=valkey.url)
    mint.start()
    certificate, key = ca.issue("127.0.0.1")
    with serving(create_app(mint), free_port, ssl_certfile=str(certificate), ssl_keyfile=str(key)):
        yield Secure(realm, ca, free_port)
    mint.close()


@pytest.mark.slow
def test_every_caller_of_the_mint_trusts_it(secure: Secure, tmp_path: Path) -> None:
    """Operator, service, shipper, refresher and doctor by the realm's and the service's file; an agent by its key's."""
    secure.ok("agent", "enrol", "acme/support/triage", "--key-out", tmp_path / "agent.key", "--owner", "ada")
    secure.ok("service", "invite", "orders", "--out", tmp_path / "invite")
    enrolled = ("service", "enrol", "--invitation", tmp_path / "invite", "--out", tmp_path / "orders.json")
    secure.ok(*enrolled, "--ca", secure.authority)
    file = tmp_path / "orders.json"
    assert json.loads(file.read_text())["ca"] == secure.authority
    with contextlib.closing(open_verifier(file).decisions) as journal:
        journal.append(allow(0))
    secure.ok("ship", file, "--once")
    values = {check["name"]: check["ok"] for check in secure.arx("doctor", "--json").json["checks"]}
    assert (values["mint"], values["audit log"]) == (True, True)

    path = tmp_path / "agent.key"
    key = json.loads(path.read_text())
    refused = f"certificate of 127.0.0.1:{secure.port} was refused: {UNKNOWN}"
    with Agent.from_key_file(path) as agent, pytest.raises(StoreError, match=refused):
        agent.open_session()
    shutil.copy(secure.authority, tmp_path / "ca.pem")
    path.write_text(json.dumps(key | {"arx": key["arx"] | {"ca": "ca.pem"}}))  # relative to the key file
    with Agent.from_key_file(path) as agent, agent.open_session() as session:
        assert session.id
    opened = secure.ok("session", "open", "--key", path, "--out", tmp_path / "session")
    assert opened["session"]["state"] == "open"
    secure.ok("session", "end", "--session", tmp_path / "session")


def test_the_variable_wins_and_is_enough(secure: Secure, tmp_path: Path) -> None:
    """Without a setting in any file ARX_CA is trusted; a file that is none is named."""
    settings = secure.realm.folder / "realm.toml"
    settings.write_text("".join(line for line in settings.read_text().splitlines(True) if not line.startswith("ca =")))
    assert secure.arx("whoami", ARX_CA=secure.authority).exit_code == exit_codes.OK
    ran = secure.arx("whoami")
    assert ran.exit_code == exit_codes.UNREACHABLE
    assert f"the certificate of 127.0.0.1:{secure.port} was refused: {UNKNOWN}; set `ca`, or ARX_CA" in ran.err
    (tmp_path / "empty.pem").write_text("")
    ran = secure.arx("whoami", ARX_CA=str(tmp_path / "empty.pem"))
    assert "empty.pem cannot be read: no certificate in PEM is in it; it is set in ARX_CA" in ran.err
    ran = secure.arx("whoami", ARX_CA=str(tmp_path / "none.pem"))
    assert "none.pem cannot be read: No such file or directory" in ran.err


@pytest.mark.parametrize("why", [UNKNOWN, OTHER_NAME, EXPIRED])
def test_a_refused_certificate_is_called_one(secure: Secure, tmp_path: Path, why: str) -> None:
    """Doctor, operator, shipper, witness and key sets say whose certificate was refused, and why."""
    other = Ca.make(tmp_path / "other") if why == UNKNOWN else Ca.make(tmp_path / "mine")
    authority = secure.authority if why == UNKNOWN else str(other.folder / "ca.pem")
    host, days = ("elsewhere.example", 1) if why == OTHER_NAME else ("127.0.0.1", -1 if why == EXPIRED else 1)
    certificate, key = other.issue(host, days=days)

    async def impostor(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was believed")

    named = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key), "lifespan": "off"}
    with serving(impostor, **named) as port:
        issuer = f"https://127.0.0.1:{port}"
        refused = f"the certificate of 127.0.0.1:{port} was refused: {why}"
        ran = secure.arx("doctor", "--issuer", issuer, "--json", ARX_CA=authority)
        [found] = [check["found"] for check in ran.json["checks"] if check["name"] == "mint"]
        assert refused in found
        ran = secure.arx("whoami", "--issuer", issuer, ARX_CA=authority)
        assert refused in ran.err
        with pytest.raises(UnavailableError, match="cannot be read now") as caught:
            KeySets(tmp_path, ca=authority).find(f"{issuer}/keys", "k")
        assert refused in str(caught.value)
        own = SigningKey.generate()
        shipper = Shipper(tmp_path, audience="orders", realm="acme", issuer=issuer, key=own, ca=authority)
        with contextlib.closing(shipper), pytest.raises(StoreError, match=refused):
            shipper._post(f"{issuer}/v1/audit/batches", b"", {})
        with pytest.raises(WitnessError, match=refused):
            ask_witness(issuer, LOG.key, NOTE, lambda _: (), ca=authority)


def test_a_witness_behind_tls_cosigns(tmp_path: Path, ca: Ca) -> None:
    """The mint asks it with the realm's authority; without one the log says which certificate was refused."""
    (tmp_path / "witness").mkdir()
    key = make_key(tmp_path / "witness" / KEY_FILE, "witness.example/w1")
    certificate, secret = ca.issue("127.0.0.1")
    app = witness_app(Witness(tmp_path / "witness", [LOG.key]))
    with serving(app, ssl_certfile=str(certificate), ssl_keyfile=str(secret), lifespan="off") as port:
        settings = [f"https://127.0.0.1:{port} {key}"]
        trusting = Witnesses.of(settings, ca=str(ca.folder / "ca.pem"))
        assert not trusting.missing(trusting.cosigned(NOTE, 0, lambda _: ()))
        blind = Witnesses.of(settings)
        assert blind.missing(blind.cosigned(NOTE, 0, lambda _: ()))
        assert f"the certificate of 127.0.0.1:{port} was refused: {UNKNOWN}" in str(blind.failing)


def test_an_issuer_behind_a_private_authority_is_believed(tmp_path: Path, ca: Ca) -> None:
    """Its keys are fetched with the realm's authority, and without one its tokens are refused with that reason."""
    with key_server() as keys:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*ca.issue("127.0.0.1"))
        keys.server.socket = context.wrap_socket(keys.server.socket, server_side=True)
        keys.body = jwks("ec")
        url = keys.url.replace("http:", "https:")
        with pytest.raises(UnavailableError, match=f"was refused: {UNKNOWN}"):
            KeySets(tmp_path).find(url, "ec")
        assert KeySets(tmp_path, ca=str(ca.folder / "ca.pem")).find(url, "ec")


@pytest.fixture
def tls_store(tmp_path: Path, ca: Ca, free_port: int) -> Iterator[str]:
    """The address of a Redis that speaks TLS alone."""
    certificate, key = ca.issue("127.0.0.1")
    options = ["--port", "0", "--tls-port", str(free_port), "--tls-cert-file", str(certificate), "--tls-key-file"]
    options += [str(key), "--tls-ca-cert-file", str(ca.folder / "ca.pem"), "--tls-auth-clients", "no"]
    login = {"ssl": True, "ssl_ca_certs": str(ca.folder / "ca.pem")}
    binary = need("redis-server")
    with running(Server(tmp_path / "store", free_port, *LASTING, *options, binary=binary, login=login)):
        yield f"rediss://127.0.0.1:{free_port}/0"


def test_the_store_is_trusted_by_the_same_setting(
    tls_store: str, tmp_path: Path, ca: Ca, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The address names no authority: realm and service files do, or ARX_CA; refused, its certificate is named."""
    authority, where = str(ca.folder / "ca.pem"), tls_store.partition("://")[2].partition("/")[0]
    refused = f"the certificate of {where} was refused: {UNKNOWN}"
    with RevocationStore(tls_store, "acme", ca=authority) as store:
        store.load_functions()
        store.init()
        follower = Follower(tls_store, "acme", "v", ca=authority)
        assert follower.catch_up(0, 0, 10)
        follower.close()
    nonces = RedisNonces(tls_store, "n:", ca=authority)
    assert nonces.spend(b"one", 10_000, 0) is True
    nonces.close()

    with RevocationStore(tls_store, "acme") as store, pytest.raises(StoreError, match=refused):
        store.header()
    nonces = RedisNonces(tls_store, "n:")
    with contextlib.closing(nonces), pytest.raises(StoreError, match=refused):
        nonces.spend(b"two", 10_000, 0)
    with caplog.at_level(logging.WARNING):
        follower = Follower(tls_store, "acme", "v")
        follower.start()
        until(lambda: refused in caplog.text)
        follower.close()

    words = ("init", "--name", "acme", "--store", tls_store)
    assert arx(*words, env={"ARX_HOME": str(tmp_path / "realm")}).exit_code == exit_codes.OK
    doctor = ("doctor", "--realm-dir", tmp_path / "realm", "--json")
    values = {check["name"]: check for check in arx(*doctor).json["checks"]}
    assert refused in values["store"]["found"]
    values = {check["name"]: check for check in arx(*doctor, env={"ARX_CA": authority}).json["checks"]}
    assert values["store"]["ok"] is True
    monkeypatch.setenv("ARX_CA", authority)
    with RevocationStore(tls_store, "acme") as store:
        assert store.header().incarnation
    monkeypatch.setenv("ARX_CA", str(tmp_path / "none.pem"))
    with pytest.raises(SettingsError, match=r"none.pem cannot be read"):
        RevocationStore(tls_store, "acme")
