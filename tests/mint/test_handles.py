# SPDX-License-Identifier: Apache-2.0
"""A service gets the bundle of an access token for it, sealed to its own key, as long as the token is active."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from joserfc.jwk import OKPKey

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.credentials.access_token import SEAL_TYPE, read_access_token
from arx_caps.credentials.jose import SigningKey, token_hash
from arx_caps.mint.oauth.handles import find_handle
from arx_caps.service.access_tokens import open_access_token, read_signing_keys
from arx_verifier.errors import GrantError, TokenError, UnavailableError
from tests.mint.harness import ISSUER, Harness, Holder, now_ms
from tests.mint.oauth import Client
from tests.mint.test_services import invited, join

pytestmark = pytest.mark.spec("CONTROL 5.4")


@pytest.fixture
def client(unit: Harness) -> Client:
    """A client with a secret."""
    unit.enrol()
    return Client(unit)


def mint_of(unit: Harness) -> MintClient:
    def answer(request: httpx.Request) -> httpx.Response:
        whole = unit.client.request(
            request.method, request.url.path, content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(whole.status_code, content=whole.content, headers=dict(whole.headers))

    return MintClient(ISSUER, now=now_ms, client=httpx.Client(transport=httpx.MockTransport(answer)))


def test_a_service_opens_an_access_token_for_it(client: Client) -> None:
    """Again and again the same token of the task, for this audience alone; its key is in the bundle nowhere else."""
    service, _ = join(client.harness, invited(client.harness))
    token, mint = client.token(), mint_of(client.harness)
    claims = read_access_token(
        token, read_signing_keys(client.harness.client.get("/oauth/jwks").json()).get, issuer=ISSUER, now=now_ms()
    )
    one, other = (open_access_token(mint, service.key, token) for _ in range(2))
    assert (one.bundle.task, tuple(one.bundle.tokens), one.expires_at) == (claims.tid, ("orders",), claims.exp * 1000)
    assert one.bundle.encode() == other.bundle.encode()
    assert one.scopes == {"lookup": ("orders.get",)}
    token_of_task = one.bundle.tokens["orders"]
    assert token_of_task.unverified_identifier.session == claims.sid  # type: ignore[union-attr]
    assert token_of_task.packets[-1] == b'{"depth":0}'  # the gateway delegates nothing


def test_another_service_opens_none(client: Client) -> None:
    """The token is for one audience."""
    other, _ = join(client.harness, invited(client.harness, "payments"))
    with pytest.raises(TokenError) as refused:
        open_access_token(mint_of(client.harness), other.key, client.token())
    assert refused.value.code == "wrong_audience"


@pytest.mark.parametrize("target", ["task", "session", "agent:acme/support/triage", "realm"])
def test_a_killed_one_is_not_opened(client: Client, target: str) -> None:
    """The recipe has the birth of the first tokens."""
    service, _ = join(client.harness, invited(client.harness))
    token = client.token()
    mint = client.harness.mint
    claims = read_access_token(token, mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    whole = {"task": f"task:{claims.tid}", "session": f"session:{claims.sid}"}
    client.harness.epochs.kill(whole.get(target, target))
    with pytest.raises(TokenError) as refused:
        open_access_token(mint_of(client.harness), service.key, token)
    assert refused.value.code == "revoked"


@pytest.mark.parametrize(
    "seal",
    [
        lambda key, _: SigningKey.generate().sign({"typ": SEAL_TYPE}, _),
        lambda key, claims: key.sign({"typ": "dpop+jwt"}, claims),
        lambda key, claims: key.sign({"typ": SEAL_TYPE}, claims | {"ath": token_hash("another")}),
        lambda key, claims: key.sign({"typ": SEAL_TYPE}, {"ath": claims["ath"]}),
        lambda key, claims: key.sign({"typ": SEAL_TYPE}, claims | {"jwk": {"x": "AA"}}),
        lambda key, claims: "no.seal.at.all",
    ],
)
@pytest.mark.sqlite
def test_a_bundle_is_sealed_to_the_services_own_key_alone(
    client: Client, seal: Callable[[SigningKey, Any], str]
) -> None:
    """An attacker who copies a proof cannot choose the key of the answer."""
    service, _ = join(client.harness, invited(client.harness))
    token = client.token()
    jwk = OKPKey.generate_key("X25519", private=True).as_dict(private=False)
    claims = {"ath": token_hash(token), "jwk": {name: jwk[name] for name in ("kty", "crv", "x")}}
    good = service.call("POST", "/v1/handles", {"handle": token, "seal": service.key.sign({"typ": SEAL_TYPE}, claims)})
    assert good.status_code == 200
    assert "arx1_" not in good.text
    assert "arxb1_" not in good.text
    refused = service.call("POST", "/v1/handles", {"handle": token, "seal": seal(service.key, claims)})
    assert (refused.status_code, refused.json()["code"]) == (401, "bad_proof")


@pytest.mark.sqlite
def test_a_stale_view_finds_no_handle(client: Client) -> None:
    """A token that was killed meanwhile must not count as active."""
    token = client.token()
    assert find_handle(client.harness.mint, token) is not None
    client.harness.epochs.fence("a test")
    with pytest.raises(UnavailableError):
        find_handle(client.harness.mint, token)


@pytest.mark.sqlite
def test_a_stranger_and_an_operator_open_none(client: Client) -> None:
    """Only an enrolled key of a service."""
    token = client.token()
    with pytest.raises((GrantError, TokenError)):
        open_access_token(mint_of(client.harness), SigningKey.generate(), token)
    operator: Holder = client.harness.operator()
    assert operator.call("POST", "/v1/handles", {"handle": token, "seal": "x"}).status_code == 403
