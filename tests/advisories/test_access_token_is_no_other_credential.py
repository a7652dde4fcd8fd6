# SPDX-License-Identifier: Apache-2.0
"""An access token must not pass for an ARx token, an assertion or a proof, and none of these for an access token.

All but the macaroon are signed JSON, and a server that verifies a signature without its type takes one for another:
an attacker with a proof that any agent sends could then call tools, or open a session with an access token.
"""

import pytest

from arx_caps.jose import make_assertion, make_dpop
from arx_caps.mint.oauth.clients import ASSERTION
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from tests.mint.harness import ISSUER, Harness, Holder, now_ms
from tests.mint.oauth import RESOURCE, Client

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
