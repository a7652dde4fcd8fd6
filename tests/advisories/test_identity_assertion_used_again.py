# SPDX-License-Identifier: Apache-2.0
"""An attacker who reads an identity assertion (ID-JAG) must not act on behalf of the person with it.

Sources: draft-ietf-oauth-identity-assertion-authz-grant, RFC 7523 3.
"""

import pytest

from tests.mint.harness import ISSUER, Harness
from tests.mint.issuer import MINT, jwks
from tests.mint.oauth import Client
from tests.mint.test_jwt_bearer import ask, id_jag
from tests.mint.workloads import POLICY

pytestmark = [
    pytest.mark.sqlite,
    pytest.mark.realm(
        policy=POLICY.replace(f'audience = ["{MINT}"]', f'audience = ["{MINT}", "{ISSUER}"]'),
        files={"keys.json": jwks("ec")},
    ),
]


def test_it_is_used_once_by_one_client_at_one_mint(unit: Harness) -> None:
    """Not again, not by another client, not without the client's own credential, and not one for another server."""
    unit.enrol()
    client, thief = Client(unit), Client(unit)
    text = id_jag(client)
    assert ask(thief, text).json()["error"] == "invalid_grant"
    stolen = thief.post(
        "/oauth/token",
        {},
        grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer",
        assertion=text,
        client_id=client.id,
    )
    assert stolen.json()["error"] == "invalid_client"
    for audience in (MINT, [ISSUER, MINT], [MINT, ISSUER]):
        assert ask(client, id_jag(client, aud=audience)).json()["error"] == "invalid_grant", audience
    assert ask(client, text).status_code == 200
    assert ask(client, text).json()["error"] == "invalid_grant"
