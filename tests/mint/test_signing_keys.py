# SPDX-License-Identifier: Apache-2.0
"""Keys that sign access tokens: sealed, published before they sign, replaced by time or by an operator."""

import json

import pytest
from joserfc import jws
from joserfc.jwk import KeySet

from arx_caps.credentials.access_token import AccessToken, read_access_token, sign_access_token
from arx_caps.mint.db.repositories.identity.keys import SealedRoot
from arx_caps.mint.keys import signing_keys
from arx_caps.mint.keys.reseal import reseal
from arx_caps.mint.keys.root_keys import RootKeys
from arx_verifier.errors import TokenError
from arx_verifier.token import wire
from tests.mint.harness import ISSUER, Harness, now_ms

pytestmark = pytest.mark.spec("CONTROL 5.1")


def token(unit: Harness, **changes: object) -> str:
    now = now_ms() // 1000
    claims = {"iss": ISSUER, "aud": "http://127.0.0.1:9001/orders", "sub": "agent:acme/a", "client_id": "c-1"}
    claims |= {"scope": "refund", "iat": now, "exp": now + 60, "jti": "h-1", "sid": "s-1", "tid": "t-1"} | changes
    return sign_access_token(AccessToken(**claims), *unit.mint.signing_keys.signer())  # type: ignore[arg-type]


def published(unit: Harness) -> list[str]:
    return [key["kid"] for key in unit.client.get("/oauth/jwks").json()["keys"]]


def test_the_first_key_is_made_at_the_first_token_and_published(unit: Harness) -> None:
    """The published key verifies; the private half is nowhere in the answer, nor in clear in the database."""
    assert published(unit) == []
    kid, key = unit.mint.signing_keys.signer()
    answer = unit.client.get("/oauth/jwks")
    assert "max-age=300" in answer.headers["cache-control"]
    assert [jwk["kid"] for jwk in answer.json()["keys"]] == [kid]
    KeySet.import_key_set(answer.json())
    secret = key.key.as_dict(private=True)["d"]
    [row] = unit.mint.db.signing_keys.rows()
    assert secret not in answer.text + repr(row)
    assert read_access_token(token(unit), unit.mint.signing_keys.find, issuer=ISSUER, now=now_ms()).tid == "t-1"


def test_a_new_key_is_published_first_and_signs_later(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of the key before are accepted until the last has expired; then its private half is deleted."""
    keys = unit.mint.signing_keys
    first, _ = keys.signer()
    made = unit.operator().call("POST", "/v1/signing-keys/rotate", {"algorithm": "RS256"}).json()
    assert (made["state"], made["algorithm"], keys.signer()[0]) == ("published", "RS256", first)
    assert published(unit) == [first, made["kid"]]
    later = now_ms() + signing_keys.PUBLISHED_MS
    monkeypatch.setattr(signing_keys, "now_ms", lambda: later)
    assert keys.signer()[0] == made["kid"]
    assert keys.find(first) is not None
    keys.tick()
    assert keys.find(first) is not None
    monkeypatch.setattr(signing_keys, "now_ms", lambda: later + signing_keys.OUTLIVED_MS)
    keys.tick()
    assert keys.find(first) is None
    assert [(each.row.kid, each.state) for each in keys.view()] == [(first, "retired"), (made["kid"], "signing")]
    assert [row.sealed is None for row in unit.mint.db.signing_keys.rows()] == [True, False]


def test_a_stolen_key_is_refused_at_once(unit: Harness) -> None:
    """Its tokens verify no more, and the next key signs."""
    old = token(unit)
    made = unit.operator().call("POST", "/v1/signing-keys/rotate", {"stolen": True}).json()
    assert (made["state"], published(unit)) == ("signing", [made["kid"]])
    with pytest.raises(TokenError) as refused:
        read_access_token(old, unit.mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    assert refused.value.code == "unknown_key"
    shown = unit.operator().call("GET", "/v1/signing-keys").json()["keys"]
    assert [key["state"] for key in shown] == ["retired", "signing"]


def test_a_key_is_replaced_after_its_time(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mint makes the next one by itself, once."""
    keys = unit.mint.signing_keys
    keys.signer()
    keys.tick()
    assert len(keys.view()) == 1
    later = now_ms() + signing_keys.SIGNS_MS
    monkeypatch.setattr(signing_keys, "now_ms", lambda: later)
    keys.tick()
    keys.tick()
    assert [each.state for each in keys.view()] == ["signing", "published"]


@pytest.mark.sqlite
def test_signing_keys_are_resealed_with_the_root_keys(unit: Harness) -> None:
    """The new passphrase opens them, and the seal before does not."""
    unit.mint.signing_keys.signer()
    realm = unit.realm
    before = RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)
    reseal(realm, passphrase=None, new_passphrase="other")
    [row] = unit.mint.db.signing_keys.rows()
    after = RootKeys.load(realm.root_path, realm=realm.name, passphrase="other", key_path=realm.root_key_path)
    sealed = SealedRoot(f"sign/{row.kid}", str(row.nonce), str(row.sealed))
    assert json.loads(after.unseal(sealed))["kty"] == "EC"
    with pytest.raises(Exception, match="does not open"):
        before.unseal(sealed)


@pytest.mark.sqlite
def test_another_type_of_jwt_is_refused(unit: Harness) -> None:
    """Also by a key that signs access tokens (RFC 8725 3.11)."""
    kid, key = unit.mint.signing_keys.signer()
    payload = wire.bytes_of(token(unit).split(".")[1])
    for kind, code in (("JWT", "malformed"), ("at+jwt", "ok")):
        header = {"alg": "ES256", "kid": kid, "typ": kind}
        text = jws.serialize_compact(header, payload, key.key, algorithms=["ES256"])
        try:
            read_access_token(text, unit.mint.signing_keys.find, issuer=ISSUER, now=now_ms())
            found = "ok"
        except TokenError as error:
            found = error.code
        assert found == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "http://127.0.0.1:1"}, "malformed"),
        ({"exp": 1}, "malformed"),
        ({"iat": 1, "exp": 301}, "expired"),
        ({"iat": 9_999_999_999, "exp": 9_999_999_999 + 60}, "not_yet_valid"),
        ({"exp": now_ms() // 1000 + 86_400}, "malformed"),  # parametrized long before it runs
    ],
)
@pytest.mark.sqlite
def test_a_token_of_another_mint_or_time_is_refused(unit: Harness, changes: dict[str, object], code: str) -> None:
    """Signature and form are good, and the claims are not."""
    with pytest.raises(TokenError) as refused:
        read_access_token(token(unit, **changes), unit.mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    assert refused.value.code == code
