# SPDX-License-Identifier: Apache-2.0
"""An attacker must not have a signed token verified by an algorithm that its header chooses, such as a public MAC key.

Keys of three kinds are in use (Ed25519, P-256, RSA), and all public halves are known to everyone (RFC 8725 2.1, 3.1).
"""

import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from arx_caps.mint.oauth.client.clients import ASSERTION
from arx_verifier.token import wire
from tests.mint.harness import Harness
from tests.mint.issuer import jwks, segment, with_header
from tests.mint.login import Flow, Issuer
from tests.mint.oauth import Client, assertion
from tests.mint.test_jwt_bearer import bearing
from tests.mint.workloads import DEPLOY, POLICY, ci

pytestmark = pytest.mark.sqlite
ALGORITHMS = ("none", "None", "HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519")
OWN = ECKey.generate_key("P-256", {"kid": "own"}, private=True)  # the attacker's


def forged(signed: str, public: dict[str, Any]) -> list[str]:
    """Return the claims of a token under each header that an attacker can make without its key."""
    header = json.loads(wire.bytes_of(signed.split(".")[0]))
    kind = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}[public["kty"]]
    key = kind.import_key(public)
    raw = key.public_key
    forms = [json.dumps(public).encode(), wire.bytes_of(public.get("x") or public["n"])]
    forms += [
        raw.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo) for encoding in (Encoding.PEM, Encoding.DER)
    ]
    others = [alg for alg in ALGORITHMS if alg != header["alg"] and {alg, header["alg"]} != {"EdDSA", "Ed25519"}]
    changed = [with_header(signed, {**header, "alg": alg}) for alg in others]
    changed += [with_header(signed, {**header, "alg": alg}, "") for alg in ("none", "None", header["alg"])]
    changed += [_with_mac(with_header(signed, {**header, "alg": "HS256"}), mac) for mac in forms]
    # A key in the header, or an address of one, is the attacker's.
    claims = wire.bytes_of(signed.split(".")[1])
    for more in ({"jwk": OWN.as_dict(private=False)}, {"jku": "http://127.0.0.1:9/keys"}, {"kid": "own"}):
        own = {**header, "alg": "ES256", **more}
        changed.append(
            jws.serialize_compact(
                own, claims, OWN, algorithms=["ES256"], registry=jws.JWSRegistry(strict_check_header=False)
            )
        )
    return changed


def _with_mac(text: str, key: bytes) -> str:
    """Return a token signed by a MAC."""
    head, _, _ = text.rpartition(".")
    return f"{head}.{segment(hmac.digest(key, head.encode(), 'sha256'))}"


def test_of_an_access_token_the_key_decides(unit: Harness) -> None:
    """Whatever the header says, it is inactive."""
    unit.enrol()
    client = Client(unit)
    token = client.token()
    [public] = [key for key in unit.client.get("/oauth/jwks").json()["keys"] if key["kty"] == "EC"][:1]
    assert client.active(token)
    for text in forged(token, public):
        assert not client.active(text), text


@pytest.mark.parametrize(("kind", "algorithm"), [(ECKey, "ES256"), (OKPKey, "EdDSA")])
def test_of_a_clients_assertion_the_key_decides(unit: Harness, kind: Any, algorithm: str) -> None:
    """No client gets an access token by its public key."""
    unit.enrol()
    key = kind.generate_key("P-256" if kind is ECKey else "Ed25519", private=True)
    client = Client(unit, jwks=[key.as_dict(private=False)])
    signed = assertion(client.id, key, algorithm)
    for text in forged(signed["client_assertion"], key.as_dict(private=False)):
        refused = client.ask(client_assertion=text, client_assertion_type=ASSERTION)
        assert refused.json()["error"] == "invalid_client", text
    assert client.ask(**signed).status_code == 200


@pytest.mark.realm(policy=POLICY, files={"keys.json": jwks("ec")})
def test_of_an_issuers_token_the_policy_decides(unit: Harness) -> None:
    """No caller is a workload by the issuer's public key."""
    unit.enrol(DEPLOY)
    client = Client(unit, agent=DEPLOY)
    [public] = json.loads(jwks("ec"))["keys"]
    for text in forged(ci(), public):
        assert bearing(client, text).status_code == 400, text
    assert bearing(client, ci()).status_code == 200


@pytest.mark.slow
def test_of_a_persons_id_token_the_policy_decides(flow: Flow, idp: Issuer) -> None:
    """No person logs in by the issuer's public key."""
    public = idp.key.as_dict(private=False)
    for number in range(len(forged(jwt.encode({"alg": "ES256", "kid": "k1"}, {}, idp.key), public))):
        idp.alter = lambda text, number=number: forged(text, public)[number]  # type: ignore[misc]
        back = flow.log_in()
        assert (back.status_code, "location" in back.headers) == (400, False), number
    idp.alter = str
    assert flow.log_in().headers["location"].startswith("/oauth/consent")
