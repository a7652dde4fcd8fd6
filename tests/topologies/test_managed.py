# SPDX-License-Identifier: Apache-2.0
"""A managed store and database, with one address and without some rights: what docs/managed.md says of each."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from arx_caps.cli import exit_codes
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.runtime import MintRuntime
from arx_caps.revocation.store import RevocationStore
from arx_verifier.errors import ArxError, StoreError
from arx_verifier.revocation.follower import Follower
from tests.cli.helpers import arx
from tests.mint.harness import make_realm
from tests.postgres import Postgres, name_of
from tests.servers import free_ports, until
from tests.topologies.fleet import LASTING, NAMES, Server, need, running

pytestmark = [pytest.mark.servers, pytest.mark.spec("10.8")]

SESSION, BY = "session:s-" + "a" * 16, "operator:ada"
LOGIN = "p" * 9


class Service(NamedTuple):
    """A server whose customer's login lacks some commands."""

    server: Server
    folder: Path

    def deny(self, *commands: str) -> str:
        """Give the customer every command but these; returns the address with the login."""
        rules = ["reset", "on", f">{LOGIN}", "~*", "&*", "+@all", *(f"-{command}" for command in commands)]
        self.server.ask("ACL", "SETUSER", "customer", *rules)
        return f"redis://customer:{LOGIN}@127.0.0.1:{self.server.port}/0"

    @contextlib.contextmanager
    def mint(self, url: str) -> Iterator[MintRuntime]:
        """Run a realm's mint with it."""
        mint = MintRuntime.open(make_realm(self.folder / secrets.token_hex(4), "acme"), store_url=url)
        try:
            mint.start()
            yield mint
        finally:
            mint.close()


@pytest.fixture(params=[NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A server with an append-only file, and nothing denied yet."""
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING, binary=need(request.param))
    with running(server):
        yield Service(server, tmp_path)


def own(url: str) -> str:
    """Return the address without its password, which no command line takes."""
    return url.replace(f":{LOGIN}@", "@")


def confirmed(url: str, timeout_ms: int = 1_000) -> str:
    """Kill a session with a verifier that follows; returns the report's line."""
    follower = Follower(url, "acme", "v")
    try:
        assert follower.catch_up(0, 0, 10)
        with RevocationStore(url, "acme", timeout_ms=timeout_ms) as store:
            bump = store.kill([SESSION], "test", BY)
            assert follower.catch_up(0, bump.header.seq, 10)
            return store.wait_confirmed(bump).summary
    finally:
        follower.close()


def test_what_a_service_may_deny(service: Service) -> None:
    """CONFIG, ACL and what administers a server: kills are durable, and the doctor does not know four things."""
    url = service.deny(
        "config", "acl", "debug", "monitor", "keys", "shutdown", "replicaof", "save", "bgsave", "client|list"
    )
    with service.mint(url) as mint:
        assert "NOT DURABLE" not in confirmed(url)
        command = ("doctor", "--realm-dir", mint.realm.folder, "--store", own(url), "--json")
        ran = arx(*command, env={"ARX_STORE_PASSWORD": LOGIN})
        unknown = {check["name"] for check in ran.json["checks"] if check["ok"] is None}
        assert unknown == {"persistence", "eviction", "buffer", "access", "rights"}


def test_functions_that_cannot_be_loaded(service: Service) -> None:
    """Without FUNCTION LOAD for any login the mint does not start, and names the remedy."""
    with pytest.raises(StoreError, match="functions are not loaded"), service.mint(service.deny("function|load")):
        pass
    with RevocationStore(f"redis://127.0.0.1:{service.server.port}", "acme") as admin:
        assert admin.load_functions()
    url = service.deny("function|load")
    with service.mint(url):
        assert "NOT DURABLE" not in confirmed(url)


@pytest.mark.parametrize("command", ["waitaof", "info", "ssubscribe", "fcall", "time"])
def test_what_a_service_must_allow(service: Service, command: str) -> None:
    """Without WAITAOF no kill is durable; without the others the mint does not start, or no verifier becomes live."""
    url = service.deny(command)
    if command == "waitaof":
        with service.mint(url):
            assert "NOT DURABLE, a crash of the store could undo it" in confirmed(url)
            return
    if command != "ssubscribe":
        with pytest.raises(StoreError, match="does not permit this user"), service.mint(url):
            pass
    else:
        with service.mint(url) as mint:
            assert mint.epochs.check(None, 0, ()) is not None


@pytest.mark.parametrize("setting", ["appendonly no", "appendfsync everysec"])
def test_a_file_that_is_not_synced(service: Service, setting: str) -> None:
    """Without the file no kill is durable; with a sync each second, a kill waits for it."""
    service.server.ask("CONFIG", "SET", *setting.split())
    url = service.deny("config")
    with service.mint(url):
        # The server syncs a second after the last time, and later on a busy disk.
        assert ("NOT DURABLE" in confirmed(url, timeout_ms=10_000)) is (setting == "appendonly no")


def test_a_restart_behind_the_address(service: Service) -> None:
    """With its file: the history goes on, once the mint has looked, and the kills hold."""
    url = service.deny("config")
    with service.mint(url) as mint, RevocationStore(url, "acme") as store:
        before = store.kill([SESSION], "test", BY).header
        service.server.ask("ACL", "SETUSER", "customer")
        service.server.kill()
        with running(service.server):
            service.deny("config")
            follower = Follower(url, "acme", "new")
            try:
                assert follower.catch_up(0, before.seq, 10)
                refused = follower.check(before.incarnation, 0, (SESSION,))
                assert refused is not None
                assert refused.code == "revoked"
            finally:
                follower.close()
            assert mint.store.header().incarnation == before.incarnation


def test_the_exit_code_of_a_report_that_is_not_durable(service: Service) -> None:
    """The command line ends with 3, as for every report that is not confirmed."""
    url = service.deny("waitaof")
    with service.mint(url):
        at = ("--store", own(url), "--realm", "acme")
        command = ("kill", SESSION, "--direct", "--reason", "test", "--yes", *at)
        ran = arx(*command, "--json", env={"ARX_STORE_PASSWORD": LOGIN})
        assert (ran.exit_code, ran.json.get("durable")) == (exit_codes.INCOMPLETE, False)


def administer(server: Postgres, name: str) -> psycopg.Connection[tuple[object, ...]]:
    """Connect to a database as its administrator."""
    return psycopg.connect(host=server.host, user="postgres", dbname=name, autocommit=True)


@pytest.fixture
def owned(postgres: Postgres) -> Iterator[tuple[Postgres, str]]:
    """A managed PostgreSQL: its customer owns one database, and is no superuser."""
    url = postgres.database()
    name, role = name_of(url), f"r{secrets.token_hex(4)}"
    with administer(postgres, name) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION")
        admin.execute(f"ALTER DATABASE {name} OWNER TO {role}")
    yield postgres, f"postgresql://{role}@/{name}?host={postgres.host}"
    postgres.drop(url)


def test_a_database_without_more_rights(owned: tuple[Postgres, str], valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Its owner's login suffices; of several hosts the first that takes writes is used; a restart is survived."""
    server, url = owned
    several = url.replace("host=", f"host={tmp_path / 'gone'},") + "&target_session_attrs=read-write"
    for number, given in enumerate((url, several)):
        realm = make_realm(tmp_path / f"realm{number}", f"managed{secrets.token_hex(4)}")
        mint = MintRuntime.open(replace(realm, database=given), store_url=valkey.url)
        try:
            mint.start()
            assert mint.revoker.end("kill", [SESSION], reason="test", by=BY, wait=False).durable
            if given == several:
                server.restart()
                until(lambda mint=mint: recorded(mint))  # type: ignore[misc]
        finally:
            mint.close()
        break_up(server, url)


def recorded(mint: MintRuntime) -> bool:
    """Whether a kill is recorded: the pool may meet a connection that the restart has closed."""
    try:
        return mint.revoker.end("kill", [SESSION], reason="test", by=BY, wait=False).durable
    except ArxError:
        return False


def break_up(server: Postgres, url: str) -> None:
    """Empty the database: it holds one realm."""
    role = url.partition("@")[0].rpartition("/")[2]
    with administer(server, name_of(url)) as admin:
        admin.execute("DROP SCHEMA public CASCADE")
        admin.execute(f"CREATE SCHEMA public AUTHORIZATION {role}")
