# SPDX-License-Identifier: Apache-2.0
"""The log's key was in clear in ``keys/log.json``: a copy of the folder could sign another history of the log.

It is sealed like the root keys now, with the same passphrase or key file, and its public half is bound to it.
"""

import json
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.mint.keys.log_key import make_log_key, open_log_key, read_log_key
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError
from tests.cli.helpers import arx
from tests.mint.harness import log_signer, make_realm, roots_of

pytestmark = pytest.mark.spec("LOG 1.2")


def test_a_copy_of_the_folder_signs_nothing(tmp_path: Path) -> None:
    """
    Without the passphrase or the key file the key does not open, and the file has no private half.
    """
    realm = make_realm(tmp_path / "realm")
    private = log_signer(realm)._private.private_bytes_raw()
    file = json.loads(realm.log_key_path.read_text())
    assert file.keys() == {"v", "keys", "nonce", "sealed"}
    assert all(private not in content.read_bytes() for content in realm.log_key_path.parent.iterdir())
    realm.root_key_path.unlink()
    with pytest.raises(SettingsError):
        roots_of(realm)
    without_seal = RootKeys({"k1": bytes(32)}, realm=realm.name)
    with pytest.raises(SettingsError, match="does not open with these root keys"):
        open_log_key(realm.log_key_path, without_seal)
    assert read_log_key(realm.log_key_path).name.endswith("/acme/log")  # the public half needs none


def test_a_public_key_of_another_is_refused(tmp_path: Path) -> None:
    """
    The seal binds the public key: a thief who edits the file has neither a mint that signs nor one that starts.
    """
    realm, other = make_realm(tmp_path / "realm"), make_realm(tmp_path / "other")
    file = json.loads(realm.log_key_path.read_text())
    for change in (
        {"keys": [{"key": str(read_log_key(other.log_key_path))}]},
        {"sealed": json.loads(other.log_key_path.read_text())["sealed"]},
        {"nonce": "A" * 16},
    ):
        realm.log_key_path.write_text(json.dumps(file | change))
        with pytest.raises(SettingsError, match="does not open with these root keys, or was changed"):
            log_signer(realm)
    realm.log_key_path.write_bytes(other.log_key_path.read_bytes())
    with pytest.raises(SettingsError, match="does not open"):
        log_signer(realm)


def test_a_key_in_clear_is_refused(tmp_path: Path) -> None:
    """
    A key file as agents have it, or a damaged one, signs nothing, and no error quotes it.
    """
    realm = make_realm(tmp_path / "realm")
    realm.log_key_path.unlink()
    made = KeyFile.generate("holder", "mint.example/acme/log", "")
    made.save(realm.log_key_path)
    secret = made.key.private_jwk()["d"]
    done = arx("audit", "key", "--realm-dir", str(realm.folder), "--debug")
    assert done.exit_code == exit_codes.USAGE
    assert "is not the sealed key of a log" in done.err
    assert secret not in done.out + done.err
    realm.log_key_path.write_text(json.dumps({"v": 1, "keys": [{"key": str(secret)}], "nonce": "", "sealed": ""}))
    with pytest.raises(SettingsError) as caught:
        read_log_key(realm.log_key_path)
    assert secret not in repr(caught.value)


def test_the_same_key_opens_after_a_reseal(tmp_path: Path) -> None:
    """
    With another key file or passphrase the key stays, and the secret of before does not open the new file.
    """
    realm = make_realm(tmp_path / "realm")
    key, before = read_log_key(realm.log_key_path), roots_of(realm)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase")
    words = ("--realm-dir", str(realm.folder))
    assert arx("key", "reseal", "--new-passphrase-file", str(passphrase), *words).exit_code == exit_codes.OK
    opened = open_log_key(realm.log_key_path, roots_by(realm, "a passphrase"))
    assert opened.key == read_log_key(realm.log_key_path) == key
    with pytest.raises(SettingsError, match="does not open"):
        open_log_key(realm.log_key_path, before)
    assert make_log_key(tmp_path / "new.json", key.name, before) != key


def roots_by(realm: Realm, passphrase: str) -> RootKeys:
    return RootKeys.load(realm.root_path, realm=realm.name, passphrase=passphrase, key_path=realm.root_key_path)
