# SPDX-License-Identifier: Apache-2.0
"""In mcp-macaroon-middleware, an attacker could sign with the literal default key.

ARx: no key, no start.  Neither a verifier nor a mint makes one up, takes an empty one or falls back to another.
"""

import inspect
import json
from pathlib import Path

import pytest

from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_verifier.errors import SettingsError
from arx_verifier.service import open_verifier
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.support import KEY, REALM


@pytest.mark.parametrize("keys", [{}, {"k1.0": b""}, {"k1.0": b"secret"}, {"k1.0": KEY[:-1]}])
def test_a_key_ring_without_whole_keys_does_not_start(keys: dict[str, bytes]) -> None:
    """None, an empty one, a password or a cut one."""
    with pytest.raises(SettingsError):
        KeyRing(keys, realm=REALM)


def test_no_secret_has_a_default() -> None:
    """The maker of a ring, a verifier or a token has to pass the key."""
    for made_by, name in ((KeyRing.__init__, "keys"), (Verifier.__init__, "keys"), (Macaroon.mint, "key")):
        assert inspect.signature(made_by).parameters[name].default is inspect.Parameter.empty


@pytest.mark.parametrize("keys", [{}, {"k1.0": ""}, {"k1.0": "c2hvcnQ"}, {"k1.0": "A" * 42 + "B"}, None])
def test_a_service_file_without_keys_does_not_start(tmp_path: Path, keys: object) -> None:
    """A file that lacks its keys, or has a short or odd one, opens no verifier."""
    file = tmp_path / "service.json"
    content = {"audience": "orders", "keys": keys, "max_ttl_ms": 3_600_000, "realm": REALM, "v": 1}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    file.chmod(0o600)
    with pytest.raises(SettingsError):
        open_verifier(file)


def test_a_service_file_that_others_can_read_does_not_start(tmp_path: Path) -> None:
    """A key that lies open is no key."""
    file = tmp_path / "service.json"
    file.write_text("{}")
    file.chmod(0o644)
    with pytest.raises(SettingsError):
        open_verifier(file)
    with pytest.raises(SettingsError):
        open_verifier(tmp_path / "not-there.json")


@pytest.mark.parametrize("lost", ["root_path", "root_key_path"])
def test_a_mint_without_its_key_does_not_start(tmp_path: Path, lost: str) -> None:
    """Neither the sealed root key nor what opens it is made up when it is missing."""
    realm = init_realm(tmp_path / "realm", name=REALM, issuer="http://127.0.0.1:8700")
    getattr(realm, lost).unlink()
    with pytest.raises(SettingsError):
        MintRuntime.open(realm, store_url="unix:///nowhere.sock")


def test_a_mint_with_an_empty_passphrase_does_not_start(tmp_path: Path) -> None:
    """An empty passphrase seals nothing, a wrong one opens nothing."""
    with pytest.raises(SettingsError):
        init_realm(tmp_path / "empty", name=REALM, issuer="http://127.0.0.1:8700", passphrase="")
    with pytest.raises(SettingsError):
        RootKeys({}, realm=REALM)
