# SPDX-License-Identifier: Apache-2.0
"""Root keys: derivation is as SPEC says, the stored form is sealed, and nothing shows them."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier.errors import SettingsError

ROOT = bytes(range(32))
KEYS = RootKeys({"k1": ROOT}, realm="acme")


def hkdf(secret: bytes, info: str) -> bytes:
    """RFC 5869 written out, 32 bytes, no salt."""
    extracted = hmac.digest(bytes(32), secret, hashlib.sha256)
    return hmac.digest(extracted, info.encode() + b"\1", hashlib.sha256)


@pytest.mark.spec("9")
def test_an_audience_key_is_derived_as_spec_says() -> None:
    """HKDF-SHA256 with the label, the audience and the number; each is another key."""
    assert KEYS.audience_key("k1", "orders", 0) == ("k1.0", hkdf(ROOT, "arx/1/audience/orders/0"))
    assert KEYS.audience_key("k1", "orders", 1) == ("k1.1", hkdf(ROOT, "arx/1/audience/orders/1"))
    assert KEYS.mint_key("k1") == ("k1.0", hkdf(ROOT, "arx/1/mint"))
    made = [KEYS.audience_key("k1", audience, n)[1] for audience in ("orders", "order", "payments") for n in (0, 1, 10)]
    assert len({*made, KEYS.mint_key("k1")[1], ROOT}) == len(made) + 2


def test_a_later_root_is_sealed_like_the_first(tmp_path: Path) -> None:
    """It opens with the file's seal, under its own name and in its own realm alone, and holds no key in the clear."""
    first = RootKeys.create(tmp_path / "root.json", realm="acme", passphrase=None, key_path=tmp_path / "root.key")
    held = RootKeys.load(tmp_path / "root.json", realm="acme", passphrase=None, key_path=tmp_path / "root.key")
    sealed = held.make("k2")
    assert held.names == ("k1",)
    held.open(sealed)
    assert held.names == ("k1", "k2")
    assert held.mint_key("k2")[1] != held.mint_key("k1")[1] == first.mint_key("k1")[1]
    other = RootKeys.create(tmp_path / "other.json", realm="acme", passphrase="x", key_path=tmp_path / "no")
    for keys, wrong in ((held, sealed._replace(name="k3")), (other, sealed), (held, sealed._replace(nonce="A"))):
        with pytest.raises(SettingsError, match=r"does not open|not opened"):
            keys.open(wrong)
    with pytest.raises(SettingsError, match="not opened"):
        KEYS.make("k2")


def test_the_file_holds_no_key_in_the_clear_and_is_bound_to_its_realm(tmp_path: Path) -> None:
    """The file has neither root nor seal; another realm's name or another key's name does not open it."""
    path, key_path = tmp_path / "root.json", tmp_path / "root.key"
    made = RootKeys.create(path, realm="acme", passphrase=None, key_path=key_path)
    text = path.read_text()
    assert key_path.read_text().strip() not in text
    assert RootKeys.load(path, realm="acme", passphrase=None, key_path=key_path).mint_key("k1") == made.mint_key("k1")
    with pytest.raises(SettingsError, match="another realm"):
        RootKeys.load(path, realm="other", passphrase=None, key_path=key_path)
    for change in ({"realm": "other"}, {"keys": [{**json.loads(text)["keys"][0], "name": "k2"}]}):
        path.write_text(json.dumps({**json.loads(text), **change}))
        realm = str(change.get("realm", "acme"))
        with pytest.raises(SettingsError, match="does not open"):
            RootKeys.load(path, realm=realm, passphrase=None, key_path=key_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"v":2}', "\xff"])
def test_a_broken_file_is_refused(tmp_path: Path, content: str) -> None:
    """What is no key file is a settings error."""
    path = tmp_path / "root.json"
    path.touch(0o600)
    path.write_text(content, "latin-1")
    with pytest.raises(SettingsError):
        RootKeys.load(path, realm="acme", passphrase=None, key_path=tmp_path / "root.key")


@pytest.mark.parametrize("roots", [{}, {"k1": b"short"}, {"K1": bytes(32)}, {"": bytes(32)}])
def test_no_key_is_no_start(roots: dict[str, bytes]) -> None:
    """Without a whole root key there is nothing to hold."""
    with pytest.raises(SettingsError):
        RootKeys(roots, realm="acme")


def test_root_keys_do_not_show() -> None:
    """``repr`` has names only, and pickling is refused."""
    assert repr(KEYS) == "<RootKeys of acme: k1>"
    with pytest.raises(TypeError):
        KEYS.__reduce__()
