# SPDX-License-Identifier: Apache-2.0
"""A SPIFFE trust domain whose keys are at an address, from the first call on, when that is silent, to a new key."""

import json

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_caps.mint.keys.jwks import RETRY_S, KeySets
from tests.mint.harness import AGENT, Harness, Holder, now_ms
from tests.mint.issuer import key_server, public_jwk, token
from tests.mint.test_identity_keys import Clock
from tests.mint.test_identity_sessions import DOMAIN, POLICY, ci, code
from tests.mint.workloads import WORKLOADS

pytestmark = [pytest.mark.servers, WORKLOADS]
MESH = f'[issuer.mesh]\nurl = "{DOMAIN}"\njwks = '


def bundle(*kids: str) -> bytes:
    """A trust domain's keys as SPIFFE has them: those of certificates stand beside those of tokens."""
    keys = [public_jwk(kid, use="jwt-svid") for kid in kids] + [public_jwk("ed", use="x509-svid", x5c=["AA=="])]
    return json.dumps({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300}).encode()


def svid(alg: str = "ES256") -> dict[str, str]:
    return {"workload_token": token(now_ms(), alg, iss=None, sub=DOMAIN + "/ns/prod/sa/triage")}


def test_a_trust_domain_is_believed_by_what_its_address_says(unit: Harness) -> None:
    """The mint goes on while it is silent, asks again soon, and for a key that it did not have before."""
    clock = Clock()
    unit.mint.issuer_keys = KeySets(unit.realm.folder, clock=clock)
    unit.enrol(AGENT)
    with key_server() as server:
        server.status = 503
        changed = POLICY.replace(MESH + '"keys.json"', f'{MESH}"{server.url}"')
        unit.realm.policy_path.write_text(changed.replace('["ES256"]', '["ES256", "RS256"]'))
        unit.mint.reload_policy()
        refused = Holder(unit, SigningKey.generate(), None).call("POST", "/v1/sessions", svid())
        assert (refused.status_code, refused.json()["code"]) == (503, "issuer_unavailable")
        assert refused.headers["Retry-After"]
        assert code(unit, {"workload_token": ci()}) == "bad_workload_token"  # of an issuer with a file: of no agent
        server.status, server.body = 200, bundle("ec")
        clock.now += RETRY_S
        assert code(unit, svid()) == "ok"
        server.body = bundle("ec", "rsa")
        assert code(unit, svid("RS256")) == "bad_workload_token"  # a stranger can name any key
        clock.now += RETRY_S
        assert code(unit, svid("RS256")) == "ok"
        assert server.asked == 3
