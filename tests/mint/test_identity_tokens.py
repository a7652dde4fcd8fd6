# SPDX-License-Identifier: Apache-2.0
"""Tokens of other issuers: what is accepted, and every near miss."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from arx_caps.mint.identity.issuer_token import IssuerToken, Kind, verify_issuer_token
from arx_caps.mint.keys.jwks import KeySets
from arx_caps.mint.policy.issuers import Issuer
from arx_verifier.errors import GrantError
from tests.mint.issuer import IDP, KEYS, MINT, jwks, public_jwk, segment, token, with_header, with_hmac

pytestmark = pytest.mark.spec("CONTROL 1.4")

NOW = 1_800_000_000_000
AT = NOW // 1000
SESSION_KID = "k" * 43
DOMAIN = "spiffe://acme.example"
ALL = ("RS256", "PS256", "ES256", "EdDSA")


def issuer(url: str = IDP, **changes: Any) -> Issuer:
    fields = {"name": "idp", "url": url, "jwks": "keys.json", "audience": (MINT,), "algorithms": ALL}
    return Issuer(**({**fields, "max_ttl_ms": 3_600_000} | changes))


@pytest.fixture
def keys(tmp_path: Path) -> KeySets:
    (tmp_path / "keys.json").write_bytes(jwks())
    return KeySets(tmp_path)


def check(text: str, keys: KeySets, kind: Kind = "workload", *trusted: Issuer) -> IssuerToken:
    issuers = {each.name: each for each in trusted or (issuer(),)}
    return verify_issuer_token(text, issuers, keys, kind=kind, now=NOW, session_kid=SESSION_KID)


@pytest.mark.parametrize("alg", ALL)
def test_each_algorithm_that_is_expected_is_accepted(keys: KeySets, alg: str) -> None:
    """A token that another library signed is read; it says who, and until when."""
    checked = check(token(NOW, alg, groups=["a"]), keys)
    assert (checked.issuer.url, checked.subject, checked.expires_at) == (IDP, "ann", NOW + 300_000)
    assert checked.claims["groups"] == ["a"]


@pytest.mark.parametrize("alg", ALL)
def test_an_algorithm_that_is_not_expected_is_refused(keys: KeySets, alg: str) -> None:
    """A right signature by a key of the issuer does not help where the policy names other algorithms."""
    others = tuple(other for other in ALL if other != alg)
    with pytest.raises(GrantError, match="algorithm"):
        check(token(NOW, alg), keys, "workload", issuer(algorithms=others))


GOOD = token(NOW)
RSA_PEM = (
    KEYS["rsa"].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
)
HEADER = {"alg": "ES256", "typ": "JWT", "kid": "ec"}
BAD: dict[str, tuple[str, str]] = {
    "alg none": (with_header(GOOD, {**HEADER, "alg": "none"}, ""), "algorithm"),
    "alg None": (with_header(GOOD, {**HEADER, "alg": "None"}, ""), "algorithm"),
    "no alg": (with_header(GOOD, {"typ": "JWT", "kid": "ec"}), "header"),
    "HMAC by a public key's PEM": (with_hmac(GOOD, RSA_PEM, "rsa"), "algorithm"),
    "HMAC by a public key's JWK": (with_hmac(GOOD, json.dumps(public_jwk("rsa")).encode(), "rsa"), "algorithm"),
    "RS256 by a key of another kind": (with_header(GOOD, {**HEADER, "alg": "RS256"}), "its key"),
    "PS256 said of RS256": (with_header(token(NOW, "RS256"), {**HEADER, "alg": "PS256", "kid": "rsa"}), "signature"),
    "another key's id": (with_header(GOOD, {**HEADER, "kid": "rsa"}), "its key"),
    "an unknown key": (with_header(GOOD, {**HEADER, "kid": "none"}), "its key"),
    "no key named": (with_header(GOOD, {"alg": "ES256", "typ": "JWT"}), "header"),
    "crit": (with_header(GOOD, {**HEADER, "crit": ["exp"], "exp": 1}), "header"),
    "b64": (with_header(GOOD, {**HEADER, "b64": False}), "header"),
    "an embedded key": (with_header(GOOD, {**HEADER, "jwk": public_jwk("ec")}), "header"),
    "a key by URL": (with_header(GOOD, {**HEADER, "jku": "https://evil.example/keys"}), "header"),
    "a certificate by URL": (with_header(GOOD, {**HEADER, "x5u": "https://evil.example/cert"}), "header"),
    "a certificate": (with_header(GOOD, {**HEADER, "x5c": ["MII"]}), "header"),
    "a member twice": (with_header(GOOD, b'{"alg":"none","alg":"ES256","typ":"JWT","kid":"ec"}'), "signature"),
    "other claims": (GOOD.replace(GOOD.split(".")[1], segment({"sub": "root", "iss": IDP})), "signature"),
    "claims twice": (
        ".".join([GOOD.split(".")[0], segment(b'{"sub":"a","sub":"b"}'), GOOD.split(".")[2]]),
        "header or claims",
    ),
    "cut": (GOOD[:-8], "signature"),
    "no signature": (GOOD.rpartition(".")[0] + ".", "signature"),
    "no issuer": (token(NOW, iss=None), "no issuer"),
    "another issuer": (token(NOW, iss="https://evil.example"), "no issuer"),
    "an issuer and a slash": (token(NOW, iss=IDP + "/"), "no issuer"),
    "a signature of one byte": (with_header(GOOD, HEADER, "AA"), "signature"),
    "no subject": (token(NOW, sub=None), "sub is missing"),
    "an empty subject": (token(NOW, sub=""), "sub is missing"),
    "a subject of two lines": (token(NOW, sub="ann\nroot"), "sub is missing"),
    "a long subject": (token(NOW, sub="a" * 513), "sub is missing"),
    "another audience": (token(NOW, aud="https://other.example"), "audience"),
    "no audience": (token(NOW, aud=None), "audience"),
    "an audience list without this": (token(NOW, aud=["a", "b"]), "audience"),
    "an audience that begins so": (token(NOW, aud=MINT + ".evil.example"), "audience"),
    "no end": (token(NOW, exp=None), "exp is missing"),
    "over": (token(NOW, iat=AT - 300, exp=AT), "expired"),
    "not yet": (token(NOW, nbf=AT + 60), "not valid yet"),
    "from the future": (token(NOW, iat=AT + 60, exp=AT + 120), "not valid yet"),
    "too long a life": (token(NOW, exp=AT + 3601), "lives longer"),
    "too long a life without iat": (token(NOW, iat=None, exp=AT + 3601), "lives longer"),
    "an event": (token(NOW, events={"http://schemas.openid.net/event/backchannel-logout": {}}), "event"),
    "bound to another key": (token(NOW, cnf={"jkt": "x" * 43}), "bound"),
    "bound to a certificate": (token(NOW, cnf={"x5t#S256": "x"}), "bound"),
    "of another purpose": (token(NOW, header={"typ": "logout+jwt"}), "typ"),
    "a proof of possession": (token(NOW, header={"typ": "dpop+jwt"}), "typ"),
    "encrypted": ("a.b.c.d.e", "compact"),
    "empty": ("", "compact"),
    "huge": ("a" * 20_000 + "..", "compact"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused(keys: KeySets, text: str, words: str) -> None:
    """Every near miss is refused for what it is, without a word of the token."""
    for kind, code in (("workload", "bad_workload_token"), ("id_token", "bad_subject_token")):
        with pytest.raises(GrantError, match=words) as caught:
            check(text, keys, kind)  # type: ignore[arg-type]
        assert caught.value.code == code
        assert not any(len(part) > 12 and part in str(caught.value) for part in text.split("."))


@pytest.mark.parametrize("value", [str(AT + 300), AT + 300.5, True, -1])
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_a_time_is_a_whole_number(keys: KeySets, name: str, value: Any) -> None:
    """Text, a fraction, ``true`` and what lies before 1970 are no times."""
    text = _signed({"iss": IDP, "sub": "ann", "aud": MINT, "iat": AT, "exp": AT + 300, name: value})
    with pytest.raises(GrantError, match="whole number"):
        check(text, keys)


def _signed(claims: Any) -> str:
    """A token of any claims, which the library that signs them would not let through."""
    from jwt.api_jws import PyJWS

    return PyJWS().encode(json.dumps(claims).encode(), KEYS["ec"], algorithm="ES256", headers={"kid": "ec"})


@pytest.mark.parametrize("claims", [[], "x", {"iss": [IDP], "sub": "ann"}, {"iss": {}, "sub": ["ann"]}])
def test_claims_of_another_shape_are_refused(keys: KeySets, claims: Any) -> None:
    """A right signature over something that is no set of claims admits no caller."""
    with pytest.raises(GrantError) as caught:
        check(_signed(claims), keys)
    assert caught.value.code == "bad_workload_token"


def test_clocks_may_differ_a_little_at_the_beginning_alone(keys: KeySets) -> None:
    """A token that was made 20 s ahead is accepted; one that ended this second is not."""
    assert check(token(NOW, iat=AT + 20, nbf=AT + 20), keys).subject == "ann"
    with pytest.raises(GrantError, match="expired"):
        check(token(NOW, exp=AT), keys)


def test_a_token_bound_to_the_session_key_is_accepted(keys: KeySets) -> None:
    """``cnf`` with the thumbprint of the very key that the session is for."""
    assert check(token(NOW, cnf={"jkt": SESSION_KID}), keys).subject == "ann"


def test_a_token_is_good_for_the_purpose_it_was_made_for(keys: KeySets) -> None:
    """An access token is none without its typ (RFC 9068), and no ID token with it."""
    access = token(NOW, header={"typ": "at+jwt"})
    assert check(access, keys, "access_token").subject == "ann"
    for text, kind in ((GOOD, "access_token"), (access, "id_token")):
        with pytest.raises(GrantError, match="typ"):
            check(text, keys, kind)  # type: ignore[arg-type]


@pytest.mark.spec("CONTROL 1.5")
def test_an_id_token_for_several_was_made_for_this_one(keys: KeySets) -> None:
    """OpenID Connect: with several audiences the party that it was made for (``azp``) is this mint."""
    several = [MINT, "https://other.example"]
    with pytest.raises(GrantError, match="azp"):
        check(token(NOW, aud=several), keys, "id_token")
    with pytest.raises(GrantError, match="azp"):
        check(token(NOW, aud=several, azp="https://other.example"), keys, "id_token")
    assert check(token(NOW, aud=several, azp=MINT), keys, "id_token").subject == "ann"


def test_a_jwt_svid_needs_no_issuer(keys: KeySets) -> None:
    """A SPIFFE JWT-SVID is its trust domain's: by ``sub``, with a list of audiences and no ``iss``."""
    domain = issuer(DOMAIN, name="mesh")
    svid = token(NOW, iss=None, sub=DOMAIN + "/ns/prod/sa/triage", aud=["https://other.example", MINT])
    checked = check(svid, keys, "workload", issuer(), domain)
    assert (checked.issuer.name, checked.subject) == ("mesh", DOMAIN + "/ns/prod/sa/triage")


@pytest.mark.parametrize(
    "subject",
    [
        "ann",
        DOMAIN,
        DOMAIN + "/",
        DOMAIN + "/a//b",
        DOMAIN + "/a/../b",
        DOMAIN + "/a/.",
        DOMAIN + "/a%2fb",
        DOMAIN + "/a b",
        DOMAIN + ".evil.example/a",
        "spiffe://other.example/a",
        "SPIFFE://acme.example/a",
    ],
)
def test_a_trust_domain_speaks_for_itself_alone(keys: KeySets, subject: str) -> None:
    """What is no SPIFFE ID of the domain is refused, also when the token says it is of the domain."""
    for iss in (None, DOMAIN):
        with pytest.raises(GrantError) as caught:
            check(token(NOW, iss=iss, sub=subject), keys, "workload", issuer(DOMAIN))
        assert caught.value.code == "bad_workload_token"


def test_one_issuer_does_not_speak_for_another(tmp_path: Path) -> None:
    """A token signed by one trusted issuer and naming another is checked by the keys of the one it names."""
    for name, kid in (("a.json", "ec"), ("b.json", "ed")):
        (tmp_path / name).write_bytes(json.dumps({"keys": [public_jwk(kid, kid="one")]}).encode())
    keys = KeySets(tmp_path)
    a, b = issuer("https://a", name="a", jwks="a.json"), issuer("https://b", name="b", jwks="b.json")
    signed = token(NOW, "ES256", header={"kid": "one"}, iss="https://a")
    assert check(signed, keys, "workload", a, b).issuer.name == "a"
    with pytest.raises(GrantError, match="its key"):
        check(token(NOW, "ES256", header={"kid": "one"}, iss="https://b"), keys, "workload", a, b)


@pytest.mark.parametrize(
    "jwk",
    [
        public_jwk("ec", use="enc"),
        public_jwk("ec", use="x509-svid"),
        public_jwk("ec", key_ops=["sign"]),
        public_jwk("ec", alg="ES384"),
        public_jwk("ec", crv="P-384"),
        public_jwk("ec", kid="other"),
        public_jwk("ec", kid=7),
        public_jwk("ec", x=5),
        public_jwk("ec", x="AAAA"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "ec"},
        {"kty": "EC", "kid": "ec"},
    ],
)
def test_a_key_for_something_else_signs_no_token(tmp_path: Path, jwk: dict[str, Any]) -> None:
    """Keys for encryption, certificates or another algorithm, secrets and broken ones are not used."""
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk]}))
    with pytest.raises(GrantError) as caught:
        check(GOOD, KeySets(tmp_path))
    assert caught.value.code == "bad_workload_token"


def test_a_short_rsa_key_signs_no_token(tmp_path: Path) -> None:
    """A key of 1024 bits can be broken."""
    import jwt as pyjwt

    short = rsa.generate_private_key(65537, 1024)
    jwk: Any = RSAAlgorithm.to_jwk(short.public_key(), as_dict=True)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{**jwk, "kid": "short"}]}))
    claims = {"iss": IDP, "sub": "ann", "aud": MINT, "iat": AT, "exp": AT + 300}
    with pytest.warns(pyjwt.InsecureKeyLengthWarning):
        text = pyjwt.encode(claims, short, algorithm="RS256", headers={"kid": "short"})
    with pytest.raises(GrantError, match="signature"):
        check(text, KeySets(tmp_path))


def test_a_key_named_twice_is_not_chosen_between(tmp_path: Path) -> None:
    """Two keys of one id and kind: the token does not name which one is meant."""
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public_jwk("ec"), public_jwk("ec")]}))
    with pytest.raises(GrantError, match="its key"):
        check(GOOD, KeySets(tmp_path))
