# SPDX-License-Identifier: Apache-2.0
"""A person logs in at a real issuer, consents on a page without scripts, and a client gets an access token."""

import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from joserfc.jwk import ECKey

from arx_caps.mint.api.routes.oauth import authorize
from arx_caps.mint.login import issuer_client
from arx_caps.mint.login.oidc import OidcLogin
from arx_caps.mint.oauth import authorization_code
from arx_verifier.token.targets import subject_target
from tests.mint.harness import AGENT, ISSUER, now_ms, open_unit
from tests.mint.login import MINT_CLIENT, REDIRECT, VERIFIER, Flow, Issuer, claims_of, issuer
from tests.mint.oauth import PARAMS, RESOURCE
from tests.servers import run_together

pytestmark = pytest.mark.spec("CONTROL 5.8")


def test_consent_gives_a_task_on_behalf_of_the_person(flow: Flow) -> None:
    """The whole way: login, page, code, access token; session and task have the person and what was consented."""
    mint = flow.harness.mint
    page = flow.page()
    assert page.status_code == 200
    answer = flow.answer_of(flow.answer(page, order_id="o-7"))
    assert answer["state"] == "of-client"
    body = flow.redeem(answer["code"]).json()
    claims = claims_of(flow.harness, body["access_token"])
    assert (claims.aud, claims.scope, claims.client_id) == (RESOURCE, "lookup", flow.client.id)
    session, task = mint.db.sessions.find(claims.sid), mint.db.tasks.find(claims.tid)
    assert session is not None
    assert task is not None
    assert (session.subject, session.agent, task.params) == ("ann", AGENT, {"order_id": "o-7"})
    assert session.opened_with["client"] == flow.client.id
    assert flow.client.active(body["access_token"])
    kinds = [event["kind"] for event in flow.harness.events() if event["kind"] != "signing_key.created"]
    assert kinds[-4:] == ["consent.given", "session.opened", "task.started", "handle.issued"]


def test_a_public_client_shows_a_verifier_alone(flow: Flow) -> None:
    """It gets a token by a person's consent, and by nothing else."""
    public = Flow(flow.harness, public=True)
    assert public.client.secret == ""
    token = public.token()["access_token"]
    post = public.client.post
    asked = {"client_id": public.client.id, "resource": RESOURCE, "scope": "status"}
    assert post("/oauth/token", headers={}, grant_type="client_credentials", **asked).json()["error"] == (
        "unauthorized_client"
    )
    assert post("/oauth/introspect", headers={}, client_id=public.client.id, token=token).json()["error"] == (
        "unauthorized_client"
    )


def test_a_group_of_the_issuer_decides_who_may_have_a_task(flow: Flow, idp: Issuer) -> None:
    """``refund`` is for leads; what the person writes is judged by the policy, and shown again."""
    answer = flow.answer_of(flow.log_in(scope="refund"))
    assert (answer["error"], answer["state"]) == ("access_denied", "of-client")
    idp.person = {"sub": "bob", "groups": ["leads"]}
    page = flow.page(scope="refund")
    assert "<dd><code>0</code> to what you write as <code>amount</code></dd>" in page.text
    refused = flow.answer(page, order_id="o-1", amount="101", fast="true")
    assert refused.status_code == 400
    assert 'role="alert"' in refused.text
    assert 'value="101"' in refused.text
    assert flow.answer(page, order_id="o-1", amount="many", fast="true").status_code == 400
    code = flow.answer_of(flow.answer(page, order_id="o-1", amount="99", fast="true"))["code"]
    assert flow.redeem(code).json()["scope"] == "refund"


def test_refused_and_answered_twice(flow: Flow) -> None:
    """A refusal goes to the client; a page is answered once."""
    page = flow.page()
    answer = flow.answer_of(flow.answer(page, "deny"))
    assert (answer["error"], answer["state"]) == ("access_denied", "of-client")
    assert "oauth_consents" not in repr(flow.harness.events())
    page = flow.page()
    name, cookie = flow.cookie("consent")
    assert "code" in flow.answer_of(flow.answer(page, order_id="o-1"))
    flow.browser.cookies.set(name, cookie, domain="127.0.0.1", path="/")
    assert flow.answer(page, order_id="o-1").status_code == 400


WRONG_REQUESTS: list[tuple[dict[str, str | None], str]] = [
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_type": None}, "unsupported_response_type"),
    ({"response_mode": "fragment"}, "invalid_request"),
    ({"request": "x.y.z"}, "invalid_request"),
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"scope": "other"}, "invalid_scope"),
    ({"resource": None}, "invalid_target"),
    ({"resource": "http://127.0.0.1:9999/"}, "invalid_target"),
    ({"authorization_details": "[]"}, "invalid_request"),
]


@pytest.mark.sqlite
def test_a_wrong_request_is_answered_to_the_client(flow: Flow) -> None:
    """At its registered redirect URI, with state and issuer; no login begins."""
    for query, error in WRONG_REQUESTS:
        answer = flow.answer_of(flow.begin(**query))
        assert (answer["error"], answer["state"]) == (error, "of-client"), query


WRONG_FORMS = [
    {"code_verifier": "w" * 43},
    {"code_verifier": ""},
    {"redirect_uri": REDIRECT},
    {"redirect_uri": ""},
    {"code": "other"},
    {"code": ""},
]


@pytest.mark.sqlite
def test_a_code_is_bound_to_its_request(flow: Flow) -> None:
    """Verifier, redirect URI and client; a wrong attempt opens no session, and uses nothing up."""
    code, other = flow.code(), Flow(flow.harness)
    for form in WRONG_FORMS:
        answer = flow.redeem(**({"code": code} | form))
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), form
    assert other.redeem(code).json()["error"] == "invalid_grant"
    assert flow.redeem(code, resource="http://127.0.0.1:9001/other").json()["error"] == "invalid_target"
    assert flow.redeem(code, authorization_details=PARAMS).json()["error"] == "invalid_request"
    assert "session.opened" not in [event["kind"] for event in flow.harness.events()]
    assert flow.redeem(code, resource=RESOURCE).status_code == 200


@pytest.mark.sqlite
@pytest.mark.parametrize("public", [False, True])
def test_a_client_of_oauth_2_1_leaves_the_redirect_uri_out(flow: Flow, public: bool) -> None:
    """The verifier binds the code; with a wrong one, and for another client, it is refused as before."""
    one, other = Flow(flow.harness, public=public), Flow(flow.harness, public=public)
    asked = {"grant_type": "authorization_code", "code": one.code()}

    def redeemed(by: Flow, verifier: str) -> Any:
        form = asked | {"code_verifier": verifier} | ({"client_id": by.client.id} if public else {})
        return by.client.post("/oauth/token", {} if public else None, **form)

    for by, verifier in ((one, "w" * 43), (other, VERIFIER)):
        assert redeemed(by, verifier).json()["error"] == "invalid_grant"
    assert redeemed(one, VERIFIER).status_code == 200


@pytest.mark.sqlite
def test_a_code_expires(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute."""
    code = flow.code()
    monkeypatch.setattr(authorization_code, "now_ms", lambda: now_ms() + authorization_code.CODE_MS)
    assert flow.redeem(code).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("target", [f"agent:{AGENT}", "subject", "realm"])
@pytest.mark.sqlite
def test_a_kill_ends_a_consent_that_has_led_to_nothing_yet(flow: Flow, target: str) -> None:
    """The session would be younger than the kill, but what it comes from is not."""
    code = flow.code()
    row = flow.harness.mint.db.oauth_consents.by_code(authorization_code.digest_of(code.encode()))
    assert row is not None
    subject = subject_target(row.subject_issuer, row.subject)
    flow.harness.epochs.kill(subject if target == "subject" else target)
    assert flow.redeem(code).json()["code"] == "revoked"


@pytest.mark.sqlite
def test_a_changed_policy_ends_a_consent(flow: Flow) -> None:
    """The page has shown another task than the code would give."""
    code, page = flow.code(), flow.page()
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace('customer = "$subject"', 'customer = "any"'))
    assert flow.redeem(code).json()["error"] == "invalid_grant"
    assert flow.answer(page, order_id="o-1").status_code == 400


@pytest.mark.sqlite
def test_a_persons_session_is_not_the_clients_own(flow: Flow) -> None:
    """By ``client_credentials`` it acts for no person, in another session."""
    person = claims_of(flow.harness, flow.token()["access_token"])
    own = claims_of(flow.harness, flow.client.token(scope="status", authorization_details=""))
    assert own.sid != person.sid
    session = flow.harness.mint.db.sessions.find(own.sid)
    assert session is not None
    assert session.subject is None


WRONG_TOKENS: list[tuple[dict[str, object], str]] = [
    ({"nonce": "other"}, "nonce"),
    ({"nonce": None}, "nonce"),
    ({"aud": "unused"}, "audience"),
    ({"aud": [MINT_CLIENT, "other"]}, "azp"),
    ({"aud": [MINT_CLIENT, "other"], "azp": "other"}, "azp"),
    ({"azp": "other"}, "azp"),
    ({"iss": "https://other.example"}, "trusts no issuer"),
    ({"exp": 1}, "expired"),
    ({"sub": None}, "sub"),
]


@pytest.mark.sqlite
def test_a_wrong_id_token_logs_no_person_in(flow: Flow, idp: Issuer) -> None:
    """Each claim is judged, and the person learns that it failed."""
    for claims, says in WRONG_TOKENS:
        idp.claims = claims
        back = flow.log_in()
        assert (back.status_code, "location" in back.headers) == (400, False), claims
        assert says in back.text, claims


@pytest.mark.sqlite
def test_another_key_or_a_mac_logs_no_person_in(flow: Flow, idp: Issuer) -> None:
    """The policy's keys sign, and no others."""
    with issuer() as other:
        idp.signer = other.key
        assert flow.log_in().status_code == 400


@pytest.mark.sqlite
def test_an_issuer_that_is_another_is_no_login(flow: Flow, idp: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client learns that it may try again."""
    monkeypatch.setattr(issuer_client, "RETRY_S", 0)
    idp.metadata = {"issuer": "https://other.example"}
    assert flow.answer_of(flow.begin())["error"] == "temporarily_unavailable"
    idp.metadata = {"token_endpoint": "http://idp.example/token"}
    assert flow.answer_of(flow.begin())["error"] == "temporarily_unavailable"


@pytest.mark.sqlite
def test_an_issuer_that_is_away_is_asked_once(flow: Flow, idp: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come meanwhile wait for the one who asks; those who come later are answered at once, for a while."""
    idp.metadata = {"issuer": "https://other.example"}
    barrier, errors = threading.Barrier(4), list[str]()

    def begin() -> None:
        barrier.wait()
        errors.append(flow.answer_of(flow.begin())["error"])

    run_together(*[begin] * 4)
    begun = flow.answer_of(flow.begin())
    assert ([*errors, begun["error"]], len(idp.asked)) == (["temporarily_unavailable"] * 5, 1)
    idp.metadata = {}
    assert "error" in flow.answer_of(flow.begin())
    monkeypatch.setattr(issuer_client, "RETRY_S", 0)
    assert "code" in flow.answer_of(flow.answer(flow.page(), order_id="o-1"))


@pytest.mark.sqlite
def test_a_login_waits_for_no_place(flow: Flow) -> None:
    """While eight calls wait for a slow issuer, strangers who begin a login hold no thread of the mint."""
    waits = []

    class Places(threading.Semaphore):
        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().acquire(blocking, timeout)

    mint = flow.harness.mint
    assert mint.realm.login is not None
    login = OidcLogin(mint, mint.realm.login)
    login._places = Places(0)
    with pytest.raises(issuer_client.IssuerBusyError):
        login.url(b"s" * 32, ())
    assert waits == [0]


@pytest.mark.sqlite
def test_tokens_of_unknown_keys_fetch_no_keys_each(flow: Flow, idp: Issuer) -> None:
    """Whom the issuer logs in with a key that it does not publish costs one fetch, however often."""
    idp.signer = ECKey.generate_key("P-256", {"kid": "k2"}, private=True)
    idp.kid = "k2"
    assert [flow.log_in().status_code for _ in range(3)] == [400] * 3
    assert idp.asked.count("/keys") == 1


@pytest.mark.sqlite
def test_the_claims_that_the_policy_judges_are_asked_for(
    flow: Flow, idp: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no others; nor at an issuer that does not promise to read the request."""
    monkeypatch.setattr(OidcLogin, "fresh_s", 0)
    assert "claims=" not in flow.begin().headers["location"]
    idp.metadata = {"claims_parameter_supported": True}
    query = dict(parse_qsl(urlsplit(flow.begin().headers["location"]).query))
    assert json.loads(query["claims"]) == {"id_token": {"groups": None}}


@pytest.mark.sqlite
def test_every_tab_goes_on(flow: Flow) -> None:
    """Logins of one browser at once, and pages open side by side; a fifth ends the first."""
    begun = [flow.begin(scope=scope, state=scope) for scope in ("lookup", "status")]
    backs = [flow.visit(httpx.get(answer.headers["location"]).headers["location"]) for answer in begun]
    pages = [flow.visit(back.headers["location"]) for back in backs]
    for page, scope, typed in zip(pages, ("lookup", "status"), ({"order_id": "o-1"}, {}), strict=True):
        assert f"<code>{scope}</code>" in page.text
        answer = flow.answer_of(flow.answer(page, **typed))
        assert answer["state"] == scope
        assert flow.redeem(answer["code"]).json()["scope"] == scope
    assert dict(flow.browser.cookies) == {}
    begun = [flow.begin() for _ in range(authorize.MAX_ATTEMPTS + 1)]
    assert len(dict(flow.browser.cookies)) == authorize.MAX_ATTEMPTS
    first, *later = (flow.visit(httpx.get(answer.headers["location"]).headers["location"]) for answer in begun)
    assert (first.status_code, {back.status_code for back in later}) == (400, {303})


@pytest.mark.sqlite
def test_the_cookies_of_a_browser_fit_a_header(flow: Flow) -> None:
    """However long the requests are: the older end, and the two newest go on."""
    details = json.dumps([{"type": "arx_task", "params": {"order_id": "o" * 2300}}])
    begun = [flow.begin(authorization_details=details) for _ in range(4)]
    assert begun[0].status_code == 303, begun[0].text
    assert sum(len(name) + len(value) + 3 for name, value in flow.browser.cookies.items()) < 8000
    urls = [httpx.get(answer.headers["location"]).headers["location"] for answer in begun]
    assert [flow.visit(url).status_code for url in urls] == [400, 400, 303, 303]


@pytest.mark.sqlite
def test_metadata_names_the_grant_where_people_can_log_in(flow: Flow, realm_template: Path, tmp_path: Path) -> None:
    """A mint without a login has the endpoint too, since stock clients refuse metadata without; its page explains."""
    answer = flow.browser.get("/.well-known/oauth-authorization-server").json()
    assert answer["authorization_endpoint"] == f"{ISSUER}/oauth/authorize"
    assert answer["code_challenge_methods_supported"] == ["S256"]
    assert answer["authorization_response_iss_parameter_supported"] is True
    assert "none" in answer["token_endpoint_auth_methods_supported"]
    with open_unit(tmp_path / "other", template=realm_template) as other:
        less = other.client.get("/.well-known/oauth-authorization-server").json()
        assert less["authorization_endpoint"] == f"{ISSUER}/oauth/authorize"
        assert (less["response_types_supported"], "authorization_code" in less["grant_types_supported"]) == ([], False)
        page = other.client.get("/oauth/authorize")
        assert (page.status_code, "This mint has no login for people." in page.text) == (400, True)


@pytest.mark.sqlite
def test_the_code_is_in_no_row(flow: Flow) -> None:
    """Nor the cookie; and once a code is used, nor the person."""
    code = flow.code()
    held = authorization_code.digest_of(code.encode())
    assert code not in repr(flow.harness.mint.db.oauth_consents.by_code(held))
    flow.redeem(code)
    row = flow.harness.mint.db.oauth_consents.by_code(held)
    assert row is not None
    assert (row.subject, row.params) == (None, {})
    assert urlsplit(row.redirect).port == 53211


@pytest.mark.spec("CONTROL 5.9")
def test_a_refresh_token_goes_on_with_the_session(flow: Flow) -> None:
    """The next task has the same parameters and person; the next refresh token is another one; none is in a row."""
    first = flow.token()
    second = flow.refresh(first["refresh_token"], scope="lookup", resource=RESOURCE).json()
    one, other = (claims_of(flow.harness, body["access_token"]) for body in (first, second))
    assert (one.sid, one.aud, one.scope) == (other.sid, other.aud, other.scope)
    assert one.tid != other.tid
    task = flow.harness.mint.db.tasks.find(other.tid)
    assert task is not None
    assert task.params == {"order_id": "o-1"}
    assert first["refresh_token"] != second["refresh_token"]
    assert flow.client.active(second["access_token"])
    assert not flow.client.active(second["refresh_token"])
    public = Flow(flow.harness, public=True)
    assert public.refresh(public.token()["refresh_token"]).status_code == 200


@pytest.mark.spec("CONTROL 5.9")
@pytest.mark.sqlite
def test_a_refresh_token_is_bound(flow: Flow) -> None:
    """To its client, scope, resource, the template that the person saw, and the life of the session."""
    body = flow.token()
    token, other = body["refresh_token"], Flow(flow.harness)
    assert other.refresh(token).json()["error"] == "invalid_grant"
    assert flow.refresh("").json()["error"] == "invalid_grant"
    assert flow.refresh(token, scope="refund").json()["error"] == "invalid_scope"
    assert flow.refresh(token, authorization_details=PARAMS).json()["error"] == "invalid_request"
    assert flow.refresh(token, resource="http://127.0.0.1:9001/other").json()["error"] == "invalid_target"
    assert other.client.post("/oauth/revoke", token=token).json()["error"] == "unauthorized_client"
    policy = flow.harness.realm.policy_path.read_text()
    flow.harness.use(policy.replace('customer = "$subject"', 'customer = "any"'))
    assert flow.refresh(token).json()["error"] == "invalid_grant"
    flow.harness.use(policy)
    flow.harness.epochs.kill(f"session:{claims_of(flow.harness, body['access_token']).sid}")
    assert flow.refresh(token).json()["code"] == "revoked"


def test_an_error_of_the_login_is_passed_on_by_its_code(flow: Flow) -> None:
    """So an operator reads that, for instance, the issuer does not know a scope; other text of the URL is not shown."""
    for value, shown in (("invalid_scope", ": the issuer answered invalid_scope"), ("<b>", "")):
        query = dict(parse_qsl(urlsplit(flow.begin().headers["location"]).query))
        back = flow.visit(f"/oauth/callback?{urlencode({'state': query['state'], 'error': value})}")
        assert flow.answer_of(back)["error_description"] == f"the login failed or was cancelled{shown}"


def test_wrong_settings_of_the_login_are_for_its_operator_alone(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """People read no path of the mint's machine."""
    monkeypatch.delenv("ARX_TEST_LOGIN_SECRET")
    page = flow.log_in()
    assert (page.status_code, "arx doctor" in page.text, "ARX_TEST" in page.text) == (503, True, False)
