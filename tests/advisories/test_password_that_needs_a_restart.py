# SPDX-License-Identifier: Apache-2.0
"""A password was in the environment of every child process, and a stolen one could be replaced only by a restart.

``NAME_FILE`` names a file instead, which is read at each login: of the store, the ledger, the nonces, the database and
a relay's followers.  Passphrase and root key come from a file or a command as well.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from arx_caps.cli import exit_codes
from arx_caps.database.engines import database_errors, open_engine
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.runtime import MintRuntime
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError, StoreError
from arx_verifier.ledger.redis_ledger import RedisLedger
from arx_verifier.revocation.follower import Follower
from arx_verifier.revocation.password import PasswordFile, find_password
from arx_verifier.verification.nonces import RedisNonces
from tests.cli.helpers import arx, service_file
from tests.mint.harness import make_realm
from tests.postgres import Postgres
from tests.realm_folder import ARX, RealmFolder
from tests.relay.processes import RelayProcess
from tests.servers import child, free_ports, until
from tests.topologies.fleet import LASTING, NAMES, Server, need, running

pytestmark = pytest.mark.spec("15.2")

OLD, NEW = "old-" + "o" * 20, "new-" + "n" * 20
SESSION, BY = "session:s-" + "a" * 16, "operator:ada"


def write(file: Path, secret: str) -> Path:
    """Write a secret as a program that rotates it does: beside, and renamed."""
    beside = file.with_suffix(".beside")
    beside.write_text(f"{secret}\n")
    beside.chmod(0o600)
    return beside.replace(file)


def rotate(server: Server, password: str) -> None:
    """Replace the user's password, and end the connections of before."""
    server.ask("ACL", "SETUSER", "arx", "reset", "on", f">{password}", "~*", "&*", "+@all")
    server.ask("CLIENT", "KILL", "USER", "arx")


@pytest.mark.servers
@pytest.mark.spec("10.8")
def test_a_running_mint_and_verifier_take_a_new_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While the file is late they refuse, and name what is wrong; with the new password in it they go on by themselves.
    """
    file = write(tmp_path / "password", OLD)
    monkeypatch.setenv("ARX_STORE_PASSWORD_FILE", str(file))
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING, binary=need(NAMES[0]))
    with running(server):
        rotate(server, OLD)
        url = f"redis://arx@127.0.0.1:{server.port}/0"
        mint = MintRuntime.open(make_realm(tmp_path / "realm", "acme"), store_url=url)
        follower = Follower(url, "acme", "v", password=find_password("ARX_STORE_PASSWORD"))
        nonces = RedisNonces(url, "arx:nonce:", password=PasswordFile(file))
        ledger = RedisLedger(url, "acme", password=PasswordFile(file))
        try:
            mint.start()
            assert follower.catch_up(0, 0, 20)
            rotate(server, NEW)
            until(lambda: mint.ready() != [] and follower.check(None, 0, ()) is not None)
            for ask in (lambda: nonces.spend("n", 2_000, 1_000), ledger.clocks):
                with pytest.raises(StoreError, match="refused the user or password"):
                    ask()
            file.unlink()
            for ask in (lambda: nonces.spend("n", 2_000, 1_000), ledger.clocks):
                with pytest.raises(StoreError, match="for want of a password"):
                    ask()
            write(file, NEW)
            until(lambda: mint.ready() == [] and follower.check(None, 0, ()) is None)
            bump = mint.store.kill([SESSION], "test", BY)
            assert follower.catch_up(0, bump.header.seq, 20)
            assert ledger.clocks()
            nonces.spend("n", 2_000, 1_000)
        finally:
            ledger.close()
            nonces.close()
            follower.close()
            mint.close()


@pytest.mark.servers
@pytest.mark.spec("10.7")
@pytest.mark.nightly
def test_a_running_relay_takes_new_passwords(tmp_path: Path) -> None:
    """
    That of its followers, whose old one it then refuses, without a restart; and none while the file is missing.
    """
    file = write(tmp_path / "password", OLD)
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING, binary=need(NAMES[0]))
    with running(server):
        rotate(server, OLD)
        url = f"redis://arx@127.0.0.1:{server.port}/0"
        names = {"ARX_RELAY_PASSWORD_FILE": str(file), "ARX_STORE_PASSWORD_FILE": str(file)}
        mint = MintRuntime.open(make_realm(tmp_path / "realm", "acme"), store_url=url.replace("arx@", f"arx:{OLD}@"))
        mint.start()
        relay = RelayProcess(url, "acme", f"127.0.0.1:{free_ports(1)[0]}", variables=names)
        try:
            at = relay.ready["listen"]
            assert follows(at, OLD)
            assert not follows(at, NEW)
            file.unlink()
            assert not follows(at, OLD)
            assert not follows(at, "")
            rotate(server, NEW)
            write(file, NEW)
            until(lambda: follows(at, NEW))
            assert not follows(at, OLD)
        finally:
            relay.kill()
            mint.close()


def follows(at: str, password: str) -> bool:
    """Return whether a relay has a new follower with this password."""
    follower = Follower(f"relay://{at}", "acme", "v", password=password)
    try:
        return follower.catch_up(0, 0, 2)
    finally:
        follower.close()


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.spec("10.8")
def test_a_running_gateway_takes_a_new_password(tmp_path: Path) -> None:
    """
    It is not ready while the file is late, and ready again with the new password in it; its log has neither.
    """
    file = write(tmp_path / "password", OLD)
    server = Server(tmp_path / "server", free_ports(1)[0], *LASTING, binary=need(NAMES[0]))
    with running(server):
        rotate(server, OLD)
        url, port = f"redis://arx@127.0.0.1:{server.port}/0", free_ports(1)[0]
        mint = MintRuntime.open(make_realm(tmp_path / "realm", "acme"), store_url=url.replace("arx@", f"arx:{OLD}@"))
        mint.start()
        orders = service_file(tmp_path / "orders.json", store=url)
        orders.write_text(json.dumps(json.loads(orders.read_text()) | {"journal": str(tmp_path / "journal")}))
        (tmp_path / "gateway.toml").write_text(
            f'[gateway]\nlisten = ["127.0.0.1:{port}"]\n[upstream.orders]\naudience = "orders"\n'
            'url = "http://127.0.0.1:9/v1"\n[upstream.orders.routes]\n"GET /orders" = "orders.list"\n'
        )
        words = [*ARX, "gateway", str(tmp_path / "gateway.toml")]
        environment = os.environ | {"ARX_STORE_PASSWORD_FILE": str(file)}
        with (tmp_path / "log").open("w") as log, child(words, env=environment, stdout=log, stderr=log) as gateway:
            ready = functools.partial(arx, "health", f"http://127.0.0.1:{port}")
            until(lambda: ready().exit_code == exit_codes.OK)
            rotate(server, NEW)
            until(lambda: ready().exit_code == exit_codes.DENIED)
            write(file, NEW)
            until(lambda: ready().exit_code == exit_codes.OK)
            gateway.terminate()
            gateway.wait(60)
        mint.close()
    text = (tmp_path / "log").read_text()
    assert OLD not in text
    assert NEW not in text


@pytest.mark.servers
def test_the_database_is_asked_with_the_newest_password(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each connection is opened with what the file has then, and none without it.
    """
    file = write(tmp_path / "password", OLD)
    monkeypatch.setenv("ARX_DATABASE_PASSWORD_FILE", str(file))
    engine = open_engine(f"postgresql://postgres@/postgres?host={postgres.host}")

    def used() -> str:
        with engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, psycopg.Connection)
            return driver.info.password

    assert used() == OLD
    write(file, NEW)
    engine.dispose()
    assert used() == NEW
    file.unlink()
    engine.dispose()
    with pytest.raises(StoreError, match="for want of a password") as caught, database_errors("the mint's database"):
        used()
    assert NEW not in str(caught.value)


def test_only_a_private_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One that others can read is refused, but in a folder that they cannot enter; so is a pipe, and both variables.
    """
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o755)
    file = write(open_folder / "password", OLD)
    monkeypatch.setenv("ARX_STORE_PASSWORD_FILE", str(file))
    assert isinstance(find_password("ARX_STORE_PASSWORD"), PasswordFile)
    file.chmod(0o644)
    refused("can be read by others")
    open_folder.chmod(0o700)
    assert find_password("ARX_STORE_PASSWORD")
    linked = tmp_path / "linked"
    linked.mkdir(mode=0o700)
    (linked / "password").symlink_to(file)
    open_folder.chmod(0o755)
    monkeypatch.setenv("ARX_STORE_PASSWORD_FILE", str(linked / "password"))
    refused("can be read by others")
    for content, why in (
        ("", "an empty one"),
        (f"{OLD}\n{NEW}", "one line"),
        (OLD * 1000, "one line"),
        ("\0", "one line"),
    ):
        monkeypatch.setenv("ARX_STORE_PASSWORD_FILE", str(write(file, content)))
        refused(why)
    os.mkfifo(tmp_path / "pipe", 0o600)
    monkeypatch.setenv("ARX_STORE_PASSWORD_FILE", str(tmp_path / "pipe"))
    refused("a regular file")
    monkeypatch.setenv("ARX_STORE_PASSWORD", OLD)
    refused("got both")


def refused(why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        find_password("ARX_STORE_PASSWORD")
    assert OLD not in str(caught.value)


@pytest.mark.spec("9")
def test_root_keys_open_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The key that seals them need not be in a file of the mint, and no command that cannot write it replaces it.
    """
    realm = make_realm(tmp_path / "realm")
    away = tmp_path / "away"
    away.mkdir(mode=0o700)
    realm.root_key_path.rename(away / "root.key")
    with pytest.raises(SettingsError):
        load(realm)
    monkeypatch.setenv("ARX_ROOT_KEY_FILE", f"command:cat '{away / 'root.key'}'")
    assert load(realm).names == ("k1",)
    with pytest.raises(SettingsError, match="which this command cannot write"):
        reseal(realm, passphrase=None, new_passphrase=None)
    assert not realm.root_key_path.exists()
    reseal(realm, passphrase=None, new_passphrase=OLD)
    write(away / "passphrase", OLD)
    key = tmp_path / "new.key"
    words = ("operator", "recover", "--name", "eve", "--key-out", str(key), "--realm-dir", str(realm.folder))
    done = arx(*words, "--json", env={"ARX_ROOT_PASSPHRASE_FILE": f"command:cat {away / 'passphrase'}"})
    assert (done.exit_code, key.exists()) == (0, True), done.err
    assert OLD not in done.out + done.err


def load(realm: Realm) -> RootKeys:
    return RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)


@pytest.mark.servers
@pytest.mark.spec("9")
@pytest.mark.nightly
def test_a_passphrase_of_a_command_is_in_no_environment(tmp_path: Path) -> None:
    """
    `arx up` leaves it to the mint to run the command; a command that fails ends it with the cause.
    """
    file, port = write(tmp_path / "passphrase", OLD), free_ports(1)[0]
    folder = RealmFolder(tmp_path)
    folder.arx("init", str(tmp_path / "realm"), "--listen", f"127.0.0.1:{port}", "--passphrase-file", str(file))
    environment = folder.environment | {"ARX_ROOT_PASSPHRASE_FILE": f"command:cat {file}"}
    with child([*ARX, "up", "--json"], env=environment, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        assert OLD not in Path(f"/proc/{ready['pid']}/environ").read_text()
        up.terminate()
        up.wait(60)
    environment["ARX_ROOT_PASSPHRASE_FILE"] = f"command:sh -c 'echo {OLD}; exit 4'"
    done = subprocess.run([*ARX, "up"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == exit_codes.USAGE
    assert "sh ended with status 4" in done.stderr
    assert OLD not in done.stdout + done.stderr
