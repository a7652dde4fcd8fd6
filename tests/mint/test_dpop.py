# SPDX-License-Identifier: Apache-2.0
"""Access tokens and refresh tokens that the mint binds to a key of the client (RFC 9449); PyJWT makes the proofs."""

import json
import re
from typing import Any

import jwt
import pytest
from joserfc.jwk import OctKey

from arx_caps.credentials.jose import check_client_dpop
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from arx_verifier.errors import GrantError
from tests.dpop import Prover
from tests.mint.harness import ISSUER, Harness
from tests.mint.login import Flow, claims_of, flow, idp
from tests.mint.oauth import RESOURCE, Client
from tests.mint.test_handle_exchange import PARAMS, World, world

__all__ = ["flow", "idp", "world"]
pytestmark = [pytest.mark.spec("CONTROL 5.11"), pytest.mark.sqlite]

URL = f"{ISSUER}/oauth/token"


def asked(client: Client, *proofs: str, **form: str) -> Any:
    """Ask for an access token with these headers ``DPoP``."""
    pairs = [("DPoP", proof) for proof in proofs]
    whole = {"grant_type": "client_credentials", "resource": RESOURCE, "client_id": client.id}
    whole |= {"authorization_details": '[{"type":"arx_task","params":{"order_id":"o-1"}}]'}
    whole |= {"client_secret": client.secret} | form
    return client.harness.client.post("/oauth/token", data=whole, headers=pairs)


@pytest.fixture
def client(unit: Harness) -> Client:
    """A client with a secret."""
    unit.enrol()
    return Client(unit)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_token_is_bound_to_the_key_of_the_proof(client: Client, algorithm: str) -> None:
    """Its claim ``cnf``, its type, and introspection say so; the metadata names the algorithms."""
    prover = Prover(algorithm)
    answer = asked(client, prover.proof("POST", URL))
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP")
    token = answer.json()["access_token"]
    assert json.loads(jwt.utils.base64url_decode(token.split(".")[1]))["cnf"] == {"jkt": prover.jkt}
    shown = client.post("/oauth/introspect", token=token).json()
    assert (shown["active"], shown["token_type"], shown["cnf"]) == (True, "DPoP", {"jkt": prover.jkt})
    plain = client.post("/oauth/introspect", token=client.token()).json()
    assert (plain["token_type"], "cnf" in plain) == ("Bearer", False)
    metadata = client.harness.client.get("/.well-known/oauth-authorization-server").json()
    assert metadata["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA", "Ed25519"]


def test_a_proof_is_used_once(client: Client) -> None:
    """An attacker who reads a request cannot have another token bound to the key of the client."""
    proof = Prover().proof("POST", URL)
    assert asked(client, proof).status_code == 200
    again = asked(client, proof)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_dpop_proof")


def wrong_proofs() -> dict[str, tuple[str, ...]]:
    """Requests' headers that prove nothing."""
    es, ed = Prover(), Prover("EdDSA")
    proof = es.proof("POST", URL)
    head, payload, signature = proof.split(".")
    symmetric = OctKey.generate_key(256).as_dict(private=True)
    hs = jwt.encode({"htm": "POST"}, "s" * 32, algorithm="HS256", headers={"typ": "dpop+jwt", "jwk": symmetric})
    none = jwt.encode({"htm": "POST"}, "", algorithm="none", headers={"typ": "dpop+jwt", "jwk": es.jwk})
    return {
        "two headers": (proof, Prover().proof("POST", URL)),
        "two in one header": (f"{proof}, {Prover().proof('POST', URL)}",),
        "empty": ("",),
        "a private key": (es.proof("POST", URL, header={"jwk": es.private_jwk}),),
        "a private key of Ed25519": (ed.proof("POST", URL, header={"jwk": ed.private_jwk}),),
        "a symmetric algorithm": (hs,),
        "no signature": (none,),
        "no algorithm": (f"{none.split('.')[0]}.{payload}.",),
        "another type": (es.proof("POST", URL, header={"typ": "JWT"}),),
        "no type": (es.proof("POST", URL, header={"typ": None}),),
        "another key": (es.proof("POST", URL, header={"jwk": Prover().jwk}),),
        "a key of another kind": (es.proof("POST", URL, header={"jwk": ed.jwk}),),
        "a key with a URL of it": (es.proof("POST", URL, header={"jku": "https://evil.example"}),),
        "changed": (f"{head}.{payload[:-2]}AA.{signature}",),
        "another method": (es.proof("GET", URL),),
        "another URL": (es.proof("POST", f"{ISSUER}/oauth/revoke"),),
        "a URL with a query": (es.proof("POST", f"{URL}?a=1"),),
        "another host": (es.proof("POST", "https://evil.example/oauth/token"),),
        "of a call with a token": (es.proof("POST", URL, token="x"),),
        "old": (es.proof("POST", URL, iat=1),),
        "of the future": (es.proof("POST", URL, iat=9_999_999_999),),
        "no time": (es.proof("POST", URL, iat=None),),
        "no id": (es.proof("POST", URL, jti=None),),
        "a short id": (es.proof("POST", URL, jti="1"),),
    }


def test_a_wrong_proof_is_refused(client: Client) -> None:
    """With the error of RFC 9449, and without a task: no token is issued as a bearer in its place."""
    for name, proofs in wrong_proofs().items():
        answer = asked(client, *proofs)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof"), name
    assert "task.started" not in [event["kind"] for event in client.harness.events()]


def test_two_spellings_of_one_url_are_one(client: Client) -> None:
    """A client's library writes host and port in its own way; the path is compared byte for byte."""
    scheme, _, rest = URL.partition("://")
    port = ":443" if scheme == "https" and ":" not in rest.partition("/")[0] else ""
    host, slash, path = rest.partition("/")
    assert asked(client, Prover().proof("POST", f"{scheme.upper()}://{host.upper()}{port}{slash}{path}")).is_success
    assert not asked(client, Prover().proof("POST", f"{scheme}://{host}/OAuth/token")).is_success


RFC_9449_5 = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
RFC_PROOFS = [
    (
        "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwi"
        "aWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg",
        {"method": "POST", "url": "https://server.example.com/token", "now": 1562262616_000},
    ),
    (
        "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0"
        "ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9."
        "2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA",
        {
            "method": "GET",
            "url": "https://resource.example.org/protectedresource",
            "now": 1562262618_000,
            "token": "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
        },
    ),
]


@pytest.mark.parametrize(("rest", "call"), RFC_PROOFS, ids=["section 5", "section 7.1"])
def test_the_examples_of_the_rfc(rest: str, call: dict[str, Any]) -> None:
    """Both proofs are by the key of section 6.1; each is of its own call alone."""
    proof = f"{RFC_9449_5}.{rest}"
    assert check_client_dpop(proof, **call).jkt == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    for change in ({"method": "PUT"}, {"url": call["url"] + "/x"}, {"token": "other"}, {"now": call["now"] + 30_000}):
        with pytest.raises(GrantError):
            check_client_dpop(proof, **(call | change))


@pytest.mark.parametrize("bearer", ["refuse", "dpop", "allow", None])
@pytest.mark.parametrize("more", ["", 'approvals = [ { tools = ["orders.get"] } ]', 'fresh = "0ms"'])
def test_the_policy_demands_a_proof(client: Client, bearer: str | None, more: str) -> None:
    """By default for tasks with approvals or a probe for each call."""
    policy = client.harness.realm.policy_path.read_text()
    lines = more + (f'\nbearer = "{bearer}"' if bearer else "")
    client.harness.use(re.sub(r"(\[task\.lookup\]\n)", rf"\1{lines}\n", policy))
    terms = bearer or ("dpop" if more else "allow")
    expected = {"refuse": "invalid_scope", "dpop": "invalid_dpop_proof", "allow": None}[terms]
    assert client.ask().json().get("error") == expected
    assert asked(client, Prover().proof("POST", URL)).is_success is (terms != "refuse")


def redeemed(flow: Flow, code: str, prover: Prover | None, **form: str) -> Any:
    """Redeem a code or a refresh token with a proof."""
    if prover is None:
        return flow.refresh(code, **form) if code.startswith("arxr1_") else flow.redeem(code, **form)
    whole = {"grant_type": "refresh_token", "refresh_token": code}
    if not code.startswith("arxr1_"):
        whole = {"grant_type": "authorization_code", "code": code, "redirect_uri": flow.redirect}
        whole |= {"code_verifier": "v" * 43}
    whole |= {"client_id": flow.client.id} | ({"client_secret": flow.client.secret} if flow.client.secret else {})
    headers = {"DPoP": prover.proof("POST", URL)}
    return flow.harness.client.post("/oauth/token", data=whole | form, headers=headers)


def bound_to(flow: Flow, answer: dict[str, Any]) -> str:
    """The key of an access token."""
    claims = claims_of(flow.harness, answer["access_token"])
    assert claims.cnf is not None
    return claims.cnf.jkt


def test_a_public_clients_refresh_token_is_bound(flow: Flow) -> None:
    """A thief without the key gets nothing, and does not end the session either; the client goes on with its key."""
    public, prover = Flow(flow.harness, public=True), Prover()
    first = redeemed(public, public.code(), prover).json()
    assert (first["token_type"], bound_to(flow, first)) == ("DPoP", prover.jkt)
    for thief in (None, Prover()):
        assert redeemed(public, first["refresh_token"], thief).json()["error"] == "invalid_grant"
    second = redeemed(public, first["refresh_token"], prover).json()
    assert second["token_type"] == "DPoP"
    assert redeemed(public, first["refresh_token"], None).json()["error"] == "invalid_grant"
    third = redeemed(public, second["refresh_token"], prover)
    assert third.status_code == 200


def test_a_client_with_a_secret_may_change_its_key(flow: Flow) -> None:
    """It proves itself at each refresh, and the next access token is bound to the key that it proves then."""
    first = redeemed(flow, flow.code(), Prover()).json()
    other = Prover()
    second = redeemed(flow, first["refresh_token"], other).json()
    assert bound_to(flow, second) == other.jkt


def test_a_code_is_bound_to_the_key_that_the_client_named(flow: Flow) -> None:
    """``dpop_jkt``: an attacker who has code and verifier cannot redeem it, and uses nothing up."""
    prover = Prover()
    assert flow.answer_of(flow.begin(dpop_jkt="short"))["error"] == "invalid_request"
    code = flow.code(dpop_jkt=prover.jkt)
    for thief in (None, Prover()):
        assert redeemed(flow, code, thief).json()["error"] == "invalid_grant"
    assert redeemed(flow, code, prover).json()["token_type"] == "DPoP"


def test_a_consent_and_a_refresh_need_the_proof_that_the_policy_demands(flow: Flow) -> None:
    """Without one nothing is used up."""
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace("[task.lookup]\n", '[task.lookup]\nbearer = "dpop"\n'))
    code = flow.code()
    assert redeemed(flow, code, None).json()["error"] == "invalid_dpop_proof"
    first = redeemed(flow, code, Prover()).json()
    assert redeemed(flow, first["refresh_token"], None).json()["error"] == "invalid_dpop_proof"
    assert redeemed(flow, first["refresh_token"], Prover()).json()["token_type"] == "DPoP"


def test_a_client_that_shows_no_key_gets_no_tasks_that_need_one(flow: Flow) -> None:
    """A stock client asks for all scopes: the page shows those that its tokens can stand for."""
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace("[task.lookup]\n", '[task.lookup]\nbearer = "dpop"\n'))
    assert 'name="task.lookup"' in flow.page(scope="lookup status", dpop_jkt=Prover().jkt).text
    assert "lookup" not in flow.page(scope="lookup status").text


def exchanged(world: World, client: Client, token: str, prover: Prover | None, **form: str) -> Any:
    """Exchange an access token."""
    form |= {"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN_TYPE}
    form |= {"client_id": client.id, "client_secret": client.secret}
    headers = {} if prover is None else {"DPoP": prover.proof("POST", URL)}
    return world.harness.client.post("/oauth/token", data=form, headers=headers)


def test_an_exchange_never_makes_a_bound_token_a_bearer(world: World) -> None:
    """The key of the first one is proven; another client gets one that is bound to its own key."""
    prover, worker = Prover(), Prover("EdDSA")
    form = {"grant_type": "client_credentials", "scope": "refund", "resource": RESOURCE}
    bound = asked(world.lead, prover.proof("POST", URL), **form, authorization_details=PARAMS).json()["access_token"]
    for client, key in ((world.lead, None), (world.lead, Prover()), (world.worker, None), (world.worker, worker)):
        assert exchanged(world, client, bound, key).json()["error"] == "invalid_dpop_proof"
    by_owner = {"subject_token_proof": prover.proof("POST", URL, bound)}
    for client, key, more in (
        (world.lead, prover, {}),
        (world.worker, prover, {}),
        (world.worker, worker, by_owner),
    ):
        answer = exchanged(world, client, bound, key, **more).json()
        claims = world.claims(answer["access_token"])
        assert claims.cnf is not None
        assert (answer["token_type"], claims.cnf.jkt) == ("DPoP", key.jkt)
    bearer = exchanged(world, world.worker, world.token(), None).json()
    assert bearer["token_type"] == "Bearer"
    assert exchanged(world, world.worker, world.token(), worker).json()["token_type"] == "DPoP"
    proof = {"subject_token_proof": prover.proof("POST", URL, bound)}
    assert exchanged(world, world.worker, world.token(), worker, **proof).json()["error"] == "invalid_dpop_proof"


def test_no_access_token_stands_for_a_task_that_is_bound_to_keys(flow: Flow) -> None:
    """Not even one that is bound to a key of its client: it has no holder's key, and no page offers the task."""
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace("[task.lookup]\n", '[task.lookup]\nbinding = "bound"\n'))
    assert "lookup" not in flow.page(scope="lookup status", dpop_jkt=Prover().jkt).text
