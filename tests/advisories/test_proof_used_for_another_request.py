# SPDX-License-Identifier: Apache-2.0
"""An attacker who reads a proof (DPoP) must not use it for another request, nor another signed text as a proof.

Proofs, assertions and access tokens are all signed JSON of one form: a server that reads neither type, method, URL nor
token of a proof accepts what its client has sent to another server.
"""

from typing import Any

import pytest
from joserfc.jwk import ECKey

from arx_caps.credentials.jose import make_assertion, make_dpop
from arx_caps.mint.oauth.client.clients import ASSERTION
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from tests.dpop import Prover
from tests.mint.harness import ISSUER, Harness, Holder, now_ms
from tests.mint.oauth import PARAMS, RESOURCE, Client, assertion

pytestmark = pytest.mark.sqlite
URL = f"{ISSUER}/oauth/token"


def asked(client: Client, proof: str, **form: str) -> Any:
    """Ask for an access token with a header ``DPoP``."""
    whole = {"grant_type": "client_credentials", "resource": RESOURCE, "authorization_details": PARAMS}
    whole |= {"client_id": client.id, "client_secret": client.secret} | form
    return client.harness.client.post("/oauth/token", data=whole, headers={"DPoP": proof})


def test_nothing_but_a_new_proof_of_this_request_is_one(unit: Harness) -> None:
    """Neither one of another method, URL or token, nor an assertion, an access token or an ARx token."""
    agent, prover = unit.enrol(), Prover("EdDSA")
    session, _ = unit.open_session(agent)
    client = Client(unit)
    used = prover.proof("POST", URL)
    assert asked(client, used).json()["token_type"] == "DPoP"
    others = {
        "a used one": used,
        "of a call at a gateway": prover.proof("POST", RESOURCE, client.token()),
        "of the agents' own interface": make_dpop(agent.key, method="POST", url=f"{ISSUER}/v1/sessions", now=now_ms()),
        "of another method": prover.proof("GET", URL),
        "of another route": prover.proof("POST", f"{ISSUER}/oauth/introspect"),
        "of another type": prover.proof("POST", URL, header={"typ": "JWT"}),
        "of another server": prover.proof("POST", "https://other.example/oauth/token"),
        "an agent's assertion": make_assertion(agent, audience=ISSUER, now=now_ms()),
        "a client's assertion": assertion(client.id, ECKey.generate_key("P-256"), "ES256")["client_assertion"],
        "an access token": client.token(),
        "an ARx token": str(session.token),
    }
    for name, text in others.items():
        answer = asked(client, text)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof"), name


def test_a_proof_is_nothing_else(unit: Harness) -> None:
    """Neither an assertion of a client or a workload, nor an access token; and an ES256 proof opens no ARx route."""
    agent, prover = unit.enrol(), Prover()
    session, _ = unit.open_session(agent)
    client = Client(unit)
    proof = prover.proof("POST", URL)
    assert not client.active(proof)
    form = {"client_assertion": proof, "client_assertion_type": ASSERTION}
    assert client.ask(**form).json()["error"] == "invalid_client"
    assert client.ask(grant_type=JWT_BEARER, assertion=proof).json()["error"] == "invalid_grant"
    headers = Holder(unit, unit.session_key, session.token).headers("GET", "/v1/sessions")
    path = f"{ISSUER}/v1/sessions"
    for text in (prover.proof("GET", path, session.token), Prover("EdDSA").proof("GET", path, session.token)):
        assert unit.client.get("/v1/sessions", headers=headers | {"DPoP": text}).json()["code"] == "bad_proof"
