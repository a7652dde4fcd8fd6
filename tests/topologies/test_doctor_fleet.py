# SPDX-License-Identifier: Apache-2.0
"""``arx doctor`` before a fleet: two mints on one PostgreSQL behind nginx, a Redis with users, services.

Each plant is a real server in a real fault.  Others are in ``test_doctor_settings`` (append-only file, eviction, users
with too many rights), ``test_doctor_ledger`` (a policy with budgets), ``tests/cli/test_witness`` and
``tests/advisories/test_private_ca_that_half_of_arx_ignored`` (another authority, an expired certificate).
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from arx_caps.cli import exit_codes
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.revocation import acl
from arx_caps.settings.realm import Realm
from arx_verifier.journal.writer import Journal
from tests.advisories.test_reason_lost_behind_a_proxy import PAGE
from tests.cli.helpers import arx
from tests.disks import small_disk
from tests.gateway.proxy_programs import nginx_program, run_nginx
from tests.mint.harness import make_realm
from tests.mint.processes import MintProcess
from tests.postgres import Postgres
from tests.servers import VerifierProcess, free_ports, freeze, until
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING, Server, need, running
from tests.verifier.journals import allow

pytestmark = [
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed"),
]
ROOT, MINT, EVERYTHING = "r" * 9, "m" * 9, ("~*", "&*", "+@all")
VERSION = """
import importlib.metadata as m, runpy, sys
real = m.version
m.version = lambda name: "0.1.9" if name == "arx-caps" else real(name)
runpy.run_module("arx_caps.mint.server.serve", run_name="__main__", alter_sys=True)
"""


class OtherMint(MintProcess):
    """A mint whose program is another one."""

    def __init__(self, realm: Realm, store: str, program: str) -> None:
        self._realm, self._store, self._runs = realm, store, ["-c", program]
        self.start()


class Found(NamedTuple):
    """What the doctor found: its exit code, and by name each check that is not in order."""

    code: int
    checks: dict[str, tuple[bool | None, str]]

    def holds(self, code: int, name: str, *words: str) -> None:
        """Assert the exit code, and that a check has these words."""
        assert name in self.checks, self.checks
        ok, text = self.checks[name]
        assert ok is {exit_codes.DENIED: False, exit_codes.INCOMPLETE: None}[code], self.checks
        assert [word for word in words if word not in text] == [], text
        assert self.code == code, self.checks


class Fleet(NamedTuple):
    """The fleet's parts."""

    server: Server
    realm: Realm
    mints: list[MintProcess]
    postgres: Postgres
    port: int

    @property
    def store(self) -> str:
        """The store's address for the mint's user."""
        return f"redis://{acl.user_name('mint', 'acme')}@127.0.0.1:{self.server.port}"

    @property
    def admin(self) -> str:
        """The store's address for its administrator."""
        return f"redis://root@127.0.0.1:{self.server.port}"

    @property
    def as_root(self) -> tuple[str | Path, ...]:
        """The options of a command of the realm's first operator."""
        issuer = f"http://127.0.0.1:{self.port}"
        return ("--realm-dir", self.realm.folder, "--operator-key", self.realm.operator_key_path, "--issuer", issuer)

    def doctor(self, *words: str, folder: Path | None = None) -> Found:
        """Run it as the store's administrator."""
        where = ("--realm-dir", folder or self.realm.folder, "--store", self.admin)
        ran = arx("doctor", *where, "--json", *words, env={"ARX_STORE_PASSWORD": ROOT})
        wrong = [check for check in ran.json["checks"] if not check["ok"]]
        assert all(check["mend"] for check in wrong), "it says how to mend each"
        return Found(ran.exit_code, {c["name"]: (c["ok"], f"{c['found']}; {c['mend']}") for c in wrong})

    def until_well(self) -> None:
        """Wait until nothing is wrong: what a test has ended is over."""
        last = []

        def well() -> bool:
            last.append(self.doctor())
            return last[-1].code == exit_codes.OK

        try:
            until(well)
        except AssertionError:
            raise AssertionError(last[-1]) from None

    def until_found(self, code: int, name: str, *words: str) -> None:
        """Look until the doctor names a fault."""
        found: list[Found] = []

        def named() -> bool:
            found.append(self.doctor())
            return name in found[-1].checks and all(word in found[-1].checks[name][1] for word in words)

        try:
            until(named)
        except AssertionError:
            raise AssertionError(found[-1]) from None
        found[-1].holds(code, name, *words)

    @contextlib.contextmanager
    def proxied(self, folder: Path, *, header: bool = True) -> Iterator[None]:
        """Run the page's nginx before the mints, with the header that names its clients or without."""
        text = re.search(r"```nginx\n(# nginx.conf\n.*?)```", PAGE, re.DOTALL)
        assert text is not None
        conf = re.sub(r"\n *ssl_certificate.*", "", text[1].replace("listen 443 ssl", f"listen 127.0.0.1:{self.port}"))
        if not header:
            conf = re.sub(r"\n *proxy_set_header X-Forwarded-For .*", "", conf)
        for number, mint in enumerate(self.mints, 1):
            conf = conf.replace(f"mint-{number}.example:8700", mint.url.removeprefix("http://"))
        (folder / "nginx.conf").write_text(conf)
        with run_nginx(folder / "nginx.conf", self.port):
            yield


def edit(realm: Realm, **settings: str) -> None:
    """Set values of ``realm.toml``."""
    file = realm.folder / "realm.toml"
    lines = [line for line in file.read_text().splitlines() if line.partition(" ")[0] not in settings]
    file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items())]) + "\n")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Fleet]:
    folder, url = tmp_path_factory.mktemp("fleet"), postgres.database()
    options = ("--user", "root", "on", ">" + ROOT, *EVERYTHING, "--user", "default", "off")
    login: dict[str, Any] = {"username": "root", "password": ROOT}
    server = Server(folder / "server", free_ports(1)[0], *LASTING, *options, login=login)
    with running(server), pytest.MonkeyPatch.context() as patch:
        server.ask("ACL", "SETUSER", acl.user_name("mint", "acme"), *acl.rules("mint", "acme", MINT))
        (port,) = free_ports(1)
        realm = make_realm(folder / "realm", database=url)
        fleet = Fleet(server, realm, [], postgres, port)
        proxies, refresh = '["127.0.0.0/8"]', '"1s"'
        edit(realm, issuer=f'"http://127.0.0.1:{port}"', store=f'"{fleet.store}"', proxies=proxies, key_refresh=refresh)
        loaded = arx("redis", "load", "--store", fleet.admin, "--realm", "acme", env={"ARX_STORE_PASSWORD": ROOT})
        assert loaded.exit_code == exit_codes.OK, loaded.err
        patch.setenv("ARX_STORE_PASSWORD", MINT)
        try:
            fleet.mints.extend(MintProcess(realm, fleet.store) for _ in range(2))
            with fleet.proxied(folder):
                fleet.until_well()
                yield fleet
        finally:
            for mint in fleet.mints:
                mint.kill()
            postgres.drop(url)


def own(mint: MintProcess) -> str:
    """Return the name of the check of a mint at its own address."""
    return f"mint at {mint.url.removeprefix('http://')}"


def test_a_fleet_that_is_well(fleet: Fleet) -> None:
    """Both mints, their version, the proxy and the database are named, and nothing is wrong."""
    env = {"ARX_STORE_PASSWORD": ROOT}
    ran = arx("doctor", "--realm-dir", fleet.realm.folder, "--store", fleet.admin, "--json", env=env)
    found = {check["name"]: check["found"] for check in ran.json["checks"]}
    assert ran.exit_code == exit_codes.OK, found
    for mint in fleet.mints:
        assert found[own(mint)] == f"{mint.url} is ready"
    assert "mints and command are of version" in found["versions"]
    assert "names its clients to the mint" in found["proxy"]
    assert (found["database"], found["rights"]) == ("takes changes", "each user of the realm has what its role needs")


@pytest.mark.nightly
def test_a_clock_of_one_of_two_mints(fleet: Fleet) -> None:
    """The proxy skips the mint whose clock is 40 s off; the doctor asks it itself."""
    mint = MintProcess(fleet.realm, fleet.store, clock_s=40)
    try:
        fleet.until_found(exit_codes.DENIED, own(mint), "is not ready", "clock")
    finally:
        mint.stop()
    fleet.until_well()


@pytest.mark.nightly
def test_a_mint_of_another_version_or_issuer(fleet: Fleet, tmp_path: Path) -> None:
    """Each is named with its address, and the mint with another issuer also with both issuers."""
    mint: MintProcess = OtherMint(fleet.realm, fleet.store, VERSION)
    try:
        fleet.until_found(exit_codes.DENIED, "versions", "0.1.9 at " + mint.url, "update every mint to one version")
    finally:
        mint.stop()
    other = Realm.open(copied(fleet.realm, tmp_path))
    edit(other, issuer='"http://127.0.0.1:9"')
    mint = MintProcess(Realm.open(other.folder), fleet.store)
    try:
        words = ("a mint whose issuer is http://127.0.0.1:9, not ", "correct `issuer`")
        fleet.until_found(exit_codes.DENIED, own(mint), *words)
    finally:
        mint.stop()
    fleet.until_well()


def copied(realm: Realm, folder: Path) -> Path:
    """Copy settings, policy and keys of a realm, as the page says for a second mint."""
    target = folder / "copy"
    target.mkdir()
    for name in ("realm.toml", "policy.toml"):
        shutil.copy(realm.folder / name, target)
    shutil.copytree(realm.folder / "keys", target / "keys")
    return target


@pytest.mark.slow
def test_a_mint_that_died_or_cannot_be_reached(fleet: Fleet) -> None:
    """A mint that does not answer is unknown while it gives signs of life, and bad when it gives none."""
    mint = MintProcess(fleet.realm, fleet.store)
    with MintDatabase(fleet.realm.database_url) as db:  # before its first sign of life no doctor knows of it
        until(lambda: any(one.address == mint.url for one in db.mints.list()))
    fleet.until_well()
    mint.kill()
    fleet.until_found(
        exit_codes.INCOMPLETE, own(mint), "not reachable from this machine", "run `arx doctor` on its host"
    )
    with MintDatabase(fleet.realm.database_url) as db:
        seen = next(one for one in db.mints.list() if one.address == mint.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("arx_caps.mint.db.repositories.operations.mints.now_ms", lambda: seen.at - 120_000)
            db.mints.show(mint.url, seen.version, seen.issuer)
        fleet.doctor().holds(exit_codes.DENIED, own(mint), "did not answer", "its last sign of life is 2m", "start it")
        db.mints.forget(mint.url)
    fleet.until_well()


def test_a_proxy_that_hides_its_clients(fleet: Fleet, tmp_path: Path) -> None:
    """A forgotten header is named with what it costs."""
    (port,) = free_ports(1)
    with fleet._replace(port=port).proxied(tmp_path, header=False):
        found = fleet.doctor("--issuer", f"http://127.0.0.1:{port}")
    found.holds(exit_codes.DENIED, "proxy", "hides its clients' addresses", "cannot limit", "set X-Forwarded-For")


def test_a_database_that_takes_no_changes(fleet: Fleet) -> None:
    """It is called read-only, not silent, and both mints are named."""
    with fleet.postgres.read_only(fleet.realm.database_url):
        found = fleet.doctor()
        found.holds(exit_codes.DENIED, "database", "it is read-only", "so the mints refuse every change", "primary")
    fleet.until_well()


def test_two_hosts_of_a_database_without_a_synchronous_standby(fleet: Fleet, tmp_path: Path) -> None:
    """The doctor names what a failover would lose where the address names two hosts."""
    folder = copied(fleet.realm, tmp_path)
    place = fleet.realm.database_url.partition("?")[2]
    two = f"{fleet.realm.database_url}&{place}&target_session_attrs=read-write"
    edit(Realm.open(folder), database=f'"{two}"')
    found = fleet.doctor(folder=folder)
    words = ("names several hosts, and synchronous_standby_names is empty", "set synchronous_standby_names")
    found.holds(exit_codes.DENIED, "database", *words)


def test_users_that_lack_rights(fleet: Fleet) -> None:
    """A verifier's user and the mint's without FCALL or keys are named, with the role to print."""
    verifier, mint = acl.user_name("verifier", "acme"), acl.user_name("mint", "acme")
    for user, role, rule, words in (
        (verifier, "verifier", "-fcall", "may not use fcall|arx1_probe"),
        (verifier, "verifier", "resetkeys", "the key arx:{acme}:"),
        (mint, "mint", "-fcall", "may not use fcall|arx1_probe"),
    ):
        rules = acl.rules(role, "acme", MINT)
        fleet.server.ask("ACL", "SETUSER", user, *rules, rule)
        found = fleet.doctor()
        found.holds(exit_codes.DENIED, "rights", f"the user {user}", words, f"arx redis acl --role {role} --realm acme")
        fleet.server.ask("ACL", "SETUSER", user, *rules)
    fleet.server.ask("ACL", "DELUSER", verifier)
    # Users of other names are known by what the server has refused them; a user of another program is not judged.
    for name, rules in (("tool-7", [*acl.rules("verifier", "acme", MINT), "resetkeys"]), ("other", ["on", "+get"])):
        fleet.server.ask("ACL", "SETUSER", name, *rules, ">" + MINT)
        with (
            fleet.server.client(username=name, password=MINT) as tool,
            pytest.raises(redis.exceptions.NoPermissionError),
        ):
            tool.execute_command(*(("FCALL", "arx1_probe", 1, "arx:{acme}:h") if name == "tool-7" else ("SET", "a", 1)))
    found = fleet.doctor()
    found.holds(exit_codes.DENIED, "rights", "the user tool-7", "the key arx:{acme}:h")
    assert "the user other" not in found.checks["rights"][1]
    fleet.server.ask("ACL", "DELUSER", "tool-7", "other")
    fleet.until_well()


@pytest.mark.nightly
def test_services_that_do_not_run(fleet: Fleet, tmp_path: Path) -> None:
    """A gateway that never came, a verifier that is stopped, and a service that is dead."""
    words, env = fleet.as_root, {"ARX_STORE_PASSWORD": ROOT}
    for name in ("billing", "orders"):
        enrolled = arx("service", "enrol", name, "--out", tmp_path / f"{name}.json", *words, env=env)
        assert enrolled.exit_code == exit_codes.OK, enrolled.err
    user = acl.user_name("verifier", "acme")
    fleet.server.ask("ACL", "SETUSER", user, *acl.rules("verifier", "acme", MINT))
    store = f"redis://{user}:{MINT}@127.0.0.1:{fleet.server.port}"
    slow, other = (VerifierProcess(store, "acme", f"{name}-1-aaaaaa") for name in ("orders", "billing"))
    try:
        fleet.until_well()
        freeze(slow.pid)
        fleet.until_found(
            exit_codes.DENIED, "service orders", "has sent no probe for", "refuses every call", "start it"
        )
        os.kill(slow.pid, signal.SIGCONT)
        fleet.until_well()
        slow.close()
        fleet.until_found(exit_codes.DENIED, "service orders", "orders-1-aaaaaa", "did not end in order", "start it")
        with fleet.server.client() as raw:
            raw.zrem("arx:{acme}:v", "orders-1-aaaaaa")  # as the store does after ten minutes
            raw.zrem("arx:{acme}:a", "orders-1-aaaaaa")
        fleet.doctor().holds(
            exit_codes.INCOMPLETE, "service orders", "has seen no verifier of it", "arx service remove orders"
        )
        rotated = arx("key", "rotate", *words, env=env)
        assert rotated.exit_code == exit_codes.OK, rotated.err
        fleet.until_found(exit_codes.DENIED, "service billing", "lacks the key k2.", "`arx ship FILE --once`")
    finally:
        for name in ("billing", "orders"):
            arx("service", "remove", name, "--yes", *words, env=env)
        slow.close()
        other.close()
        with fleet.server.client() as raw:
            raw.delete("arx:{acme}:v", "arx:{acme}:a")
    fleet.until_well()


def run_version(folder: Path, version: str, *words: str | Path) -> None:
    """Run a command in a process of its own, before which another version of ARx is installed."""
    about = folder / version / f"arx_caps-{version}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: arx-caps\nVersion: {version}\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ARX_")}
    command = [sys.executable, "-m", "arx_caps.cli", *map(str, words)]
    ran = subprocess.run(command, env=env | {"PYTHONPATH": str(about.parent)}, capture_output=True, text=True)
    assert ran.returncode == exit_codes.OK, ran.stderr


def record(folder: Path) -> None:
    """Record a decision, as a service does that stops then."""
    with contextlib.closing(Journal(folder, "orders-1", "orders")) as journal:
        journal.append(allow())


@pytest.mark.nightly
def test_versions_and_shipping_of_services(fleet: Fleet, tmp_path: Path) -> None:
    """A service of another version is named until it is updated; one that never shipped is, while another ships."""
    words, env, own = fleet.as_root, {"ARX_STORE_PASSWORD": ROOT}, version("arx-caps")
    invitation, file, journal = tmp_path / "orders.invite", tmp_path / "orders.json", tmp_path / "journal"
    assert arx("service", "enrol", "billing", "--out", tmp_path / "billing.json", *words).exit_code == exit_codes.OK
    assert arx("service", "invite", "orders", "--out", invitation, *words).exit_code == exit_codes.OK
    enrolled = ("--invitation", invitation, "--out", file, "--journal", journal)
    user = acl.user_name("verifier", "acme")
    fleet.server.ask("ACL", "SETUSER", user, *acl.rules("verifier", "acme", MINT))
    store = f"redis://{user}:{MINT}@127.0.0.1:{fleet.server.port}"
    verifiers = [VerifierProcess(store, "acme", f"{name}-1-aaaaaa") for name in ("orders", "billing")]

    def hint(name: str) -> tuple[str, str]:
        ran = arx("doctor", "--realm-dir", fleet.realm.folder, "--store", fleet.admin, "--json", env=env)
        [check] = [check for check in ran.json["checks"] if check["name"] == name]
        assert check["ok"] is True
        return check["found"], check["mend"]

    try:
        run_version(tmp_path, "0.1.9", "service", "enrol", *enrolled)
        fleet.until_found(
            exit_codes.DENIED, "service orders", f"it runs 0.1.9, the mints run {own}", "install the mints' version"
        )
        assert arx("ship", file, "--once").exit_code == exit_codes.OK
        fleet.until_well()
        found, mend = hint("versions of services")
        assert (found, mend) == (f"billing {own}, orders {own}", "")
        found, mend = hint("shipping")
        assert found == "billing, orders: a verifier runs, and no record of it was ever shipped"
        assert "run `arx ship FILE`" in mend
        record(journal)
        shipped = arx("ship", file, "--once")
        assert shipped.exit_code == exit_codes.OK, shipped.err
        found, _ = hint("shipping")
        assert re.fullmatch(r"orders \S+( \S+)? ago; billing: a verifier runs, and no record .* shipped", found), found
        services = {one["audience"]: one for one in arx("service", "list", "--json", *words).json["services"]}
        assert services["billing"]["shipped_at"] is None
        [key] = services["orders"]["keys"]
        assert (key["version"], services["orders"]["shipped_at"] >= key["added_at"]) == (own, True)
        shown = arx("service", "show", "orders", *words).out
        assert re.search(rf"used .*Z by version {re.escape(own)}", shown), shown
        record(journal)
        run_version(tmp_path, "0.1.8", "ship", file, "--once")  # its shipper alone reports it
        fleet.until_found(exit_codes.DENIED, "service orders", f"it runs 0.1.8, the mints run {own}")
    finally:
        for name in ("billing", "orders"):
            arx("service", "remove", name, "--yes", *words)
        for verifier in verifiers:
            verifier.close()
        with fleet.server.client() as raw:
            raw.delete("arx:{acme}:v", "arx:{acme}:a")
    fleet.until_well()


def test_a_journal_that_is_read_only(fleet: Fleet) -> None:
    """A journal of this machine that its owner may not write is named, and so is the mint whose journal it is."""
    assert arx("agent", "list", *fleet.as_root).exit_code == exit_codes.OK  # which a mint records there
    journal = fleet.realm.journals_dir / "mint"
    journal.chmod(0o500)
    try:
        found = fleet.doctor()
        found.holds(exit_codes.DENIED, "journals", "is read-only for its owner", "its owner write access")
        assert all("will not be for long" in found.checks[own(mint)][1] for mint in fleet.mints)
    finally:
        journal.chmod(0o700)
    fleet.until_well()


@pytest.mark.slow
def test_a_disk_of_a_mint_that_is_full(fleet: Fleet, tmp_path: Path) -> None:
    """The mint is ready, as room is reserved for its journal, and says that it will not be for long."""
    with contextlib.contextmanager(small_disk)(tmp_path / "disk", "48m") as disk:
        mint = MintProcess(Realm.open(copied(fleet.realm, disk)), fleet.store)
        try:
            words = ("is ready, and will not be for long", "is on a disk that is full up to", "room")
            fleet.until_found(exit_codes.DENIED, own(mint), *words)
        finally:
            mint.stop()
    fleet.until_well()


@pytest.mark.slow
def test_a_certificate_that_ends_soon(fleet: Fleet, tmp_path: Path) -> None:
    """The certificate of a store with TLS ends in two days: nothing refuses it yet."""
    ca, (port,) = Ca.make(tmp_path / "ca"), free_ports(1)
    certificate, key = ca.issue("127.0.0.1", days=2)
    tls = ("--port", "0", "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    options = (*tls, "--tls-ca-cert-file", str(ca.folder / "ca.pem"), "--tls-auth-clients", "no")
    login = {"ssl": True, "ssl_ca_certs": str(ca.folder / "ca.pem")}
    with running(Server(tmp_path / "tls", port, *LASTING, *options, binary=need("redis-server"), login=login)):
        where = ("--realm-dir", fleet.realm.folder, "--store", f"rediss://127.0.0.1:{port}")
        ran = arx("doctor", *where, "--json", env={"ARX_CA": str(ca.folder / "ca.pem")})
    [wrong] = [check for check in ran.json["checks"] if check["name"] == "certificates"]
    assert (wrong["ok"], ran.exit_code) == (False, exit_codes.DENIED)
    assert f"the certificate of the store at 127.0.0.1:{port} ends in 1 days" in wrong["found"]
    assert "renew it" in wrong["mend"]
