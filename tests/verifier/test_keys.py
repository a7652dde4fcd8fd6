# SPDX-License-Identifier: Apache-2.0
"""A key ring starts with keys or not at all, changes whole, and shows nothing."""

import pickle

import pytest

from arx_verifier.errors import SettingsError
from arx_verifier.token.keyring import KeyRing
from tests.support import KEY, OTHER_KEY, REALM

pytestmark = pytest.mark.spec("9")


@pytest.mark.parametrize(
    "keys",
    [{}, {"k1.0": b""}, {"k1.0": KEY[:31]}, {"k1.0": KEY + b"x"}, {"k1.0": KEY, "k2.0": b"short"}],
)
def test_no_start_without_whole_keys(keys: dict[str, bytes]) -> None:
    """No key, or one that is cut, stops the start; there is no default."""
    with pytest.raises(SettingsError) as caught:
        KeyRing(keys, realm=REALM)
    assert KEY.hex() not in str(caught.value)


@pytest.mark.parametrize("realm", ["", "Acme", "acme corp", ".acme", "a" * 33, "acme\n", "acmé"])
def test_no_start_without_a_realm(realm: str) -> None:
    """A realm that no token could name stops the start."""
    with pytest.raises(SettingsError):
        KeyRing({"k1.0": KEY}, realm=realm)


def test_keys_are_found_by_their_id_alone() -> None:
    """An unknown id finds nothing, the empty one included."""
    ring = KeyRing({"k2.0": OTHER_KEY, "k1.0": KEY}, realm=REALM)
    assert ring.kids == ("k1.0", "k2.0")
    assert ring.get("k1.0") is ring.get("k1.0")
    for kid in ("", "k1", "k1.1", "K1.0", "k1.0 "):
        assert ring.get(kid) is None


def test_replace_takes_all_or_nothing() -> None:
    """New keys replace all old ones; a bad set changes nothing."""
    ring = KeyRing({"k1.0": KEY}, realm=REALM)
    old = ring.get("k1.0")
    with pytest.raises(SettingsError):
        ring.replace({"k1.0": OTHER_KEY, "k2.0": b"short"})
    with pytest.raises(SettingsError):
        ring.replace({})
    assert ring.get("k1.0") is old
    ring.replace({"k1.0": KEY, "k2.0": OTHER_KEY})
    assert ring.get("k1.0") is old, "a key that stays is the same object: what was proven with it stays proven"
    ring.replace({"k1.0": OTHER_KEY, "k2.0": OTHER_KEY})
    assert ring.get("k1.0") is not old, "a cache compares by identity, so that it proves again"
    assert ring.kids == ("k1.0", "k2.0")
    ring.replace({"k2.0": OTHER_KEY})
    assert ring.get("k1.0") is None


def test_keys_are_not_shown_or_pickled() -> None:
    """Neither the ring nor a key of it shows or pickles a secret."""
    ring = KeyRing({"k1.0": KEY}, realm=REALM)
    key = ring.get("k1.0")
    assert key is not None
    for shown in (repr(ring), repr(key), str(ring)):
        assert KEY.hex() not in shown
        assert repr(KEY)[2:-1] not in shown
        assert key.derived.hex() not in shown
    for secret in (ring, key):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(secret)
