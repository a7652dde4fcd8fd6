# SPDX-License-Identifier: Apache-2.0
"""An access token must not pass for an ARx token, an assertion or a proof, and none of these for an access token.

All but the macaroon are signed JSON, and a server that verifies a signature without its type takes one for another:
an attacker with a proof that any agent sends could then call tools, or open a session with an access token.
"""

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from arx_caps.credentials.jose import make_assertion, make_dpop
from arx_caps.mint.oauth.client.clients import ASSERTION
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.mint.harness import ISSUER, Harness, Holder, now_ms
from tests.mint.login import VERIFIER, Flow, Issuer
from tests.mint.oauth import RESOURCE, Client, assertion

pytestmark = pytest.mark.sqlite


def test_an_access_token_is_nothing_but_one(unit: Harness) -> None:
    """Verifiers find it malformed; the mint takes it neither for an assertion nor for a session's token or a proof."""
    unit.enrol()
    client = Client(unit)
    token = client.token()
    assert (
        UnsafeTestRealm("orders").verifier.decide(token, AccessRequest("orders.get", {}, now_ms())).code == "malformed"
    )
    holder = Holder(unit, unit.session_key, None)
    for member in ("assertion", "workload_token"):
        assert holder.call("POST", "/v1/sessions", {member: token}).status_code == 401
    assert Holder(unit, unit.session_key, token).call("GET", "/v1/sessions").json()["code"] == "malformed"
    headers = holder.headers("GET", "/v1/keys") | {"DPoP": token}
    assert unit.client.get("/v1/keys", headers=headers).json()["code"] == "bad_proof"
    form = {"client_assertion": token, "client_assertion_type": ASSERTION}
    assert client.ask(**form).json()["error"] == "invalid_client"


def test_nothing_else_is_an_access_token(unit: Harness) -> None:
    """Of no agent's assertion or proof, and of no ARx token, does the mint say that it is active."""
    agent = unit.enrol()
    session, _ = unit.open_session(agent)
    client, watcher = Client(unit), Client(unit, scopes=[], introspects=["orders"])
    assert watcher.active(client.token())
    assertion = make_assertion(agent, audience=RESOURCE, now=now_ms())
    proof = make_dpop(agent.key, method="POST", url=f"{ISSUER}/oauth/introspect", now=now_ms())
    for other in (assertion, proof, str(session.token)):
        assert not watcher.active(other)


def test_each_credential_is_of_one_kind(flow: Flow, idp: Issuer) -> None:
    """Access and refresh token, code, assertions and ARx token: each is refused in the place of each other."""
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace('["unused"]', f'["{ISSUER}"]'))  # so that it may issue identity assertions
    key = ECKey.generate_key("P-256", private=True)
    asserting = Client(flow.harness, scopes=["status"], jwks=[key.as_dict(private=False)])
    session, _ = flow.harness.open_session(flow.harness.enrol("acme/support/other"))
    given, now = flow.token(), now_ms() // 1000
    claims = {"iss": idp.url, "sub": "ann", "aud": ISSUER, "iat": now, "exp": now + 60, "client_id": flow.client.id}
    credentials = {
        "access token": given["access_token"],
        "refresh token": given["refresh_token"],
        "code": flow.code(),
        "client assertion": assertion(asserting.id, key, "ES256")["client_assertion"],
        # The same claims: only the type differs.
        "ID token": jwt.encode({"alg": "ES256", "kid": "k1"}, claims | {"jti": "of-id-token"}, idp.key),
        "identity assertion": jwt.encode(
            {"alg": "ES256", "kid": "k1", "typ": "oauth-id-jag+jwt"}, claims | {"jti": "of-assertion"}, idp.key
        ),
        "ARx token": str(session.token),
    }
    places: dict[str, dict[str, str]] = {
        "access token": {"grant_type": TOKEN_EXCHANGE, "subject_token_type": ACCESS_TOKEN_TYPE, "subject_token": ""},
        "refresh token": {"grant_type": "refresh_token", "refresh_token": ""},
        "code": {
            "grant_type": "authorization_code",
            "redirect_uri": flow.redirect,
            "code_verifier": VERIFIER,
            "code": "",
        },
        "client assertion": {
            "grant_type": "client_credentials",
            "scope": "status",
            "client_assertion_type": ASSERTION,
            "client_assertion": "",
        },
        "identity assertion": {"grant_type": JWT_BEARER, "scope": "status", "assertion": ""},
    }

    def send(kind: str, place: str) -> int:
        *others, last = places[place].items()
        form = {"resource": RESOURCE} | dict(others) | {last[0]: credentials[kind]}
        return flow.client.post("/oauth/token", None, **form).status_code

    for kind, text in credentials.items():
        assert flow.client.active(text) is (kind == "access token"), kind
        for place in places:
            if kind != place:
                assert send(kind, place) in (400, 401), (kind, place)
    # Each is accepted in its own place, so that the refusals mean something.
    assert {place: send(place, place) for place in places} == dict.fromkeys(places, 200)
