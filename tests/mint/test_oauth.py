# SPDX-License-Identifier: Apache-2.0
"""Stock OAuth clients at the mint: they prove themselves, get an access token for a task, and lose it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey

from arx_caps.credentials.access_token import read_access_token
from arx_caps.mint.db.repositories.oauth import oauth_handles
from arx_caps.mint.db.repositories.oauth.oauth_handles import KEEP_MS
from arx_caps.mint.oauth.client.clients import ASSERTION
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from arx_caps.mint.oauth.token_exchange import TOKEN_EXCHANGE
from arx_verifier.request import AccessRequest
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token import wire
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms
from tests.mint.oauth import RESOURCE, Client, assertion

pytestmark = pytest.mark.spec("CONTROL 5.2", "CONTROL 5.3")


@pytest.fixture
def client(unit: Harness) -> Client:
    """A client with a secret."""
    unit.enrol()
    return Client(unit)


def test_metadata_has_two_names_and_names_what_exists(unit: Harness) -> None:
    """RFC 8414 and the name of OpenID Connect; each endpoint is at the issuer, and none is missing."""
    one, other = (
        unit.client.get(f"/.well-known/{name}") for name in ("oauth-authorization-server", "openid-configuration")
    )
    assert (one.status_code, one.json()) == (200, other.json())
    answer = one.json()
    assert (answer["issuer"], answer["grant_types_supported"]) == (
        ISSUER,
        ["client_credentials", JWT_BEARER, TOKEN_EXCHANGE],
    )
    for name in ("token", "introspection", "revocation"):
        path = answer[f"{name}_endpoint"].removeprefix(ISSUER)
        assert unit.client.post(path).json()["error"] == "invalid_request", path
    assert unit.client.get(answer["jwks_uri"].removeprefix(ISSUER)).status_code == 200


def test_a_secret_gets_an_access_token_for_a_task(client: Client) -> None:
    """The claims of RFC 9068; session and task are those of the agent, and the answer is not kept by any cache."""
    answer = client.ask(scope="lookup")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    body = answer.json()
    assert (body["token_type"], body["scope"], 290 < body["expires_in"] <= 300) == ("Bearer", "lookup", True)
    mint = client.harness.mint
    claims = read_access_token(body["access_token"], mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    assert (claims.aud, claims.sub, claims.client_id) == (RESOURCE, f"agent:{AGENT}", client.id)
    task, session = mint.db.tasks.find(claims.tid), mint.db.sessions.find(claims.sid)
    assert task is not None
    assert session is not None
    assert (task.template, task.session, session.agent) == ("lookup", claims.sid, AGENT)
    assert session.opened_with == {"client": client.id}
    kinds = [event["kind"] for event in client.harness.events()]
    assert [kind for kind in kinds if kind != "signing_key.created"][-3:] == [
        "session.opened",
        "task.started",
        "handle.issued",
    ]
    assert client.secret not in json.dumps(client.harness.events())


def test_the_next_task_is_in_the_same_session(client: Client) -> None:
    """An MCP session at a gateway belongs to an ARx session, so it survives the next access token."""
    mint = client.harness.mint
    first, second = (
        read_access_token(client.token(), mint.signing_keys.find, issuer=ISSUER, now=now_ms()) for _ in range(2)
    )
    assert first.sid == second.sid
    assert first.tid != second.tid
    client.harness.epochs.kill(f"session:{first.sid}")
    third = read_access_token(client.token(), mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    assert third.sid != first.sid


def test_no_secret_is_in_the_database(client: Client) -> None:
    """Neither that of the client nor an access token."""
    token = client.token()
    db = client.harness.mint.db
    row = db.oauth_clients.find(client.id)
    held = repr(row) + repr(db.oauth_handles.find(json.loads(_payload(token))["jti"]))
    assert client.secret not in held
    assert token.rpartition(".")[2] not in held
    assert "arx1_" not in held


def _payload(token: str) -> bytes:
    return wire.bytes_of(token.split(".")[1])


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": "refund"}, "invalid_scope"),
        ({"scope": "refund other"}, "invalid_scope"),
        ({"resource": ""}, "invalid_target"),
        ({"resource": "http://127.0.0.1:9999/orders"}, "invalid_target"),
        ({"resource": RESOURCE + "#part"}, "invalid_target"),
        ({"resource": "http://127.0.0.1:9001@evil.example/"}, "invalid_target"),
        ({"authorization_details": "[]"}, "invalid_request"),
        ({"authorization_details": ""}, "invalid_request"),
        ({"authorization_details": '[{"type":"arx_task","more":1}]'}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": ""}, "unsupported_grant_type"),
    ],
)
@pytest.mark.sqlite
def test_what_a_client_may_not_have_is_refused(client: Client, form: dict[str, str], error: str) -> None:
    """With the error of OAuth, and without a task."""
    answer = client.ask(**form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert "task.started" not in [event["kind"] for event in client.harness.events()]


@pytest.mark.sqlite
def test_a_policy_lists_the_resources(client: Client) -> None:
    """Byte for byte (RFC 8707 2): no token for a URL at which there is no service, and an answer that lists them."""
    policy = client.harness.realm.policy_path.read_text()
    listed = f'origins = ["http://127.0.0.1:9001"]\nresources = ["{RESOURCE}", "{RESOURCE}/2?v=1"]'
    client.harness.use(policy.replace('origins = ["http://127.0.0.1:9001"]', listed))
    for resource in (RESOURCE, f"{RESOURCE}/2?v=1"):
        assert client.ask(resource=resource).status_code == 200, resource
    for resource in ("http://127.0.0.1:9001", f"{RESOURCE}/", f"{RESOURCE}?v=1", RESOURCE.upper(), f"{RESOURCE}/2"):
        answer = client.ask(resource=resource)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target"), resource
        assert f"expected {RESOURCE} or {RESOURCE}/2?v=1 " in answer.json()["error_description"]
    # Where none is listed, each URL at the origin counts.
    client.harness.use(policy)
    assert client.ask(resource=f"{RESOURCE}/").status_code == 200


@pytest.mark.parametrize("way", ["header", "form"])
@pytest.mark.parametrize("fault", ["secret", "client", "removed", "empty"])
@pytest.mark.sqlite
def test_a_wrong_secret_is_refused_with_one_text(client: Client, way: str, fault: str) -> None:
    """An attacker does not learn which clients exist."""
    if fault == "removed":
        assert client.harness.operator().call("DELETE", f"/v1/clients/{client.id}").status_code == 200
    elif fault == "client":
        client.id = "c-" + "a" * 16
    else:
        client.secret = "arxc1_other" if fault == "secret" else ""
    credentials = {"client_id": client.id, "client_secret": client.secret} if way == "form" else {}
    answer = (
        client.ask(**credentials)
        if client.secret or way == "header"
        else client.post("/oauth/token", {}, **credentials)
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.json()["error_description"] == "the client is unknown, or did not prove that it is this client"
    assert answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ("grant_type=client_credentials&grant_type=client_credentials", {}),
        ("grant_type=client_credentials", {"Content-Type": "application/json"}),
        ("\xff", {}),
        ("x" * 20_000, {}),
        ("client_secret=a&client_assertion=b", {}),
    ],
)
@pytest.mark.sqlite
def test_a_form_that_could_be_read_two_ways_is_refused(unit: Harness, form: str, headers: dict[str, str]) -> None:
    """A parameter twice, another type, no form, too long, two credentials."""
    whole = {"Content-Type": "application/x-www-form-urlencoded"} | headers
    answer = unit.client.post("/oauth/token", content=form.encode("latin-1"), headers=whole)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.sqlite
def test_a_query_is_refused(client: Client) -> None:
    """A log of URLs would have the secret."""
    assert client.post("/oauth/token?client_secret=x", {}).json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: ECKey.generate_key("P-256", private=True, auto_kid=False), "ES256"),
        (lambda: OKPKey.generate_key("Ed25519", private=True, auto_kid=False), "EdDSA"),
        (lambda: OKPKey.generate_key("Ed25519", private=True, auto_kid=False), "Ed25519"),
    ],
)
def test_a_key_gets_an_access_token_once_for_each_assertion(
    unit: Harness, make: Callable[[], ECKey | OKPKey], algorithm: str
) -> None:
    """``private_key_jwt``; a copied assertion is of no use."""
    unit.enrol()
    key = make()
    client = Client(unit, jwks=[key.as_dict(private=False)])
    assert client.secret == ""
    form = assertion(client.id, key, algorithm)
    token = client.token(**form)
    assert client.post("/oauth/introspect", token=token, **assertion(client.id, key, algorithm)).json()["active"]
    again = client.ask(**form)
    assert (again.status_code, again.json()["code"]) == (401, "replayed")


@pytest.mark.parametrize(
    ("claims", "header"),
    [
        ({"aud": "https://other.example"}, {}),
        ({"aud": [ISSUER, "https://other.example"]}, {}),
        ({"iss": "c-other"}, {}),
        ({"sub": "c-other"}, {}),
        ({"exp": 1}, {}),
        ({"exp": now_ms() // 1000 + 3600}, {}),
        ({"exp": 1e308}, {}),
        ({"exp": -1e308}, {}),
        ({"jti": None}, {}),
        ({"jti": "short"}, {}),
        ({}, {"typ": "at+jwt"}),
        ({}, {"typ": "dpop+jwt"}),
        ({}, {"kid": "other"}),
        ({}, {"jku": "https://evil.example/jwks"}),
    ],
)
@pytest.mark.sqlite
def test_a_wrong_assertion_is_refused(unit: Harness, claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Each claim and header is judged."""
    unit.enrol()
    key = ECKey.generate_key("P-256", private=True)
    client = Client(unit, jwks=[key.as_dict(private=False)])
    answer = client.ask(**assertion(client.id, key, "ES256", header, **claims))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.sqlite
def test_the_key_decides_the_algorithm(unit: Harness) -> None:
    """A MAC with the public key, or another key's signature, is none of the client."""
    unit.enrol()
    key = ECKey.generate_key("P-256", private=True, auto_kid=False)
    client = Client(unit, jwks=[key.as_dict(private=False)])
    mac = assertion(client.id, OctKey.import_key({"kty": "oct", "k": key.as_dict(private=False)["x"]}), "HS256")  # type: ignore[arg-type]
    other = assertion(client.id, OKPKey.generate_key("Ed25519", private=True), "EdDSA")
    for form in (mac, other):
        assert client.ask(**form).json()["error"] == "invalid_client"


@pytest.mark.parametrize(
    "jwk",
    [
        lambda: ECKey.generate_key("P-256", private=True).as_dict(private=True),
        lambda: ECKey.generate_key("P-384", private=True).as_dict(private=False),
        lambda: {"kty": "oct", "k": "c2VjcmV0"},
        dict,
    ],
)
@pytest.mark.sqlite
def test_a_client_registers_public_keys_of_two_kinds(unit: Harness, jwk: Callable[[], dict[str, Any]]) -> None:
    """A private key, another curve, a secret, nothing: each is refused."""
    unit.enrol()
    answer = unit.operator().call("POST", "/v1/clients", {"agent": AGENT, "scopes": ["lookup"], "jwks": [jwk()]})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize(
    "target", ["agent:acme/support/triage", "agent:acme", "session", "task", "link", "realm", "policy"]
)
def test_a_kill_makes_an_access_token_inactive(client: Client, target: str) -> None:
    """At once at this mint: its view has the kill."""
    token = client.token()
    assert client.active(token)
    mint = client.harness.mint
    claims = read_access_token(token, mint.signing_keys.find, issuer=ISSUER, now=now_ms())
    task = mint.db.tasks.find(claims.tid)
    assert task is not None
    whole = {"session": f"session:{claims.sid}", "task": f"task:{claims.tid}", "link": f"link:{task.link}"}
    whole["policy"] = f"policy:{mint.policy.digest}"
    client.harness.epochs.kill(whole.get(target, target))
    assert not client.active(token)


@pytest.mark.sqlite
def test_a_stale_view_says_nothing_of_a_token(client: Client) -> None:
    """It could have been killed: no answer is the right one."""
    token = client.token()
    client.harness.epochs.fence("a test")
    answer = client.post("/oauth/introspect", token=token)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")


def test_the_client_revokes_its_token_and_no_other_client_does(client: Client) -> None:
    """The task ends; what is no token of this mint is none that is active (RFC 7009 2.2)."""
    token = client.token()
    other = Client(client.harness)
    assert other.active(token) is False
    assert other.post("/oauth/revoke", token=token).json()["error"] == "unauthorized_client"
    assert client.active(token)


@pytest.mark.servers
def test_a_revoked_token_and_those_of_a_removed_client_are_inactive(live: Harness) -> None:
    """The kill of the task, or of the client's sessions, is in the store."""
    live.enrol()
    client, watcher = Client(live), Client(live, scopes=[], introspects=["orders"])
    first, second = client.token(), client.token()
    assert client.post("/oauth/revoke", token=first).json() == {}
    assert (watcher.active(first), watcher.active(second)) == (False, True)
    assert client.post("/oauth/revoke", token=first).json() == {}
    assert client.post("/oauth/revoke", token="no token").json() == {}
    live.operator().call("DELETE", f"/v1/clients/{client.id}")
    assert not watcher.active(second)


def test_a_service_may_be_let_introspect_the_tokens_for_it(client: Client) -> None:
    """Registered for the audience, and for no other."""
    token = client.token()
    assert Client(client.harness, scopes=[], introspects=["orders"]).active(token)
    assert not Client(client.harness, scopes=[], introspects=["payments"]).active(token)


def test_a_removed_client_loses_its_tokens_at_the_mint(client: Client) -> None:
    """Its row stays, so that records can be explained."""
    watcher = Client(client.harness, scopes=[], introspects=["orders"])
    operator = client.harness.operator()
    shown = operator.call("GET", f"/v1/clients/{client.id}").json()
    assert (shown["agent"], shown["scopes"], shown["keys"]) == (AGENT, ["lookup"], [])
    assert operator.call("DELETE", f"/v1/clients/{client.id}").json()["ended_at"] is not None
    assert [each["id"] for each in operator.call("GET", "/v1/clients").json()["clients"]] == [watcher.id]
    assert operator.call("GET", "/v1/clients/c-none").status_code == 404


@pytest.mark.spec("11")
def test_an_access_token_is_no_other_credential(client: Client) -> None:
    """A verifier finds it malformed, the mint accepts it from no session, and it proves no client."""
    token = client.token()
    realm = UnsafeTestRealm("orders")
    assert realm.verifier.decide(token, AccessRequest("orders.get", {}, now_ms())).code == "malformed"
    answer = client.harness.client.get("/v1/sessions", headers={"Authorization": f"DPoP {token}", "DPoP": "x"})
    assert answer.status_code == 401
    form = {"client_assertion": token, "client_assertion_type": ASSERTION}
    assert client.ask(**form).json()["error"] == "invalid_client"
    key = ECKey.generate_key("P-256", private=True)
    for other in (assertion(client.id, key, "ES256", {"typ": "at+jwt"})["client_assertion"], "arx1_AAAA", token[:-2]):
        assert not client.active(other)


def test_rows_of_old_tokens_are_deleted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day after they expired, when the next is stored."""
    jti = json.loads(_payload(client.token()))["jti"]
    monkeypatch.setattr(oauth_handles, "now_ms", lambda: now_ms() + KEEP_MS + 400_000)
    client.harness.mint.db.oauth_handles.sessions(client.id)
    client.token()
    assert client.harness.mint.db.oauth_handles.find(jti) is None


@pytest.mark.sqlite
def test_an_agent_without_a_client_or_a_frozen_one_gets_none(client: Client) -> None:
    """A freeze of the agent refuses its client; an agent that is not enrolled has none."""
    answer = client.harness.operator().call("POST", "/v1/clients", {"agent": "acme/none", "scopes": ["lookup"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    client.harness.epochs.freeze(f"agent:{AGENT}")
    refused = client.ask()
    assert (refused.status_code, refused.json()["error"], refused.json()["code"]) == (
        400,
        "unauthorized_client",
        "frozen",
    )


def test_a_scope_that_is_no_template_is_refused_at_registration(unit: Harness) -> None:
    """A typing error would else be found by the client's users."""
    answer = unit.operator().call("POST", "/v1/clients", {"agent": AGENT, "scopes": ["lookup", "lokup"]})
    assert answer.status_code == 400, answer.text
    assert "got lokup" in answer.json()["detail"]
