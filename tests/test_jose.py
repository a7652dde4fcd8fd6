# SPDX-License-Identifier: Apache-2.0
"""Assertions, proofs and key files: what is accepted, and every near miss."""

import json
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from arx_caps.credentials.jose import (
    KeyFile,
    PublicKey,
    SigningKey,
    check_assertion,
    check_dpop,
    make_assertion,
    make_dpop,
    token_hash,
)
from arx_verifier.errors import GrantError, RequestError, SettingsError
from arx_verifier.token import wire

NOW = 1_700_000_000_500
ISSUER = "http://127.0.0.1:8700"
URL = ISSUER + "/v1/tasks"
AGENT = KeyFile.generate("agent", "acme/support", ISSUER)
KEY = SigningKey.generate()


def find(subject: str, kid: str) -> PublicKey | None:
    return AGENT.key.public if (subject, kid) == ("acme/support", AGENT.key.kid) else None


def assertion(header: dict[str, Any] | None = None, **changes: Any) -> str:
    at = NOW // 1000
    claims = {"iss": "acme/support", "sub": "acme/support", "aud": ISSUER, "iat": at, "exp": at + 60, "jti": "j" * 16}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return AGENT.key.sign(header or {"typ": "JWT", "kid": AGENT.key.kid}, claims)


def proof(header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {"htm": "POST", "htu": URL, "jti": "j" * 16, "iat": NOW // 1000}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return KEY.sign(header or {"typ": "dpop+jwt", "jwk": KEY.public.jwk}, claims)


def segment(value: Any) -> str:
    return wire.text_of(json.dumps(value).encode())


def forged(token: str, header: dict[str, Any], signature: str | None = None) -> str:
    _, claims, own = token.split(".")
    return f"{segment(header)}.{claims}.{own if signature is None else signature}"


@pytest.mark.spec("CONTROL 1.1")
def test_an_assertion_says_who_and_which_key() -> None:
    """What is made is accepted, and names subject, key, jti and how long to remember it."""
    checked = check_assertion(make_assertion(AGENT, audience=ISSUER, now=NOW), find, audience=ISSUER, now=NOW)
    assert (checked.subject, checked.kid) == ("acme/support", AGENT.key.kid)
    assert NOW < checked.until <= NOW + 60_000
    assert len(checked.jti) >= 16
    assert checked.bound_to is None
    bound = make_assertion(AGENT, audience=ISSUER, now=NOW, session_key=KEY.public)
    assert check_assertion(bound, find, audience=ISSUER, now=NOW).bound_to == KEY.kid


@pytest.mark.spec("CONTROL 1.1")
def test_an_assertion_reads_as_a_plain_jwt() -> None:
    """Another library verifies an assertion, and one that it signs is accepted."""
    token = make_assertion(AGENT, audience=ISSUER, now=NOW)
    private = Ed25519PrivateKey.from_private_bytes(wire.bytes_of(AGENT.key.private_jwk()["d"]))
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims = pyjwt.decode(token, private.public_key(), algorithms=["EdDSA"], audience=ISSUER, options=options)
    theirs = pyjwt.encode({**claims, "jti": "k" * 20}, private, algorithm="EdDSA", headers={"kid": AGENT.key.kid})
    assert check_assertion(theirs, find, audience=ISSUER, now=NOW).jti == "k" * 20


BAD_ASSERTIONS = {
    "no jti": assertion(jti=None),
    "short jti": assertion(jti="short"),
    "jti is a number": assertion(jti=1),
    "no audience": assertion(aud=None),
    "other audience": assertion(aud="http://127.0.0.1:8701"),
    "audience with a slash": assertion(aud=ISSUER + "/"),
    "audience list": assertion(aud=[ISSUER]),
    "issuer is not the subject": assertion(iss="acme/other"),
    "subject is another": assertion(iss="acme/other", sub="acme/other"),
    "no subject": assertion(iss=None, sub=None),
    "no exp": assertion(exp=None),
    "no iat": assertion(iat=None),
    "bound to no key": assertion(cnf={}),
    "bound to something else": assertion(cnf={"jkt": KEY.kid, "x5t#S256": "a"}),
    "bound by a list": assertion(cnf=["jkt"]),
    "too long a life": assertion(exp=NOW // 1000 + 61),
    "ends before it begins": assertion(exp=NOW // 1000 - 1),
    "stale": assertion(iat=NOW // 1000 - 70, exp=NOW // 1000 - 10),
    "at its end": assertion(iat=NOW // 1000 - 60, exp=NOW // 1000),
    "future": assertion(iat=NOW // 1000 + 40, exp=NOW // 1000 + 60),
    "float time": assertion(iat=NOW / 1000),
    "text time": assertion(iat=str(NOW // 1000)),
    "true as time": assertion(iat=True, exp=30),
    "wrong typ": assertion({"typ": "dpop+jwt", "kid": AGENT.key.kid}),
    "no typ": assertion({"kid": AGENT.key.kid}),
    "no kid": assertion({"typ": "JWT"}),
    "unknown kid": assertion({"typ": "JWT", "kid": KEY.kid}),
    "a header that a reader would have to obey": forged(
        assertion(), {"alg": "EdDSA", "typ": "JWT", "kid": AGENT.key.kid, "crit": ["exp"]}
    ),
    "a key by URL": forged(assertion(), {"alg": "EdDSA", "typ": "JWT", "kid": AGENT.key.kid, "jku": "http://x"}),
    "alg none": forged(assertion(), {"alg": "none", "typ": "JWT", "kid": AGENT.key.kid}, ""),
    "alg None": forged(assertion(), {"alg": "None", "typ": "JWT", "kid": AGENT.key.kid}, ""),
    "no signature": assertion().rpartition(".")[0] + ".",
    "cut signature": assertion()[:-4],
    "other claims": ".".join([assertion().split(".")[0], segment({"iss": "acme/support"}), assertion().split(".")[2]]),
    "claims are a list": AGENT.key.sign({"typ": "JWT", "kid": AGENT.key.kid}, []),  # type: ignore[arg-type]
    "not base64": "a+b.c.d",
    "not a JWS": "abc",
    "empty": "",
    "four parts": assertion() + ".x",
    "huge": "a" * 5000 + "..",
}


@pytest.mark.spec("CONTROL 1.1")
@pytest.mark.parametrize("token", BAD_ASSERTIONS.values(), ids=BAD_ASSERTIONS.keys())
def test_a_bad_assertion_is_refused(token: str) -> None:
    """Every near miss is ``bad_assertion``, and the message holds no part of the token."""
    with pytest.raises(GrantError) as caught:
        check_assertion(token, find, audience=ISSUER, now=NOW)
    assert caught.value.code == "bad_assertion"
    assert not any(part and len(part) > 8 and part in str(caught.value) for part in token.split("."))


def test_a_public_key_is_no_hmac_key() -> None:
    """Signing with HMAC and the public key as the secret, the classic confusion, is refused."""
    header = {"alg": "HS256", "typ": "JWT", "kid": AGENT.key.kid}
    secret = OctKey.import_key(wire.bytes_of(AGENT.key.public.x))
    payload = wire.bytes_of(assertion().split(".")[1])
    token = jws.serialize_compact(header, payload, secret, algorithms=["HS256"])
    with pytest.raises(GrantError, match="EdDSA"):
        check_assertion(token, find, audience=ISSUER, now=NOW)


@pytest.mark.spec("CONTROL 1.1")
def test_another_signer_is_refused() -> None:
    """An assertion with an enrolled kid but another key's signature does not hold."""
    stranger = KeyFile("agent", "acme/support", ISSUER, KEY)
    token = make_assertion(stranger, audience=ISSUER, now=NOW)
    with pytest.raises(GrantError, match="signature"):
        check_assertion(token, lambda subject, kid: AGENT.key.public, audience=ISSUER, now=NOW)


@pytest.mark.spec("CONTROL 1.2")
def test_a_proof_names_its_key() -> None:
    """What is made is accepted with and without a token; query and fragment do not count."""
    for token in (None, "arx1_abc"):
        text = make_dpop(KEY, method="POST", url=URL + "?a=1#b", now=NOW, token=token)
        checked = check_dpop(text, method="POST", url=URL, now=NOW, token=token)
        assert checked.key.kid == KEY.kid
        assert NOW < checked.until <= NOW + 30_000


def test_both_names_of_the_algorithm_are_accepted() -> None:
    """``Ed25519`` (RFC 9864) is the same signature as ``EdDSA`` over this curve."""
    header = {"alg": "Ed25519", "typ": "dpop+jwt", "jwk": KEY.public.jwk}
    claims = wire.bytes_of(proof().split(".")[1])
    text = jws.serialize_compact(header, claims, KEY._key, algorithms=["Ed25519"])
    assert check_dpop(text, method="POST", url=URL, now=NOW).key.kid == KEY.kid


BAD_PROOFS = {
    "other method": proof(htm="GET"),
    "method in lower case": proof(htm="post"),
    "no method": proof(htm=None),
    "other path": proof(htu=ISSUER + "/v1/kills"),
    "other host": proof(htu="http://evil.example/v1/tasks"),
    "with a query": proof(htu=URL + "?x"),
    "no address": proof(htu=None),
    "a token's hash where there is no token": proof(ath=token_hash("arx1_abc")),
    "no jti": proof(jti=None),
    "no iat": proof(iat=None),
    "stale": proof(iat=NOW // 1000 - 31),
    "future": proof(iat=NOW // 1000 + 32),
    "wrong typ": proof({"typ": "JWT", "jwk": KEY.public.jwk}),
    "no key": proof({"typ": "dpop+jwt"}),
    "another key": proof({"typ": "dpop+jwt", "jwk": AGENT.key.public.jwk}),
    "a private key": proof({"typ": "dpop+jwt", "jwk": KEY.private_jwk()}),
    "alg none": forged(proof(), {"alg": "none", "typ": "dpop+jwt", "jwk": KEY.public.jwk}, ""),
    "an RSA key": forged(proof(), {"alg": "EdDSA", "typ": "dpop+jwt", "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}),
    "nonsense": "a.b.c",
}


@pytest.mark.spec("CONTROL 1.2")
@pytest.mark.parametrize("text", BAD_PROOFS.values(), ids=BAD_PROOFS.keys())
def test_a_bad_proof_is_refused(text: str) -> None:
    """Every near miss is ``bad_proof``."""
    with pytest.raises(GrantError) as caught:
        check_dpop(text, method="POST", url=URL, now=NOW)
    assert caught.value.code == "bad_proof"


@pytest.mark.spec("CONTROL 1.2")
@pytest.mark.parametrize("ath", [None, token_hash("arx1_other"), "", 7])
def test_a_proof_covers_the_token_beside_it(ath: Any) -> None:
    """A proof without the token's hash, or with another's, does not go with the token."""
    with pytest.raises(GrantError, match="ath"):
        check_dpop(proof(ath=ath), method="POST", url=URL, now=NOW, token="arx1_abc")


BAD_KEYS: list[Any] = [
    None,
    "x",
    {},
    {"kty": "OKP", "crv": "Ed25519"},
    {"kty": "OKP", "crv": "X25519", "x": KEY.public.x},
    {"kty": "OKP", "crv": "Ed25519", "x": KEY.public.x + "="},
    {"kty": "OKP", "crv": "Ed25519", "x": KEY.public.x[:-1]},
    {"kty": "OKP", "crv": "Ed25519", "x": 5},
    {"kty": "OKP", "crv": "Ed25519", "x": "é" * 43},
    KEY.private_jwk(),
    ECKey.generate_key("P-256").as_dict(private=False),
]


@pytest.mark.spec("CONTROL 1.1")
@pytest.mark.parametrize("jwk", BAD_KEYS)
def test_only_an_ed25519_public_key_is_read(jwk: Any) -> None:
    """Other kinds, other spellings and private halves are refused."""
    with pytest.raises(RequestError):
        PublicKey(jwk)


@pytest.mark.spec("CONTROL 1.1")
def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    """RFC 8037 A.3."""
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert PublicKey(jwk).kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_key_file_goes_to_disk_and_back(tmp_path: Path) -> None:
    """A saved key signs as before, its file is for its user alone, and nothing overwrites it."""
    path = tmp_path / "agent.key"
    AGENT.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    loaded = KeyFile.load(path)
    assert (loaded.role, loaded.name, loaded.issuer) == ("agent", "acme/support", ISSUER)
    assert check_assertion(make_assertion(loaded, audience=ISSUER, now=NOW), find, audience=ISSUER, now=NOW)
    with pytest.raises(SettingsError, match="not overwritten"):
        KeyFile.generate("agent", "acme/support", ISSUER).save(path)
    assert KeyFile.load(path).key.kid == AGENT.key.kid


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key that was open to others is not used as if it were a secret."""
    path = tmp_path / "agent.key"
    AGENT.save(path)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        KeyFile.load(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"kty":"OKP","arx":{"role":"agent","name":"a","issuer":"x"}}', "\xff"]
)
def test_a_broken_key_file_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    """A file that is no key is a settings error that quotes nothing of it."""
    path = tmp_path / "agent.key"
    path.touch(0o600)
    path.write_text(content, "latin-1")
    with pytest.raises(SettingsError, match="not an ARx key file"):
        KeyFile.load(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        KeyFile.load(tmp_path / "none.key")


def test_secrets_do_not_show() -> None:
    """``repr`` of a key shows its thumbprint or its owner, never a private half."""
    secret = AGENT.key.private_jwk()["d"]
    for shown in (AGENT, AGENT.key, AGENT.key.public):
        assert secret not in repr(shown)
    with pytest.raises(TypeError):
        AGENT.key.__reduce__()
