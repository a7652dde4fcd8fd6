# SPDX-License-Identifier: Apache-2.0
"""Clients that show a token of a trusted issuer: a workload is its agent, an ID-JAG names the subject."""

import secrets
from typing import Any

import pytest

from arx_caps.credentials.access_token import AccessToken, read_access_token
from arx_caps.mint.db.tables import SessionRow
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from tests.dpop import Prover
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms
from tests.mint.issuer import IDP, MINT, jwks, token
from tests.mint.oauth import PARAMS, RESOURCE, Client
from tests.mint.workloads import DEPLOY, MAIN, POLICY, ci

pytestmark = [
    pytest.mark.spec("CONTROL 5.6"),
    # The issuer of subjects may issue ID-JAGs for this mint too.
    pytest.mark.realm(
        policy=POLICY.replace(f'audience = ["{MINT}"]', f'audience = ["{MINT}", "{ISSUER}"]'),
        files={"keys.json": jwks("ec")},
    ),
]


@pytest.fixture
def workload(unit: Harness) -> Client:
    """A client that is the agent of workloads, and whose secret no workload has."""
    unit.enrol(DEPLOY)
    return Client(unit, agent=DEPLOY)


@pytest.fixture
def client(unit: Harness) -> Client:
    """A client of an agent that may act on behalf of subjects."""
    unit.enrol()
    return Client(unit)


def bearing(client: Client, text: str, **form: str) -> Any:
    """Return the answer to an assertion that ``client_id`` alone goes with."""
    whole = {"grant_type": JWT_BEARER, "assertion": text, "scope": "lookup", "resource": RESOURCE}
    whole |= {"authorization_details": PARAMS, "client_id": client.id} | form
    return client.post("/oauth/token", {}, **{name: value for name, value in whole.items() if value})


def id_jag(client: Client, header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {"aud": ISSUER, "client_id": client.id, "resource": RESOURCE, "jti": secrets.token_hex(8)}
    return token(now_ms(), header={"typ": "oauth-id-jag+jwt", **(header or {})}, **(claims | changes))


def ask(client: Client, text: str, **form: str) -> Any:
    """Return the answer to an assertion of an authenticated client."""
    return client.ask(**({"grant_type": JWT_BEARER, "assertion": text} | form))


def claims_of(client: Client, answer: Any) -> AccessToken:
    assert answer.status_code == 200, answer.text
    text = answer.json()["access_token"]
    return read_access_token(text, client.harness.mint.signing_keys.find, issuer=ISSUER, now=now_ms())


def session_of(client: Client, claims: AccessToken) -> SessionRow:
    row = client.harness.mint.db.sessions.find(claims.sid)
    assert row is not None
    return row


def test_a_workload_needs_no_secret(workload: Client) -> None:
    """Its token proves the agent that the client is; the next task is in the same session."""
    first, second = (claims_of(workload, bearing(workload, ci())) for _ in range(2))
    assert (first.sub, first.client_id, first.scope) == (f"agent:{DEPLOY}", workload.id, "lookup")
    assert first.sid == second.sid
    opened_with = session_of(workload, first).opened_with
    assert opened_with == {"client": workload.id, "issuer": "https://ci.example", "sub": MAIN}


def test_a_workload_token_that_is_bound_needs_a_proof_by_that_key(workload: Client) -> None:
    """``cnf`` of the issuer's token is the key of the header ``DPoP``, or the token is refused."""
    prover = Prover()
    text = ci(cnf={"jkt": prover.jkt})
    assert bearing(workload, text).json()["error"] == "invalid_grant"
    for key, expected in ((Prover(), 400), (prover, 200)):
        headers = {"DPoP": key.proof("POST", f"{ISSUER}/oauth/token")}
        form = {"grant_type": JWT_BEARER, "assertion": text, "scope": "lookup", "resource": RESOURCE}
        answer = workload.post("/oauth/token", headers, **form, authorization_details=PARAMS, client_id=workload.id)
        assert answer.status_code == expected, answer.text


def test_a_session_is_of_one_credential(workload: Client) -> None:
    """A client with its secret, and another workload of the agent, have sessions of their own."""
    one = claims_of(workload, bearing(workload, ci()))
    by_secret = claims_of(workload, workload.ask())
    other = claims_of(workload, bearing(workload, ci(sub="repo:acme/site:ref:refs/heads/main")))
    assert len({one.sid, by_secret.sid, other.sid}) == 3


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sub": "repo:evil/shop:ref:refs/heads/main"}, "invalid_grant"),
        ({"aud": "https://other.example"}, "invalid_grant"),
        ({"iss": "https://unknown.example"}, "invalid_grant"),
        ({"exp": 1}, "invalid_grant"),
        ({"cnf": {"jkt": "x"}}, "invalid_grant"),
        ({"header": {"typ": "dpop+jwt"}}, "invalid_grant"),
        ({"header": {"typ": "oauth-id-jag+jwt"}}, "invalid_client"),
    ],
)
@pytest.mark.sqlite
def test_another_workload_gets_nothing(workload: Client, change: dict[str, Any], error: str) -> None:
    """A subject that the policy does not name; and an assertion about a subject needs an authenticated client."""
    answer = bearing(workload, ci(**change))
    assert answer.json()["error"] == error
    assert "session.opened" not in [event["kind"] for event in workload.harness.events()]


@pytest.mark.sqlite
def test_a_workload_is_no_other_agent(workload: Client) -> None:
    """Its token and the id, or even the secret, of another agent's client are of no use."""
    workload.harness.enrol()
    other = Client(workload.harness)
    for answer in (bearing(other, ci()), ask(other, ci())):
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert bearing(other, ci(), client_id="c-none").json()["error"] == "invalid_client"
    assert bearing(other, "").json()["error"] == "invalid_request"
    # A name alone opens no other grant and no other route.
    for form in ({"grant_type": "client_credentials"}, {"grant_type": ""}):
        assert bearing(workload, ci(), **form).json()["error"] == "invalid_client"
    answer = workload.post("/oauth/introspect", {}, grant_type=JWT_BEARER, client_id=workload.id, token="x")
    assert answer.json()["error"] == "invalid_client"


def test_an_id_jag_names_the_subject(client: Client) -> None:
    """The task is on behalf of the subject, whose freeze refuses the next."""
    answer = ask(client, id_jag(client, scope="lookup"), scope="", resource="")
    claims = claims_of(client, answer)
    session = session_of(client, claims)
    assert (claims.scope, claims.aud, claims.sub) == ("lookup", RESOURCE, f"agent:{AGENT}")
    assert (session.subject_issuer, session.subject) == (IDP, "ann")
    token_text = answer.json()["access_token"]
    assert client.active(token_text)
    task = client.harness.mint.db.tasks.find(claims.tid)
    assert task is not None
    client.harness.epochs.freeze(task.subject_target)
    assert not client.active(token_text)
    assert ask(client, id_jag(client)).json()["code"] == "frozen"


def test_a_client_goes_on_with_no_session_of_a_subject(client: Client) -> None:
    """Without a subject it has no subject's rights; another subject, or one with other claims, has its own session."""
    ann = claims_of(client, ask(client, id_jag(client)))
    others = [
        claims_of(client, ask(client, id_jag(client, **change))) for change in ({"sub": "bob"}, {"groups": "leads"})
    ]
    own = claims_of(client, client.ask())
    assert len({ann.sid, own.sid, *(other.sid for other in others)}) == 4
    assert session_of(client, own).subject is None


def test_an_id_jag_is_used_once(client: Client) -> None:
    """A copy of it is of no use, and neither is the same id in another one."""
    text = id_jag(client, jti="only-once")
    claims_of(client, ask(client, text))
    for again in (text, id_jag(client, jti="only-once", sub="bob")):
        answer = ask(client, again)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": "c-other"}, "invalid_grant"),
        ({"client_id": None}, "invalid_grant"),
        ({"aud": MINT}, "invalid_grant"),
        ({"aud": [ISSUER, MINT]}, "invalid_grant"),
        ({"jti": None}, "invalid_grant"),
        ({"jti": 7}, "invalid_grant"),
        ({"jti": "x" * 257}, "invalid_grant"),
        ({"exp": 1}, "invalid_grant"),
        ({"cnf": {"jkt": "x"}}, "invalid_grant"),
        ({"iss": "https://unknown.example"}, "invalid_grant"),
        ({"resource": "http://127.0.0.1:9001/other"}, "invalid_target"),
        ({"resource": 7}, "invalid_target"),
        ({"scope": "refund own"}, "invalid_scope"),
        ({"scope": None, "header": {"typ": "JWT"}}, "invalid_grant"),
        ({"iss": "https://ci.example"}, "unauthorized_client"),
    ],
)
@pytest.mark.sqlite
def test_a_wrong_id_jag_is_refused(client: Client, changes: dict[str, Any], error: str) -> None:
    """Each claim is judged, and the policy judges issuer and subject; no session is opened."""
    answer = ask(client, id_jag(client, **changes), scope="lookup")
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert "session.opened" not in [event["kind"] for event in client.harness.events()]


@pytest.mark.sqlite
def test_the_assertion_bounds_what_is_asked_for(client: Client) -> None:
    """One scope and one resource of several that it names."""
    claims = claims_of(
        client, ask(client, id_jag(client, scope="own lookup", resource=["http://x.example", RESOURCE]), scope="lookup")
    )
    assert (claims.scope, claims.aud) == ("lookup", RESOURCE)
