# SPDX-License-Identifier: Apache-2.0
"""Root keys are sealed with another passphrase or key file: they stay what they are, and the old one opens nothing."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.keys import root_keys as keys_module
from arx_caps.mint.keys.log_key import open_log_key, read_log_key
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx
from tests.mint.harness import ISSUER, local_mint
from tests.servers import child

OLD, NEW = "the old one", "the new one"
Keys = dict[str, bytes]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing is cheap here."""
    monkeypatch.setattr(keys_module, "SCRYPT_COST", 2**14)


def realm_of(folder: Path, passphrase: str | None, database: str | None = None) -> Realm:
    """A realm with one root key in its file and one in its database."""
    realm = init_realm(folder, name="acme", issuer=ISSUER, passphrase=passphrase, database=database)
    add_root(realm, load(realm, passphrase), "k2")
    return realm


def add_root(realm: Realm, keys: RootKeys, name: str) -> None:
    with MintDatabase(realm.database_url) as db:
        db.keys.add_root(db.unit(), keys.make(name), Event.of("key.created", "mint", key=name))


def load(realm: Realm, passphrase: str | None) -> RootKeys:
    return RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)


def opened(realm: Realm, passphrase: str | None) -> Keys:
    """Every root key's key for the mint, opened as a mint that starts does; the log's key opens with them."""
    keys = load(realm, passphrase)
    assert open_log_key(realm.log_key_path, keys).key == read_log_key(realm.log_key_path)
    with MintDatabase(realm.database_url) as db:
        for sealed in db.keys.sealed_roots():
            keys.open(sealed)
    return dict(keys.mint_key(name) for name in keys.names)


def opens(realm: Realm, passphrase: str | None) -> Keys | None:
    try:
        return opened(realm, passphrase)
    except SettingsError:
        return None


@pytest.mark.parametrize(("old", "new"), [(OLD, NEW), (None, NEW), (OLD, None), (None, None)])
def test_the_keys_stay_and_the_seal_changes(
    tmp_path: Path, old: str | None, new: str | None, database: str | None
) -> None:
    """Also those of the database, for a mint that starts; what opened them before opens none of it."""
    realm = realm_of(tmp_path / "realm", old, database)
    had = opened(realm, old)
    key_file = realm.root_key_path.read_bytes() if old is None else None
    done = reseal(realm, passphrase=old, new_passphrase=new)
    assert opened(realm, new) == had
    assert set(had) == {"k1.0", "k2.0"}
    assert done.keys == ("k1", "k2")
    assert realm.root_key_path.exists() == (new is None)
    with MintDatabase(realm.database_url) as db:
        [sealed] = db.keys.sealed_roots()
        [what] = [each for each in db.outbox.after(0) if each.kind == "key.resealed"]
    assert what.facts["keys"] == ["k1", "k2"]
    if key_file is None:
        assert done.old_key_file is None
        if new is not None:
            with pytest.raises(SettingsError, match="does not open"):
                load(realm, old)
    else:  # kept beside, for backups
        assert done.old_key_file is not None
        assert done.old_key_file.read_bytes() == key_file
        assert done.old_key_file.stat().st_mode & 0o777 == 0o600
        text = realm.root_path.read_text()
        assert key_file.decode().strip() not in text + sealed.sealed
        realm.root_key_path.unlink(missing_ok=True)
        realm.root_key_path.write_bytes(key_file)
        realm.root_key_path.chmod(0o600)
        assert new is not None or opens(realm, None) is None


def test_an_older_database_opens_and_one_of_elsewhere_does_not(tmp_path: Path) -> None:
    """A backup of the database from before goes with the new file; with a key of another seal all stays as it was."""
    realm = realm_of(tmp_path / "realm", OLD)
    had, backup = opened(realm, OLD), tmp_path / "backup.db"
    shutil.copy(realm.database_path, backup)
    for passphrase, new in ((OLD, NEW), (NEW, "a third one")):
        reseal(realm, passphrase=passphrase, new_passphrase=new)
    shutil.copy(backup, realm.database_path)
    assert opened(realm, "a third one") == had
    stranger = realm_of(tmp_path / "other", "x")
    add_root(realm, load(stranger, "x"), "k3")
    before = realm.root_path.read_bytes()
    with pytest.raises(SettingsError, match="root key k3 of the database does not open"):
        reseal(realm, passphrase="a third one", new_passphrase=None)
    assert (realm.root_path.read_bytes(), realm.root_key_path.exists()) == (before, False)


def test_a_mint_goes_on_and_a_second_one_takes_the_new_file(tmp_path: Path, database: str | None) -> None:
    """One that runs meanwhile, and even makes another key, loses nothing; each starts anew with the new passphrase."""
    realm = realm_of(tmp_path / "realm", None, database)
    running = local_mint(realm)
    running.key_schedule.start()
    reseal(realm, passphrase=None, new_passphrase=NEW)
    kid = running.key_schedule.mint_key()
    assert running.rotation.make_root(running.db.unit(), "operator:root") == "k3"  # sealed with what it knows
    assert running.key_schedule.audience_key("orders")
    running.close()
    assert set(opened(realm, NEW)) == {"k1.0", "k2.0", "k3.0"}
    assert opened(realm, NEW)[kid[0]] == kid[1]
    reseal(realm, passphrase=NEW, new_passphrase="a third one")
    assert set(opened(realm, "a third one")) == {"k1.0", "k2.0", "k3.0"}


@pytest.mark.parametrize("wrong", ["another one", None])
def test_who_cannot_open_them_cannot_seal_them(tmp_path: Path, wrong: str | None) -> None:
    """Nothing changes; nor while another process reseals, nor for an empty passphrase."""
    realm = realm_of(tmp_path / "realm", OLD)
    before = realm.root_path.read_bytes()
    with pytest.raises(SettingsError, match="passphrase"):
        reseal(realm, passphrase=wrong, new_passphrase=NEW)
    with pytest.raises(SettingsError, match="empty passphrase"):
        reseal(realm, passphrase=OLD, new_passphrase="")
    handle = os.open(realm.root_path.parent, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(SettingsError, match="another process"):
        reseal(realm, passphrase=OLD, new_passphrase=NEW)
    os.close(handle)
    assert realm.root_path.read_bytes() == before
    assert opens(realm, OLD) is not None


@pytest.fixture(scope="module")
def killer() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.mint.killed_reseals"]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(None, NEW, marks=pytest.mark.nightly),
        pytest.param(OLD, None, marks=pytest.mark.nightly),
        (None, None),
    ],
)
def test_a_kill_at_any_step_loses_nothing(
    tmp_path: Path, old: str | None, new: str | None, killer: subprocess.Popen[str]
) -> None:
    """After each step either the old or the new one opens every key, and the same command then does the rest."""
    assert killer.stdin is not None
    assert killer.stdout is not None
    whole = realm_of(tmp_path / "whole", old)
    had = opened(whole, old)
    ended: list[bool] = []  # by which each killed run's keys open: the new one
    for step in range(1, 60):
        realm = Realm.open(shutil.copytree(whole.folder, tmp_path / f"killed-{step}"))
        order = {"realm": str(realm.folder), "step": step, "passphrase": old, "new": new}
        killer.stdin.write(json.dumps(order) + "\n")
        killer.stdin.flush()
        code = int(killer.stdout.readline())
        assert code in (0, -signal.SIGKILL)
        by_old, by_new = opens(realm, old), opens(realm, new)
        assert had in (by_old, by_new)
        if code == 0:
            break
        ended.append(by_new == had)
        reseal(realm, passphrase=old, new_passphrase=new)
        assert opened(realm, new) == had
    assert code == 0
    assert len(ended) >= 6, ended
    assert ended == sorted(ended)


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    """It takes passphrases from files alone, and says where the old key file is and that mints are to be restarted."""
    realm = realm_of(tmp_path / "realm", None)
    new = tmp_path / "new"
    new.write_text(NEW)
    output = arx("key", "reseal", "--new-passphrase-file", new, "--realm-dir", realm.folder)
    assert output.exit_code == 0, output.err
    assert "root.key.old" in output.out
    assert "restart" in output.err
    again = arx("key", "reseal", "--new-key-file", "--passphrase-file", new, "--realm-dir", realm.folder, "--json")
    assert (again.exit_code, again.json["sealed_with"], again.json["keys"]) == (0, "key file", ["k1", "k2"])
    assert NEW not in output.out + output.err + again.out + again.err
    for wrong in ((), ("--new-key-file", "--new-passphrase-file", new)):
        assert arx("key", "reseal", *wrong, "--realm-dir", realm.folder).exit_code == 2
